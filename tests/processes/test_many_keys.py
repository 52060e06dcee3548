"""A thousand keys on two servers that share a database and a Redis."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from tests.postgres import PostgresServer, postgres_server
from tests.processes.keyed_load import Client, Used, tokens, used_by_key
from tests.processes.keyed_servers import Place
from tests.processes.redis_server import redis_server
from tests.servers import Server

__all__ = ["postgres_server"]

KEYS, REVOKED = 1000, 100
THREADS = 4
KNOWN_WITHIN_S = 2.0
WRITTEN_WITHIN_S = 30.0
MANY = 10**9

Given = TypeVar("Given")
Got = TypeVar("Got")


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    url = ""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_database()
    with (
        redis_server(tmp_path) as redis,
        Place(tmp_path, database_url=url, redis_url=redis.url) as place,
    ):
        yield place


class Crowd:
    """Keys, and what they were answered.

    Args:
        admin: the secret of an admin's key.
        servers: all that know them.
    """

    def __init__(self, admin: str, servers: Sequence[Server]) -> None:
        self._admin = admin
        self._servers = servers
        self._secrets: dict[str, str] = {}
        self.answered: dict[str, Used] = {}

    def make(self, count: int) -> None:
        """Make keys on all servers at once."""

        def make(client: Client, number: int) -> None:
            body = {"name": f"key {number}", "requests_per_minute": MANY}
            made = client.ask("POST", "/admin/keys", body)
            assert made.status == 201, made
            self._secrets[made.body["id"]] = made.body["secret"]

        self._share(make, range(count))

    def ids(self) -> list[str]:
        return list(self._secrets)

    def revoke(self, ids: Sequence[str]) -> None:
        """End keys on all servers at once."""

        def revoke(client: Client, key_id: str) -> None:
            assert client.ask("DELETE", f"/admin/keys/{key_id}").status == 200

        self._share(revoke, ids)

    def statuses(self, ids: Sequence[str]) -> set[int]:
        """Of some texts that each key asks each server for."""

        def ask(client: Client, key_id: str) -> int:
            client.secret = self._secrets[key_id]
            numbers = [int(key_id[-3:], 16)]  # ids are random: from 1 to 8 tokens
            status = client.embed(numbers).status
            if status == 200:
                old = self.answered.get(key_id, Used())
                self.answered[key_id] = Used(old.requests + 1, old.tokens + tokens(numbers))
            return status

        # One server after the other: no key is asked for by two threads at once.
        return {status for one in self._servers for status in with_each(one, "", ask, ids)}

    def _share(self, do: Callable[[Client, Given], None], given: Sequence[Given]) -> None:
        with ThreadPoolExecutor(len(self._servers)) as pool:
            share = len(self._servers)
            for _ in pool.map(
                lambda n: with_each(self._servers[n], self._admin, do, given[n::share]),
                range(share),
            ):
                pass


def with_each(
    server: Server, secret: str, do: Callable[[Client, Given], Got], given: Sequence[Given]
) -> list[Got]:
    """Do something for each of many, on a few connections at once."""

    def do_part(part: Sequence[Given]) -> list[Got]:
        with closing(Client(server.url, secret)) as client:
            return [do(client, one) for one in part]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = pool.map(do_part, [given[n::THREADS] for n in range(THREADS)])
        return [got for part in parts for got in part]


def wait_until(is_so: Callable[[], bool], patience_s: float) -> None:
    """Wait for what is so whenever one asks after that time, and may be earlier."""
    deadline = time.monotonic() + patience_s
    is_late = False
    while not is_so():
        assert not is_late
        is_late = time.monotonic() > deadline
        time.sleep(0.01)


def test_a_thousand_keys_are_known_counted_and_revoked_on_every_server(place: Place) -> None:
    admin = place.new_key("admin", scopes=frozenset({"admin"}))
    servers = [place.serve("one"), place.serve("two")]
    crowd = Crowd(admin.secret, servers)
    crowd.make(KEYS)
    ids = crowd.ids()
    assert len(ids) == KEYS
    # Who knows the last ones, of which some were made on each server, knows all.
    wait_until(lambda: crowd.statuses(ids[-REVOKED:]) == {200}, KNOWN_WITHIN_S)
    assert crowd.statuses(ids) == {200}

    every = KEYS // REVOKED
    crowd.revoke(ids[::every])
    wait_until(lambda: crowd.statuses(ids[::every]) == {401}, KNOWN_WITHIN_S)
    assert crowd.statuses([key_id for n, key_id in enumerate(ids) if n % every]) == {200}

    def counted() -> dict[str, Used]:
        return {key_id: one for key_id, one in used_by_key(place.database).items() if one.tokens}

    wait_until(lambda: counted() == crowd.answered, WRITTEN_WITHIN_S)
    told = place.client(servers[0], admin.secret).ask("GET", "/admin/usage?group_by=key").body
    rows = {row["key_id"]: Used(row["requests"], row["tokens"]) for row in told["data"]}
    assert {key_id: rows[key_id] for key_id in ids} == crowd.answered
