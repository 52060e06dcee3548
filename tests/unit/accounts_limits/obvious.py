"""Limits once more, slow and obvious: buckets of fractions that fill up, and lists of what is open.

`Model` is what every store of limits is compared with, and `STEPS` is what happens to both.
"""

from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from hypothesis import strategies as st

from fledge.accounts.limits import Holder
from fledge.types import LimitName, Standing

MONTH_LEFT_MS = 20_000
NEXT_MONTH_MS = 31 * 24 * 3600 * 1000
"""What is left of a month when all steps begin, and how long the next one is."""


@dataclass(frozen=True)
class Reserve:
    holder: int
    tokens: int


@dataclass(frozen=True)
class End:
    """A request that is running ends: with so many tokens, or without ever having said."""

    index: int
    tokens: int | None


@dataclass(frozen=True)
class Pass:
    ms: int


Step: TypeAlias = Reserve | End | Pass

AMOUNTS = st.one_of(st.none(), st.sampled_from([0, 1, 3, 7, 60, 1000]))
TOKENS = st.one_of(st.integers(0, 12), st.sampled_from([60, 61, 999, 1000, 1001]))


def holders(number: int) -> st.SearchStrategy[Holder]:
    return st.builds(
        Holder,
        id=st.just(f"key_{number}"),
        requests_per_minute=AMOUNTS,
        tokens_per_minute=AMOUNTS,
        concurrent_requests=st.one_of(st.none(), st.integers(0, 3)),
        monthly_token_budget=st.one_of(st.none(), st.sampled_from([0, 20, 5000])),
    )


HOLDERS = st.tuples(holders(0), holders(1))
STEPS = st.lists(
    st.one_of(
        st.builds(Reserve, st.integers(0, 1), TOKENS),
        st.builds(Reserve, st.just(0), st.integers(0, 3)),
        st.builds(End, st.integers(0, 5), st.one_of(st.none(), TOKENS)),
        st.builds(Pass, st.one_of(st.integers(1, 70_000), st.sampled_from([1, 20, 1000]))),
    ),
    max_size=40,
)


class Bucket:
    """So much may be taken out at once, and it is full again a minute after it was empty."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.level = Fraction(limit or 0)

    def fill(self, ms: int) -> None:
        if self.limit is not None:
            self.level = min(Fraction(self.limit), self.level + Fraction(self.limit * ms, 60_000))

    def has(self, amount: int) -> bool:
        return self.limit is None or self.level >= amount

    def take(self, amount: int) -> None:
        """Also more than there is, and with a negative amount back, but not over the brim."""
        if self.limit is not None:
            self.level = min(Fraction(self.limit), self.level - amount)

    def remaining(self) -> int:
        return max(0, int(self.level // 1))

    def reset_ms(self) -> Fraction:
        assert self.limit is not None
        missing = self.limit - self.level
        return missing * 60_000 / self.limit if self.limit else Fraction(0)


@dataclass(eq=False)
class Open:
    """A request that is running."""

    holder: int
    tokens: int
    month: int


class Model:
    """What `Limits` says."""

    def __init__(self, limits: tuple[Holder, ...]) -> None:
        self.holders = limits
        self.now_ms = 0
        self.requests = [Bucket(one.requests_per_minute) for one in limits]
        self.tokens = [Bucket(one.tokens_per_minute) for one in limits]
        self.open: list[Open] = []
        self.spent: dict[tuple[int, int], int] = {}

    def wait(self, ms: int) -> None:
        self.now_ms += ms
        for bucket in (*self.requests, *self.tokens):
            bucket.fill(ms)

    def month(self) -> int:
        return (self.now_ms - MONTH_LEFT_MS) // NEXT_MONTH_MS

    def refusing(self, number: int, tokens: int) -> set[LimitName]:
        """The limits into which a request does not fit."""
        holder = self.holders[number]
        running = sum(one.holder == number for one in self.open)
        spent = self.spent.get((number, self.month()), 0)
        concurrent, budget = holder.concurrent_requests, holder.monthly_token_budget
        fits: dict[LimitName, bool] = {
            "requests": self.requests[number].has(1),
            "tokens": self.tokens[number].has(tokens),
            "concurrency": concurrent is None or running < concurrent,
            "budget": budget is None or spent + tokens <= budget,
        }
        return {name for name, does in fits.items() if not does}

    def after(self, ms: int) -> "Model":
        """What it will be if nothing happens."""
        later = deepcopy(self)
        later.wait(ms)
        return later

    def reserve(self, number: int, tokens: int) -> Open:
        self.requests[number].take(1)
        self.tokens[number].take(tokens)
        opened = Open(number, tokens, self.month())
        self._spend(opened, tokens)
        self.open.append(opened)
        return opened

    def end(self, opened: Open, tokens: int) -> None:
        self.open.remove(opened)
        self.tokens[opened.holder].take(tokens - opened.tokens)
        self._spend(opened, tokens - opened.tokens)

    def _spend(self, opened: Open, tokens: int) -> None:
        place = (opened.holder, opened.month)
        self.spent[place] = max(0, self.spent.get(place, 0) + tokens)

    def agrees(self, number: int, standing: Standing) -> bool:
        """Whether these are the numbers that a holder should be told, to the millisecond."""
        for bucket, room in (
            (self.requests[number], standing.requests),
            (self.tokens[number], standing.tokens),
        ):
            if (room is None) != (bucket.limit is None):
                return False
            if room is not None and (
                (room.limit, room.remaining) != (bucket.limit, bucket.remaining())
                or not 0 <= round(room.reset_s * 1000) - bucket.reset_ms() < 1
            ):
                return False
        return True
