"""PostgreSQL and Redis that stop and start while clients with keys ask real servers."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import PostgresServer, postgres_server
from tests.processes.keyed_load import Client, Reply, Used
from tests.processes.keyed_servers import Place
from tests.processes.redis_server import RedisServer, redis_server
from tests.servers import Server

__all__ = ["postgres_server"]

AWAY_S = 2.0
"""How long a store stays away: longer than from one thing that is done by itself to the next."""

STALE_S = 5
"""The least that `keys_max_stale_s` may be."""

KEYS_EVERY_S = 1.0
"""From one look at the keys to the next."""

PAUSE_S = 0.005
FEW = 10
MANY = 10**9


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """One that runs again afterwards, whatever a test did."""
    yield postgres_server
    postgres_server.start_if_stopped()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def test_a_database_that_comes_and_goes_is_no_error_and_its_usage_is_caught_up_with(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    with Place(tmp_path, database_url=postgres.new_database()) as place:
        keys = [place.new_key(f"key {n}", requests_per_minute=MANY) for n in range(2)]
        admin = place.key("admin", scopes=frozenset({"admin"}))
        server = place.serve("one")
        manager = place.client(server, admin)
        loads = [place.load(server, one.secret, pause_s=PAUSE_S) for one in keys]
        for _ in range(2):
            loads[0].go_on_for(100)
            postgres.stop()
            loads[0].go_on_until(after(AWAY_S))
            loads[0].go_on_for(100)
            refused = manager.ask("POST", "/admin/keys", {"name": "late"})
            assert (refused.status, code(refused)) == (503, "database_unavailable")
            so_far = loads[0].tokens()
            postgres.start()
            loads[0].go_on_until(
                lambda: place.used(keys[0]).tokens >= so_far  # noqa: B023 - used at once
            )
        made = manager.ask("POST", "/admin/keys", {"name": "late"})
        assert made.status == 201
        assert place.client(server, made.body["secret"]).embed([1]).status == 200
        place.stop()
        for load, key in zip(loads, keys, strict=True):
            assert place.used(key) == Used(len(load.answered), load.tokens())


def test_keys_are_refused_as_the_servers_fault_once_their_database_is_away_for_too_long(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    with Place(tmp_path, database_url=postgres.new_database()) as place:
        key = place.new_key("key")
        server = place.serve("one", keys_max_stale_s=STALE_S)
        load = place.load(server, key.secret, pause_s=PAUSE_S, may_refuse=[503])
        load.go_on_for(100)
        begun_s = time.monotonic()
        postgres.stop()
        load.go_on_until(lambda: bool(load.refused))
        assert time.monotonic() > begun_s - KEYS_EVERY_S + STALE_S
        postgres.start()
        load.go_on_for(100)
        refused = load.refused[0]
        assert code(refused) == "database_unavailable"
        told = refused.body["error"]["message"]
        assert told.startswith("the accounts' database does not answer now")
        assert "retry-after" in refused.headers
        place.stop()
        # Who it was is what nobody could say: the refused are on nobody's account.
        assert place.used(key) == Used(len(load.answered), load.tokens())


def test_a_redis_that_comes_and_goes_is_no_error_and_no_way_around_limits(
    tmp_path: Path, redis: RedisServer
) -> None:
    """One server goes on by itself, the other one refuses keys that have limits."""
    cache: dict[str, Any] = {f"cache_{name}_bytes": 0 for name in ("memory", "files", "answers")}
    with Place(tmp_path, redis_url=redis.url, **cache) as place:
        free, many = place.new_key("free"), place.key("many", requests_per_minute=MANY)
        few = iter([place.key(f"few {n}", requests_per_minute=FEW) for n in range(60)])
        both = [place.serve(how, limits_without_redis=how) for how in ("instance", "refuse")]
        alone, strict = both
        loads = [
            place.load(server, secret, pause_s=PAUSE_S, threads=1)
            for server, secret in ((alone, free.secret), (alone, many), (strict, free.secret))
        ]
        strict_load = place.load(strict, many, pause_s=PAUSE_S, threads=1, may_refuse=[503])

        def go_on() -> None:
            wanted = [len(load.answered) + 50 for load in loads]
            loads[0].go_on_until(
                lambda: all(
                    len(load.answered) >= count for load, count in zip(loads, wanted, strict=True)
                )
            )
            for load in loads:
                load.check()

        def clients_of(secret: str, *servers: Server) -> list[Client]:
            return [place.client(server, secret) for server in servers]

        for disturb, restore in (
            (redis.stop, redis.start),
            (redis.pause, redis.resume),
            (redis.kill, redis.start),
        ):
            go_on()
            strict_load.go_on_for(50)
            assert not strict_load.refused

            disturb()
            strict_load.go_on_until(lambda: bool(strict_load.refused))
            go_on()
            assert is_held(clients_of(next(few), alone))
            check_refusals(place.client(strict, many))

            restore()
            strict_load.go_on_until(answers(place.client(strict, many)))
            # A server that has given up for a while looks again by itself.
            loads[0].go_on_until(lambda: is_held(clients_of(next(few), *both)))
            go_on()
            strict_load.go_on_for(50)
            strict_load.refused.clear()
        place.stop()
        answered = [one for load in (loads[0], loads[2]) for one in load.answered]
        assert place.used(free) == Used(len(answered), sum(tokens for _, tokens in answered))
        for server in both:
            assert server.said("does not work") + server.said("does not answer") < 20
            assert redis.url not in server.log.read_text()


def after(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since now."""
    until_s = time.monotonic() + seconds
    return lambda: time.monotonic() > until_s


def answers(client: Client) -> Callable[[], bool]:
    return lambda: client.embed([1]).status == 200


def code(reply: Reply) -> str:
    """Which error it is."""
    return reply.headers["x-fledge-error"]


def is_held(clients: list[Client]) -> bool:
    """Whether of twice as many requests as may pass in a minute those pass, and what comes back
    meanwhile; the others are refused as such."""
    begun_s = time.monotonic()
    replies = [client.embed([n]) for n in range(2 * FEW) for client in clients]
    passed = [reply for reply in replies if reply.status == 200]
    most = FEW + (time.monotonic() - begun_s) * FEW / 60
    for reply in replies:
        if reply.status != 200:
            assert (reply.status, code(reply)) == (429, "rate_limit_exceeded")
    return FEW <= len(passed) <= most


def check_refusals(client: Client) -> None:
    """In each dialect, a refusal that says that it is nobody's fault who asks."""
    openai = client.embed([1])
    assert (openai.status, code(openai)) == (503, "limits_unavailable")
    assert openai.body["error"]["type"] == "server_error"
    hugging_face = client.ask("POST", "/", {"inputs": "w5"})
    assert (hugging_face.status, code(hugging_face)) == (503, "limits_unavailable")
    assert hugging_face.body["error_type"] == "Unhealthy"
    for reply in (openai, hugging_face):
        assert int(reply.headers["retry-after"]) >= 1
