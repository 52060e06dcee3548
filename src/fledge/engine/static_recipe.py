"""A static model's folder, read and loaded: its tokenizer, its table, the modules behind it.

Sources: StaticEmbedding, WordEmbeddings, WordWeights and BoW of sentence-transformers 6, and
Model2Vec 0.10 (`StaticModel`). A folder whose `config.json` says `model2vec` is computed as that
package computes it, also where a `modules.json` stands beside it: at most 512 tokens unless
`max_length` says otherwise, and unknown tokens left out. The two differ in such texts only.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.engine.architectures.family import Weight
from fledge.engine.bags import Bag, Counts, Mean, Pooled, TokenTable
from fledge.engine.chain import PACKAGE, Speech, Step, read_speech
from fledge.engine.modules import (
    Normalize,
    Pooling,
    VectorModule,
    read_json,
    read_module,
    refuse_unknown,
)
from fledge.engine.splitters import (
    Splitter,
    WhitespaceSplitter,
    read_json_splitter,
    read_whitespace_splitter,
    read_words,
)
from fledge.engine.tensorfile import Array, read_tensor
from fledge.engine.weights import Located, locate
from fledge.errors import CorruptModel, UnsupportedModel
from fledge.types import TruncationSide, Vectors

STATIC_KINDS = ("StaticEmbedding", "BoW", "WordEmbeddings")
MODEL2VEC = "model2vec"
MODEL2VEC_MAX_TOKENS = 512

MAX_TOKENS = 1_000_000
"""A limit for those that know none: beyond any text, but not beyond any request."""

CHECKED_ROWS = 2**14


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What becomes of a text's tokens before they are computed.

    Attributes:
        max_tokens: at most so many of one text.
        side: the side that is cut away unless somebody says otherwise.
        chars_per_token: a text is cut to so many characters per token first; None: it is not.
        dropped_id: a token that is left out, after cutting.
    """

    max_tokens: int = MAX_TOKENS
    side: TruncationSide = "right"
    chars_per_token: int | None = None
    dropped_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRecipe:
    """A static model in memory.

    Attributes:
        kind: `static`, `model2vec`, `bow` or `words`.
        modules: those behind the bag, without a trailing Normalize.
        normalizes: whether there is one.
        weights: of the modules, by name, float32.
    """

    kind: str
    splitter: Splitter
    limits: Limits
    bag: Bag
    pooling: tuple[str, ...]
    modules: Sequence[VectorModule]
    normalizes: bool
    weights: Mapping[str, Vectors]
    speech: Speech

    @property
    def dimension(self) -> int:
        """Length of one vector. Raises `CorruptModel` when the modules do not fit each other."""
        size = self.bag.size
        for module in self.modules:
            size = module.output_size(size)
        return size

    def with_normalize(self) -> "StaticRecipe":
        """The same with its trailing Normalize computed, where nobody else would do it."""
        if not self.normalizes:
            return self
        return replace(self, modules=[*self.modules, Normalize()], normalizes=False)


def is_bare_model2vec(root: Path) -> bool:
    """Whether the folder is one of Model2Vec's without `modules.json`."""
    return not (root / "modules.json").is_file() and _is_model2vec(root)


def _is_model2vec(folder: Path) -> bool:
    return read_json(folder / "config.json").get("model_type") == MODEL2VEC


