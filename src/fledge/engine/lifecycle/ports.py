"""What the lifecycle of models is given from outside, and whom it tells what happens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fledge.engine.routes import RunningModel
from fledge.engine.sources import ModelFolder
from fledge.types import FailureKind, ModelEntry

USUAL_BYTES_PER_S = 300e6
"""Weights read, built and warmed up per second, before anything was measured. A guess, between a
small model in the page cache and a large one from a network disk."""


def usual_bytes_per_s() -> float:
    """The speed of loading where nobody measured."""
    return USUAL_BYTES_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model's files, on this machine.

    Attributes:
        folder: where they are.
        size_bytes: of the files that are read.
        needed_bytes: memory that the model will take, as far as its files and precision tell.
    """

    folder: ModelFolder
    size_bytes: int
    needed_bytes: int


class Loader(Protocol):
    """Finds and loads models. What blocks is called in threads, several at once."""

    def find(self, entry: ModelEntry, fits: Callable[[int], None]) -> Found:
        """Find a model's files, or download them. Blocks, for minutes perhaps.

        Args:
            entry: the model.
            fits: called before a download, and only then, with the bytes of memory that the model
                will take at the least. What it raises ends the matter and must get through:
                `NoRoom` where there will never be so many, or something else to have it done
                later.

        Raises:
            ModelLoadError: there are none, or they cannot be had.
        """
        ...

    def estimate_bytes(self, entry: ModelEntry) -> int | None:
        """Memory that a model may take, by what its entry says; None: no idea. Does no I/O.

        A guess: nothing is refused for it.
        """
        ...

    def load(self, found: Found) -> RunningModel:
        """Build a model and warm it up. Blocks.

        Raises:
            ModelLoadError: the files are damaged, or ask for what Fledge does not compute.
        """
        ...


@dataclass(frozen=True, slots=True)
class Memory:
    """This process's memory, as the system sees it.

    Attributes:
        used_bytes: the anonymous memory now; called in threads, and raises nothing.
        trim: gives what was freed back to the system; called in threads, and raises nothing.
    """

    used_bytes: Callable[[], int]
    trim: Callable[[], None]


class Observer(Protocol):
    """Is told of loads and unloads, on the event loop. Raises nothing."""

    def on_load(self, model_id: str, seconds: float, failure: FailureKind | None) -> None:
        """A load ended: how long it took, and if it failed, how."""
        ...

    def on_unload(self, model_id: str) -> None:
        """A model has left."""
        ...


class Unobserved:
    """An observer that makes nothing of it."""

    def on_load(self, model_id: str, seconds: float, failure: FailureKind | None) -> None:
        """Nothing."""

    def on_unload(self, model_id: str) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleOptions:
    """What an operator chose, and a few times that only tests choose.

    Attributes:
        budget_bytes: memory that all models together may take.
        keep_alive_s: seconds without a request after which a model leaves; negative: never, 0: as
            soon as nobody uses it.
        keep_alive_by_model: model id -> its own `keep_alive_s`.
        pinned: ids of the models that do not leave by themselves.
        words_by_folder: folders of this machine -> what callers are told in their place.
        bytes_per_s: how fast this machine reads weights, as far as measured; called on the event
            loop, for estimates before any model was loaded.
        fair_wait_s: a load waits so long for memory before models that are never idle must leave.
        longest_look_s: looking for a model that need not be downloaded is given up after it.
        longest_build_s: a build that takes longer is given up.
        longest_close_s: a model that takes longer to close is given up.
        stopping_s: `aclose` waits so long for models that are being built.
    """

    budget_bytes: int
    keep_alive_s: float = 900.0
    keep_alive_by_model: Mapping[str, float] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()
    words_by_folder: Mapping[Path, str] = field(default_factory=dict)
    bytes_per_s: Callable[[], float] = usual_bytes_per_s
    fair_wait_s: float = 1.0
    longest_look_s: float = 60.0
    longest_build_s: float = 900.0
    longest_close_s: float = 60.0
    stopping_s: float = 5.0
