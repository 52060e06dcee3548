"""Servers that are killed while they fill their cache, and a Redis that comes and goes."""

import json
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fledge.types import Vectors
from tests.processes.forked_server import Servers
from tests.processes.redis_server import RedisServer, redis_server
from tests.servers import serving
from tests.static_folders import draw, save_static

KILLS = 20
VOCAB, DIMENSION = 2000, 256
AT_ONCE = 16
PATIENCE_S = 30
BUDGET_BYTES = 2**21
"""Small, so that entries leave while others come."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_static(
        tmp_path / "static", {"embedding.weight": draw(VOCAB, DIMENSION)}, vocab=VOCAB
    )


def text(number: int) -> str:
    """A text of its own for each number: two words, of which nobody else has these."""
    return f"w{2 + number % (VOCAB - 2)} w{2 + number // (VOCAB - 2)}"


def right(numbers: Sequence[int]) -> Vectors:
    """What the model gives, `[n, dim]`, by a sum in higher precision."""
    table = draw(VOCAB, DIMENSION).astype(np.float64)
    ids = np.array([[2 + n % (VOCAB - 2), 2 + n // (VOCAB - 2)] for n in numbers])
    vectors = table[ids].mean(axis=1)
    whole: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return whole


def ask(connection: HTTPConnection, numbers: Sequence[int]) -> int:
    """Ask for some texts, and check the answer; how many of them were kept.

    Raises:
        OSError, HTTPException: the server is not there any more.
    """
    body = json.dumps({"inputs": [text(number) for number in numbers]})
    connection.request("POST", "/", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, answer
    assert response.headers["x-compute-tokens"] == str(2 * len(numbers))
    np.testing.assert_allclose(json.loads(answer), right(numbers), atol=1e-5)
    hits = int(response.headers.get("x-fledge-cache-hits", 0))
    assert (response.headers["x-compute-type"] == "cache") == (hits == len(numbers))
    return hits


def connected(url: str) -> HTTPConnection:
    host, port = url.removeprefix("http://").split(":")
    return HTTPConnection(host, int(port), timeout=PATIENCE_S)


class Load:
    """Clients that ask for ever more texts, each twice.

    Args:
        url: of a server.
        first: number of the first text.
        is_to_be_killed: whether the server may go away under it.

    Attributes:
        answered: numbers of texts that were answered, in order.
        hits: how many of all answers came from the cache.
    """

    def __init__(self, url: str, first: int, *, is_to_be_killed: bool) -> None:
        self.answered: list[int] = []
        self.hits = 0
        self._gone = (OSError, HTTPException) if is_to_be_killed else ()
        self._failures: list[BaseException] = []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[url, first + n * 10_000]) for n in range(2)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, url: str, number: int) -> None:
        with closing(connected(url)) as connection:
            try:
                while not self._is_over.is_set():
                    numbers = range(number, number + AT_ONCE)
                    ask(connection, numbers)
                    self.hits += ask(connection, numbers)
                    self.answered += numbers
                    number += AT_ONCE
            except self._gone:
                pass
            except BaseException as error:  # noqa: BLE001 - a thread hands on whatever it is
                self._failures.append(error)

    def wait_for(self, count: int) -> None:
        """Wait until so many more texts were answered."""
        until, until_s = len(self.answered) + count, time.monotonic() + PATIENCE_S
        while len(self.answered) < until:
            self._check()
            assert time.monotonic() < until_s, "the server does not answer"
            time.sleep(0.002)

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._check()

    def _check(self) -> None:
        if self._failures:
            raise self._failures[0]


def test_a_cache_is_whole_after_its_server_was_killed_twenty_times_while_it_filled_it(
    tmp_path: Path, model: Path
) -> None:
    settings: dict[str, Any] = {
        "models": [str(model)],
        "database_url": "none",
        "cache_files_bytes": BUDGET_BYTES,
        "cache_memory_bytes": 0,  # so that the file is asked
        "cache_answers_bytes": 0,
    }
    generator = np.random.default_rng(3)
    log, found = tmp_path / "log.txt", 0
    older: list[int] = []
    with Servers(tmp_path, settings, ahead=1) as servers:
        for kill in range(KILLS):
            server = servers.take()
            url = server.url()
            with closing(connected(url)) as connection:
                found += ask(connection, older) if older else 0
            load = Load(url, kill * 20_000, is_to_be_killed=True)
            load.wait_for(int(generator.integers(100, 400)))
            older = load.answered[:AT_ONCE]
            time.sleep(generator.uniform(0, 0.05))  # any moment will do
            server.kill()
            load.stop()
    assert found > 0
    assert "damaged" not in log.read_text()
    folder = tmp_path / "fledge" / "vectors"
    assert [path.name for path in folder.glob("*.sqlite3")] == ["vectors-1.sqlite3"]
    with closing(sqlite3.connect(folder / "vectors-1.sqlite3")) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def test_a_redis_that_comes_and_goes_under_load_is_no_error_and_no_wrong_vector(
    tmp_path: Path, model: Path, redis: RedisServer
) -> None:
    settings: dict[str, Any] = {
        "models": [str(model)],
        "database_url": "none",
        "redis_url": redis.url,
        "cache_memory_bytes": 0,
        "cache_files_bytes": 0,
        "cache_answers_bytes": 0,
    }
    with serving(tmp_path, **settings) as server:
        load = Load(server.url, 0, is_to_be_killed=False)
        load.wait_for(500)
        for disturb, restore in (
            (redis.stop, redis.start),
            (redis.pause, redis.resume),
            (redis.kill, redis.start),
        ):
            disturb()
            load.wait_for(2000)
            restore()
            hits, until_s = load.hits, time.monotonic() + PATIENCE_S
            while load.hits == hits:  # it is used again
                assert time.monotonic() < until_s, "Redis is not used again"
                load.wait_for(50)
        load.stop()
        assert load.hits > 0
        assert server.said("does not work") <= 6
        assert redis.url not in server.log.read_text()
