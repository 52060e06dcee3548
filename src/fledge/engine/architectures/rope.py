"""Rotary position embeddings: from `config.json` in its spellings to frequencies.

Source: Su et al. 2021, and the scaled forms as transformers computes them
(`modeling_rope_utils.py`): linear, Llama 3's, and YaRN (Peng et al. 2023).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.engine.architectures.family import RawConfig
from fledge.errors import UnsupportedModel

DEFAULT_THETA = 10_000.0
SPELLINGS = ("rope_scaling", "rope_parameters")
"""The old name first: where both are there, transformers takes it."""

Frequencies = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions turn the heads.

    Attributes:
        frequencies: angle per position, `head_dim / 2` of them, rounded to float32.
        scale: what cosines and sines are multiplied by.
    """

    frequencies: tuple[float, ...]
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class _Fields:
    """What a config says of its rope, in one spelling."""

    values: Mapping[str, Any]
    theta: float
    head_dim: int
    original_length: int

    @property
    def plain(self) -> Frequencies:
        """Frequencies without any scaling."""
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        # NumPy's float32 power is an ulp off torch's, which 1,500 tokens make 2e-5 of the vector
        powers = self.theta ** exponents.astype(np.float64)
        return np.float32(1) / powers.astype(np.float32)


def read_rope(config: RawConfig, head_dim: int) -> Rope:
    """The rope of a config, wherever and however it is spelled.

    Raises:
        UnsupportedModel: a kind of scaling that is not computed here, by its name.
        KeyError: the scaling lacks a field.
    """
    spelling = next((name for name in SPELLINGS if config.get(name)), SPELLINGS[0])
    values: Mapping[str, Any] = config.get(spelling) or {}
    if not isinstance(values, Mapping):
        raise UnsupportedModel(f"config.json: {spelling} is {values!r}, which is no object")
    kind = values.get("rope_type", values.get("type", "default"))
    partial = values.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial not in (None, 1.0):
        raise UnsupportedModel(
            f"config.json: partial_rotary_factor is {partial!r}; Fledge turns whole heads"
        )
    if kind not in SCALINGS or any(isinstance(value, dict) for value in values.values()):
        raise UnsupportedModel(
            f"config.json: {spelling} is {dict(values)!r}; Fledge computes one rope for all "
            f"layers, of type {', '.join(SCALINGS)}"
        )
    original = "original_max_position_embeddings"
    length: Any = config.get(original) or values.get(original, config["max_position_embeddings"])
    theta: Any = values.get("rope_theta", config.get("rope_theta", DEFAULT_THETA))
    fields = _Fields(values, float(theta), head_dim, int(length))
    frequencies, scale = SCALINGS[kind](fields)
    return Rope(tuple(frequencies.tolist()), scale)


def _default(fields: _Fields) -> tuple[Frequencies, float]:
    return fields.plain, 1.0


def _linear(fields: _Fields) -> tuple[Frequencies, float]:
    return fields.plain / np.float32(fields.values["factor"]), 1.0


def _llama3(fields: _Fields) -> tuple[Frequencies, float]:
    """Long waves are stretched, short ones kept, those between are mixed."""
    values, plain = fields.values, fields.plain
    factor, low, high = (
        np.float32(values[name]) for name in ("factor", "low_freq_factor", "high_freq_factor")
    )
    waves = np.float32(2 * math.pi) / plain
    smooth = (np.float32(fields.original_length) / waves - low) / (high - low)
    between = (1 - smooth) * plain / factor + smooth * plain
    scaled = np.where(waves > fields.original_length / low, plain / factor, between)
    return np.where(waves < fields.original_length / high, plain, scaled).astype(np.float32), 1.0


def _yarn(fields: _Fields) -> tuple[Frequencies, float]:
    """By how often a dimension turns within the original length, it is kept, stretched or mixed."""
    values, plain, size = fields.values, fields.plain, fields.head_dim
    factor = float(values["factor"])

    def dimension(turns: float) -> float:
        ratio = fields.original_length / (turns * 2 * math.pi)
        return size * math.log(ratio) / (2 * math.log(fields.theta))

    low = dimension(values.get("beta_fast") or 32)
    high = dimension(values.get("beta_slow") or 1)
    if values.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    places = np.arange(size // 2, dtype=np.float32)
    stretched = np.clip((places - low) / ((high - low) or 0.001), 0, 1).astype(np.float32)
    mixed = plain / np.float32(factor) * stretched + plain * (1 - stretched)
    return mixed.astype(np.float32), _yarn_scale(values, factor)


def _yarn_scale(values: Mapping[str, Any], factor: float) -> float:
    def damped(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    given = values.get("attention_factor")
    if given is not None:
        return float(given)
    one, all_dims = values.get("mscale"), values.get("mscale_all_dim")
    return damped(one) / damped(all_dims) if one and all_dims else damped(1.0)


SCALINGS: Mapping[str, Callable[[_Fields], tuple[Frequencies, float]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    # only rows beyond max_position_embeddings would be scaled, and none is that long
    "dynamic": _default,
}
"""By `rope_type`."""
