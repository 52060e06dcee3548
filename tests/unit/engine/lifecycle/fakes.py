"""A world for the lifecycle to live in: models of bytes, a clock, and calls that a test lets go.

Nothing here runs in a thread or takes time, so that a test decides what happens when.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fledge.engine.lifecycle.lifecycle import Lifecycle
from fledge.engine.lifecycle.ports import Found, LifecycleOptions, Memory
from fledge.engine.sources import ModelFolder
from fledge.testing import FakeBackend, fake_card
from fledge.types import FailureKind, ModelEntry

T = TypeVar("T")

FIND, BUILD, UNLOAD = "fledge-find", "fledge-build", "fledge-unload"
MB = 10**6


class FakeAside:
    """Runs what blocks on the event loop itself, a moment later or when it is let go.

    How to use it:
        - Call `hold(BUILD)` to keep every build from happening until `let_go(BUILD)`, which lets
          those happen that wait, or `let_one_go(BUILD)`, which lets one of them.
        - Read `waiting(BUILD)` to see how many wait.
    """

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._waiting: list[tuple[str, Callable[[], None]]] = []

    def __call__(self, name: str, function: Callable[[], T]) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def happen() -> None:
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - a thread hands on whatever it is
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        if name in self._held:
            self._waiting.append((name, happen))
        else:
            loop.call_soon(happen)
        return future

    def hold(self, name: str) -> None:
        """Keep calls of that name from happening."""
        self._held.add(name)

    def let_go(self, name: str) -> None:
        """Let the calls of that name happen, those that wait and the later ones."""
        self._held.discard(name)
        while self.waiting(name):
            self.let_one_go(name)

    def let_one_go(self, name: str | None = None, index: int = 0) -> None:
        """Let one of the waiting calls happen, of that name or of any: the oldest, if not said."""
        call = [call for call in self._waiting if name in (None, call[0])][index]
        self._waiting.remove(call)
        call[1]()

    def waiting(self, name: str | None = None) -> int:
        """How many calls of that name, or of any, have not happened yet."""
        return sum(name in (None, one) for one, _ in self._waiting)


class FakeModel(FakeBackend):
    """A model that tells when it is closed."""

    def __init__(self, model_id: str, on_close: Callable[[], None]) -> None:
        super().__init__(fake_card(id=model_id))
        self._on_close = on_close

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._on_close()

    async def aclose(self) -> None:
        self.close()


@dataclass
class Size:
    """Of one model: what its entry tells, what its files tell, what it really takes."""

    estimate: int | None = None
    needed: int = 10 * MB
    taken: int | None = None
    files: int = 30 * MB


class FakeLoader:
    """Finds every model and loads it, unless told otherwise.

    How to use it:
        - Put a `Size` into `sizes` for models that are not like the others, and an id into `away`
          for one that must be downloaded.
        - Put an error into `find_errors`, `load_errors` or `close_errors` to make it be raised.
        - Read `found`, `tried`, `loaded` and `closed` to see what happened, in order: `tried` has
          the builds that failed, too.

    Attributes:
        models: the last model that was loaded for each id.
        memory_bytes: what all the models take that have not been closed.
        most_at_once: how often one model was in memory at once, at most.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, Size] = {}
        self.away: set[str] = set()
        self.find_errors: dict[str, BaseException] = {}
        self.load_errors: dict[str, BaseException] = {}
        self.close_errors: dict[str, Exception] = {}
        self.found: list[str] = []
        self.tried: list[str] = []
        self.loaded: list[str] = []
        self.closed: list[str] = []
        self.models: dict[str, FakeModel] = {}
        self.memory_bytes = 0
        self.most_at_once = 0
        self._lock = threading.Lock()  # some tests have real threads

    def size(self, model_id: str) -> Size:
        return self.sizes.get(model_id, Size())

    def estimate_bytes(self, entry: ModelEntry) -> int | None:
        return self.size(entry.id).estimate

    def find(self, entry: ModelEntry, fits: Callable[[int], None]) -> Found:
        size = self.size(entry.id)
        if entry.id in self.away:
            fits(size.needed)
        self.found.append(entry.id)
        if error := self.find_errors.get(entry.id):
            raise error
        folder = ModelFolder(Path("/models") / entry.id, entry.id, "abc", "a test")
        return Found(folder=folder, size_bytes=size.files, needed_bytes=size.needed)

    def load(self, found: Found) -> FakeModel:
        model_id = found.folder.id
        self.tried.append(model_id)
        if error := self.load_errors.get(model_id):
            raise error
        self.loaded.append(model_id)
        size = self.size(model_id)
        taken = size.needed if size.taken is None else size.taken
        with self._lock:
            self.memory_bytes += taken
            at_once = self.loaded.count(model_id) - self.closed.count(model_id)
            self.most_at_once = max(self.most_at_once, at_once)

        def close() -> None:
            with self._lock:
                self.memory_bytes -= taken
                self.closed.append(model_id)
            if error := self.close_errors.get(model_id):
                raise error

        self.models[model_id] = FakeModel(model_id, close)
        return self.models[model_id]


