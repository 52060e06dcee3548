"""A transformer's folder, read whole into one plain description of what to compute.

Two layouts exist: sentence-transformers (`modules.json`) and bare transformers (`config.json`
alone), which means mean pooling, or the last token of a causal language model. Nothing here opens
weights or computes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fledge.engine.architectures.family import Family, Shape
from fledge.engine.architectures.registry import find_family
from fledge.engine.chain import Routing, Speech, Step, read_chain, read_speech
from fledge.engine.folders import ADAPTER_FILE
from fledge.engine.modules import (
    Module,
    Normalize,
    Pooling,
    VectorModule,
    WeightedLayerPooling,
    read_json,
    read_module,
)
from fledge.engine.transformer_config import TransformerConfig, read_transformer_config
from fledge.errors import CorruptModel, UnsupportedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a folder says of its model.

    Attributes:
        folder: where the transformer's config, tokenizer and weights are.
        modules: the steps behind the transformer with their folders, without a trailing Normalize.
        normalizes: whether there is one.
        max_seq_length: most tokens of one input, never more than the network has positions for.
        do_lower_case: lower-case texts before the tokenizer's own normalizer.
        route: which of a model's routes this is; empty where there is but one.
    """

    folder: Path
    model_type: str
    family: Family[Any]
    shape: Shape
    modules: Sequence[tuple[Module, Path]]
    normalizes: bool
    max_seq_length: int
    do_lower_case: bool
    speech: Speech
    route: str = ""

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

    def with_normalize(self) -> "Recipe":
        """The same with its trailing Normalize computed, where nobody else would do it."""
        if not self.normalizes:
            return self
        return replace(self, modules=[*self.modules, (Normalize(), self.folder)], normalizes=False)


def read_recipe(root: Path, steps: Sequence[Step] | None = None, *, route: str = "") -> Recipe:
    """Read a transformer's folder.

    Args:
        steps: its modules, where they are known already; else those of `modules.json`.
        route: what they are called, where a model has several.

    Raises:
        UnsupportedModel: it asks for a family, module or arithmetic that Fledge does not have.
        CorruptModel: a file is missing, damaged, or contradicts another.
    """
    if steps is None:
        chain = read_chain(root)
        if isinstance(chain, Routing):
            raise UnsupportedModel(f"{root} has several routes, where one transformer is expected")
        steps = chain
    if steps is not None and (not steps or steps[0].kind != "Transformer"):
        raise UnsupportedModel(
            f"{root}/modules.json: the first module is "
            f"{steps[0].kind if steps else 'missing'!r}, where a Transformer is expected"
        )
    folder = root if steps is None else steps[0].folder
    config = read_json(folder / "config.json")
    if not config:
        raise CorruptModel(f"{folder} has no config.json; is it a model's folder?")
    _refuse_other_networks(folder, config)
    model_type = str(config.get("model_type", ""))
    family = find_family(model_type)
    try:
        shape = family.read_config(config)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CorruptModel(f"{folder}/config.json lacks or garbles a field: {error!r}") from error
    _check_shape(folder, shape)
    saved = read_transformer_config(folder)
    modules = (
        [(_bare_pooling(config), root)]
        if steps is None
        else _modules(root, steps, gives_states=_gives_states(config, saved))
    )
    normalizes = isinstance(modules[-1][0], Normalize)
    return Recipe(
        folder=folder,
        model_type=model_type,
        family=family,
        shape=shape,
        modules=modules[:-1] if normalizes else modules,
        normalizes=normalizes,
        max_seq_length=_max_seq_length(folder, saved, shape),
        do_lower_case=saved.do_lower_case,
        speech=read_speech(root),
        route=route,
    )


def _refuse_other_networks(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what makes another network of the one that `model_type` names."""
    code = config.get("auto_map")
    if isinstance(code, Mapping) and "AutoModel" in code:
        raise UnsupportedModel(
            f"{folder}/config.json: auto_map: the network is code of the repository "
            f"({code['AutoModel']!r}), which Fledge does not run; as {config.get('model_type')!r} "
            "it would give other vectors"
        )
    if (folder / ADAPTER_FILE).is_file():
        raise UnsupportedModel(
            f"{folder} holds an adapter ({ADAPTER_FILE}) for another model; merge it into that "
            "model (`merge_and_unload` of peft) and save the result"
        )
    if config.get("quantization_config"):
        raise UnsupportedModel(
            f"{folder}/config.json: quantization_config: the weights are quantized already; "
            "take the original model, and Fledge's own precision int8"
        )


def _bare_pooling(config: Mapping[str, Any]) -> Pooling:
    """What sentence-transformers puts behind a folder that says nothing of pooling."""
    architectures = config.get("architectures")
    first = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    is_causal = first.endswith("ForCausalLM") and config.get("is_causal", True)
    return Pooling(("lasttoken",) if is_causal else ("mean",))


def _gives_states(config: Mapping[str, Any], saved: TransformerConfig) -> bool:
    """Whether the transformer hands on the states of all layers, and not only of the last."""
    if saved.output_hidden_states is not None:
        return saved.output_hidden_states
    return bool(config.get("output_hidden_states", False))


def _modules(root: Path, steps: Sequence[Step], *, gives_states: bool) -> list[tuple[Module, Path]]:
    """The modules behind the transformer, those left out that do nothing."""
    modules = [
        (module, step.folder)
        for n, step in enumerate(steps[1:], start=1)
        if (module := read_module(step.kind, step.folder, f"module.{n}")) is not None
    ]
    if modules and isinstance(modules[0][0], WeightedLayerPooling) and not gives_states:
        del modules[0]  # sentence-transformers hands the last layer on as it is
    kinds = [type(module) for module, _ in modules]
    if kinds[:1] == [WeightedLayerPooling]:
        del kinds[0]
    if kinds[:1] != [Pooling] or not all(issubclass(kind, VectorModule) for kind in kinds[1:]):
        raise UnsupportedModel(
            f"{root}/modules.json: behind the Transformer come "
            f"{', '.join(step.kind for step in steps[1:]) or 'no modules'}; Fledge computes "
            "exactly one Pooling there, or behind WeightedLayerPooling, then modules over vectors"
        )
    return modules


def _max_seq_length(folder: Path, saved: TransformerConfig, shape: Shape) -> int:
    """As sentence-transformers decides it, but never beyond the network's positions.

    `max_seq_length` of its own config counts; without one, the tokenizer's `model_max_length`,
    which is absurdly large where it means "no limit". Where positions are rotary, and would go on,
    sentence-transformers takes the saved limit; nothing was trained for it, so here it is cut too.
    """
    limit = saved.max_seq_length
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
