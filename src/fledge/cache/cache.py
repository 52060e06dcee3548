"""Answers that were computed before, looked for before anything is computed again.

Memory first, then the tiers behind it in their order; what a later one finds fills those before it.
What none has is computed, once for all who want it at the same time, and kept by all.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fledge.cache.entry import Cached, pack, unpack
from fledge.cache.flights import Call, Compute, Flight, Flights, Origin, Terms
from fledge.cache.memory import MemoryTier
from fledge.cache.tiers import Pair, Tier
from fledge.telemetry.states import CacheState, TierState
from fledge.types import EmbedResult, Timings

_USUAL = Terms()
_ELSEWHERE: tuple[Origin, ...] = ("joined", "computed")


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answers to a list of keys, in their order.

    Attributes:
        result: as if a backend had answered for all; its timings are those of what was computed.
        origins: where each answer came from.
    """

    result: EmbedResult
    origins: Sequence[Origin]

    @property
    def computed_tokens(self) -> int:
        """Tokens of those that were computed for this request."""
        counts = zip(self.origins, self.result.token_counts, strict=True)
        return sum(count for origin, count in counts if origin == "computed")

    @property
    def hit_count(self) -> int:
        """How many were kept from before."""
        return sum(origin not in _ELSEWHERE for origin in self.origins)


class Cache:
    """The tiers of one instance. For one event loop.

    Args:
        memory: asked first, and without waiting.
        tiers: asked after it, in this order.

    Attributes:
        memory: likewise.
        tiers: likewise.
        counts: how many answers came from where.
    """

    def __init__(self, memory: MemoryTier | None = None, tiers: Sequence[Tier] = ()) -> None:
        self.memory = memory
        self.tiers = tuple(tiers)
        self.counts: Counter[Origin] = Counter()
        self._origins: tuple[Origin, ...] = (
            *(() if memory is None else ("memory",)),
            *(tier.name for tier in tiers),
            *_ELSEWHERE,
        )
        self._flights = Flights(self._look_after)

    @property
    def in_flight_count(self) -> int:
        """How many different inputs are on their way."""
        return len(self._flights)

    async def fetch(
        self, keys: Sequence[bytes], compute: Compute, terms: Terms = _USUAL
    ) -> Fetched:
        """The answer for each key; the keys' order is that of the inputs.

        `compute` is called at most once, with the indices of what is missing, each different key
        once. Only where another's computation was joined and then given up, it may be called again.

        Raises:
            Exception: what `compute` raised, here or where it was joined.
            ComputeError: it did not answer for each of the inputs.
        """
        if terms.is_fresh:
            return await self._compute_anew(keys, compute, terms)
        found = self.memory.get(keys) if self.memory and terms.may_keep else [None] * len(keys)
        kept = [entry for entry in found if entry is not None]
        if len(kept) == len(keys):
            result = unpack(kept, Timings())
            if not (terms.refuses_cut and any(result.truncated)):
                self.counts["memory"] += len(keys)
                return Fetched(result, ["memory"] * len(keys))
        return await self._fetch_rest(keys, found, compute, terms)

    def count_repeat(self, texts: int) -> None:
        """Count texts that were answered as a whole request before, and are given out again."""
        self.counts["memory"] += texts

    def state(self) -> CacheState:
        """What it has done so far."""
        memory = self.memory
        return CacheState(
            answers={origin: self.counts[origin] for origin in self._origins},
            memory_bytes=0 if memory is None else memory.size_bytes,
            memory_budget_bytes=0 if memory is None else memory.budget_bytes,
            tiers=[
                TierState(name=tier.name, is_usable=tier.is_usable, counts=replace(tier.counts))
                for tier in self.tiers
            ],
        )

    async def aclose(self) -> None:
        """Give up what is on its way, and close the tiers. Safe to call twice."""
        await self._flights.aclose()
        await asyncio.gather(*(tier.aclose() for tier in self.tiers))

    async def _fetch_rest(
        self, keys: Sequence[bytes], found: Sequence[Cached | None], compute: Compute, terms: Terms
    ) -> Fetched:
        answers: dict[bytes, tuple[Cached, Origin]] = {}
        places: dict[bytes, int] = {}
        for index, (key, entry) in enumerate(zip(keys, found, strict=True)):
            if entry is not None and terms.accept(entry):
                answers[key] = (entry, "memory")
            else:
                places.setdefault(key, index)
        call = Call(places, compute, terms)
        await self._flights.fetch(call)
        answers.update(call.found)
        origins = [answers[key][1] for key in keys]
        for index, key in enumerate(keys):
            if origins[index] == "computed" and places[key] != index:
                origins[index] = "joined"
        return self._fetched([answers[key][0] for key in keys], origins, call.timings)

    async def _compute_anew(self, keys: Sequence[bytes], compute: Compute, terms: Terms) -> Fetched:
        places: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            places.setdefault(key, index)
        result = await compute(list(places.values()))
        origins: list[Origin] = [
            "computed" if places[key] == index else "joined" for index, key in enumerate(keys)
        ]
        if len(places) == len(keys) and not terms.may_keep:
            self.counts.update(origins)
            return Fetched(result, origins)
        entries = dict(zip(places, pack(list(places), result), strict=True))
        if terms.may_keep:
            self._keep(list(entries.items()), len(self.tiers))
        return self._fetched([entries[key] for key in keys], origins, result.timings)

    def _fetched(
        self, entries: Sequence[Cached], origins: Sequence[Origin], timings: Timings
    ) -> Fetched:
        self.counts.update(origins)
        return Fetched(unpack(entries, timings), origins)

    async def _look_after(self, flight: Flight) -> None:
        """Look a flight's keys up in the tiers, and compute the rest."""
        call, missing = flight.owner, flight.keys
        for depth, tier in enumerate(self.tiers if call.terms.may_keep else ()):
            entries = await tier.get(missing)
            hits = [
                (key, entry)
                for key, entry in zip(missing, entries, strict=True)
                if entry is not None and call.terms.accept(entry)
            ]
            self._keep(hits, depth)
            flight.land(hits, tier.name)
            missing = [key for key in missing if key not in flight.landed]
            if not missing:
                return
        if call not in flight.calls:
            # Who began it has left, and its model with it: those who joined compute it themselves.
            raise asyncio.CancelledError
        result = await call.compute([call.places[key] for key in missing])
        computed = list(zip(missing, pack(missing, result), strict=True))
        if call.terms.may_keep:
            self._keep(computed, len(self.tiers))
        flight.timings = result.timings
        flight.land(computed, "computed")

    def _keep(self, pairs: Sequence[Pair], depth: int) -> None:
        """Keep entries in memory and in the tiers before the one of a depth."""
        if pairs and self.memory is not None:
            self.memory.put(pairs)
        for tier in self.tiers[:depth] if pairs else ():
            tier.put(pairs)
