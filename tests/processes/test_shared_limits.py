"""Two servers with one Redis and one database: a key's limits are those of both together."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from fledge.accounts.limits_redis import PREFIX
from tests.processes.keyed_load import PATIENCE_S, Client, Reply, tokens
from tests.processes.keyed_servers import Place
from tests.processes.redis_server import RedisServer, redis_server
from tests.servers import Server
from tests.tiny import save_bert

PER_MINUTE = 60
CONCURRENT = 3
BUDGET = 100
NO_CACHE = {f"cache_{name}_bytes": 0 for name in ("memory", "files", "answers")}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def place(tmp_path: Path, redis: RedisServer) -> Iterator[Place]:
    # Refused without Redis: alone for a moment, on a busy machine, servers would let more through.
    with Place(tmp_path, redis_url=redis.url, limits_without_redis="refuse") as place:
        yield place


def pair(place: Place, secret: str) -> list[Client]:
    """Of one key, on two servers."""
    return [place.client(place.serve(name), secret) for name in ("one", "two")]


def is_passed(reply: Reply, error: str) -> bool:
    """Whether it was; else it was refused by that error."""
    if reply.status == 200:
        return True
    assert (reply.status, reply.headers["x-fledge-error"]) == (429, error), reply
    return False


def test_of_a_limit_per_minute_two_servers_let_through_one(place: Place) -> None:
    secret = place.key("key", requests_per_minute=PER_MINUTE)
    servers = [place.serve("one"), place.serve("two")]

    def passed(server: Server) -> int:
        with closing(Client(server.url, secret)) as client:
            replies = [client.embed([n]) for n in range(PER_MINUTE)]
        return sum(is_passed(reply, "rate_limit_exceeded") for reply in replies)

    begun_s = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        count = sum(pool.map(passed, servers * 2))
    come_back = (time.monotonic() - begun_s) * PER_MINUTE / 60
    assert PER_MINUTE <= count <= PER_MINUTE + come_back


def test_tokens_are_settled_for_every_server_with_the_real_count(place: Place) -> None:
    one, two = pair(place, place.key("key", tokens_per_minute=1200))
    # Taken for 1,002 tokens and for 501.
    long_word, short_words = "w" * 4000, " ".join("a" * 1000)
    for client in (one, two) * 3:
        reply = client.ask("POST", "/v1/embeddings", {"input": long_word})
        assert is_passed(reply, "rate_limit_exceeded")
        assert reply.body["usage"]["total_tokens"] == 1
    reply = one.ask("POST", "/v1/embeddings", {"input": short_words})
    assert reply.body["usage"]["total_tokens"] == 1000
    refused = two.ask("POST", "/v1/embeddings", {"input": short_words})
    assert not is_passed(refused, "rate_limit_exceeded")


def test_a_months_budget_is_one_for_all_servers(place: Place) -> None:
    clients = pair(place, place.key("key", monthly_token_budget=BUDGET))
    numbers = [7]
    replies = [client.embed(numbers) for _ in range(BUDGET // 8) for client in clients]
    passed = sum(is_passed(reply, "insufficient_quota") for reply in replies)
    # The next one would be too many by its estimate, which is a little more than it is.
    assert passed * tokens(numbers) == BUDGET - BUDGET % 8


class Slow:
    """A request that takes many seconds, unless it is left."""

    def __init__(self, server: Server, secret: str) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self._connection = HTTPConnection(host, int(port), timeout=PATIENCE_S)
        texts = [" ".join(f"w{4 + (n + m) % 200}" for m in range(100)) for n in range(2000)]
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        self._connection.request("POST", "/v1/embeddings", json.dumps({"input": texts}), headers)

    def leave(self) -> None:
        self._connection.close()


def test_of_running_requests_two_servers_have_as_many_as_one_may(
    tmp_path: Path, place: Place, redis: RedisServer
) -> None:
    model = save_bert(tmp_path / "slow", hidden=256, layers=4)
    key = place.new_key("key", concurrent_requests=CONCURRENT)
    servers = [place.serve(name, models=[str(model)], **NO_CACHE) for name in ("one", "two")]
    clients = [place.client(server, key.secret) for server in servers]

    def running() -> int:
        with redis.client() as client:
            return int(client.zcard(f"{PREFIX}{key.key.id}:running"))

    def wait_for(count: int) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while running() != count:
            assert time.monotonic() < until_s
            time.sleep(0.01)

    slow = []
    for n in range(CONCURRENT):
        slow.append(Slow(servers[n % 2], key.secret))
        wait_for(n + 1)
    for client in clients:
        reply = client.ask("POST", "/v1/embeddings", {"input": "w5"})
        assert not is_passed(reply, "concurrency_limit_exceeded")
    assert running() == CONCURRENT
    slow.pop().leave()
    wait_for(CONCURRENT - 1)
    for client in clients:
        assert client.ask("POST", "/v1/embeddings", {"input": "w5"}).status == 200
    for one in slow:
        one.leave()
    wait_for(0)
