"""From an entry of the catalogue to a model in memory: found, given room, built.

Models are found, and downloaded, several at once. They are built one after the other, in the order
in which they were found: building takes all cores, and more memory than what remains of it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fledge.engine.daemons import Aside
from fledge.engine.failures import ERRORS, classify
from fledge.engine.loads import Load
from fledge.engine.ports import Found, LifecycleOptions, Loader, Memory
from fledge.engine.residents import Charge, Residents
from fledge.engine.routes import RunningModel
from fledge.errors import ModelLoadError
from fledge.types import ModelEntry

FINDERS = 4
"""Models looked for, and downloaded, at once: more would only share the same connection."""


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
        self._finders = asyncio.Semaphore(FINDERS)
        self._turn = asyncio.Lock()  # to build; first come, first served

    async def bring_up(self, load: Load) -> Built:
        """Find a model, wait for its turn and for room, build it.

        Cancelling it while it builds leaves the thread alone: what it builds is then closed.

        Raises:
            Exception: whatever was wrong with it, and with the loader; mostly a `ModelLoadError`.
        """
        async with self._finders:
            load.enter("downloading", self._clock())
            fits = self._residents.gate(load.entry.id)
            find = partial(self._loader.find, load.entry, fits)
            load.found = await self._aside("fledge-find", find)
        load.enter("waiting", self._clock())
        async with self._turn:
            charge = Charge(load.entry.id)
            await self._residents.make_room(charge, load.found.needed_bytes)
            load.enter("building", self._clock())
            return await self._build(load.found, charge)

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
        fits = self._residents.gate(entry.id, may_evict=False)
        try:
            fits(self._loader.estimate_bytes(entry) or 0)
            found = self._loader.find(entry, fits)
            fits(found.needed_bytes)
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
    return taken_bytes if taken_bytes >= found.needed_bytes / 2 else found.needed_bytes
