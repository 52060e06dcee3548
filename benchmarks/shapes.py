"""Shapes of models: what a folder of one says in config.json, and which tensors it holds.

Names and sizes are those of the published checkpoints, so every engine reads such a folder as it
reads a real one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

Stored: TypeAlias = Literal["fp32", "bf16"]
"""The type of a checkpoint's numbers, by the names that Fledge uses."""

Fill: TypeAlias = Literal["random", "zeros", "ones"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a checkpoint, and what it is filled with."""

    name: str
    shape: tuple[int, ...]
    fill: Fill = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class BertShape:
    """The sizes of a BERT with BERT's own vocabulary.

    Attributes:
        stored: the type on disk, which sentence-transformers computes in unless told otherwise.
        deviation: of the random weights: so large that vectors of different texts differ.
        pooling: sentence-transformers' name of it.
    """

    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int = 30522
    positions: int = 512

    stored: ClassVar[Stored] = "fp32"
    deviation: ClassVar[float] = 0.05
    pooling: ClassVar[str] = "mean_tokens"

    @property
    def weights_per_token(self) -> int:
        """Weights that each token meets, two operations for each; attention is not counted."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.inner)

    def config(self) -> Mapping[str, Any]:
        """What config.json says."""
        return {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "max_position_embeddings": self.positions,
            "type_vocab_size": 2,
            "vocab_size": self.vocabulary,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
            "dtype": "float32",
        }

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the checkpoint."""
        tables = {"word": self.vocabulary, "position": self.positions, "token_type": 2}
        for name, rows in tables.items():
            yield Tensor(f"embeddings.{name}_embeddings.weight", (rows, self.hidden))
        yield from self._norm("embeddings.LayerNorm")
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                yield from _linear(f"{layer}.attention.{part}", self.hidden, self.hidden)
            yield from self._norm(f"{layer}.attention.output.LayerNorm")
            yield from _linear(f"{layer}.intermediate.dense", self.inner, self.hidden)
            yield from _linear(f"{layer}.output.dense", self.hidden, self.inner)
            yield from self._norm(f"{layer}.output.LayerNorm")
        yield from _linear("pooler.dense", self.hidden, self.hidden)

    def _norm(self, name: str) -> Iterator[Tensor]:
        yield Tensor(f"{name}.weight", (self.hidden,), "ones")
        yield Tensor(f"{name}.bias", (self.hidden,), "zeros")


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3Shape:
    """The sizes of a Qwen3-Embedding; its other fields are those that all of them share.

    Attributes:
        stored: published in bf16.
        deviation: as the models were initialized.
    """

    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int = 32768
    kv_heads: int = 8
    head_dim: int = 128

    stored: ClassVar[Stored] = "bf16"
    deviation: ClassVar[float] = 0.02
    pooling: ClassVar[str] = "lasttoken"

    @property
    def weights_per_token(self) -> int:
        """Weights that each token meets: keys and values are narrower, and two matrices go up."""
        attention = 2 * (self.heads + self.kv_heads) * self.head_dim
        return self.layers * self.hidden * (attention + 3 * self.inner)

    def config(self) -> Mapping[str, Any]:
        """What config.json says, in the spelling of the published ones."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.inner,
            "max_position_embeddings": self.positions,
            "max_window_layers": self.layers,
            "vocab_size": self.vocabulary,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "use_cache": True,
            "torch_dtype": "bfloat16",
        }

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the checkpoint, which has no head."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        matrices = {
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }
        norms = {
            "input_layernorm": self.hidden,
            "post_attention_layernorm": self.hidden,
            "self_attn.q_norm": self.head_dim,
            "self_attn.k_norm": self.head_dim,
        }
        yield Tensor("embed_tokens.weight", (self.vocabulary, self.hidden))
        for number in range(self.layers):
            for name, shape in matrices.items():
                yield Tensor(f"layers.{number}.{name}.weight", shape)
            for name, size in norms.items():
                yield Tensor(f"layers.{number}.{name}.weight", (size,), "ones")
        yield Tensor("norm.weight", (self.hidden,), "ones")


Shape: TypeAlias = BertShape | Qwen3Shape


def _linear(name: str, outer: int, inner: int) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (outer, inner))
    yield Tensor(f"{name}.bias", (outer,), "zeros")
