"""Rows of 32,000 tokens: attention's memory does not grow with the square of the length.

A float32 matrix of 32,000 x 32,000 is 4 GB; what the process may grow by is a sixth of one. The
vectors are compared with a plain NumPy form of one layer, which needs no such matrix: only the last
token's scores are wanted.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.parity.long_row import ids_of_length
from tests.tiny import DECODER, save_decoder

LENGTHS = (32_000, 20_001, 4_097, 2)
MOST_GROWTH_BYTES = 700_000_000
TOLERANCE = 1e-5

COMMON = {
    **DECODER,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 32_768,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "mistral": {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "sliding_window": 4_096,
    },
    "gemma2": {
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "layer_types": ["full_attention"],
        "sliding_window": 4_096,
        "attn_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 16,
    },
}
Array = NDArray[Any]


class OneLayer:
    """The last hidden state of a decoder of one layer, in float64 but for the angles."""

    def __init__(self, weights: Mapping[str, Array], config: Mapping[str, Any]) -> None:
        self._weights = {name: value.astype(np.float64) for name, value in weights.items()}
        self._config = config
        self._is_gemma = config["model_type"] == "gemma2"

    def last_state(self, ids: list[int]) -> Array:
        x = self._weights["embed_tokens.weight"][ids]
        if self._is_gemma:
            x = x * self._config["hidden_size"] ** 0.5
        attended = self._attention(self._norm(x, "layers.0.input_layernorm"))
        last = x[-1] + self._after(attended, "post_attention_layernorm")
        before = "pre_feedforward" if self._is_gemma else "post_attention"
        inner = self._mlp(self._norm(last, f"layers.0.{before}_layernorm"))
        return self._norm(last + self._after(inner, "post_feedforward_layernorm"), "norm")

    def _after(self, x: Array, norm: str) -> Array:
        return self._norm(x, f"layers.0.{norm}") if self._is_gemma else x

    def _linear(self, x: Array, part: str) -> Array:
        return np.asarray(x @ self._weights[f"layers.0.{part}.weight"].T)

    def _norm(self, x: Array, name: str) -> Array:
        mean_square = (x * x).mean(axis=-1, keepdims=True)
        scale = self._weights[f"{name}.weight"] + (1 if self._is_gemma else 0)
        return np.asarray(x / np.sqrt(mean_square + self._config["rms_norm_eps"]) * scale)

    def _mlp(self, x: Array) -> Array:
        gate = self._linear(x, "mlp.gate_proj")
        if self._is_gemma:
            cubic = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
            gate = gate * 0.5 * (1 + np.tanh(cubic))
        else:
            gate = gate / (1 + np.exp(-gate))
        return self._linear(gate * self._linear(x, "mlp.up_proj"), "mlp.down_proj")

    def _attention(self, x: Array) -> Array:
        heads, depth = self._config["num_attention_heads"], self._config["head_dim"]
        first = max(len(x) - self._window(), 0)
        seen = x[first:]
        keys = self._turn(self._linear(seen, "self_attn.k_proj"), np.arange(first, len(x)))
        values = self._linear(seen, "self_attn.v_proj")
        queries = self._linear(x[-1:], "self_attn.q_proj").reshape(heads, depth)
        scores = self._turn(queries, np.full(heads, len(x) - 1)) @ keys.T / depth**0.5
        if self._is_gemma:
            cap = self._config["attn_logit_softcapping"]
            scores = np.tanh(scores / cap) * cap
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return self._linear((shares @ values).reshape(-1), "self_attn.o_proj")

    def _window(self) -> int:
        is_windowed = self._config["model_type"] == "mistral"
        return int(self._config["sliding_window"]) if is_windowed else 10**9

    def _turn(self, x: Array, places: Array) -> Array:
        """Each row turned by its place."""
        depth = x.shape[-1]
        exponents = np.arange(0, depth, 2, dtype=np.float32) / np.float32(depth)
        frequencies = (1 / np.float32(self._config["rope_theta"]) ** exponents).astype(np.float32)
        angles = (places[:, None].astype(np.float32) * frequencies).astype(np.float64)
        cos, sin = np.cos(angles), np.sin(angles)
        one, other = x[:, : depth // 2], x[:, depth // 2 :]
        return np.hstack([one * cos - other * sin, other * cos + one * sin])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("family", CONFIGS)
def test_thirty_two_thousand_tokens_are_right_and_fit_in_little_memory(
    family: str, tmp_path: Path
) -> None:
    config = {**COMMON, **CONFIGS[family]}
    folder = save_decoder(tmp_path / "model", config)
    command = [sys.executable, "-m", "tests.parity.long_row", str(folder), str(tmp_path / "cache")]
    done = subprocess.run(
        [*command, *map(str, LENGTHS)], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    layer = OneLayer(load_file(folder / "model.safetensors"), config)
    wanted = np.array([layer.last_state(ids_of_length(length)) for length in LENGTHS])
    difference = np.linalg.norm(report["vectors"] - wanted, axis=1)
    assert (difference / np.linalg.norm(wanted, axis=1)).max() <= TOLERANCE
    assert report["grown_bytes"] <= MOST_GROWTH_BYTES
