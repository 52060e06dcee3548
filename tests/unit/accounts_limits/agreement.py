"""Steps taken with limits and with the slow obvious model at once: they must agree on all."""

from collections.abc import Awaitable, Callable, Sequence

from fledge.accounts.limits import Holder, Limits, Reservation
from fledge.errors import LimitExceeded
from fledge.types import LimitName
from tests.unit.accounts_limits.obvious import End, Model, Open, Pass, Reserve, Step


class Agreement:
    """Takes steps.

    Args:
        pass_ms: lets the limits' time pass.
    """

    def __init__(
        self,
        limits: Limits,
        holders: tuple[Holder, ...],
        pass_ms: Callable[[int], Awaitable[None]],
    ) -> None:
        self.limits = limits
        self.holders = holders
        self.model = Model(holders)
        self.open: list[tuple[Reservation, Open]] = []
        self._pass_ms = pass_ms

    async def take(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Reserve(number, tokens):
                    await self._reserve(number, tokens)
                case End(index, tokens) if index < len(self.open):
                    await self._end(*self.open.pop(index), tokens)
                case Pass(ms):
                    await self._pass_ms(ms)
                    self.model.wait(ms)

    async def end_all(self) -> None:
        while self.open:
            await self._end(*self.open.pop(), None)

    async def _reserve(self, number: int, tokens: int) -> None:
        refusing = self.model.refusing(number, tokens)
        try:
            reservation = await self.limits.reserve(self.holders[number], tokens)
        except LimitExceeded as error:
            self._check(number, tokens, error, refusing)
        else:
            assert not refusing
            self.open.append((reservation, self.model.reserve(number, tokens)))
            assert self.model.agrees(number, reservation.standing)

    def _check(
        self, number: int, tokens: int, error: LimitExceeded, refusing: set[LimitName]
    ) -> None:
        """What was said about when to come back is true, to the millisecond."""
        assert error.limit in refusing
        assert error.standing is not None
        assert self.model.agrees(number, error.standing)
        if error.retry_after_s is None:
            assert error.limit in self.model.after(10**9).refusing(number, tokens) or (
                error.limit == "concurrency"
            )
        elif error.limit != "concurrency":
            ms = round(error.retry_after_s * 1000)
            assert error.limit in self.model.after(ms - 1).refusing(number, tokens)
            assert self.model.after(ms).refusing(number, tokens) <= {"concurrency"}

    async def _end(self, reservation: Reservation, opened: Open, tokens: int | None) -> None:
        if tokens is not None:
            reservation.settle(tokens)
        await reservation.release()
        await reservation.release()
        self.model.end(opened, tokens or 0)
