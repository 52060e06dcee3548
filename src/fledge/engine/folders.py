"""A model's folder on disk: which of its files matter, whether all are there, a fingerprint.

Knows names and bytes only: no network, no arithmetic, no meaning of a config beyond `modules.json`
naming the sub-folders of its modules.
"""

import fnmatch
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fledge.errors import CorruptModel

CONFIG_FILE = "config.json"
MODULES_FILE = "modules.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
TORCH_FILE = "pytorch_model.bin"
TORCH_INDEX_FILE = "pytorch_model.bin.index.json"

ADAPTER_FILE = "adapter_config.json"
"""Says that the weights beside it are changes to another model's."""

FILE_NAMES = (
    CONFIG_FILE,
    MODULES_FILE,
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "router_config.json",
    ADAPTER_FILE,
    "wordembedding_config.json",
    "whitespacetokenizer_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece*.model",
    "spiece.model",
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
    "model-*-of-*.safetensors",
)
"""What a model is made of. A list of what is wanted, since repositories also hold exports for
other runtimes, half-precision twins and code, which may be many times larger."""

TORCH_FILE_NAMES = (TORCH_FILE, TORCH_INDEX_FILE, "pytorch_model-*-of-*.bin")
"""What torch.save wrote, wanted where there are no safetensors."""

ROUTER_FOLDER = "[0-9]_[AR]*"
"""Of a Router, or an Asym, that is not the first module: its own modules are within."""

PLACES = ("", "[0-9]_*/", "[0-9][0-9]_*/", "*_[0-9]_*/", f"{ROUTER_FOLDER}/*_[0-9]_*/")
"""The root and module folders: `1_Pooling/`, `query_0_Transformer/`."""

FILE_PATTERNS = tuple(place + name for place in PLACES for name in FILE_NAMES)
TORCH_PATTERNS = tuple(place + name for place in PLACES for name in TORCH_FILE_NAMES)

WEIGHTED = frozenset(
    {
        "Transformer",
        "StaticEmbedding",
        "WordEmbeddings",
        "WeightedLayerPooling",
        "Dense",
        "LayerNorm",
    }
)
"""Modules that have weights, in one file or in shards."""

TOKENIZER_PATTERNS = ("tokenizer.json", "vocab.*", "*.model", "whitespacetokenizer_config.json")

SMALL_BYTES = 2**20
EDGE_BYTES = 64 * 2**10


def is_model_folder(folder: Path) -> bool:
    """Whether the folder looks like a sentence-transformers or transformers model at all."""
    return (folder / CONFIG_FILE).is_file() or (folder / MODULES_FILE).is_file()


def select(names: Iterable[str]) -> list[str]:
    """The names (with `/`, relative to the model's root) that Fledge reads.

    A folder's torch files are among them only where it has no safetensors.
    """
    names = list(names)
    settled = {
        parent
        for parent, _, base in (name.rpartition("/") for name in names)
        if base in {WEIGHTS_FILE, WEIGHTS_INDEX_FILE}
    }
    return [
        name
        for name in names
        if _matches(name, FILE_PATTERNS)
        or (_matches(name, TORCH_PATTERNS) and name.rpartition("/")[0] not in settled)
    ]


def has_weights(names: Iterable[str]) -> bool:
    """Whether any of the names that Fledge reads is of a file with weights."""
    return any(name.endswith((".safetensors", ".bin")) for name in names)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")
        for pattern in patterns
    )


