"""What is known of each model, running or not."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from fledge.engine.lifecycle.failures import Failure
from fledge.engine.lifecycle.loads import Load
from fledge.engine.lifecycle.residents import Resident
from fledge.types import ModelCard, Status

MAX_REMEMBERED = 1000
"""Models that are neither here nor being loaded of which something is remembered: where requests
may name any model, they may name any number of them."""


@dataclass(eq=False, slots=True)
class Slot:
    """One model.

    Attributes:
        is_pinned: it does not leave by itself.
        resident: the running model, also while it is leaving.
        load: while it is being loaded.
        failure: of the last load, if it failed.
        build_s: how long building it took the last time.
        card: of the running model, or of the last one.
    """

    is_pinned: bool
    resident: Resident | None = None
    load: Load | None = None
    failure: Failure | None = None
    build_s: float | None = None
    card: ModelCard | None = None

    @property
    def warm(self) -> Resident | None:
        """The running model, if it takes new users."""
        if self.resident is None or self.resident.leaving is not None:
            return None
        return self.resident

    def status(self, now_s: float, *, estimate_s: float | None, estimate_bytes: int) -> Status:
        """How the model looks from outside.

        Args:
            now_s: by the clock of the lifecycle.
            estimate_s: about how long building it takes.
            estimate_bytes: the memory that it takes, as far as its entry tells.
        """
        card, is_pinned = self.card, self.is_pinned
        users = self.resident.users if self.resident else 0
        if resident := self.warm:
            health = resident.model.health()
            is_dead = health.state == "failed"
            return Status(
                state="failed" if is_dead else "warm",
                card=card,
                failure="unknown" if is_dead else None,
                reason=health.reason,
                memory_bytes=resident.charge.bytes,
                is_pinned=is_pinned,
                users=users,
                idle_s=0.0 if users else now_s - resident.last_used_s,
            )
        if load := self.load:
            return Status(
                state="loading",
                card=card,
                stage=load.stage,
                remaining_s=load.remaining_s(estimate_s, now_s),
                memory_bytes=load.found.needed_bytes if load.found else estimate_bytes,
                is_pinned=is_pinned,
                users=users,
            )
        if failure := self.failure:
            return Status(
                state="failed",
                card=card,
                failure=failure.kind,
                reason=failure.reason,
                retry_in_s=max(0.0, failure.until_s - now_s),
                is_pinned=is_pinned,
            )
        return Status(
            state="cold",
            card=card,
            remaining_s=estimate_s,
            # of one that is leaving: its memory is not free before it has left
            memory_bytes=self.resident.charge.bytes if self.resident else 0,
            is_pinned=is_pinned,
            users=users,
        )


class Slots:
    """All the models of which anything is known.

    Args:
        pinned: ids of the models that are pinned from the beginning.
    """

    def __init__(self, pinned: Collection[str]) -> None:
        self._pinned = pinned
        self._by_id: dict[str, Slot] = {}  # the one that was touched longest ago first

    def __iter__(self) -> Iterator[Slot]:
        return iter(list(self._by_id.values()))

    def find(self, model_id: str) -> Slot | None:
        """A model's slot, if anything is known of it."""
        return self._by_id.get(model_id)

    def blank(self, model_id: str) -> Slot:
        """The slot of a model of which nothing is known."""
        return Slot(is_pinned=model_id in self._pinned)

    def touch(self, model_id: str) -> Slot:
        """A model's slot, which is made if there is none, and is the last to be forgotten."""
        slot = self._by_id.pop(model_id, None) or self.blank(model_id)
        if len(self._by_id) >= MAX_REMEMBERED:
            self._forget_one()
        self._by_id[model_id] = slot
        return slot

    def _forget_one(self) -> None:
        for model_id, slot in self._by_id.items():
            is_idle = slot.load is None and slot.resident is None
            if is_idle and slot.is_pinned == (model_id in self._pinned):
                del self._by_id[model_id]
                return
