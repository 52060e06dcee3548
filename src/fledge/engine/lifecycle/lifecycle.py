"""Models that load when somebody asks for them and leave when nobody does.

For one event loop, which alone touches the state that is here; what blocks runs in threads beside
it. A load belongs to no caller: whoever waits for it may leave, and it goes on.

    cold -> loading (looked for, downloading, waiting for its turn and for room, building) -> warm
    warm -> leaving, for as long as requests still hold it: cold to everybody else -> cold
    loading -> failed, for as long as the failure is remembered -> loading
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType

from fledge.engine.lifecycle.builder import Builder, Built
from fledge.engine.lifecycle.daemons import Aside, call_in_daemon
from fledge.engine.lifecycle.failures import (
    COOL_DOWN_S,
    Failure,
    NoRoom,
    classify,
    public_reason,
)
from fledge.engine.lifecycle.loads import Load, LoadTimes
from fledge.engine.lifecycle.ports import LifecycleOptions, Loader, Memory, Observer, Unobserved
from fledge.engine.lifecycle.residents import Charge, Resident, Residents
from fledge.engine.lifecycle.slots import Slot, Slots
from fledge.engine.routes import RunningModel
from fledge.errors import BackendUnavailable, FledgeError, ModelLoading
from fledge.names import format_bytes
from fledge.types import Backend, ModelEntry, Status

log = logging.getLogger(__name__)

STOPPING = "the server is stopping"


class Lifecycle:
    """`Deployments` of the local engine.

    Args:
        loader: finds and loads models.
        options: the budget, and how long models stay.
        memory: of this process.
        clock: seconds, for idle times and cool-downs.
        aside: runs what blocks.
        observer: is told of loads and unloads.
    """

    def __init__(
        self,
        loader: Loader,
        options: LifecycleOptions,
        *,
        memory: Memory,
        clock: Callable[[], float] = time.monotonic,
        aside: Aside = call_in_daemon,
        observer: Observer | None = None,
    ) -> None:
        self._loader = loader
        self._options = options
        self._clock = clock
        self._observer = observer or Unobserved()
        self._residents = Residents(
            options, memory=memory, clock=clock, aside=aside, on_left=self._left
        )
        self._builder = Builder(
            loader, self._residents, options, memory=memory, clock=clock, aside=aside
        )
        self._times = LoadTimes(options.bytes_per_s)
        self._slots = Slots(options.pinned)
        self._is_closing = False

    @property
    def charged_bytes(self) -> int:
        """What all models in memory are charged together; never more than the budget."""
        return self._residents.charged_bytes

    def use(self, entry: ModelEntry, *, patience_s: float) -> AbstractAsyncContextManager[Backend]:
        """The running model, for as long as the block lasts. See `Deployments.use`.

        Raises:
            BackendUnavailable: the server is stopping, or what computed for the model has died.
        """
        return _Use(self, entry, patience_s)

    def hold_if_warm(self, entry: ModelEntry) -> Resident | None:
        """The model, kept from leaving until `release`; None if it is not warm.

        Raises:
            BackendUnavailable: what computed for it has died.
        """
        slot = self._slots.find(entry.id)
        resident = slot.warm if slot else None
        if resident is not None:
            health = resident.model.health()
            if health.state == "failed":
                raise BackendUnavailable(f"{entry.id}: {health.reason}")
            self._residents.hold(resident)
        return resident

    async def hold_when_warm(
        self, entry: ModelEntry, patience_s: float | None, *, again: bool = False
    ) -> Resident:
        """The model, kept from leaving until `release`, once it is loaded.

        Args:
            entry: the model.
            patience_s: how long to wait; None: until the load has ended.
            again: load it whatever is remembered of failures.

        Raises:
            ModelLoading, ModelLoadError: as `use`.
            BackendUnavailable: the server is stopping.
        """
        if self._is_closing:
            raise BackendUnavailable(STOPPING)
        slot = self._slots.touch(entry.id)
        load = slot.load or self._begin(slot, entry, again=again)
        waiter: asyncio.Future[Resident] = asyncio.get_running_loop().create_future()
        if patience_s is None or patience_s > 0:
            load.waiters.add(waiter)
            try:
                await asyncio.wait({waiter}, timeout=patience_s)
            except BaseException:
                # cancelled, perhaps after the model was given to this caller
                if waiter.done() and waiter.exception() is None:
                    self._residents.release(waiter.result())
                raise
            finally:
                load.waiters.discard(waiter)
        if waiter.done():
            return waiter.result()
        estimate_s = self._estimate_s(slot, self._loader.estimate_bytes(entry))
        remaining_s = load.remaining_s(estimate_s, self._clock())
        raise ModelLoading(entry.id, estimated_time_s=remaining_s)

    def release(self, resident: Resident) -> None:
        """Let go of a model that was held."""
        self._residents.release(resident)

    def status(self, entry: ModelEntry) -> Status:
        """Its state now, without I/O and without waiting for anything."""
        slot = self._slots.find(entry.id) or self._slots.blank(entry.id)
        if slot.warm:  # nothing is left to be guessed
            return slot.status(self._clock(), estimate_s=None, estimate_bytes=0)
        estimate_bytes = self._loader.estimate_bytes(entry)
        return slot.status(
            self._clock(),
            estimate_s=self._estimate_s(slot, estimate_bytes),
            estimate_bytes=estimate_bytes or 0,
        )

    def _estimate_s(self, slot: Slot, estimate_bytes: int | None) -> float | None:
        """About how long building it takes; None: no idea."""
        if slot.build_s is not None:
            return slot.build_s
        found = slot.load.found if slot.load else None
        size_bytes = found.size_bytes if found else estimate_bytes
        return None if size_bytes is None else self._times.estimate_s(size_bytes)

    async def load(self, entry: ModelEntry) -> Status:
        """Load it, whatever is remembered of failures, and wait until it is warm.

        One whose backend has died is loaded anew.

        Raises:
            ModelLoadError: it cannot be loaded.
            BackendUnavailable: the server is stopping, or what computes is stuck, which loading
                would not change.
        """
        slot = self._slots.touch(entry.id)
        if slot.warm and (health := slot.warm.model.health()).state == "failed":
            if health.may_recover:
                raise BackendUnavailable(f"{entry.id}: {health.reason}")
            self._residents.leave(slot.warm, "dead")
        if not slot.warm:
            self.release(await self.hold_when_warm(entry, None, again=True))
        return self.status(entry)

    async def unload(self, entry: ModelEntry) -> Status:
        """Let its requests end, then give its memory back. A pinned one leaves too.

        One that is being loaded leaves when it has served those who wait for it. Where nobody does
        and it is not being built yet, the load is given up.
        """
        slot = self._slots.find(entry.id)
        if slot and slot.load:
            if slot.load.stage != "building" and not slot.load.waiters:
                slot.load.task.cancel()
            await asyncio.wait({slot.load.task})
        if slot and slot.resident:
            await asyncio.wait({self._residents.leave(slot.resident, "on request")})
        return self.status(entry)

    def pin(self, entry: ModelEntry, *, is_pinned: bool) -> Status:
        """Keep it from leaving by itself, from now on or not any more. Loads nothing.

        One that has to leave already, and only waits for its last requests, does leave.
        """
        slot = self._slots.touch(entry.id)
        slot.is_pinned = is_pinned
        if slot.warm:
            self._residents.pin(slot.warm, is_pinned=is_pinned)
        return self.status(entry)

    def problems(self) -> Mapping[str, str]:
        """The models whose backend is dead or stuck, and why; none that did not load."""
        healths = {one.id: one.model.health() for one in self._residents.staying}
        return {
            name: one.reason or one.state for name, one in healths.items() if one.state == "failed"
        }

    def sweep(self) -> None:
        """Let those go that nobody has used for as long as they are kept. A timer does it, too."""
        self._residents.sweep()

    async def aclose(self) -> None:
        """Let requests end, unload everything. Safe to call twice.

        New requests are refused at once. Models that are being built get a few seconds, for their
        threads cannot be stopped; downloads are given up.
        """
        self._is_closing = True
        self._residents.all_leave(STOPPING)
        loads = [slot.load for slot in self._slots if slot.load]
        for load in loads:
            if load.stage != "building":
                load.task.cancel()
        if loads:
            tasks = [load.task for load in loads]
            await asyncio.wait(tasks, timeout=self._options.stopping_s)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self._residents.all_left()

    def load_now(self, entry: ModelEntry) -> None:
        """Load a model in the calling thread, before the event loop runs.

        Nobody leaves for it. Nor does it leave before the first request to any model, even if it
        was idle for long.

        Raises:
            ModelLoadError: it cannot be found or loaded, or does not fit beside those before it.
        """
        slot = self._slots.find(entry.id)
        if slot and slot.warm:
            return
        began_s = self._clock()
        built = self._builder.build_now(entry)
        try:
            self.adopt(entry, built.model, built.charge.bytes)
        except BaseException:
            built.model.close()
            raise
        self._note_loaded(entry, built, began_s)

    def adopt(self, entry: ModelEntry, model: RunningModel, memory_bytes: int) -> None:
        """Take over a model that runs, as a warm one. Needs no event loop.

        Raises:
            OutOfMemory: it does not fit beside the others. It is still the caller's then.
        """
        slot = self._slots.touch(entry.id)
        resident = self._resident(slot, model, Charge(entry.id, memory_bytes))
        self._residents.settle(resident)
        slot.resident, slot.card, slot.failure = resident, model.card, None

    def close_now(self) -> None:
        """Close every model in the calling thread, where no event loop has run."""
        self._is_closing = True
        self._residents.close_now()

    def _resident(self, slot: Slot, model: RunningModel, charge: Charge) -> Resident:
        keep_alive_s = self._options.keep_alive_by_model.get(
            charge.model_id, self._options.keep_alive_s
        )
        return Resident(
            model=model, charge=charge, keep_alive_s=keep_alive_s, is_pinned=slot.is_pinned
        )

    def _begin(self, slot: Slot, entry: ModelEntry, *, again: bool) -> Load:
        """Begin to load a model, unless it is known that it would fail."""
        now_s = self._clock()
        if not again and (failure := slot.failure) and self._stands(entry.id, failure, now_s):
            raise failure.error(now_s)
        load = Load(entry, began_s=now_s)
        slot.load, slot.failure = load, None
        task = asyncio.create_task(self._bring_up(slot, load))
        task.add_done_callback(partial(self._ended, slot, load))
        load.task = task
        return load

    def _stands(self, model_id: str, failure: Failure, now_s: float) -> bool:
        """Whether a failure is still remembered, and would be one again: room is soon counted."""
        if failure.until_s <= now_s or failure.needed_bytes is None:
            return failure.until_s > now_s
        try:
            self._residents.gate(model_id)(failure.needed_bytes)
        except NoRoom:
            return True
        return False

    async def _bring_up(self, slot: Slot, load: Load) -> Built:
        if slot.resident and slot.resident.leaving:
            await asyncio.wait({slot.resident.leaving})
        return await self._builder.bring_up(load)

    def _ended(self, slot: Slot, load: Load, task: "asyncio.Task[Built]") -> None:
        """Answer everybody who waits for a load."""
        slot.load = None
        if task.cancelled():
            why = STOPPING if self._is_closing else f"{load.entry.id} was unloaded"
            load.refuse(lambda: BackendUnavailable(why))
        elif error := task.exception():
            failure = self._failed(slot, load, error)
            load.refuse(lambda: failure.error(self._clock()))
        else:
            built = task.result()
            resident = self._resident(slot, built.model, built.charge)
            slot.resident, slot.card, slot.build_s = resident, built.model.card, built.seconds
            self._residents.arrive(resident, holds=load.answer(resident))
            self._note_loaded(load.entry, built, load.began_s)
            if self._is_closing:
                self._residents.leave(resident, STOPPING)

    def _note_loaded(self, entry: ModelEntry, built: Built, began_s: float) -> None:
        self._times.learn(built.size_bytes, built.seconds)
        seconds = self._clock() - began_s
        log.info("loaded %s in %.1f s (%s)", entry.id, seconds, format_bytes(built.charge.bytes))
        self._observer.on_load(entry.id, seconds, None)

    def _failed(self, slot: Slot, load: Load, error: BaseException) -> Failure:
        """Remember a failure, and tell the log all of it: callers are told less."""
        entry, now_s = load.entry, self._clock()
        words = dict(self._options.words_by_folder)
        if entry.folder:
            words[entry.folder] = entry.id
        if load.found:
            words[load.found.folder.path] = entry.id
        kind = classify(error)
        needed_bytes = error.needed_bytes if isinstance(error, NoRoom) else None
        reason, until_s = public_reason(error, words), now_s + COOL_DOWN_S[kind]
        slot.failure = Failure(kind, reason, until_s, needed_bytes)
        is_expected = isinstance(error, FledgeError)
        log.error(
            "loading %s failed (%s): %s",
            entry.id,
            kind,
            error,
            exc_info=None if is_expected else error,
        )
        self._observer.on_load(entry.id, now_s - load.began_s, kind)
        return slot.failure

    def _left(self, resident: Resident, why: str) -> None:
        if slot := self._slots.find(resident.id):
            slot.resident = None
        log.info("unloaded %s (%s)", resident.id, why)
        self._observer.on_unload(resident.id)


class _Use:
    """What `Lifecycle.use` gives: every request passes through, so a warm model costs no task."""

    __slots__ = ("_entry", "_lifecycle", "_patience_s", "_resident")

    def __init__(self, lifecycle: Lifecycle, entry: ModelEntry, patience_s: float) -> None:
        self._lifecycle = lifecycle
        self._entry = entry
        self._patience_s = patience_s

    async def __aenter__(self) -> Backend:
        resident = self._lifecycle.hold_if_warm(self._entry)
        if resident is None:
            resident = await self._lifecycle.hold_when_warm(self._entry, self._patience_s)
        self._resident: Resident = resident
        return resident.model

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lifecycle.release(self._resident)
