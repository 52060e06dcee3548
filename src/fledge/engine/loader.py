"""The models of this machine and of the hub, found and loaded: the `Loader` of the lifecycle."""

from collections.abc import Callable
from dataclasses import replace

from fledge.engine import cpu, disk, folders, memory, sources
from fledge.engine.lifecycle.ports import USUAL_BYTES_PER_S, Found
from fledge.engine.loading import LoadTransformer, load_backend
from fledge.engine.routes import RunningModel
from fledge.types import ModelEntry, Precision

WIDEST_BYTES = 4
"""Of one number of a checkpoint: what is not here yet has at least a fourth as many as bytes."""


class LocalLoader:
    """See `fledge.engine.lifecycle.ports.Loader`.

    Args:
        load_transformer: called for a model that has one, or for each of several.
        precision_of: the setting for a model's id.
        max_queued_tokens: most tokens that may wait for a static model.
    """

    def __init__(
        self,
        *,
        load_transformer: LoadTransformer,
        precision_of: Callable[[str], Precision],
        max_queued_tokens: int,
    ) -> None:
        self._load_transformer = load_transformer
        self._precision_of = precision_of
        self._max_queued_tokens = max_queued_tokens
        # once: asking the system is file after file, and a listing asks for every model
        self._features = cpu.detect()
        self._bytes_per_s: float | None = None

    def bytes_per_s(self) -> float:
        """How fast weights become a model: read as fast as the last ones were, then built."""
        if self._bytes_per_s is None:
            return USUAL_BYTES_PER_S
        return 1 / (1 / self._bytes_per_s + 1 / USUAL_BYTES_PER_S)

    def estimate_bytes(self, entry: ModelEntry) -> int | None:
        """By the number of parameters, if the catalogue knows it. For people; refuses nothing."""
        if entry.parameters is None:
            return None
        return memory.bytes_of_parameters(entry.parameters, self._precision(entry.id))

    def find(self, entry: ModelEntry, fits: Callable[[int], None]) -> Found:
        """The folder of the entry, or the hub's model of its id."""
        precision = self._precision(entry.id)

        def may_download(size_bytes: int) -> None:
            fits(memory.least_bytes(size_bytes // WIDEST_BYTES, precision))

        if entry.folder is not None:
            folder = sources.find_folder(entry.folder, entry.id)
        else:
            folder = sources.find_by_id(entry.id, may_download=may_download)
        found = Found(
            folder=replace(
                folder,
                prompts=entry.prompts,
                matryoshka_dimensions=entry.matryoshka_dimensions,
            ),
            size_bytes=folders.size_bytes(folder.path),
            needed_bytes=memory.model_bytes(folder.path, precision),
        )
        self._bytes_per_s = disk.measure_bytes_per_s(folder.path) or self._bytes_per_s
        return found

    def load(self, found: Found) -> RunningModel:
        """Build it, in the lane that all models share."""
        return load_backend(
            found.folder,
            load_transformer=self._load_transformer,
            precision=self._precision_of(found.folder.id),
            max_queued_tokens=self._max_queued_tokens,
        )

    def _precision(self, model: str) -> cpu.ChosenPrecision:
        """What it will compute in: what is asked for, or as near as this machine comes."""
        return cpu.choose_precision(self._precision_of(model), self._features).chosen
