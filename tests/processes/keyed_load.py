"""Clients with keys that ask real servers, check every answer, and note what they were answered."""

import json
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self

import numpy as np

from fledge.accounts.database import Database
from fledge.accounts.usage_query import UsageQuery
from fledge.accounts.usage_report import usage_report
from fledge.types import Vectors
from tests.static_folders import draw, save_static

VOCAB, DIMENSION = 2000, 32
MOST_WORDS = 8
PATIENCE_S = 60
_BY_KEY = UsageQuery(since=date(2000, 1, 1), until=date(2100, 1, 1), group_by=("key",))
_TABLE = draw(VOCAB, DIMENSION).astype(np.float64)


def save_model(folder: Path) -> Path:
    """The model whose answers the clients know."""
    return save_static(folder, {"embedding.weight": draw(VOCAB, DIMENSION)}, vocab=VOCAB)


def words(number: int) -> list[int]:
    """The words of a text, which is the same for the same number: from 1 to `MOST_WORDS`."""
    first = 2 + number % (VOCAB - MOST_WORDS - 2)
    return list(range(first, first + 1 + number % MOST_WORDS))


def text(number: int) -> str:
    return " ".join(f"w{word}" for word in words(number))


def tokens(numbers: Sequence[int]) -> int:
    """Of all these texts."""
    return sum(len(words(number)) for number in numbers)


def right(numbers: Sequence[int]) -> Vectors:
    """What the model gives, `[n, dim]`, by a sum in higher precision."""
    vectors = np.array([_TABLE[words(number)].mean(axis=0) for number in numbers])
    whole: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return whole


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Client:
    """One connection.

    Args:
        url: of a server.
        secret: of a key.

    Attributes:
        secret: likewise; another may be set.
    """

    def __init__(self, url: str, secret: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._connection = HTTPConnection(host, int(port), timeout=PATIENCE_S)
        self.secret = secret

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: object = None) -> Reply:
        """Ask for whatever it is; without a body, send none.

        Raises:
            OSError, HTTPException: the server is not there any more.
        """
        content = None if body is None else json.dumps(body)
        own = {"Authorization": f"Bearer {self.secret}", "Content-Type": "application/json"}
        self._connection.request(method, path, content, own)
        response = self._connection.getresponse()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, headers, json.loads(response.read()))

    def embed(self, numbers: Sequence[int]) -> Reply:
        """Ask for some texts; where they are answered, the answer is the right one."""
        body = {"input": [text(number) for number in numbers], "encoding_format": "base64"}
        reply = self.ask("POST", "/v1/embeddings", body)
        if reply.status == 200:
            vectors = [
                np.frombuffer(b64decode(one["embedding"]), "<f4") for one in reply.body["data"]
            ]
            np.testing.assert_allclose(vectors, right(numbers), atol=1e-5)
            assert reply.body["usage"]["total_tokens"] == tokens(numbers)
        return reply


class Load:
    """Threads of one key that ask a server again and again until they are stopped, some texts for
    the first time and some not.

    Args:
        url: of the server.
        secret: of the key.
        threads: how many.
        pause_s: between an answer and the next question.
        may_refuse: statuses besides 200 that are no failure.
        may_end: whether the server may go away under it.

    Attributes:
        answered: of each answer the `time.monotonic()` when it had come, and its tokens.
        refused: the answers with another status.
    """

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        threads: int = 2,
        pause_s: float = 0.0,
        may_refuse: Sequence[int] = (),
        may_end: bool = False,
    ) -> None:
        self.answered: list[tuple[float, int]] = []
        self.refused: list[Reply] = []
        self._in_flight = [0] * threads
        self._pause_s = pause_s
        self._may_refuse = may_refuse
        self._gone = (OSError, HTTPException) if may_end else ()
        self._failures: list[BaseException] = []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[url, secret, n]) for n in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self.check()

    def tokens(self) -> int:
        """All that were answered."""
        return sum(count for _, count in self.answered)

    def tokens_in_flight(self) -> int:
        """Of questions to which no answer came."""
        return sum(self._in_flight)

    def check(self) -> None:
        """Raise what went wrong in a thread."""
        if self._failures:
            raise self._failures[0]

    def go_on_for(self, answers: int) -> None:
        """Wait until so many more were answered."""
        wanted = len(self.answered) + answers
        self.go_on_until(lambda: len(self.answered) >= wanted)

    def go_on_until(self, holds: Callable[[], bool]) -> float:
        """Wait for what comes by itself; the seconds that it took."""
        begun_s = time.monotonic()
        while not holds():
            self.check()
            assert time.monotonic() < begun_s + PATIENCE_S
            time.sleep(0.01)
        return time.monotonic() - begun_s

    def _run(self, url: str, secret: str, thread: int) -> None:
        generator = np.random.default_rng(thread)
        with closing(Client(url, secret)) as client:
            try:
                while not self._is_over.is_set():
                    self._ask(client, thread, generator)
                    time.sleep(self._pause_s)
            except self._gone:
                pass
            except BaseException as error:  # noqa: BLE001 - a thread hands on whatever it is
                self._failures.append(error)

    def _ask(self, client: Client, thread: int, generator: np.random.Generator) -> None:
        first, count = generator.integers(300), generator.integers(1, 4)
        numbers = range(first, first + count)
        self._in_flight[thread] = tokens(numbers)
        reply = client.embed(numbers)
        self._in_flight[thread] = 0
        if reply.status == 200:
            self.answered.append((time.monotonic(), tokens(numbers)))
        else:
            assert reply.status in self._may_refuse, reply
            self.refused.append(reply)


@dataclass(frozen=True, slots=True)
class Used:
    """What a database has."""

    requests: int = 0
    tokens: int = 0
    errors: int = 0


def used(database: Database, key_id: str) -> Used:
    """By one key."""
    return used_by_key(database).get(key_id, Used())


def used_by_key(database: Database) -> dict[str, Used]:
    """By key id."""
    rows = usage_report(database, _BY_KEY)
    return {one["key_id"]: Used(one["requests"], one["tokens"], one["errors"]) for one in rows}
