"""The sentence-transformers modules behind the first one: pooling, dense, norms, normalize.

Each is plain data with one function over `Ops`, and a reader of its saved `config.json` in old and
new spellings. A field that sentence-transformers would not take is refused.

Source: sentence-transformers 6 (`sentence_transformers.models.*` and the paths that replaced it)
and the configs that published models carry.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, get_args

from fledge.engine.architectures.family import Weight, WeightKind
from fledge.engine.ops.protocol import Activation, Ops, PoolingMode, VectorOps, X
from fledge.errors import CorruptModel, UnsupportedModel

POOLING_MODES: tuple[PoolingMode, ...] = get_args(PoolingMode)

OLD_POOLING_FLAGS: Mapping[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The old booleans in the order in which sentence-transformers concatenates their vectors."""

DENSE_ACTIVATIONS: Mapping[str, Activation] = {
    "Tanh": "tanh",
    "Identity": "identity",
    "GELU": "gelu",
    "ReLU": "relu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "CELU": "elu",  # the same where alpha is 1, and no other is saved
    "ELU": "elu",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
    "Hardtanh": "hardtanh",
    "LeakyReLU": "leaky_relu",
    "Mish": "mish",
    "ReLU6": "relu6",
    "SELU": "selu",
    "Softplus": "softplus",
    "Softsign": "softsign",
}
"""The last name of `torch.nn.modules.*.NAME`, as saved; its arguments are not, so all have their
defaults."""

POOLING_FIELDS = (
    "embedding_dimension",
    "word_embedding_dimension",
    "pooling_mode",
    "include_prompt",
)

WEIGHTED_LAYERS_FIELDS = (
    "embedding_dimension",
    "word_embedding_dimension",
    "layer_start",
    "num_hidden_layers",
)

LAYER_NORM_EPS = 1e-5  # torch's default; the module saves no other


class Module(Protocol):
    """One step between hidden states and vectors."""

    @property
    def weights(self) -> Sequence[Weight]:
        """The module's weight-name table; empty for most."""
        ...

    def output_size(self, input_size: int) -> int:
        """Length of a vector behind this module; raises `CorruptModel` on a misfit."""
        ...

    def apply(self, ops: Ops[X], x: X) -> X:
        """The arithmetic."""
        ...


@dataclass(frozen=True, slots=True)
class WeightedLayerPooling:
    """The layers' states to one: their mean from `first_layer` on, weighted by learned numbers.

    It stands between the transformer and the pooling, and takes all states in place of the last.
    """

    name: str
    dimension: int
    first_layer: int

    @property
    def weights(self) -> Sequence[Weight]:
        """One number a layer."""
        return [Weight(f"{self.name}.weight", "layer_weights", "vector")]

    def output_size(self, input_size: int) -> int:
        """Unchanged."""
        _check_size(self.name, self.dimension, input_size)
        return input_size

    def apply(self, ops: Ops[X], x: X) -> X:  # noqa: ARG002 - the protocol's
        """Nothing: where there is one state there is nothing to weigh."""
        return x

    def apply_states(self, ops: Ops[X], states: Sequence[X]) -> X:
        """The arithmetic, from the embeddings' state to the last layer's, `[T, hidden]` each.

        Raises:
            CorruptModel: there are not as many weights as states.
        """
        return ops.weighted_mean(states[self.first_layer :], self.name)


@dataclass(frozen=True, slots=True)
class Pooling:
    """Tokens to one vector: `[T, hidden]` -> `[B, modes * hidden]`."""

    modes: tuple[PoolingMode, ...] = ("mean",)
    include_prompt: bool = True
    weights: Sequence[Weight] = ()

    def output_size(self, input_size: int) -> int:
        """One hidden size per mode."""
        return input_size * len(self.modes)

    def apply(self, ops: Ops[X], x: X) -> X:
        """All modes, concatenated."""
        return ops.concat([ops.pool(x, mode) for mode in self.modes])


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer over the vector, an activation, and perhaps a shortcut around both."""

    name: str
    in_features: int
    out_features: int
    activation: Activation
    bias: bool
    residual: bool

    @property
    def weights(self) -> Sequence[Weight]:
        """`linear.*` in the module's own folder."""
        table: list[tuple[str, str, WeightKind]] = [("weight", "linear.weight", "matrix")]
        if self.bias:
            table.append(("bias", "linear.bias", "vector"))
        if self.residual and self.in_features != self.out_features:
            table.append(("residual.weight", "residual.weight", "matrix"))
        return [
            Weight(f"{self.name}.{name}", source, kind, rows=self.out_features)
            for name, source, kind in table
        ]

    def output_size(self, input_size: int) -> int:
        """`out_features`, if the input fits."""
        _check_size(self.name, self.in_features, input_size)
        return self.out_features

    def apply(self, ops: VectorOps[X], x: X) -> X:
        """`activation(linear(x))`, plus `x` or its projection where there is a shortcut."""
        y = ops.activation(ops.linear(x, self.name), self.activation)
        if not self.residual:
            return y
        same = self.in_features == self.out_features
        return ops.add(y, x if same else ops.linear(x, f"{self.name}.residual"))


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """A layer norm over the vector."""

    name: str
    dimension: int

    @property
    def weights(self) -> Sequence[Weight]:
        """`norm.*` in the module's own folder."""
        return [
            Weight(f"{self.name}.weight", "norm.weight", "vector"),
            Weight(f"{self.name}.bias", "norm.bias", "vector"),
        ]

    def output_size(self, input_size: int) -> int:
        """Unchanged."""
        _check_size(self.name, self.dimension, input_size)
        return input_size

    def apply(self, ops: VectorOps[X], x: X) -> X:
        """Normalize, scale and shift."""
        return ops.layer_norm(x, self.name, eps=LAYER_NORM_EPS)


