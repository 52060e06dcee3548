"""The models in memory and the budget that they share: who stays, who leaves, and when.

For one event loop, which alone touches all that is here. What a model is charged counts from
before it is built until after it is closed, so the sum never passes the budget. Room is made for
one model at a time: who else is being loaded waits for that one, so no two can wait for each other.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

from fledge.engine.lifecycle.daemons import Aside
from fledge.engine.lifecycle.failures import NoRoom
from fledge.engine.lifecycle.ports import LifecycleOptions, Memory
from fledge.engine.routes import RunningModel
from fledge.names import format_bytes

log = logging.getLogger(__name__)

Build: TypeAlias = "asyncio.Future[tuple[RunningModel, int]]"
"""A model being built; its result is the model and the memory that it took, in bytes."""


@dataclass(eq=False, slots=True)
class Charge:
    """What one model takes of the budget.

    Attributes:
        model_id: the model's.
        bytes: how much; 0 until there is room for it.
        fate: `leaves` is free soon, without anybody's help; `stuck` may never be.
    """

    model_id: str
    bytes: int = 0
    fate: Literal["stays", "leaves", "stuck"] = "stays"


@dataclass(eq=False, slots=True, kw_only=True)
class Resident:
    """A model in memory, from when it is warm until it has left.

    Attributes:
        charge: what it takes of the budget.
        keep_alive_s: seconds without a user after which it leaves; negative: never.
        is_pinned: it does not leave by itself.
        users: how many hold it now; it is not closed before they have let go.
        last_used_s: when the last of them came or went, by the clock of the lifecycle.
        leaving: set once it has to leave: from then on it has no new users. Done when it has left.
        drained: its last user has gone, of one that leaves.
    """

    model: RunningModel
    charge: Charge
    keep_alive_s: float
    is_pinned: bool
    users: int = 0
    last_used_s: float = 0.0
    leaving: asyncio.Task[None] | None = None
    drained: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        """The model's."""
        return self.charge.model_id


