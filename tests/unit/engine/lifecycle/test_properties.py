"""Whatever callers, operators, files and threads do, in whatever order: the rules hold."""

import asyncio
from collections.abc import Set
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.engine.lifecycle.builder import DOWNLOADS, LOOKUPS
from fledge.errors import BackendUnavailable, CorruptModel, ModelLoadError, ModelLoading
from tests.unit.engine.lifecycle.fakes import (
    BUILD,
    FIND,
    MB,
    UNLOAD,
    Holding,
    Size,
    World,
    entry,
    settle,
)

BUDGET = 30 * MB
NAMES = "abcd"
KINDS = (FIND, BUILD, UNLOAD)
ANSWERS = (ModelLoading, ModelLoadError, asyncio.CancelledError)
"""What a request may end with, other than a vector."""

TIMEOUT_S = 20


@dataclass(frozen=True)
class Use:
    model: str
    patience_s: float


@dataclass(frozen=True)
class LetGo:
    """A request ends, or is cancelled, wherever it is."""

    index: int
    is_cancelled: bool


@dataclass(frozen=True)
class Happen:
    """Something that blocks ends: a thread comes back."""

    index: int


@dataclass(frozen=True)
class Operate:
    model: str
    what: Literal["load", "unload", "pin", "unpin"]


@dataclass(frozen=True)
class Break:
    """From now on something of a model fails, or not any more."""

    model: str
    what: Literal["find", "load", "close"]
    is_broken: bool


@dataclass(frozen=True)
class Pass:
    """Time passes."""

    seconds: float


@dataclass(frozen=True)
class Stop:
    """The server is told to stop."""


Step: TypeAlias = Use | LetGo | Happen | Operate | Break | Pass | Stop

MODELS = st.sampled_from(NAMES)
INDEXES = st.integers(0, 5)
STEP = st.one_of(
    st.builds(Use, MODELS, st.sampled_from([0.0, 1000.0])),
    st.builds(Use, MODELS, st.just(1000.0)),
    st.builds(LetGo, INDEXES, st.booleans()),
    st.builds(Happen, INDEXES),
    st.builds(Happen, st.just(0)),
    st.builds(Operate, MODELS, st.sampled_from(["load", "unload", "pin", "unpin"])),
    st.builds(Break, MODELS, st.sampled_from(["find", "load", "close"]), st.booleans()),
    st.builds(Pass, st.sampled_from([1.0, 100.0, 1000.0])),
)
TURNS = st.sampled_from([0, 1, 2, 5, 40, 40, 40])
"""How often the loop runs after a step, so that the next may fall between any two callbacks."""

STEPS = st.lists(st.tuples(STEP, TURNS), min_size=5, max_size=60)
SIZES = st.builds(
    Size,
    estimate=st.sampled_from([None, 5 * MB]),
    needed=st.sampled_from([3 * MB, 10 * MB, 16 * MB, 30 * MB, 31 * MB]),
    taken=st.sampled_from([None, MB, 8 * MB, 17 * MB]),
)


