"""From an entry of the catalogue to a model in memory: found, given room, built.

Several models are looked for at once, and several downloaded. They are built one after the other,
in the order in which they were found: building takes all cores, and more memory than what remains.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from fledge.engine.lifecycle.daemons import Aside
from fledge.engine.lifecycle.failures import ERRORS, classify
from fledge.engine.lifecycle.loads import Load
from fledge.engine.lifecycle.ports import Found, LifecycleOptions, Loader, Memory
from fledge.engine.lifecycle.residents import Charge, Residents
from fledge.engine.routes import RunningModel
from fledge.errors import ModelLoadError
from fledge.types import ModelEntry

LOOKUPS = 8
"""Models looked for at once, on this machine and then on the hub: some may wait for its answer."""

DOWNLOADS = 4
"""Models downloaded at once: more would only share the same connection."""


MOST_OVER = 1.5
MOST_BESIDE_BYTES = 64 * 10**6
"""What a model may have taken more than its files say, as a factor and beside. A guess: of those
that were measured alone, none took a fifth more."""


class _MustDownload(Exception):
    """A model is not on this machine, and could be fetched."""


@dataclass(frozen=True, slots=True)
class Built:
    """A model, ready to run.

    Attributes:
        model: the model.
        charge: what it takes, among the charges of the residents already.
        size_bytes: of its files.
        seconds: that building it took.
    """

    model: RunningModel
    charge: Charge
    size_bytes: int
    seconds: float


class Builder:
    """Brings models up. For one event loop.

    Args:
        loader: does the work, in threads.
        residents: the models in memory, of which some may have to leave.
        options: how long things may take.
        memory: of this process.
        clock: seconds, for how long things took.
        aside: runs what blocks.
    """

    def __init__(
        self,
        loader: Loader,
        residents: Residents,
        options: LifecycleOptions,
        *,
        memory: Memory,
        clock: Callable[[], float],
        aside: Aside,
    ) -> None:
        self._loader = loader
        self._residents = residents
        self._options = options
        self._memory = memory
        self._clock = clock
        self._aside = aside
        self._lookups = asyncio.Semaphore(LOOKUPS)
        self._downloads = asyncio.Semaphore(DOWNLOADS)
        self._turn = asyncio.Lock()  # to build; first come, first served

    async def bring_up(self, load: Load) -> Built:
        """Find a model, wait for its turn and for room, build it.

        Cancelling it while it builds leaves the thread alone: what it builds is then closed.

        Raises:
            Exception: whatever was wrong with it, and with the loader; mostly a `ModelLoadError`.
        """
        load.found = await self._find(load)
        load.enter("waiting", self._clock())
        async with self._turn:
            charge = Charge(load.entry.id)
            await self._residents.make_room(charge, load.found.needed_bytes)
            load.enter("building", self._clock())
            return await self._build(load.found, charge)

    async def _find(self, load: Load) -> Found:
        """Find a model, in two calls if it has to be downloaded.

        So a model that is on this machine never waits behind the downloads of others.
        """
        entry = load.entry
        fits = self._residents.gate(entry.id, is_least=True)

        def stop(needed_bytes: int) -> None:
            fits(needed_bytes)
            raise _MustDownload

        look = partial(self._looked_for, entry, partial(self._loader.find, entry, stop))
        if entry.folder is not None:  # nobody else's silent hub is to hold it up
            return await look()
        with suppress(_MustDownload):
            async with self._lookups:
                return await look()
        async with self._downloads:
            load.enter("downloading", self._clock())
            fits = self._residents.gate(entry.id, is_least=True)
            find = partial(self._loader.find, entry, fits)
            return await self._aside("fledge-find", find)

    async def _looked_for(self, entry: ModelEntry, look: Callable[[], Found]) -> Found:
        limit_s = self._options.longest_look_s
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                return await self._aside("fledge-find", look)
        except TimeoutError:
            if not limit.expired():
                raise
        raise ModelLoadError(
            f"{entry.id} was not found within {limit_s:g} s: what holds it does not answer"
        )

    async def _build(self, found: Found, charge: Charge) -> Built:
        began_s, limit_s = self._clock(), self._options.longest_build_s
        build = self._aside("fledge-build", partial(self._measured, found))
        try:
            await asyncio.wait({build}, timeout=limit_s)
            if not build.done():
                raise ModelLoadError(f"{charge.model_id} was not built within {limit_s:g} s")
            model, taken_bytes = build.result()
            seconds = self._clock() - began_s
            await self._residents.make_room(charge, _charge_bytes(found, taken_bytes))
        except BaseException:
            self._residents.give_up(charge, build)
            raise
        return Built(model, charge, found.size_bytes, seconds)

    def build_now(self, entry: ModelEntry) -> Built:
        """Find and build a model in the calling thread, where no event loop runs.

        Its charge is not among those of the residents yet. Nobody leaves for it.

        Raises:
            ModelLoadError: it cannot be found or built, or there is no room beside the others.
        """
        try:
            found = self._loader.find(
                entry, self._residents.gate(entry.id, may_evict=False, is_least=True)
            )
            self._residents.gate(entry.id, may_evict=False)(found.needed_bytes)
            began_s = self._clock()
            model, taken_bytes = self._measured(found)
        except ModelLoadError:
            raise
        except Exception as error:
            message = f"{entry.id}: {type(error).__name__}: {error}"
            raise ERRORS[classify(error)](message) from error
        charge = Charge(entry.id, _charge_bytes(found, taken_bytes))
        return Built(model, charge, found.size_bytes, self._clock() - began_s)

    def _measured(self, found: Found) -> tuple[RunningModel, int]:
        """Build a model, and see what it took."""
        before_bytes = self._memory.used_bytes()
        try:
            model = self._loader.load(found)
        finally:
            self._memory.trim()  # building needs much that the model does not
        return model, self._memory.used_bytes() - before_bytes


def _charge_bytes(found: Found, taken_bytes: int) -> int:
    """What a model is charged when it is built."""
    # Much less than its files say: it took memory that had been freed but not given back.
    # Much more: the measure is the whole process's, and has what others computed meanwhile.
    if taken_bytes < found.needed_bytes / 2:
        return found.needed_bytes
    return min(taken_bytes, round(MOST_OVER * found.needed_bytes) + MOST_BESIDE_BYTES)