class Residents:
    """All the models in memory.

    Args:
        options: the budget, and how long things may take.
        memory: of this process.
        clock: seconds, for how long models have been idle.
        aside: runs what blocks.
        on_left: is told who has left, and why.
    """

    def __init__(
        self,
        options: LifecycleOptions,
        *,
        memory: Memory,
        clock: Callable[[], float],
        aside: Aside,
        on_left: Callable[[Resident, str], None],
    ) -> None:
        self._options = options
        self._memory = memory
        self._clock = clock
        self._aside = aside
        self._on_left = on_left
        self._charges: set[Charge] = set()
        self._staying: list[Resident] = []  # the warm ones, but for those that are leaving
        self._leaving: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()  # wakes the one load that waits for room
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = 0.0

    @property
    def charged_bytes(self) -> int:
        """What all models are charged together; never more than the budget."""
        return sum(charge.bytes for charge in self._charges)

    @property
    def staying(self) -> list[Resident]:
        """The warm models, but for those that are leaving."""
        return list(self._staying)

    def hold(self, resident: Resident) -> None:
        """Keep it from being closed until `release`."""
        resident.users += 1
        resident.last_used_s = self._clock()

    def release(self, resident: Resident) -> None:
        """Let go of it again."""
        resident.users -= 1
        resident.last_used_s = self._clock()
        if not resident.users:
            self._became_idle(resident)

    def arrive(self, resident: Resident, *, holds: int) -> None:
        """Count a model that was built among the warm ones, held by those who waited for it."""
        resident.last_used_s = self._clock()
        resident.users = holds
        self._staying.append(resident)
        if not holds:
            self._became_idle(resident)

    def settle(self, resident: Resident) -> None:
        """Count a model among the warm ones that nobody waits for. Needs no event loop.

        Raises:
            NoRoom: there is no room for it beside the others.
        """
        self.gate(resident.id, may_evict=False)(resident.charge.bytes)
        self._charges.add(resident.charge)
        resident.last_used_s = self._clock()
        self._staying.append(resident)

    def pin(self, resident: Resident, *, is_pinned: bool) -> None:
        """Keep it from leaving by itself, or not any more."""
        resident.is_pinned = is_pinned
        self._changed.set()
        if not resident.users:
            self._became_idle(resident)

    def gate(
        self, model_id: str, *, may_evict: bool = True, is_least: bool = False
    ) -> Callable[[int], None]:
        """A check of what a model needs against the most it can ever have, as things stand now.

        Args:
            model_id: the model's.
            may_evict: others leave for it, unless they are pinned.
            is_least: what is checked is the least that it needs, and may not be all.

        Returns:
            The check, for any thread. It raises `NoRoom`, with what is needed and what there
            is.
        """
        if may_evict:
            kept = {
                "pinned ones keep": [one.charge for one in self._staying if one.is_pinned],
                "those that do not end keep": [c for c in self._charges if c.fate == "stuck"],
            }
        else:
            kept = {"those before it keep": list(self._charges)}
        needs = f"{model_id} needs {'at least ' if is_least else ''}"
        return partial(_check, needs, self._options.budget_bytes, kept)

    async def make_room(self, charge: Charge, needed_bytes: int) -> None:
        """Charge a model that is being loaded, once there is room; one at a time.

        The least recently used of those that are idle and not pinned leave first. After a fair
        time those must leave, too, that are in use: they have no new users then, and the present
        ones end.

        Args:
            charge: the model's, which had less before.
            needed_bytes: what it takes.

        Raises:
            NoRoom: there never will be so much room. The charge stays as it was.
        """
        loop = asyncio.get_running_loop()
        fair_at = loop.time() + self._options.fair_wait_s
        while (missing := needed_bytes - charge.bytes - self._free_bytes) > 0:
            self.gate(charge.model_id)(needed_bytes)
            wait_s = fair_at - loop.time()
            missing -= sum(one.bytes for one in self._charges if one.fate == "leaves")
            while missing > 0 and (last := self._least_recently_used(in_use=wait_s <= 0)):
                self.leave(last, "for memory")
                missing -= last.charge.bytes
            await self._change(within_s=wait_s if missing > 0 else None)
        charge.bytes = needed_bytes
        self._charges.add(charge)

    @property
    def _free_bytes(self) -> int:
        return self._options.budget_bytes - self.charged_bytes

    def _least_recently_used(self, *, in_use: bool) -> Resident | None:
        """The next one to leave: an idle one, or failing that one in use, if those may."""
        candidates = [
            one for one in self._staying if not one.is_pinned and (in_use or not one.users)
        ]
        return min(candidates, key=lambda one: (one.users > 0, one.last_used_s), default=None)

    async def _change(self, *, within_s: float | None) -> None:
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()

    def _became_idle(self, resident: Resident) -> None:
        self._changed.set()
        if resident.leaving is not None:
            resident.drained.set()
        elif resident.keep_alive_s == 0 and not resident.is_pinned:
            self.leave(resident, "not to be kept")
        else:
            self._sweep_for(resident)

    def _sweep_for(self, resident: Resident) -> None:
        """See to it that `sweep` is called when this one is due, if not before."""
        if resident.users or resident.is_pinned or resident.keep_alive_s < 0:
            return
        due_s = resident.last_used_s + resident.keep_alive_s
        if self._timer is None or due_s < self._timer_due_s:
            self._stop_timer()
            delay_s = max(0.0, due_s - self._clock())
            self._timer_due_s = due_s
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.sweep)

    def sweep(self) -> None:
        """Let those go that nobody has used for as long as they are kept. Called by a timer."""
        self._stop_timer()
        for resident in self.staying:
            idle_s = self._clock() - resident.last_used_s
            is_due = 0 <= resident.keep_alive_s <= idle_s
            if is_due and not resident.users and not resident.is_pinned:
                self.leave(resident, f"idle for {idle_s:.0f} s")
            else:
                self._sweep_for(resident)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def leave(self, resident: Resident, why: str) -> asyncio.Task[None]:
        """Have it leave when its last user has gone. A second call changes nothing.

        Args:
            why: for the log.

        Returns:
            The leaving; waiting for it is safe, cancelling it is not.
        """
        if resident.leaving is None:
            resident.charge.fate = "leaves"
            resident.leaving = asyncio.create_task(self._leave(resident, why))
            self._staying.remove(resident)
            self._keep(resident.leaving)
        return resident.leaving

    async def _leave(self, resident: Resident, why: str) -> None:
        if resident.users:
            await resident.drained.wait()
        await self._close(resident.charge, resident.model)
        self._on_left(resident, why)

    def give_up(self, charge: Charge, build: Build) -> None:
        """Build in vain: what it takes counts until the build is over and its model closed."""
        if not build.done():
            charge.fate = "stuck"
            build.add_done_callback(partial(self.give_up, charge))
        elif build.cancelled() or build.exception() is not None:
            self._free(charge)
        else:
            charge.fate = "leaves"
            model, _ = build.result()
            self._keep(asyncio.create_task(self._close(charge, model)))

    def _keep(self, leaving: asyncio.Task[None]) -> None:
        """Hold on to a task that nobody may be waiting for: the event loop does not."""
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _close(self, charge: Charge, model: RunningModel) -> None:
        """Close a model in a thread, and count its memory as free when that is done."""
        closing = self._aside("fledge-unload", partial(self._close_and_trim, model))
        await asyncio.wait({closing}, timeout=self._options.longest_close_s)
        if closing.done():
            self._closed(charge, closing)
            return
        log.error("unloading %s does not end; what it takes stays taken", charge.model_id)
        charge.fate = "stuck"
        self._changed.set()
        closing.add_done_callback(partial(self._closed, charge))

    def _close_and_trim(self, model: RunningModel) -> None:
        try:
            model.close()
        finally:
            self._memory.trim()

    def _closed(self, charge: Charge, closing: "asyncio.Future[None]") -> None:
        if error := closing.exception():
            # nothing else could be done about it, and a budget that shrinks helps nobody
            log.error(
                "unloading %s failed; its memory counts as free",
                charge.model_id,
                exc_info=error,
            )
        self._free(charge)

    def _free(self, charge: Charge) -> None:
        self._charges.discard(charge)
        self._changed.set()

    def all_leave(self, why: str) -> None:
        """Have every model leave when its last user has gone."""
        for resident in self.staying:
            self.leave(resident, why)

    async def all_left(self) -> None:
        """Wait until all those that are leaving have left."""
        if self._leaving:
            await asyncio.wait(self._leaving)

    def close_now(self) -> None:
        """Close every model in the calling thread, where no event loop has run."""
        for resident in self._staying:
            try:
                self._close_and_trim(resident.model)
            except Exception:
                log.exception("unloading %s failed", resident.id)
        self._staying.clear()
        self._charges.clear()


def _check(
    needs: str, budget_bytes: int, kept: Mapping[str, Sequence[Charge]], needed_bytes: int
) -> None:
    kept_bytes = sum(charge.bytes for charges in kept.values() for charge in charges)
    if needed_bytes <= budget_bytes - kept_bytes:
        return
    needed, most = format_bytes(needed_bytes), format_bytes(budget_bytes)
    parts = [f"{needs}{needed} of memory, and models may take {most} (memory_budget_bytes)"]
    for who, charges in kept.items():
        if charges:
            size = format_bytes(sum(charge.bytes for charge in charges))
            names = ", ".join(sorted(charge.model_id for charge in charges))
            parts.append(f"{who} {size} of that ({names})")
    raise NoRoom("; ".join(parts), needed_bytes=needed_bytes)
