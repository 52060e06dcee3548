"""A model's folder, read whole into one plain description: what to compute, and how to speak to it.

Two layouts exist: sentence-transformers (`modules.json`) and bare transformers (`config.json`
alone), which means mean pooling. Nothing here opens weights or computes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from fledge.engine.architectures.family import Family, Shape
from fledge.engine.architectures.registry import find_family
from fledge.engine.folders import inside
from fledge.engine.modules import Module, Normalize, Pooling, read_json, read_module
from fledge.errors import CorruptModel, UnsupportedModel
from fledge.types import Similarity

# sentence-transformers names this file after the class that saved it; the first one found counts
TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
PACKAGE = "sentence_transformers."
SIMILARITIES: Mapping[str, Similarity] = {name: name for name in get_args(Similarity)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a folder says of its model.

    Attributes:
        folder: where the transformer's config, tokenizer and weights are.
        modules: the steps behind the transformer with their folders, without a trailing Normalize.
        normalizes: whether there is one.
        max_seq_length: most tokens of one input, never more than the position table has.
        do_lower_case: lower-case texts before the tokenizer's own normalizer.
    """

    folder: Path
    model_type: str
    family: Family[Any]
    shape: Shape
    modules: Sequence[tuple[Module, Path]]
    normalizes: bool
    max_seq_length: int
    do_lower_case: bool
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    similarity: Similarity

    @property
    def pooling(self) -> Pooling:
        """The step that turns tokens into one vector."""
        return next(module for module, _ in self.modules if isinstance(module, Pooling))

    @property
    def dimension(self) -> int:
        """Length of one vector. Raises `CorruptModel` when the modules do not fit each other."""
        size = self.shape.hidden_size
        for module, _ in self.modules:
            size = module.output_size(size)
        return size


def read_recipe(root: Path) -> Recipe:
    """Read a model's folder.

    Raises:
        UnsupportedModel: it asks for a family, module or arithmetic that Fledge does not have.
        CorruptModel: a file is missing, damaged, or contradicts another.
    """
    folder, steps = _read_modules(root)
    config = read_json(folder / "config.json")
    if not config:
        raise CorruptModel(f"{folder} has no config.json; is it a model's folder?")
    model_type = str(config.get("model_type", ""))
    family = find_family(model_type)
    try:
        shape = family.read_config(config)
    except (KeyError, TypeError) as error:
        raise CorruptModel(f"{folder}/config.json lacks or garbles a field: {error!r}") from error
    _check_shape(folder, shape)
    modules = [(module, path) for module, path in steps if module is not None]
    normalizes = bool(modules) and isinstance(modules[-1][0], Normalize)
    saved = _transformer_config(folder)
    speech = _read_speech(root)
    return Recipe(
        folder=folder,
        model_type=model_type,
        family=family,
        shape=shape,
        modules=modules[:-1] if normalizes else modules,
        normalizes=normalizes,
        max_seq_length=_max_seq_length(folder, saved, shape),
        do_lower_case=bool(saved.get("do_lower_case", False)),
        prompts=_prompts(root, speech),
        default_prompt_name=_default_prompt_name(root, speech),
        similarity=_similarity(root, speech),
    )


