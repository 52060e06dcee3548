"""The named models as their repositories publish them: configs, modules, prompts, weight names.

`write_published` makes such a folder at full width with few layers and random weights. What is
smaller than published, and why: `num_hidden_layers`, since one layer of an 8B model is 0.8 GB in
float32 already; the vocabulary, which is that of a small tokenizer of the same kind; and with them
the ids of special tokens. All else in these dicts stands in the published files. Where they could
not be looked up word for word (prompts' exact texts, the Qwen configs beside their vocabulary),
they are as remembered: tests here use them as they use any text and any number.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.parity.checkpoints import random_weights, save_weights, torch, transformers
from tests.parity.vocabularies import save_tokenizer


@dataclass(frozen=True, kw_only=True)
class Published:
    """One repository.

    Attributes:
        config: `config.json`.
        layers: how many the test keeps.
        names: of the weights outside layers.
        layer: prefix of the weights of a layer, `{n}` its number.
        layer_names: what follows it.
        pooling: of `1_Pooling/config.json`, in the older spelling that all of them have.
        max_seq_length: of `sentence_bert_config.json`; None where there is no such file.
        prompts: of `config_sentence_transformers.json`; None where there is no such file.
        tokenizer: keys of `tokenizer_config.json` that matter.
        shards: number of weight files that the test writes.
    """

    config: Mapping[str, Any]
    layers: int
    names: Sequence[str]
    layer: str
    layer_names: Sequence[str]
    pooling: str
    max_seq_length: int | None = None
    prompts: Mapping[str, str] | None = None
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    shards: int = 1

    @property
    def weight_names(self) -> set[str]:
        """Every name in the checkpoint, with as many layers as the test keeps."""
        layers = {
            self.layer.format(n=n) + name for n in range(self.layers) for name in self.layer_names
        }
        return {*self.names, *layers}


_BERT_LARGE = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}
_BERT_NAMES = (
    "embeddings.position_ids",
    *(f"embeddings.{table}_embeddings.weight" for table in ("word", "position", "token_type")),
    *("embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias"),
    *("pooler.dense.weight", "pooler.dense.bias"),
)
_BERT_LAYER = tuple(
    f"{part}.{kind}"
    for part in (
        *(f"attention.self.{role}" for role in ("query", "key", "value")),
        *("attention.output.dense", "attention.output.LayerNorm"),
        *("intermediate.dense", "output.dense", "output.LayerNorm"),
    )
    for kind in ("weight", "bias")
)

_DECODER_NAMES = ("embed_tokens.weight", "norm.weight")
_DECODER_LAYER = (
    *(f"self_attn.{part}_proj.weight" for part in "qkvo"),
    *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    *("input_layernorm.weight", "post_attention_layernorm.weight"),
)
_QWEN3_LAYER = (*_DECODER_LAYER, "self_attn.q_norm.weight", "self_attn.k_norm.weight")
_GEMMA2_LAYER = (
    *_DECODER_LAYER,
    *("pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"),
)

_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 40960,
    "model_type": "qwen3",
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.2",
    "use_cache": True,
    "use_sliding_window": False,
}
_WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"


def _qwen3(layers: int, **config: Any) -> Published:
    return Published(
        config={**_QWEN3, **config},
        layers=layers,
        names=_DECODER_NAMES,
        layer="layers.{n}.",
        layer_names=_QWEN3_LAYER,
        pooling="lasttoken",
        prompts={"query": f"Instruct: {_WEB_SEARCH}\nQuery:", "document": ""},
        tokenizer={"model_max_length": 131072},
        shards=2,
    )


PUBLISHED: Mapping[str, Published] = {
    "thenlper/gte-large": Published(
        config={**_BERT_LARGE, "torch_dtype": "float16", "transformers_version": "4.28.1"},
        layers=2,
        names=_BERT_NAMES,
        layer="encoder.layer.{n}.",
        layer_names=_BERT_LAYER,
        pooling="mean",
        max_seq_length=512,
        tokenizer={"model_max_length": 512},
    ),
    "BAAI/bge-large-en-v1.5": Published(
        config={
            **_BERT_LARGE,
            "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0},
            "torch_dtype": "float32",
            "transformers_version": "4.30.0",
        },
        layers=2,
        names=_BERT_NAMES,
        layer="encoder.layer.{n}.",
        layer_names=_BERT_LAYER,
        pooling="cls",
        max_seq_length=512,
        tokenizer={"model_max_length": 512},
    ),
    "Qwen/Qwen3-Embedding-0.6B": _qwen3(
        2,
        hidden_size=1024,
        intermediate_size=3072,
        num_attention_heads=16,
        num_hidden_layers=28,
        max_window_layers=28,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        vocab_size=151669,
        eos_token_id=151643,
    ),
    "Qwen/Qwen3-Embedding-4B": _qwen3(
        1,
        hidden_size=2560,
        intermediate_size=9728,
        num_attention_heads=32,
        num_hidden_layers=36,
        max_window_layers=36,
        tie_word_embeddings=True,
        vocab_size=151665,
    ),
    "Qwen/Qwen3-Embedding-8B": _qwen3(
        1,
        hidden_size=4096,
        intermediate_size=12288,
        num_attention_heads=32,
        num_hidden_layers=36,
        max_window_layers=36,
        tie_word_embeddings=False,
        vocab_size=151665,
    ),
    "intfloat/e5-mistral-7b-instruct": Published(
        config={
            "_name_or_path": "mistralai/Mistral-7B-v0.1",
            "architectures": ["MistralModel"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "initializer_range": 0.02,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "model_type": "mistral",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "pad_token_id": 2,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "transformers_version": "4.34.0",
            "use_cache": False,
            "vocab_size": 32000,
        },
        layers=1,
        names=_DECODER_NAMES,
        layer="layers.{n}.",
        layer_names=_DECODER_LAYER,
        pooling="lasttoken",
        max_seq_length=4096,
        prompts={
            "web_search_query": f"Instruct: {_WEB_SEARCH}\nQuery: ",
            "sts_query": "Instruct: Retrieve semantically similar text\nQuery: ",
        },
        shards=2,
    ),
    "BAAI/bge-multilingual-gemma2": Published(
        config={
            "_name_or_path": "BAAI/bge-multilingual-gemma2",
            "architectures": ["Gemma2Model"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_logit_softcapping": 50.0,
            "bos_token_id": 2,
            "cache_implementation": "hybrid",
            "eos_token_id": 1,
            "final_logit_softcapping": 30.0,
            "head_dim": 256,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 3584,
            "initializer_range": 0.02,
            "intermediate_size": 14336,
            "max_position_embeddings": 8192,
            "model_type": "gemma2",
            "num_attention_heads": 16,
            "num_hidden_layers": 42,
            "num_key_value_heads": 8,
            "pad_token_id": 0,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "sliding_window_size": 4096,
            "torch_dtype": "float32",
            "transformers_version": "4.42.2",
            "use_cache": False,
            "vocab_size": 256002,
        },
        layers=1,
        names=_DECODER_NAMES,
        layer="layers.{n}.",
        layer_names=_GEMMA2_LAYER,
        pooling="lasttoken",
        max_seq_length=8192,
        prompts={
            "web_search_query": f"<instruct>{_WEB_SEARCH}.\n<query>",
            "sts_query": "<instruct>Retrieve semantically similar text.\n<query>",
        },
        shards=2,
    ),
}


def write_published(published: Published, folder: Path) -> None:
    """The folder of one repository, at full width; it does not exist yet."""
    folder.mkdir()
    family = published.config["model_type"]
    vocab_size = save_tokenizer(folder, family, max_length=None, **published.tokenizer)
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    config = {key: value for key, value in published.config.items() if key not in special}
    config |= {"num_hidden_layers": published.layers, "vocab_size": vocab_size}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    _write_weights(published, folder)
    _write_modules(published, folder)


def _write_weights(published: Published, folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    weights = random_weights(config, seed=1)
    dtype = getattr(torch, published.config["torch_dtype"])
    for name, value in weights.items():
        if value.ndim == 2 and "embed" not in name:
            # What 0.2 is at a width of 64: wider sums stay as large, and softmax does not saturate.
            value *= (64 / value.shape[1]) ** 0.5
        weights[name] = value.to(dtype)
    if config.model_type == "bert":
        weights["embeddings.position_ids"] = torch.arange(512).unsqueeze(0)
    save_weights(weights, folder, shards=published.shards)


def _write_modules(published: Published, folder: Path) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    entries = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir()
    modes = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}
    flags = {f"pooling_mode_{key}": mode == published.pooling for mode, key in modes.items()}
    width = published.config["hidden_size"]
    pooling = {"word_embedding_dimension": width, **flags}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if published.max_seq_length is not None:
        sentence = {"max_seq_length": published.max_seq_length, "do_lower_case": False}
        (folder / "sentence_bert_config.json").write_text(json.dumps(sentence))
    if published.prompts is not None:
        speech: dict[str, Any] = {"prompts": published.prompts, "default_prompt_name": None}
        speech |= {"similarity_fn_name": "cosine"}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(speech))
