"""What is known of which places share a space, and finding out the rest."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, TypeAlias

from fledge.errors import BackendUnavailable, FledgeError
from fledge.routing.places import Place
from fledge.routing.spaces import Meaning, Relation, Verdict, compare, mark_of
from fledge.routing.verdict_file import VerdictFile
from fledge.types import ModelCard, ModelEntry

log = logging.getLogger(__name__)

MIN_COSINE = 0.99
MAX_AGE_S = 24 * 3600.0
"""A provider may change a model without a word; after so long a verdict is made anew."""

RETRY_S = 60.0
"""After a comparison that could not be made. A guess."""

TIMEOUT_S = 60.0

Pair: TypeAlias = tuple[str, str, str]
"""Model, reference, place."""


class SpaceRules(NamedTuple):
    """How strict the comparisons are.

    Attributes:
        is_checked: whether places are compared at all; if not, all count as one space.
        min_cosine: the least cosine that counts as the same.
    """

    is_checked: bool = True
    min_cosine: float = MIN_COSINE


class SpaceBook:
    """Verdicts by model and pair of places. For one event loop.

    Args:
        rules: how strict it is.
        file: where verdicts outlive this process; None: nowhere.
        clock: Unix time.
    """

    def __init__(
        self,
        rules: SpaceRules = SpaceRules(),  # noqa: B008 - cannot be changed
        file: VerdictFile | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rules = rules
        self._file = file
        self._clock = clock
        self._verdicts = file.read() if file else {}
        self._cards: dict[tuple[str, str], ModelCard] = {}
        self._marks: dict[tuple[str, str], str] = {}
        # By place: its card, what its meaning was taken from, and the card that came of it.
        self._served: dict[tuple[str, str], tuple[ModelCard, object, ModelCard]] = {}
        self._running: dict[Pair, asyncio.Task[Verdict]] = {}
        self._retry_at: dict[Pair, float] = {}
        self._writing = asyncio.Lock()

    def relation(self, model: str, reference: str, place: str) -> Relation:
        """Whether a place may stand in for the reference."""
        if reference == place or not self._rules.is_checked:
            return "same"
        verdict = self.verdict(model, reference, place)
        if verdict is None:
            return "unknown"
        return "differs" if verdict.differences(self._rules.min_cosine) else "same"

    def verdict(self, model: str, reference: str, place: str) -> Verdict | None:
        """What was measured last, if it is about what runs there now.

        Of a place that has not been used since this process began, it is taken to be: that is how a
        provider may answer while the local model is still loading.
        """
        verdict = self._verdicts.get((model, reference, place))
        if verdict is None:
            return None
        for name, mark in zip((reference, place), verdict.marks, strict=True):
            if self._marks.get((model, name), mark) != mark:
                return None
        return verdict

    def differences(self, verdict: Verdict) -> list[str]:
        """What keeps the two places of a verdict apart; empty: nothing."""
        return verdict.differences(self._rules.min_cosine)

    def note(self, model: str, place: str, card: ModelCard) -> None:
        """A place was seen with a card."""
        key = model, place
        if self._cards.get(key) is not card:
            self._cards[key] = card
            self._marks[key] = mark_of(card)

    def as_served(self, model: str, reference: str, place: str, card: ModelCard) -> ModelCard:
        """A place's card with the prompts and the like of the reference, as far as that is known.

        What a request means is not to depend on where it is answered.
        """
        key = model, place
        of_reference = self._cards.get((model, reference))
        verdict = None if of_reference else self.verdict(model, reference, place)
        source = of_reference or verdict
        if source is None or place == reference:
            return card
        known = self._served.get(key)
        if known is None or known[0] is not card or known[1] is not source:
            meaning = source.meaning if isinstance(source, Verdict) else Meaning.of(source)
            known = self._served[key] = card, source, meaning.given_to(card)
        return known[2]

    def is_due(self, model: str, reference: str, place: str) -> bool:
        """Whether two places are to be compared: there is no fresh verdict, nor a failure just
        now."""
        pair = model, reference, place
        if not self._rules.is_checked or reference == place:
            return False
        verdict = self.verdict(*pair)
        is_fresh = verdict is not None and self._clock() - verdict.checked_at < MAX_AGE_S
        return not is_fresh and self._clock() >= self._retry_at.get(pair, -math.inf)

    async def check(self, entry: ModelEntry, reference: Place, place: Place) -> Verdict:
        """Compare two places now, or wait for who does already.

        Raises:
            FledgeError: one of them could not be asked.
        """
        # A request that leaves does not take the comparison from those who wait for it too.
        return await asyncio.shield(self._begin(entry, reference, place))

    def tend(self, entry: ModelEntry, reference: Place, places: Iterable[Place]) -> None:
        """Begin, beside the requests, whatever comparison is due; the reference works."""
        for place in places:
            if self.is_due(entry.id, reference.name, place.name):
                self._begin(entry, reference, place)

    async def aclose(self) -> None:
        """Give up what is under way."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, entry: ModelEntry, reference: Place, place: Place) -> asyncio.Task[Verdict]:
        """One comparison of a pair at a time."""
        pair = entry.id, reference.name, place.name
        if (task := self._running.get(pair)) is None:
            task = asyncio.create_task(self._compare(entry, reference, place))
            self._running[pair] = task
            task.add_done_callback(partial(self._ended, pair))
        return task

    async def _compare(self, entry: ModelEntry, reference: Place, place: Place) -> Verdict:
        pair = entry.id, reference.name, place.name
        # However it ends: what could not be asked is not asked with every request.
        self._retry_at[pair] = self._clock() + RETRY_S
        try:
            async with asyncio.timeout(TIMEOUT_S):
                verdict = await compare(entry, reference, place, checked_at=self._clock())
        except TimeoutError:
            raise BackendUnavailable(f"no answer within {TIMEOUT_S:g} s") from None
        self._verdicts[pair] = verdict
        for name, mark in zip(pair[1:], verdict.marks, strict=True):
            self._cards.pop((entry.id, name), None)
            self._marks[entry.id, name] = mark
        self._tell(entry.id, verdict)
        await self._save()
        return verdict

    def _tell(self, model: str, verdict: Verdict) -> None:
        found = verdict.differences(self._rules.min_cosine)
        if found:
            log.warning(
                "%s at %s is another embedding space than at %s (%s): it does not stand in for it",
                model,
                verdict.place,
                verdict.reference,
                "; ".join(found),
            )
        else:
            log.info(
                "%s at %s is the same embedding space as at %s: least cosine %.5f of %d texts",
                model,
                verdict.place,
                verdict.reference,
                verdict.least_cosine,
                verdict.texts,
            )

    async def _save(self) -> None:
        if self._file is not None:
            async with self._writing:
                await asyncio.to_thread(self._file.write, dict(self._verdicts))

    def _ended(self, pair: Pair, task: asyncio.Task[Verdict]) -> None:
        del self._running[pair]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if isinstance(error, FledgeError | OSError):
            model, reference, place = pair
            log.info("%s: %s and %s could not be compared: %s", model, reference, place, error)
        else:
            log.error("comparing places failed", exc_info=error)