class FakeClock:
    """Stands still until it is put forward, and counts how often it was looked at."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now_s


@dataclass
class FakeObserver:
    """Remembers what it was told."""

    loads: list[tuple[str, float, FailureKind | None]] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)

    def on_load(self, model_id: str, seconds: float, failure: FailureKind | None) -> None:
        self.loads.append((model_id, seconds, failure))

    def on_unload(self, model_id: str) -> None:
        self.unloads.append(model_id)


class World:
    """A lifecycle and all that it is given. Options are those of `LifecycleOptions`.

    Models that are idle stay, and nobody in use has to leave, unless the options say so.
    """

    def __init__(self, *, budget_bytes: int = 30 * MB, **options: Any) -> None:
        self.loader = FakeLoader()
        self.aside = FakeAside()
        self.clock = FakeClock()
        self.observer = FakeObserver()
        self.trims = 0
        given: Mapping[str, Any] = {"keep_alive_s": -1.0, "fair_wait_s": 10**6, **options}
        self.lifecycle = Lifecycle(
            self.loader,
            LifecycleOptions(budget_bytes=budget_bytes, **given),
            memory=Memory(lambda: self.loader.memory_bytes, self._trim),
            clock=self.clock,
            aside=self.aside,
            observer=self.observer,
        )

    def _trim(self) -> None:
        self.trims += 1

    @asynccontextmanager
    async def use(self, name: str, *, patience_s: float = 60) -> AsyncIterator[FakeModel]:
        """Use a model as a request does, and see that it is not closed meanwhile."""
        async with self.lifecycle.use(entry(name), patience_s=patience_s) as model:
            assert isinstance(model, FakeModel)
            assert not model.is_closed
            self.clock.now_s += 0.001  # so that no two uses are at the same time
            try:
                yield model
            finally:
                assert not model.is_closed, f"{name} was closed while in use"

    async def touch(self, *names: str) -> None:
        """Use models, one after the other."""
        for name in names:
            async with self.use(name):
                pass

    def state(self, name: str) -> str:
        return self.lifecycle.status(entry(name)).state


class Holding:
    """A request that holds a model until the test lets it go."""

    def __init__(self, world: World, name: str, *, patience_s: float = 60) -> None:
        self._let_go = asyncio.Event()
        self.is_in = False
        self.task = asyncio.create_task(self._run(world, name, patience_s))

    async def _run(self, world: World, name: str, patience_s: float) -> None:
        async with world.use(name, patience_s=patience_s):
            self.is_in = True
            await self._let_go.wait()
        self.is_in = False

    def begin_to_let_go(self) -> None:
        self._let_go.set()

    async def let_go(self) -> None:
        self._let_go.set()
        await self.task


async def held(world: World, name: str) -> Holding:
    """A request that is in a model by now."""
    holding = Holding(world, name)
    await settle()
    assert holding.is_in
    return holding


def entry(name: str, **facts: Any) -> ModelEntry:
    return ModelEntry(id=name, **facts)


async def settle() -> None:
    """Let everything happen that can happen without the test."""
    for _ in range(60):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """Let the loop run until something holds, and not a moment longer."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)