@dataclass(frozen=True, slots=True)
class Normalize:
    """Length 1. As the last module it is left to the caller, who may not want it."""

    weights: Sequence[Weight] = ()

    def output_size(self, input_size: int) -> int:
        """Unchanged."""
        return input_size

    def apply(self, ops: VectorOps[X], x: X) -> X:
        """`x / |x|`."""
        return ops.normalize(x)


VectorModule: TypeAlias = Dense | LayerNorm | Normalize
"""Those that take a finished vector, from wherever it came."""


def _check_size(name: str, expected: int, got: int) -> None:
    if expected != got:
        raise CorruptModel(f"module {name} takes vectors of {expected}, but it gets {got}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is no such file.

    Raises:
        CorruptModel: the file is no JSON object.
    """
    try:
        if not path.is_file():
            return {}
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptModel(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CorruptModel(f"{path}: a JSON object is expected")
    return value


def refuse_unknown(path: Path, config: Mapping[str, Any], *known: str, within: str = "") -> None:
    """Raise `UnsupportedModel` for the first field of a config that is not among the known ones.

    Args:
        path: the config's file or its folder, for the message.
        within: what stands before the fields' names in the message.
    """
    for field in config:
        if field not in known:
            raise UnsupportedModel(
                f"{path}: the field {within}{field} is {config[field]!r}; Fledge does not know "
                "what it does to the vectors"
            )


def _read_pooling(folder: Path, _name: str) -> Pooling:
    config = read_json(folder / "config.json")
    refuse_unknown(folder, config, *POOLING_FIELDS, *OLD_POOLING_FLAGS)
    modes = config.get("pooling_mode")
    if modes is None:
        # no flag set means mean, as sentence-transformers reads it
        modes = [mode for flag, mode in OLD_POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if not modes:
        raise CorruptModel(f"{folder}: pooling_mode is empty")
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown:
        raise UnsupportedModel(
            f"{folder}: pooling_mode {unknown[0]!r}; Fledge computes {', '.join(POOLING_MODES)}"
        )
    return Pooling(modes, include_prompt=config.get("include_prompt", True))


def _read_dense(folder: Path, name: str) -> Dense:
    config = read_json(folder / "config.json")
    _refuse_other_inputs(folder, config)
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    short = activation.rpartition(".")[2]
    if not activation.startswith("torch.nn.") or short not in DENSE_ACTIVATIONS:
        raise UnsupportedModel(
            f"{folder}: activation_function {activation!r}; "
            f"Fledge computes torch's {', '.join(DENSE_ACTIVATIONS)}"
        )
    return Dense(
        name=name,
        in_features=config["in_features"],
        out_features=config["out_features"],
        activation=DENSE_ACTIVATIONS[short],
        bias=config.get("bias", True),
        residual=config.get("use_residual", False),
    )


def _read_layer_norm(folder: Path, name: str) -> LayerNorm:
    config = read_json(folder / "config.json")
    refuse_unknown(folder, config, "dimension")
    return LayerNorm(name, config["dimension"])


def _read_weighted_layers(folder: Path, name: str) -> WeightedLayerPooling:
    config = read_json(folder / "config.json")
    refuse_unknown(folder, config, *WEIGHTED_LAYERS_FIELDS)
    first, layers = config.get("layer_start", 4), config.get("num_hidden_layers", 12)
    if type(first) is not int or type(layers) is not int or not 0 <= first <= layers:
        raise CorruptModel(f"{folder}: layer_start {first!r} of {layers!r} layers")
    size = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if type(size) is not int:
        raise CorruptModel(f"{folder}: embedding_dimension cannot be {size!r}")
    return WeightedLayerPooling(name, size, first)


def _read_normalize(folder: Path, _name: str) -> Normalize:
    _refuse_other_inputs(folder, read_json(folder / "config.json"))
    return Normalize()


def _refuse_other_inputs(folder: Path, config: Mapping[str, Any]) -> None:
    """Modules may be pointed at token embeddings or at outputs of their own; ours are not."""
    for field in ("module_input_name", "module_output_name"):
        if config.get(field) not in (None, "sentence_embedding"):
            raise UnsupportedModel(
                f"{folder}: {field} is {config[field]!r}; Fledge computes sentence_embedding only"
            )


READERS: Mapping[str, Callable[[Path, str], Module]] = {
    "Pooling": _read_pooling,
    "WeightedLayerPooling": _read_weighted_layers,
    "Dense": _read_dense,
    "LayerNorm": _read_layer_norm,
    "Normalize": _read_normalize,
}
"""By the last name of the type in `modules.json`. Dropout does nothing at inference."""

NO_OPERATION = "Dropout"


def read_module(kind: str, folder: Path, name: str) -> Module | None:
    """One module from its folder; None for one that does nothing at inference.

    Raises:
        UnsupportedModel: a kind of module that Fledge does not compute.
        CorruptModel: its config is damaged or lacks a field.
    """
    if kind == NO_OPERATION:
        return None
    if kind not in READERS:
        raise UnsupportedModel(
            f"modules.json names {kind!r}; behind the first module Fledge computes "
            f"{', '.join(READERS)}"
        )
    try:
        return READERS[kind](folder, name)
    except (KeyError, TypeError) as error:
        raise CorruptModel(f"{folder}/config.json lacks or garbles a field: {error!r}") from error