def _read_modules(root: Path) -> tuple[Path, list[tuple[Module | None, Path]]]:
    """The transformer's folder, and the steps behind it."""
    path = root / "modules.json"
    if not path.is_file():
        return root, [(Pooling(), root)]
    try:
        entries = sorted(json.loads(path.read_bytes()), key=lambda entry: entry["idx"])
        kinds = [(_kind(entry["type"]), inside(root, entry["path"])) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptModel(f"{path}: malformed: {error!r}") from error
    if not kinds or kinds[0][0] != "Transformer":
        raise UnsupportedModel(
            f"{path}: the first module is {kinds[0][0] if kinds else 'missing'!r}; "
            "Fledge runs models that begin with Transformer"
        )
    steps = [
        (read_module(kind, folder, f"module.{n}"), folder)
        for n, (kind, folder) in enumerate(kinds[1:], start=1)
    ]
    if sum(isinstance(module, Pooling) for module, _ in steps) != 1 or not isinstance(
        next((module for module, _ in steps if module), None), Pooling
    ):
        raise UnsupportedModel(f"{path}: exactly one Pooling must follow the Transformer")
    return kinds[0][1], steps


def _kind(name: str) -> str:
    """`sentence_transformers.models.Pooling` and its newer paths -> `Pooling`.

    Classes of other packages would be code from the repository, and are refused.
    """
    if not name.startswith(PACKAGE):
        raise UnsupportedModel(f"modules.json names {name!r}, which is code outside Fledge's reach")
    return name.rpartition(".")[2]


def _transformer_config(folder: Path) -> dict[str, Any]:
    config = next(
        (found for name in TRANSFORMER_CONFIGS if (found := read_json(folder / name))), {}
    )
    task = config.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise UnsupportedModel(f"{folder}: transformer_task {task!r} does not give embeddings")
    return config


def _max_seq_length(folder: Path, saved: Mapping[str, Any], shape: Shape) -> int:
    """As sentence-transformers decides it, but never beyond the position table.

    `max_seq_length` of its own config counts; without one, the tokenizer's `model_max_length`,
    which is absurdly large where it means "no limit".
    """
    limit = saved.get("max_seq_length")
    if limit is None:
        limit = read_json(folder / "tokenizer_config.json").get("model_max_length")
    try:
        return min(int(limit), shape.max_length) if limit else shape.max_length
    except (TypeError, ValueError, OverflowError) as error:
        raise CorruptModel(f"{folder}: max_seq_length {limit!r} is no number of tokens") from error


def _check_shape(folder: Path, shape: Shape) -> None:
    """Whatever the config says must be of the type that the arithmetic takes for granted."""
    for field in fields(shape):
        value = getattr(shape, field.name)
        if (
            (field.type is int and (type(value) is not int or value < 1))
            or (field.type is float and not isinstance(value, int | float))
            or (field.type is str and not isinstance(value, str))
        ):
            raise CorruptModel(f"{folder}/config.json: {field.name} cannot be {value!r}")
    if shape.attention_size % shape.num_heads:
        raise CorruptModel(
            f"{folder}/config.json: {shape.num_heads} heads cannot share a hidden size of "
            f"{shape.attention_size}"
        )


def _read_speech(root: Path) -> dict[str, Any]:
    """How to speak to the model. Fields that would change its vectors are refused."""
    path = root / "config_sentence_transformers.json"
    speech = read_json(path)
    for name, computed in (("model_type", "SentenceTransformer"), ("truncate_dim", None)):
        if speech.get(name) not in (None, computed):
            raise UnsupportedModel(f"{path}: {name} {speech[name]!r} is not {computed!r}")
    return speech


def _similarity(root: Path, speech: Mapping[str, Any]) -> Similarity:
    name = str(speech.get("similarity_fn_name") or "cosine")
    if name not in SIMILARITIES:
        raise UnsupportedModel(
            f"{root}/config_sentence_transformers.json: similarity_fn_name is {name!r}; "
            f"Fledge compares by {', '.join(SIMILARITIES)}"
        )
    return SIMILARITIES[name]


def _prompts(root: Path, speech: Mapping[str, Any]) -> dict[str, str]:
    prompts = speech.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(
        isinstance(text, str | None) for text in prompts.values()
    ):
        raise CorruptModel(
            f"{root}/config_sentence_transformers.json: prompts must be texts by name"
        )
    return {str(name): text or "" for name, text in prompts.items()}


def _default_prompt_name(root: Path, speech: Mapping[str, Any]) -> str | None:
    name = speech.get("default_prompt_name")
    if name is not None and str(name) not in (speech.get("prompts") or {}):
        raise CorruptModel(
            f"{root}/config_sentence_transformers.json: default_prompt_name {name!r} is no prompt"
        )
    return None if name is None else str(name)
