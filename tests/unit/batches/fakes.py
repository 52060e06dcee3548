"""A clock that a test moves, an answerer that a test holds, and batches made in a line."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fledge.accounts.callers import NOBODY, Caller
from fledge.accounts.keys import Key, Scope
from fledge.batches.answers import Rendering
from fledge.batches.records import Batch
from fledge.batches.results import Reply
from fledge.batches.runner import Runner
from fledge.batches.store import BatchSpec, BatchStore
from fledge.errors import FledgeError, InvalidRequest, Unauthorized

PATIENCE_S = 20.0
ENDPOINT = "/v1/embeddings"


class Clock:
    """A Unix time that stands until it is moved."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def key(key_id: str, *scopes: Scope) -> Key:
    return Key(
        id=key_id,
        name=key_id,
        prefix="fl-",
        last_four="0000",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        scopes=frozenset(scopes or ("inference",)),
    )


def request(custom_id: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}


def requests(count: int) -> list[dict[str, Any]]:
    return [request(f"r{n}", n=n) for n in range(count)]


def jsonl(lines: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def upload(store: BatchStore, data: bytes, caller: Caller = NOBODY) -> str:
    with store.files.begin(caller.owner) as file:
        file.write(data)
        return file.keep(name="in.jsonl", purpose="batch", kept_s=30 * 86400.0).id


def create(store: BatchStore, data: bytes, caller: Caller = NOBODY) -> Batch:
    spec = BatchSpec(
        endpoint=ENDPOINT, completion_window="24h", input_file_id=upload(store, data, caller)
    )
    return store.create(spec, caller)


def results(store: BatchStore, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.files.path(file_id).read_bytes().splitlines()]


@dataclass
class FakeWork:
    """A request on its way to a `FakeAnswerer`."""

    owner: "FakeAnswerer"
    body: dict[str, Any]
    tokens: int = 5
    inputs: int = 1

    async def compute(self, caller: Caller) -> Rendering:
        return await self.owner.compute(self.body, caller)


@dataclass
class FakeAnswerer:
    """Answers each body with itself.

    Attributes:
        computed: how often each body was asked for, by its `n`.
        charged: how often each was computed to its end.
        callers: of each computation.
        errors: what the next computations fail with, in turn.
        fails: what each fails with that is not in `errors`.
        gate: what is not set holds all computations.
        running: computations now.
        most_at_once: of them.
    """

    computed: Counter[Any] = field(default_factory=Counter)
    charged: Counter[Any] = field(default_factory=Counter)
    callers: list[Caller] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    fails: Callable[[dict[str, Any]], Exception | None] = lambda _: None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    most_at_once: int = 0
    running: int = 0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def parse(self, body: dict[str, Any]) -> FakeWork:
        if "bad" in body:
            raise InvalidRequest("bad", field="bad")
        return FakeWork(self, body)

    def failure(self, error: Exception) -> Reply:
        code = error.code if isinstance(error, FledgeError) else "internal_error"
        status = 401 if isinstance(error, Unauthorized) else 400
        return Reply(status, json.dumps({"error": {"code": code}}).encode())

    async def compute(self, body: dict[str, Any], caller: Caller) -> Rendering:
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            self.computed[body.get("n")] += 1
            self.callers.append(caller)
            self._arrived.set()
            await self.gate.wait()
            await asyncio.sleep(0)
            if self.errors:
                raise self.errors.pop(0)
            if (error := self.fails(body)) is not None:
                raise error
        finally:
            self.running -= 1
        self.charged[body.get("n")] += 1

        async def rendering() -> Reply:
            return Reply(200, json.dumps(body).encode(), tokens=3)

        return rendering

    async def wait_for(self, count: int) -> None:
        """Until so many computations were begun."""
        async with asyncio.timeout(PATIENCE_S):
            while self.computed.total() < count:
                self._arrived.clear()
                await self._arrived.wait()


class Looks:
    """Counts a runner's looks for work, of which each begins by asking whether to stop.

    Attributes:
        is_draining: what it is told.
    """

    def __init__(self) -> None:
        self.is_draining = False
        self._count = 0
        self._looked = asyncio.Event()

    def __call__(self) -> bool:
        self._count += 1
        self._looked.set()
        return self.is_draining

    async def once_more(self, runner: Runner) -> None:
        """Until a look that has not begun yet is over."""
        async with asyncio.timeout(PATIENCE_S):
            until = self._count + 2
            while self._count < until:
                self._looked.clear()
                runner.poke()
                await self._looked.wait()


class Place:
    """A store in a folder, and what runs its batches."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.store = BatchStore(folder, now=self.clock)
        self.answerer = FakeAnswerer()
        self.keys: dict[str, Key] = {}

    def runner(self, **changes: Any) -> Runner:
        options: dict[str, Any] = {"max_line_bytes": 10_000, "max_queued_tokens": 1_000_000}
        return Runner(
            self.store, self.answerer, lambda key_id: self.keys.get(key_id), **options | changes
        )

    async def wait(self, batch: Batch, *statuses: str) -> Batch:
        async with asyncio.timeout(PATIENCE_S):
            while (found := self.store.find(batch.id, ADMIN)).status not in statuses:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)
        return found

    async def run(self, batch: Batch, *statuses: str, **changes: Any) -> Batch:
        """Run until a batch is in one of these states, then stop."""
        runner = self.runner(**changes)
        runner.start()
        try:
            return await self.wait(batch, *statuses)
        finally:
            await runner.aclose()


ADMIN = Caller(key("admin", "admin"))
