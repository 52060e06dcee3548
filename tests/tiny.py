"""Small random models on disk, made with NumPy alone, where a test needs a model of any kind."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fledge.engine.architectures.encoder import EncoderShape
from fledge.engine.architectures.registry import find_family

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def save_bert(
    folder: Path,
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    vocab: int = 300,
    positions: int = 128,
    seed: int = 0,
) -> Path:
    """A BERT with mean pooling and Normalize, its words `w4`, `w5`, ... up to the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    inner = hidden * 4

    def draw(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return random.normal(0, 0.2, shape).astype(np.float32)

    def norm() -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        return {"weight": 1 + draw(hidden), "bias": draw(hidden)}

    tensors = {
        "embeddings.word_embeddings.weight": draw(vocab, hidden),
        "embeddings.position_embeddings.weight": draw(positions, hidden),
        "embeddings.token_type_embeddings.weight": draw(2, hidden),
        **{f"embeddings.LayerNorm.{key}": value for key, value in norm().items()},
    }
    for n in range(layers):
        layer = f"encoder.layer.{n}"
        for name, shape in {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (inner, hidden),
            "output.dense": (hidden, inner),
        }.items():
            tensors[f"{layer}.{name}.weight"] = draw(*shape) / np.float32(hidden**0.5 / 5)
            tensors[f"{layer}.{name}.bias"] = draw(shape[0])
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors |= {f"{layer}.{name}.{key}": value for key, value in norm().items()}
    save_file(tensors, folder / "model.safetensors")
    _write(
        folder / "config.json",
        {
            "model_type": "bert",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": inner,
            "vocab_size": vocab,
            "max_position_embeddings": positions,
            "type_vocab_size": 2,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
        },
    )
    save_modules(folder)
    save_tokenizer(folder, vocab)
    return folder


def save_encoder(folder: Path, config: Mapping[str, Any], *, seed: int = 0) -> Path:
    """A model of any family that `config` describes, its weights random, under a prefix.

    Its words are those of `save_bert`; the checkpoint's names are the family's own table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    family = find_family(config["model_type"])
    shape = family.read_config(config)
    random = np.random.default_rng(seed)
    tensors = {
        family.prefix + weight.source: random.normal(
            1.0 if weight.name.endswith("norm.weight") else 0.0, 0.2, _size(weight.name, shape)
        ).astype(np.float32)
        for weight in family.weights(shape)
    }
    save_file(tensors, folder / "model.safetensors")
    _write(folder / "config.json", config)
    save_tokenizer(folder, shape.vocab_size)
    return folder


DECODER = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
}
"""Sizes of a small decoder, for `save_decoder` with a `model_type`."""


def save_decoder(folder: Path, config: Mapping[str, Any], *, seed: int = 0) -> Path:
    """A decoder of any family that `config` describes, its weights random, with no prefix.

    Its words are those of `save_bert`; without modules, `architectures` decides the pooling.
    """
    folder.mkdir(parents=True, exist_ok=True)
    family = find_family(config["model_type"])
    random = np.random.default_rng(seed)
    # Gemma adds 1 to its norms' weights itself.
    center = 0.0 if config["model_type"] == "gemma2" else 1.0
    tensors = {
        weight.source: random.normal(
            center if "norm" in weight.source else 0.0, 0.2, _decoder_size(weight.source, config)
        ).astype(np.float32)
        for weight in family.weights(family.read_config(config))
    }
    save_file(tensors, folder / "model.safetensors")
    _write(folder / "config.json", config)
    save_tokenizer(folder, config["vocab_size"])
    return folder


def _decoder_size(source: str, config: Mapping[str, Any]) -> tuple[int, ...]:
    """The size of a tensor, from its name in a checkpoint."""
    hidden, inner, depth = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries = config["num_attention_heads"] * depth
    keys = config["num_key_value_heads"] * depth
    matrices = {
        "embed_tokens": (config["vocab_size"], hidden),
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }
    part, kind = source.split(".")[-2:]
    if part in matrices:
        return matrices[part] if kind == "weight" else matrices[part][:1]
    return (depth,) if part in ("q_norm", "k_norm") else (hidden,)


def _size(name: str, shape: EncoderShape) -> tuple[int, ...]:
    hidden, inner, narrow = shape.hidden_size, shape.intermediate_size, shape.embedding_size
    tables = {
        "word.weight": (shape.vocab_size, narrow),
        "position.weight": (shape.max_length + shape.positions.offset, narrow),
        "token_type.weight": (2, narrow),
        "embedding_norm.weight": (narrow,),
        "embedding_norm.bias": (narrow,),
        "relative.weight": (shape.relative.num_buckets if shape.relative else 0, shape.num_heads),
        "project.weight": (hidden, narrow),
    }
    if name in tables:
        return tables[name]
    outputs = inner if "intermediate" in name else hidden
    if name.endswith("bias") or "norm" in name:
        return (outputs,)
    return (outputs, inner if ".output." in name else hidden)


def save_modules(folder: Path) -> None:
    """The sentence-transformers layer: Transformer, mean Pooling, Normalize."""
    types = ["Transformer", "Pooling", "Normalize"]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(zip(types, paths, strict=True))
    ]
    _write(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    _write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean"})


def save_tokenizer(folder: Path, vocab: int) -> None:
    """Whole words, split at white space, between [CLS] and [SEP]."""
    words = SPECIAL + [f"w{n}" for n in range(len(SPECIAL), vocab)]
    ids = {word: n for n, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