def inside(folder: Path, name: str) -> Path:
    """The path of a file that another file of the folder names.

    Raises:
        CorruptModel: it would lie outside, where a repository has no business.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise CorruptModel(f"{folder} names {name!r}, which lies outside of it")
    return folder / path


def what_is_missing(folder: Path) -> str | None:
    """Why the folder is not a whole model, or None when it is.

    A download that was interrupted, or a tool that fetched only a tokenizer, leaves such folders.
    """
    if not is_model_folder(folder):
        return f"it has neither {CONFIG_FILE} nor {MODULES_FILE}"
    if (folder / ADAPTER_FILE).is_file():
        return None  # whole, as far as it goes; what it is is said when it is loaded
    modules = _modules(folder)
    weighted = [path for kind, path in modules if kind in WEIGHTED]
    found = {path: _weight_files(path) for path in (folder, *weighted, *_children(folder))}
    has_words = any(kind == "BoW" for kind, _ in modules)  # in its config, and no weights
    if not has_words and not any(found.values()):
        return f"it has neither {WEIGHTS_FILE} nor {TORCH_FILE}"
    if not has_words and not any(
        path for pattern in TOKENIZER_PATTERNS for path in _here_or_below(folder, pattern)
    ):
        return "it has no tokenizer"
    wanted = [path / CONFIG_FILE for kind, path in modules if kind in {"Pooling", "Dense"}]
    wanted += [path / WEIGHTS_FILE for path in weighted if not found[path]]
    wanted += [file for files in found.values() for file in files]
    absent = sorted({os.path.relpath(path, folder) for path in wanted if not path.is_file()})
    return f"it lacks {', '.join(absent)}" if absent else None


def _children(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def _weight_files(folder: Path) -> list[Path]:
    """The files of the folder's checkpoint, there or not, in the order in which they are preferred.

    Empty where nothing says that there should be any.
    """
    for single, index in (
        (WEIGHTS_FILE, WEIGHTS_INDEX_FILE),
        (TORCH_FILE, TORCH_INDEX_FILE),
    ):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return [folder / index, *_shards(folder / index)]
    return []


def _here_or_below(folder: Path, pattern: str) -> list[Path]:
    return [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]


def _shards(index: Path) -> list[Path]:
    content = _json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    names = {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else set()
    return [index.parent / name for name in names]


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Class name and folder of each module; without `modules.json` there is one, at the root."""
    content = _json(folder / MODULES_FILE)
    if not isinstance(content, list):
        return [("Transformer", folder)]
    return [
        (str(module.get("type")).rpartition(".")[2], folder / str(module.get("path", "")))
        for module in content
        if isinstance(module, dict)
    ]


def _json(path: Path) -> Any:
    """The file's content, or None where it cannot be read: the loader will say what is wrong."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def model_files(folder: Path) -> Iterator[Path]:
    """The folder's files that Fledge reads, in a fixed order."""
    names = []
    for parent, children, files in os.walk(folder, followlinks=True):
        children[:] = [child for child in children if not child.startswith((".", "__"))]
        # Modules are one level down, a Router's one more; anything deeper is a checkpoint of
        # training or an export.
        if Path(parent) != folder and not fnmatch.fnmatchcase(Path(parent).name, ROUTER_FOLDER):
            children.clear()
        names += [(Path(parent) / name).relative_to(folder).as_posix() for name in files]
    for name in sorted(select(names)):
        yield _regular(folder / name)


def _regular(path: Path) -> Path:
    """The file, if reading it will end.

    Raises:
        CorruptModel: it is gone, as behind a link that leads nowhere, or no file: a pipe, a device.
    """
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return path
    except OSError as error:
        raise CorruptModel(f"{path} cannot be read: {error.strerror}") from error
    raise CorruptModel(f"{path} is no file, but a pipe, a device or the like")


def size_bytes(folder: Path) -> int:
    """Bytes of the files that Fledge reads."""
    return sum(path.stat().st_size for path in model_files(folder))


def fingerprint(folder: Path) -> str:
    """A revision for a folder that has none, from its files.

    Names, sizes, times and contents, of large files only both ends: a folder of several gigabytes
    costs milliseconds, and no tool that rewrites weights leaves size, time and both ends alone.
    """
    digest = hashlib.sha256()
    for path in model_files(folder):
        state = path.stat()
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
        digest.update(_sample(path, state.st_size))
    return digest.hexdigest()[:40]


def _sample(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        if size <= SMALL_BYTES:
            return hashlib.sha256(file.read()).digest()
        head = file.read(EDGE_BYTES)
        file.seek(size - EDGE_BYTES)
        return hashlib.sha256(head + file.read(EDGE_BYTES)).digest()


def sha256_of(path: Path) -> str:
    """The whole file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
