"""Factories of small random transformer checkpoints, one recipe for each way in which they differ.

The weights are drawn with a standard deviation of 0.2. At the usual 0.02 every layer is nearly the
identity, and a wrong GELU or swapped q and k would pass any comparison.

The same seed gives the same weights whatever the layout of the file, so two recipes that differ
only in spelling are twins: they must give the same vectors.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tests.conftest import require

torch = require("torch", "the reference needs torch")
transformers = require("transformers", "the reference needs transformers")
safetensors = require("safetensors.torch", "the reference needs safetensors")

from tests.parity.vocabularies import save_tokenizer  # noqa: E402 - after the skips above

ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "electra")
DECODERS = ("qwen2", "qwen3", "mistral", "llama", "gemma2")
FAMILIES = (*ENCODERS, *DECODERS)
"""`model_type` of every family, as `config.json` spells it."""

DEVIATION = 0.2
WINDOW = 24
"""Tokens that a token of a decoder with sliding windows sees, itself included."""

MAX_TOKENS: Mapping[str, int] = {"mpnet": 160, **dict.fromkeys(DECODERS, 4 * WINDOW)}
"""Most tokens of one text, special tokens included, where it is not 64.

MPNet's buckets of relative distance end at 128: only a longer text reaches the last one. Decoders
cross their windows several times.
"""

_PREFIX = {
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    **dict.fromkeys(DECODERS, "model"),
}
_NAME = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "distilbert": "DistilBert",
    "mpnet": "MPNet",
    "electra": "Electra",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "mistral": "Mistral",
    "llama": "Llama",
    "gemma2": "Gemma2",
}
_SHAPE = {
    *("model_type", "vocab_size", "max_position_embeddings"),
    *("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size"),
    *("dim", "n_heads", "n_layers", "hidden_dim"),
    *("num_key_value_heads", "head_dim"),
}
_DECODER_SHAPE: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {"head_dim": 24, "rope_theta": 1e6},
    "mistral": {"sliding_window": WINDOW, "head_dim": 12},
    "llama": {"rope_theta": 500.0},
    "gemma2": {
        "sliding_window": WINDOW,
        "head_dim": 24,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 2.0,  # of the size of the scores, so that leaving it out shows
    },
}
"""What makes each decoder more than a Llama, made to matter in a small one."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One checkpoint of one family, in one spelling.

    Attributes:
        family: one of `FAMILIES`.
        config: keys of `config.json` that differ from the small default.
        seed: of the weights.
        layout: names of the weights. `base` as `BertModel` saves them; `prefixed` as
            `BertForMaskedLM` does, with that class's head beside them; `gamma` with the LayerNorm
            names of the first releases; `ancient` prefixed and with those.
        position_ids: whether the file also holds the buffers that older releases saved.
        dtype: of the floating-point tensors.
        spelling: of `config.json`. `new` as transformers 5 writes it; `old` as transformers 4 did;
            `minimal` leaves out whatever has its default, except the sizes.
        architecture: the class in `config.json`, where it is not the usual one. For a decoder it
            says how a folder without modules is pooled.
        shards: number of weight files; above 1 there is an index.
        tokenizer: arguments of `save_tokenizer`.
    """

    family: str
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 1
    layout: Literal["base", "prefixed", "gamma", "ancient"] = "base"
    position_ids: bool = False
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    spelling: Literal["new", "old", "minimal"] = "new"
    architecture: str | None = None
    shards: int = 1
    tokenizer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def max_tokens(self) -> int:
        """What the tokenizer's own configuration declares."""
        return MAX_TOKENS.get(self.family, 64)


def with_config(recipe: Recipe, **config: Any) -> Recipe:
    """The same recipe with further keys in `config.json`."""
    return replace(recipe, config={**recipe.config, **config})


def make_checkpoint(recipe: Recipe, root: Path) -> Path:
    """The recipe's folder below `root`, made unless it is there already."""
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    folder = root / f"{recipe.family}-{digest}"
    if not folder.exists():
        draft = root / f".{folder.name}"
        draft.mkdir()
        write_checkpoint(recipe, draft)
        draft.rename(folder)
    return folder


def write_checkpoint(recipe: Recipe, folder: Path) -> None:
    """Write `config.json`, weights and tokenizer into an empty folder."""
    options: dict[str, Any] = {"max_length": recipe.max_tokens, **recipe.tokenizer}
    vocab_size = save_tokenizer(folder, recipe.family, **options)
    config = small_config(recipe, vocab_size)
    _write_config(recipe, config, folder)
    _write_weights(recipe, config, folder)


def copy_checkpoint(source: Path, target: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(source, target))


