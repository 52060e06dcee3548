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


def whole_number(config: RawConfig, field: str) -> int:
    """A field that counts something.

    Raises:
        CorruptModel: it is no whole number, or less than 1.
        KeyError: it is missing.
    """
    value = config[field]
    if type(value) is not int or value < 1:
        raise CorruptModel(f"config.json: {field} cannot be {value!r}")
    return value


def refuse_unless(config: RawConfig, field: str, *allowed: object) -> None:
    """Raise `UnsupportedModel` when a config field asks for arithmetic that is not written here."""
    value = config.get(field, allowed[0])
    if value not in allowed:
        raise UnsupportedModel(
            f"config.json: {field} is {value!r}; Fledge computes only "
            f"{' or '.join(repr(one) for one in allowed)} for this family"
        )
