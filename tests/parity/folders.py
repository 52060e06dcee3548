"""Factories of sentence-transformers folders: a checkpoint, and the modules that follow it.

Three generations of spelling: `old` (up to 5.3), `middle` (5.4) and `new` (6). Only class paths and
configuration keys differ; the arithmetic is the same.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tests.parity.checkpoints import DEVIATION, Recipe, save_weights, torch, write_checkpoint

Spelling = Literal["old", "middle", "new"]
WIDTH = 64

_OLD_MODES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_FILES = {"LayerNorm": "layer_norm", "WeightedLayerPooling": "weighted_layer_pooling"}
_BASE = ("Transformer", "Dense", "Normalize")  # they moved to `base.modules` in the new spelling


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One module after the transformer: what its folder holds.

    Attributes:
        kind: class name.
        config: its `config.json`; None writes none.
        shapes: its weights, by name; drawn when the folder is written.
    """

    kind: str
    config: Mapping[str, Any] | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A sentence-transformers folder.

    Attributes:
        recipe: the checkpoint of the first module.
        stages: the modules after it.
        spelling: of class paths in `modules.json` and of the first module's configuration.
        subfolder: where the first module lies: the root now, `0_Transformer` in the first releases.
        transformer: keys of `sentence_bert_config.json`; None writes no such file.
        transformer_file: the name of that file; early releases named it after the family.
        sentence: `config_sentence_transformers.json`; None writes none.
        tokenizer_json: keys of `tokenizer.json` to overwrite.
        tokenizer_config: keys of `tokenizer_config.json` to overwrite; None removes one.
    """

    recipe: Recipe
    stages: tuple[Stage, ...]
    spelling: Spelling = "new"
    subfolder: str = ""
    transformer: Mapping[str, Any] | None = field(default_factory=dict)
    transformer_file: str = "sentence_bert_config.json"
    sentence: Mapping[str, Any] | None = None
    tokenizer_json: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)


def pooling(*modes: str, spelling: Spelling = "new", width: int = WIDTH, **config: Any) -> Stage:
    """Pooling by the modes, in that order where the spelling can say one."""
    if spelling == "old":
        flags = {key: mode in modes for mode, key in _OLD_MODES.items()}
        return Stage(kind="Pooling", config={"word_embedding_dimension": width, **flags, **config})
    named: Any = modes[0] if len(modes) == 1 else list(modes)
    return Stage(
        kind="Pooling", config={"embedding_dimension": width, "pooling_mode": named, **config}
    )


def dense(
    inputs: int, outputs: int, activation: str | None = "Tanh", *, bias: bool = True, **config: Any
) -> Stage:
    """Dense with random weights; an activation of None leaves the key out."""
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (outputs, inputs)}
    if bias:
        shapes["linear.bias"] = (outputs,)
    if config.get("use_residual") and inputs != outputs:
        shapes["residual.weight"] = (outputs, inputs)
    keys: dict[str, Any] = {"in_features": inputs, "out_features": outputs, "bias": bias}
    if activation is not None:
        file = "linear" if activation == "Identity" else "activation"
        keys["activation_function"] = f"torch.nn.modules.{file}.{activation}"
    return Stage(kind="Dense", config={**keys, **config}, shapes=shapes)


def normalize(**config: Any) -> Stage:
    """Normalize; without keys, as older releases saved it: with no file of its own."""
    return Stage(kind="Normalize", config=config or None)


def layer_norm(width: int = WIDTH) -> Stage:
    """LayerNorm over the pooled vector."""
    return Stage(
        kind="LayerNorm",
        config={"dimension": width},
        shapes={"norm.weight": (width,), "norm.bias": (width,)},
    )


def layer_pooling(count: int, *, width: int = WIDTH, **config: Any) -> Stage:
    """WeightedLayerPooling of the last `count` states of a network of three layers."""
    keys = {"embedding_dimension": width, "layer_start": 4 - count, "num_hidden_layers": 3}
    return Stage(
        kind="WeightedLayerPooling", config={**keys, **config}, shapes={"layer_weights": (count,)}
    )


def dropout() -> Stage:
    """Dropout: does nothing outside training."""
    return Stage(kind="Dropout", config={"dropout": 0.5})


def make_bundle(bundle: Bundle, root: Path) -> Path:
    """The bundle's folder below `root`, made unless it is there already."""
    digest = hashlib.sha256(repr(bundle).encode()).hexdigest()[:12]
    folder = root / f"bundle-{digest}"
    if not folder.exists():
        draft = root / f".{folder.name}"
        draft.mkdir()
        write_bundle(bundle, draft)
        draft.rename(folder)
    return folder


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Write every module and `modules.json` into an empty folder."""
    home = folder / bundle.subfolder
    home.mkdir(exist_ok=True)
    write_checkpoint(bundle.recipe, home)
    _overwrite(home / "tokenizer.json", bundle.tokenizer_json)
    _overwrite(home / "tokenizer_config.json", bundle.tokenizer_config)
    if bundle.transformer is not None:
        config = {**_transformer_defaults(bundle.spelling), **bundle.transformer}
        (home / bundle.transformer_file).write_text(json.dumps(config))
    entries = [_entry(bundle, 0, "Transformer", bundle.subfolder)]
    generator = torch.Generator().manual_seed(bundle.recipe.seed + 500)
    for number, stage in enumerate(bundle.stages, start=1):
        path = f"{number}_{stage.kind}"
        entries.append(_entry(bundle, number, stage.kind, path))
        _write_stage(stage, folder / path, generator)
    (folder / "modules.json").write_text(json.dumps(entries, indent=2))
    if bundle.sentence is not None:
        path_of_config = folder / "config_sentence_transformers.json"
        path_of_config.write_text(json.dumps({"__version__": {}, **bundle.sentence}))


def with_stages(bundle: Bundle, *stages: Stage) -> Bundle:
    """The same folder with other modules."""
    return replace(bundle, stages=stages)


def _write_stage(stage: Stage, folder: Path, generator: Any) -> None:
    folder.mkdir()
    if stage.config is not None:
        (folder / "config.json").write_text(json.dumps(stage.config))
    if stage.shapes:
        weights = {}
        for name, shape in stage.shapes.items():
            weights[name] = torch.randn(shape, generator=generator) * DEVIATION
            if name in ("norm.weight", "layer_weights"):
                weights[name] += 1
        save_weights(weights, folder)


def _entry(bundle: Bundle, number: int, kind: str, path: str) -> dict[str, Any]:
    return {
        "idx": number,
        "name": str(number),
        "path": path,
        "type": _class_path(kind, bundle.spelling),
    }


def _class_path(kind: str, spelling: Spelling) -> str:
    if spelling == "old":
        return f"sentence_transformers.models.{kind}"
    file = _FILES.get(kind, kind.lower())
    if kind in _BASE and (spelling == "new" or kind != "Normalize"):
        return f"sentence_transformers.base.modules.{file}.{kind}"
    return f"sentence_transformers.sentence_transformer.modules.{file}.{kind}"


def _transformer_defaults(spelling: Spelling) -> dict[str, Any]:
    if spelling == "old":
        return {"do_lower_case": False}
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "forward", "method_output_name": "last_hidden_state"}
        },
        "module_output_name": "token_embeddings",
    }


def _overwrite(file: Path, keys: Mapping[str, Any]) -> None:
    if keys:
        content = {**json.loads(file.read_text("utf-8")), **keys}
        content = {
            key: value
            for key, value in content.items()
            if value is not None or file.name == "tokenizer.json"
        }
        file.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