def read_static(root: Path, steps: Sequence[Step] | None = None) -> StaticRecipe:
    """Read a static model and all its weights.

    Args:
        steps: its modules; None for a Model2Vec folder without `modules.json`.

    Raises:
        UnsupportedModel: it asks for arithmetic that Fledge does not have.
        CorruptModel: a file is missing, damaged, or contradicts another.
    """
    is_bare = steps is None
    steps = steps or [Step("StaticEmbedding", root)]
    try:
        head, behind = _HEADS[steps[0].kind](steps)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CorruptModel(
            f"{steps[0].folder}: the config of {steps[0].kind} lacks or garbles a field: {error!r}"
        ) from error
    if head.splitter.vocab_size > head.bag.vocab_size:
        raise CorruptModel(
            f"{steps[0].folder}: the tokenizer has {head.splitter.vocab_size} tokens, "
            f"but the model only {head.bag.vocab_size}"
        )
    modules, weights = _read_modules(root, behind, len(steps) - len(behind))
    if is_bare and read_json(root / "config.json").get("normalize", False):
        modules = [Normalize()]
    normalizes = bool(modules) and isinstance(modules[-1], Normalize)
    return StaticRecipe(
        kind=head.kind,
        splitter=head.splitter,
        limits=head.limits,
        bag=head.bag,
        pooling=head.pooling,
        modules=modules[:-1] if normalizes else modules,
        normalizes=normalizes,
        weights=weights,
        speech=read_speech(root),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """The modules up to the first vector."""

    kind: str
    splitter: Splitter
    bag: Bag
    limits: Limits = Limits()
    pooling: tuple[str, ...] = ("mean",)


def _read_modules(
    root: Path, steps: Sequence[Step], first: int
) -> tuple[list[VectorModule], dict[str, Vectors]]:
    modules: list[VectorModule] = []
    weights: dict[str, Vectors] = {}
    for number, step in enumerate(steps, start=first):
        module = read_module(step.kind, step.folder, f"module.{number}")
        if module is None:
            continue
        if not isinstance(module, VectorModule):
            raise UnsupportedModel(
                f"{root}/modules.json: {step.kind} stands where there are vectors and no tokens"
            )
        modules.append(module)
        if module.weights:
            tensors = locate(step.folder)
            weights |= {
                weight.name: _module_weight(step.folder, tensors, weight)
                for weight in module.weights
            }
    return modules, weights


def _module_weight(folder: Path, tensors: Mapping[str, Located], weight: Weight) -> Vectors:
    tensor = _floats(folder, tensors, weight.source)
    if weight.rows is not None and tensor.shape[:1] != (weight.rows,):
        raise CorruptModel(
            f"{folder}: {weight.source!r} has shape {list(tensor.shape)}, "
            f"but the module's config speaks of {weight.rows} rows"
        )
    return tensor


def _read_static_embedding(steps: Sequence[Step]) -> tuple[_Head, Sequence[Step]]:
    folder = steps[0].folder
    splitter, cut = read_json_splitter(folder)
    limits = Limits()
    if _is_model2vec(folder):
        config = read_json(folder / "config.json")
        limit = config.get("max_length", MODEL2VEC_MAX_TOKENS)
        limits = Limits(
            max_tokens=MAX_TOKENS if limit is None else _count(folder, "max_length", limit),
            chars_per_token=None if limit is None else splitter.median_chars,
            dropped_id=splitter.unknown_id,
        )
    elif cut is not None:
        limits = Limits(max_tokens=min(cut.max_tokens, MAX_TOKENS), side=cut.side)
    return (
        _Head(
            kind=MODEL2VEC if _is_model2vec(folder) else "static",
            splitter=splitter,
            limits=limits,
            bag=Mean(_read_token_table(folder)),
        ),
        steps[1:],
    )


def _read_token_table(folder: Path) -> TokenTable:
    """`embedding.weight` of StaticEmbedding, or Model2Vec's `embeddings`, `mapping`, `weights`."""
    tensors = locate(folder)
    if "embedding.weight" in tensors:
        return TokenTable(_table(folder, tensors, "embedding.weight"))
    mapping = factors = None
    rows = _table(folder, tensors, "embeddings")
    if "mapping" in tensors:
        mapping = _read(folder, tensors, "mapping")
        if mapping.ndim != 1 or mapping.dtype.kind not in "iu" or not len(mapping):
            raise CorruptModel(f"{folder}: mapping is no list of rows")
        mapping = mapping.astype(np.int64)
        if mapping.min() < 0 or mapping.max() >= len(rows):
            raise CorruptModel(f"{folder}: mapping leads outside of the {len(rows)} rows")
    if "weights" in tensors:
        factors = _floats(folder, tensors, "weights").reshape(-1)
    return TokenTable(rows, mapping, factors)


def _read_bow(steps: Sequence[Step]) -> tuple[_Head, Sequence[Step]]:
    folder = steps[0].folder
    config = read_json(folder / "config.json")
    refuse_unknown(folder, config, *("vocab", *_WEIGHTED_WORDS, "cumulative_term_frequency"))
    words = dict.fromkeys(read_words(folder, config["vocab"]))  # each at its first place
    if not words:
        raise CorruptModel(f"{folder}: vocab has no words")
    bag = Counts(
        _word_weights(folder, words, config),
        is_cumulative=bool(config.get("cumulative_term_frequency", True)),
    )
    vocabulary = {word: place for place, word in enumerate(words)}
    splitter = WhitespaceSplitter(vocabulary, frozenset(), do_lower_case=False)
    return _Head(kind="bow", splitter=splitter, bag=bag, pooling=()), steps[1:]


_WEIGHTED_WORDS = ("word_weights", "unknown_word_weight")


def _word_weights(
    folder: Path, words: Collection[str], config: Mapping[str, Any]
) -> NDArray[np.float32]:
    """Each word's own weight, else that of its lower case, else the one of unknown words."""
    saved = dict(config.get("word_weights", {}))
    unknown = config.get("unknown_word_weight", 1)
    found = [saved.get(word, saved.get(word.lower(), unknown)) for word in words]
    weights = np.array(found, np.float64).astype(np.float32)
    if weights.shape != (len(words),) or not np.isfinite(weights).all():
        raise CorruptModel(f"{folder}: word_weights must be finite numbers")
    return weights


def _read_word_embeddings(steps: Sequence[Step]) -> tuple[_Head, Sequence[Step]]:
    folder = steps[0].folder
    path = folder / "wordembedding_config.json"
    config = read_json(path)
    refuse_unknown(path, config, "tokenizer_class", "update_embeddings", "max_seq_length")
    tokenizer = str(config["tokenizer_class"])
    if not tokenizer.startswith(PACKAGE) or tokenizer.rpartition(".")[2] != "WhitespaceTokenizer":
        raise UnsupportedModel(
            f"{path}: tokenizer_class is {tokenizer!r}; Fledge has sentence-transformers' own "
            "WhitespaceTokenizer only"
        )
    kinds = [step.kind for step in steps]
    weighted = kinds[1:2] == ["WordWeights"]
    place = 2 if weighted else 1
    if kinds[place : place + 1] != ["Pooling"]:
        raise UnsupportedModel(
            f"{folder}: behind WordEmbeddings comes {', '.join(kinds[1:]) or 'nothing'}; "
            "Fledge computes one WordWeights, or none, then a Pooling"
        )
    pooling = read_module("Pooling", steps[place].folder, f"module.{place}")
    if not isinstance(pooling, Pooling) or "cls" in pooling.modes:
        raise UnsupportedModel(f"{steps[place].folder}: pooling_mode 'cls' of words has no meaning")
    bag = Pooled(
        TokenTable(_table(folder, locate(folder), "emb_layer.weight")),
        pooling.modes,
        _read_word_weights(steps[1].folder) if weighted else None,
    )
    limit = _count(path, "max_seq_length", config.get("max_seq_length", MAX_TOKENS))
    head = _Head(
        kind="words",
        splitter=read_whitespace_splitter(folder),
        bag=bag,
        limits=Limits(max_tokens=min(limit, MAX_TOKENS)),
        pooling=pooling.modes,
    )
    return head, steps[place + 1 :]


def _read_word_weights(folder: Path) -> NDArray[np.float32]:
    """Of the words of a vocabulary in its order, whatever the weights file beside it says."""
    config = read_json(folder / "config.json")
    refuse_unknown(folder, config, "vocab", *_WEIGHTED_WORDS)
    return _word_weights(folder, read_words(folder, config["vocab"]), config)


_HEADS = {
    "StaticEmbedding": _read_static_embedding,
    "BoW": _read_bow,
    "WordEmbeddings": _read_word_embeddings,
}


def _count(path: Path, name: str, value: object) -> int:
    if type(value) is not int or value < 1:
        raise CorruptModel(f"{path}: {name} {value!r} is no number of tokens")
    return value


def _read(folder: Path, tensors: Mapping[str, Located], name: str) -> Array:
    if name not in tensors:
        raise CorruptModel(
            f"{folder}: no tensor {name!r} in the checkpoint, only {', '.join(tensors) or 'none'}"
        )
    return read_tensor(tensors[name].path, tensors[name].info)


def _table(folder: Path, tensors: Mapping[str, Located], name: str) -> Array:
    """A table as it is stored; looked through in pieces, so that it is never there twice."""
    table = _read(folder, tensors, name)
    if table.ndim != 2 or 0 in table.shape or table.dtype == np.bool_:
        raise CorruptModel(f"{folder}: {name!r} has shape {list(table.shape)} of {table.dtype}")
    for start in range(0, len(table), CHECKED_ROWS):
        if not np.isfinite(table[start : start + CHECKED_ROWS].astype(np.float32)).all():
            raise CorruptModel(f"{folder}: {name!r} holds values that are not finite")
    return table


def _floats(folder: Path, tensors: Mapping[str, Located], name: str) -> Vectors:
    values = _read(folder, tensors, name).astype(np.float32)
    if not np.isfinite(values).all():
        raise CorruptModel(f"{folder}: {name!r} holds values that are not finite")
    return values
