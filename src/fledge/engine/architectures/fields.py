"""Fields of `config.json` that several families read alike."""

from collections.abc import Mapping

from fledge.engine.architectures.family import RawConfig
from fledge.engine.ops.protocol import Activation
from fledge.errors import CorruptModel, UnsupportedModel

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""`hidden_act` in its spellings."""


def hidden_activation(name: str) -> Activation:
    """The activation that a config names.

    Raises:
        UnsupportedModel: no such activation here.
    """
    if name not in ACTIVATIONS:
        raise UnsupportedModel(
            f"config.json: activation {name!r}; Fledge computes {', '.join(sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name]


MOST_LAYERS = 10_000
MOST = 2**24
"""Far beyond any network, and far from what would fill a machine's memory with lists."""


def whole_number(config: RawConfig, field: str, *, most: int = MOST) -> int:
    """A field that counts something.

    Raises:
        CorruptModel: it is no whole number, or not between 1 and `most`.
        KeyError: it is missing.
    """
    value = config[field]
    if type(value) is not int or not 1 <= value <= most:
        raise CorruptModel(f"config.json: {field} cannot be {value!r}")
    return value


def num_layers(config: RawConfig) -> int:
    """`num_hidden_layers`. Raises what `whole_number` raises."""
    return whole_number(config, "num_hidden_layers", most=MOST_LAYERS)


def refuse_unless(config: RawConfig, field: str, *allowed: object) -> None:
    """Raise `UnsupportedModel` when a config field asks for arithmetic that is not written here."""
    value = config.get(field, allowed[0])
    if value not in allowed:
        raise UnsupportedModel(
            f"config.json: {field} is {value!r}; Fledge computes only "
            f"{' or '.join(repr(one) for one in allowed)} for this family"
        )