def small_config(recipe: Recipe, vocab_size: int) -> Any:
    """Transformers' own configuration object: 3 layers of 4 heads, 64 wide."""
    if recipe.family in DECODERS:
        return _decoder_config(recipe, vocab_size)
    pad = int(recipe.config.get("pad_token_id", 1))
    # Families that number positions from pad + 1 need as many rows more in the table. The table has
    # more rows than the longest text needs, so a row too far is a wrong number, not a crash.
    shape: dict[str, Any] = {
        "vocab_size": vocab_size,
        "max_position_embeddings": recipe.max_tokens + pad + 8,
    }
    if recipe.family == "distilbert":
        shape |= {"dim": 64, "n_heads": 4, "n_layers": 3, "hidden_dim": 160}
    else:
        shape |= {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
        shape |= {"intermediate_size": 160}
    if recipe.family == "electra":
        shape["embedding_size"] = 32
    if recipe.family == "camembert":
        shape |= {"bos_token_id": 5, "eos_token_id": 6}
    kind = getattr(transformers, f"{_NAME[recipe.family]}Config")
    return kind(**{**shape, **recipe.config})


def _decoder_config(recipe: Recipe, vocab_size: int) -> Any:
    shape: dict[str, Any] = {
        "vocab_size": vocab_size,
        "max_position_embeddings": recipe.max_tokens + 8,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "intermediate_size": 112,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        **_DECODER_SHAPE.get(recipe.family, {}),
    }
    kind = getattr(transformers, f"{_NAME[recipe.family]}Config")
    return kind(**{**shape, **recipe.config})


def random_weights(config: Any, seed: int) -> dict[str, Any]:
    """Every tensor of the base model under its own name, norms' weights around what changes least.

    That is 1, and 0 for Gemma, which adds 1 itself.
    """
    # A table of no rows cannot be drawn; the model is made with one and the row left out.
    typeless = getattr(config, "type_vocab_size", None) == 0
    if typeless:
        config = type(config).from_dict({**config.to_dict(), "type_vocab_size": 1})
    with torch.device("meta"):  # names and shapes alone
        model = transformers.AutoModel.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, generator=generator) * DEVIATION
        if "norm" in name.lower() and name.endswith("weight") and config.model_type != "gemma2":
            value += 1
        weights[name] = value
    if typeless:
        del weights["embeddings.token_type_embeddings.weight"]
    return weights


def _write_config(recipe: Recipe, config: Any, folder: Path) -> None:
    written = json.loads(config.to_json_string(use_diff=True))
    for key in ("dtype", "torch_dtype", "transformers_version"):
        written.pop(key, None)
    name = _NAME[recipe.family]
    old_head = "Model" if recipe.family in DECODERS else "ForMaskedLM"
    if recipe.family in DECODERS:
        _respell_decoder(recipe, config, written)
    if recipe.spelling == "minimal":
        defaults = type(config)().to_dict()
        written = {
            key: value
            for key, value in written.items()
            if key in _SHAPE or key not in defaults or value != defaults[key]
        }
    elif recipe.spelling == "old":
        written |= {
            "_name_or_path": "an/older-model",
            "architectures": [recipe.architecture or f"{name}{old_head}"],
            "torch_dtype": recipe.dtype,
            "transformers_version": "4.8.2",
            "gradient_checkpointing": False,
            "use_cache": True,
        }
        if recipe.family not in DECODERS:
            written["position_embedding_type"] = "absolute"
    else:
        written |= {
            "architectures": [recipe.architecture or f"{name}Model"],
            "dtype": recipe.dtype,
            "transformers_version": transformers.__version__,
        }
    (folder / "config.json").write_text(json.dumps(written, indent=2))


def _respell_decoder(recipe: Recipe, config: Any, written: dict[str, Any]) -> None:
    """What only transformers 5 writes, as older releases did or left to the reader."""
    if recipe.spelling == "new":
        return
    if "layer_types" not in recipe.config:
        written.pop("layer_types", None)
    if recipe.spelling == "old":
        written.pop("rope_parameters", None)
        rope = dict(config.rope_parameters)
        written["rope_theta"] = rope.pop("rope_theta")
        kind = rope.pop("rope_type")
        written["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}


def _write_weights(recipe: Recipe, config: Any, folder: Path) -> None:
    weights = random_weights(config, recipe.seed)
    if recipe.position_ids:
        weights |= _old_buffers(recipe, config)
    if recipe.layout in ("prefixed", "ancient"):
        prefix = _PREFIX.get(recipe.family, recipe.family)
        weights = {f"{prefix}.{name}": value for name, value in weights.items()}
        weights |= _head(config, prefix, recipe.seed)
    if recipe.layout in ("gamma", "ancient"):
        weights = {_first_spelling(name): value for name, value in weights.items()}
    dtype = getattr(torch, recipe.dtype)
    weights = {
        name: value.to(dtype).contiguous() if value.is_floating_point() else value
        for name, value in weights.items()
    }
    save_weights(weights, folder, shards=recipe.shards)


def _old_buffers(recipe: Recipe, config: Any) -> dict[str, Any]:
    if recipe.family in DECODERS:  # wrong on purpose: nobody may read it
        return {f"layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(8) for n in range(3)}
    return {"embeddings.position_ids": torch.arange(config.max_position_embeddings).unsqueeze(0)}


def save_weights(weights: Mapping[str, Any], folder: Path, *, shards: int = 1) -> None:
    """Write tensors as safetensors, in one file or in several with their index."""
    metadata = {"format": "pt"}
    if shards == 1:
        safetensors.save_file(dict(weights), folder / "model.safetensors", metadata)
        return
    names = list(weights)
    places: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[number::shards]}
        safetensors.save_file(part, folder / file, metadata)
        places |= dict.fromkeys(part, file)
    size = sum(value.numel() * value.element_size() for value in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def load_weights(folder: Path) -> dict[str, Any]:
    """The tensors of a folder whose weights are one file."""
    weights: dict[str, Any] = safetensors.load_file(folder / "model.safetensors")
    return weights


def _head(config: Any, prefix: str, seed: int) -> dict[str, Any]:
    """What a model for masked or for next words keeps beside its base model."""
    decodes = config.model_type in DECODERS
    kind = transformers.AutoModelForCausalLM if decodes else transformers.AutoModelForMaskedLM
    with torch.device("meta"):
        model = kind.from_config(config)
    generator = torch.Generator().manual_seed(seed + 1000)
    return {
        name: torch.randn(value.shape, generator=generator)
        for name, value in model.state_dict().items()
        if not name.startswith(f"{prefix}.")
    }


def _first_spelling(name: str) -> str:
    if "LayerNorm" not in name:
        return name
    return name.replace(".weight", ".gamma").replace(".bias", ".beta")
