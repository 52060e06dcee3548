"""Small static models on disk, made with NumPy alone: as sentence-transformers and Model2Vec save.

Their words are `w2`, `w3`, ... up to the vocabulary; `w5` is the token 5. Whatever else a text
holds is the unknown token.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

Array = NDArray[Any]

PACKAGE = "sentence_transformers.models."
UNKNOWN = 1


def draw(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def save_static(
    folder: Path,
    tensors: Mapping[str, Array],
    *,
    vocab: int,
    config: Mapping[str, Any] | None = None,
    modules: Sequence[str] | None = ("Normalize",),
) -> Path:
    """A folder with these tensors.

    Args:
        config: `config.json`; None writes none.
        modules: kinds behind StaticEmbedding; None writes no `modules.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(one) for name, one in tensors.items()}, path_of(folder))
    save_words(folder, vocab)
    if config is not None:
        write(folder / "config.json", config)
    if modules is not None:
        save_modules(folder, "StaticEmbedding", *modules)
    return folder


def path_of(folder: Path) -> Path:
    return folder / "model.safetensors"


def save_words(folder: Path, vocab: int, *, truncation: int | None = None) -> None:
    """A tokenizer that would put special tokens around a text, if it were asked to."""
    names = ["[PAD]", "[UNK]", *(f"w{n}" for n in range(2, vocab))]
    tokenizer = Tokenizer(
        models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[PAD] $A [PAD]", special_tokens=[("[PAD]", 0)]
    )
    tokenizer.enable_padding(length=40)
    if truncation is not None:
        tokenizer.enable_truncation(truncation)
    tokenizer.save(str(folder / "tokenizer.json"))


def save_modules(folder: Path, *kinds: str, package: str = PACKAGE) -> None:
    """`modules.json`; the first module lies at the root."""
    entries = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": package + kind}
        for n, kind in enumerate(kinds)
    ]
    write(folder / "modules.json", entries)


def save_module(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Array] | None = None
) -> None:
    """A module's own folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "config.json", config)
    if tensors:
        save_file(dict(tensors), path_of(folder))


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
