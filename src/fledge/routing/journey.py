"""One request from place to place until one answers."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from fledge.errors import (
    BackendUnavailable,
    CannotCarry,
    DeadlineExceeded,
    FledgeError,
    ModelLoading,
    ProviderUnavailable,
)
from fledge.routing.backoff import pause_s
from fledge.routing.options import Plan, RouterOptions
from fledge.routing.outcomes import Failed, Fault, most_telling, outcome_of, told
from fledge.routing.places import Place
from fledge.routing.space_book import SpaceBook
from fledge.routing.turns import Deadline, Turn
from fledge.types import ModelCard

Result = TypeVar("Result")
Attempt: TypeAlias = Callable[[Turn], Awaitable[Result]]
"""Asks one place. It may be called several times, and twice at once where requests are hedged."""


class Means(NamedTuple):
    """What every journey uses.

    Attributes:
        options: what the operator chose.
        book: which places share a space.
        clock: seconds.
        random: between 0 and 1.
        begin: makes a task of what is asked beside something else, and looks after it.
    """

    options: RouterOptions
    book: SpaceBook
    clock: Callable[[], float]
    random: Callable[[], float]
    begin: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


@dataclass(frozen=True, slots=True)
class Answered(Generic[Result]):
    """What came of it, and where."""

    place: Place
    value: Result


class Journey(Generic[Result]):
    """Asks the places of a plan in rounds, with pauses between, until the deadline.

    Args:
        plan: where it may go.
        attempt: asks one of them.
        means: what it uses.
    """

    def __init__(self, plan: Plan, attempt: Attempt[Result], means: Means) -> None:
        self._plan = plan
        self._attempt = attempt
        self._options, self._book, self._clock, self._random, self._begin = means
        # By place, the last one of each, in the order in which they were first asked.
        self._failures: dict[str, Failed] = {}
        self._hurried: Place | None = None
        self._waits_until_s: float | None = None

    async def run(self, timeout_s: float | None) -> Answered[Result]:
        """The first good answer.

        Raises:
            DeadlineExceeded: there was none in time.
            FledgeError: what the caller caused, or the most telling of what went wrong.
        """
        timer = asyncio.timeout(None)
        try:
            async with timer:
                self._deadline = Deadline(timer, timeout_s, self._clock)
                return await self._answer()
        except TimeoutError:
            if not timer.expired():
                raise
            raise self._too_late(timeout_s) from None
        finally:
            self._deadline.close()

    async def _answer(self) -> Answered[Result]:
        rounds = 0
        while True:
            if places := self._places():
                rounds += 1
                if answered := await self._round(places):
                    return answered
                pause = self._pause_s(rounds)
                if pause is None:
                    break
                await asyncio.sleep(pause)
            elif not await self._wait():
                break
        if self._hurried is None or not self._loads(self._hurried):
            raise self._failure()
        # Nobody else was of use: now there is time for it to load.
        return await self._ask(self._hurried, has_others=False)

    def _places(self) -> list[Place]:
        """Those that may be asked in a round that begins now."""
        return [place for place in self._plan.admissible() if self._may_pass(place)]

    def _loads(self, place: Place) -> bool:
        failed = self._failures.get(place.name)
        return failed is not None and isinstance(failed.error, ModelLoading)

    def _may_pass(self, place: Place) -> bool:
        failed = self._failures.get(place.name)
        return failed is None or failed.outcome.may_pass

    async def _round(self, places: Sequence[Place]) -> Answered[Result] | None:
        """Ask each place once, until one answers; None: none did."""
        hedge_s = self._options.hedge_s(self._plan.entry.id)
        if hedge_s is not None and len(places) > 1:
            answered = await self._hedged(places, hedge_s)
        else:
            answered = await self._in_turn(places)
        return answered or await self._unverified()

    async def _in_turn(self, places: Sequence[Place]) -> Answered[Result] | None:
        for index, place in enumerate(places):
            if self._is_open(place):
                try:
                    return await self._ask(place, has_others=index + 1 < len(places))
                except Exception as error:  # noqa: BLE001 - what is final is raised again
                    self._note(place, error)
        return None

    async def _hedged(self, places: Sequence[Place], hedge_s: float) -> Answered[Result] | None:
        """Likewise, but two at once where the first is slow."""
        waiting = deque(places)
        running: dict[asyncio.Task[Answered[Result]], Place] = {}

        def start() -> None:
            place = waiting.popleft()
            if self._is_open(place):
                task = self._begin(self._ask(place, has_others=bool(waiting)))
                running[task] = place

        try:
            while waiting or running:
                if not running:
                    start()
                    continue
                may_hedge = len(running) == 1 and waiting and self._options.may_hedge(waiting[0])
                done, _ = await asyncio.wait(
                    running,
                    timeout=hedge_s if may_hedge else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    start()
                # A good answer goes before an error that came with it.
                for task in sorted(done, key=lambda one: one.exception() is not None):
                    place = running.pop(task)
                    if (error := task.exception()) is None:
                        return task.result()
                    self._note(place, error)
            return None
        finally:
            for task in running:
                task.cancel()

    async def _unverified(self) -> Answered[Result] | None:
        """Places of which nothing is known: where the reference works and cannot carry the request,
        they are compared with it now, and asked if they are the same."""
        plan = self._plan
        failed = self._failures.get(plan.reference.name)
        if failed is None or not isinstance(failed.error, CannotCarry):
            return None
        for place in plan.unverified:
            if self._is_open(place) and self._may_pass(place) and await self._is_same(place):
                try:
                    return await self._ask(place, has_others=False)
                except Exception as error:  # noqa: BLE001 - what is final is raised again
                    self._note(place, error)
        return None

    async def _is_same(self, place: Place) -> bool:
        plan = self._plan
        names = plan.entry.id, plan.reference.name, place.name
        if self._book.is_due(*names):
            try:
                await self._book.check(plan.entry, plan.reference, place)
            except FledgeError:
                return False  # the book logs it
        return self._book.relation(*names) == "same"

    async def _ask(self, place: Place, *, has_others: bool) -> Answered[Result]:
        """One place.

        Args:
            place: which.
            has_others: whether another one can answer at once.
        """
        if self._deadline.left_s <= 0:
            raise self._failure() if self._failures else self._too_late(None)
        options, health = self._options, self._plan.health[place.name]
        patience_s = float("inf")
        if has_others and not place.is_remote:
            patience_s = 0.0 if health.loads else options.cold_patience_s
        turn = Turn(self._plan.entry, place, self._deadline, health, patience_s, self._served)
        with health.asked():
            try:
                if has_others and options.attempt_timeout_s is not None:
                    return Answered(place, await self._hurry(turn, options.attempt_timeout_s))
                return Answered(place, await self._attempt(turn))
            except ModelLoading as error:
                health.load(error.estimated_time_s)
                if turn.was_hurried:
                    self._hurried = place
                raise

    async def _hurry(self, turn: Turn, timeout_s: float) -> Result:
        """An attempt that must not take longer."""
        timer = asyncio.timeout(timeout_s)
        try:
            async with timer:
                return await self._attempt(turn)
        except TimeoutError:
            if not timer.expired():
                raise
            reason = f"{turn.place.name} gave no answer within {timeout_s:g} s"
            self._plan.health[turn.place.name].fail(Fault(reason=reason))
            raise BackendUnavailable(reason) from None

    def _served(self, place: Place, card: ModelCard) -> ModelCard:
        """Learn what runs at a place; the card that its answers are finished by."""
        plan = self._plan
        if len(plan.health) == 1:
            return card
        self._book.note(plan.entry.id, place.name, card)
        return self._book.as_served(plan.entry.id, plan.reference.name, place.name, card)

    def _is_open(self, place: Place) -> bool:
        """Whether it may be asked still: other requests may have found out something meanwhile."""
        return not place.is_remote or self._plan.health[place.name].may_be_asked

    def _note(self, place: Place, error: BaseException) -> None:
        """Remember what a place failed with, or raise what no other place can mend."""
        outcome = outcome_of(error)
        if not isinstance(error, Exception) or not outcome.falls_back:
            raise error
        self._failures[place.name] = Failed(place.name, error, outcome)

    def _pause_s(self, rounds: int) -> float | None:
        """Seconds until the next round; None: there is none."""
        # Those that rested all the while have not failed this request: they may be back in time.
        worth_it = [
            place
            for place in self._plan.places
            if place.name not in self._failures or self._failures[place.name].outcome.is_retried
        ]
        if not worth_it or rounds >= self._options.max_rounds:
            return None
        longest_s = self._options.longest_pause_s
        rest_s = min(self._plan.health[place.name].rest_s for place in worth_it)
        pause = max(pause_s(rounds, self._random, longest_s=longest_s), rest_s)
        return pause if pause <= longest_s and pause < self._deadline.left_s else None

    async def _wait(self) -> bool:
        """Wait until a place may be asked that must not be now; whether to look again."""
        now_s = self._clock()
        if self._waits_until_s is None:
            self._waits_until_s = now_s + self._options.longest_pause_s
        left_s = min(self._waits_until_s - now_s, self._deadline.left_s)
        resting = [place for place in self._plan.places if self._may_pass(place)]
        rests_s = [self._plan.health[place.name].rest_s for place in resting]
        if not rests_s or left_s <= 0 or min(rests_s) > left_s:
            return False
        # One that is being tried has no rest left: whoever tries it rings.
        next_s = min((rest_s for rest_s in rests_s if rest_s > 0), default=left_s)
        await self._plan.bell.wait(min(next_s, left_s))
        return True

    def _failure(self) -> FledgeError:
        if self._failures:
            failed = most_telling(list(self._failures.values()))
            return told(failed.name, failed.error)
        place = min(self._plan.places, key=lambda one: self._plan.health[one.name].rest_s)
        health = self._plan.health[place.name]
        return ProviderUnavailable(
            f"{place.name} has failed, and is left alone for a while",
            provider=place.name,
            status=health.last_status,
            retry_after_s=health.rest_s,
        )

    def _too_late(self, timeout_s: float | None) -> DeadlineExceeded:
        within = "in time" if timeout_s is None else f"within {timeout_s:g} s"
        return DeadlineExceeded(f"no answer {within}, the time-out of this server")