class Run:
    """A world in which steps are taken, and looked at after each."""

    def __init__(self, sizes: list[Size], away: Set[str], held: Set[str], **options: float) -> None:
        self.world = World(budget_bytes=BUDGET, **options)
        self.world.loader.away.update(away)
        self.world.loader.sizes = dict(zip(NAMES, sizes, strict=True))
        for kind in held:
            self.world.aside.hold(kind)
        self.requests: list[Holding] = []
        self.calls: list[asyncio.Task[object]] = []

    async def take(self, step: Step, turns: int = 0) -> None:
        world = self.world
        match step:
            case Use(model, patience_s):
                self.requests.append(Holding(world, model, patience_s=patience_s))
            case LetGo(index, is_cancelled) if self.requests:
                request = self.requests[-1 - index % len(self.requests)]
                request.task.cancel() if is_cancelled else request.begin_to_let_go()
            case Happen(index) if waiting := world.aside.waiting():
                world.aside.let_one_go(index=index % waiting)
            case Operate(model, what):
                self.operate(model, what)
            case Break(model, what, is_broken):
                errors = getattr(world.loader, f"{what}_errors")
                errors.pop(model, None)
                if is_broken:
                    errors[model] = CorruptModel(f"{model} is broken")
            case Pass(seconds):
                world.clock.now_s += seconds
                world.lifecycle.sweep()
            case Stop():
                self.calls.append(asyncio.create_task(world.lifecycle.aclose()))
        self.check()
        for _ in range(turns):
            await asyncio.sleep(0)
            self.check()

    def operate(self, model: str, what: str) -> None:
        lifecycle = self.world.lifecycle
        if what == "load":
            self.calls.append(asyncio.create_task(lifecycle.load(entry(model))))
        elif what == "unload":
            self.calls.append(asyncio.create_task(lifecycle.unload(entry(model))))
        else:
            lifecycle.pin(entry(model), is_pinned=what == "pin")

    def check(self) -> None:
        """The rules that hold at every moment. `World.use` sees that nothing in use is closed."""
        world = self.world
        assert 0 <= world.lifecycle.charged_bytes <= BUDGET
        assert world.aside.waiting(BUILD) <= 1
        assert world.aside.waiting(FIND) <= LOOKUPS + DOWNLOADS
        assert world.loader.most_at_once <= 1
        for model in NAMES:
            status = world.lifecycle.status(entry(model))
            assert status.state != "warm" or not world.loader.models[model].is_closed
            assert status.users >= 0
            if status.state == "loading":
                assert status.remaining_s is not None
                assert status.remaining_s > 0

    async def everybody_is_answered(self, *also: type[Exception]) -> None:
        """Let every thread come back and every request end: with a vector, or as it may."""
        for kind in KINDS:
            self.world.aside.let_go(kind)
        for request in self.requests:
            request.begin_to_let_go()
        tasks = [*(request.task for request in self.requests), *self.calls]
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), TIMEOUT_S)
        unexpected = [one for one in answers if isinstance(one, BaseException)]
        unexpected = [one for one in unexpected if not isinstance(one, (*ANSWERS, *also))]
        assert not unexpected
        self.check()

    async def all_is_well_again(self) -> None:
        """What is not broken any more works, and nothing of all that happened is left behind."""
        world = self.world
        world.loader.find_errors.clear()
        world.loader.load_errors.clear()
        for model in NAMES:
            world.lifecycle.pin(entry(model), is_pinned=False)
        await settle()
        assert not any(world.lifecycle.status(entry(model)).users for model in NAMES)
        for model, size in world.loader.sizes.items():
            if max(size.needed, size.taken or 0) <= BUDGET:
                await asyncio.wait_for(world.lifecycle.load(entry(model)), TIMEOUT_S)

    async def nothing_is_left(self) -> None:
        await asyncio.wait_for(self.world.lifecycle.aclose(), TIMEOUT_S)
        await settle()
        assert self.world.lifecycle.charged_bytes == self.world.loader.memory_bytes == 0
        assert sorted(self.world.loader.loaded) == sorted(self.world.loader.closed)


RUNS = st.builds(
    Run,
    st.lists(SIZES, min_size=len(NAMES), max_size=len(NAMES)),
    st.sets(MODELS),
    st.sets(st.sampled_from(KINDS)),
    keep_alive_s=st.sampled_from([-1.0, -1.0, 0.0, 50.0]),
    fair_wait_s=st.sampled_from([0.0, 10.0**6]),
)


@settings(max_examples=150)
@given(RUNS, STEPS)
def test_the_budget_holds_nothing_in_use_is_closed_and_everybody_is_answered(
    run: Run, steps: list[tuple[Step, int]]
) -> None:
    async def scenario() -> None:
        for step, turns in steps:
            await run.take(step, turns)
        await run.everybody_is_answered()
        await run.all_is_well_again()
        await run.nothing_is_left()

    asyncio.run(scenario())


@settings(max_examples=60)
@given(RUNS, STEPS, STEPS)
def test_stopping_in_the_middle_of_it_all_ends_well(
    run: Run, before: list[tuple[Step, int]], after: list[tuple[Step, int]]
) -> None:
    async def scenario() -> None:
        for step, turns in (*before, (Stop(), 0), *after):
            await run.take(step, turns)
        await run.everybody_is_answered(BackendUnavailable)
        await run.nothing_is_left()

    asyncio.run(scenario())
