"""Every family and module as a graph over packed batches, against the obvious form of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from fledge.engine import packing
from fledge.engine.architectures.registry import FAMILIES
from fledge.engine.ops.protocol import Activation, PoolingMode
from fledge.engine.packing import Row
from fledge.engine.pipeline import Compilation, Pipeline, load_pipeline
from fledge.engine.recipe import Recipe, read_recipe
from fledge.engine.weights import Part, open_weights
from tests.tiny import save_decoder, save_encoder
from tests.unit.engine.obvious import RowOps

VOCAB, HIDDEN, PAD_ID = 120, 32, 1
COMMON = {"vocab_size": VOCAB, "max_position_embeddings": 80}
BERT = {
    **COMMON,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": PAD_ID,
}
DISTILBERT = {**COMMON, "dim": HIDDEN, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
DECODER = {
    **COMMON,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "intermediate_size": 48,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 20}
DECODERS: Mapping[str, Mapping[str, Any]] = {
    "llama": {**DECODER, "attention_bias": True, "mlp_bias": True},
    "llama with yarn": {**DECODER, "rope_scaling": YARN, "rope_theta": 100.0},
    "mistral": {**DECODER, "sliding_window": 5},
    "qwen2": {**DECODER, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "qwen3": {**DECODER, "num_key_value_heads": 4, "rope_parameters": {"rope_theta": 1e6}},
    "gemma2": {
        **DECODER,
        "num_key_value_heads": 1,
        "sliding_window": 9,
        "attn_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 3,
    },
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    **{name: {**BERT, "model_type": name} for name in FAMILIES if name not in DECODERS},
    **{name: {**config, "model_type": name.split()[0]} for name, config in DECODERS.items()},
    "distilbert": {**DISTILBERT, "model_type": "distilbert"},
    "electra": {**BERT, "model_type": "electra", "embedding_size": 16},
    "electra of one width": {**BERT, "model_type": "electra", "embedding_size": HIDDEN},
    "bert without token types": {**BERT, "model_type": "bert", "type_vocab_size": 0},
    **{
        f"bert with {activation}": {**BERT, "model_type": "bert", "hidden_act": activation}
        for activation in ("gelu_new", "silu")
    },
}
RANDOM = np.random.default_rng(11)
# of many lengths, in several bands, with the padding token spelled out inside
ROWS = [
    Row(RANDOM.integers(0, VOCAB, length).tolist(), masked_tokens=masked)
    for length, masked in [(3, 0), (1, 0), (78, 4), (40, 39), (17, 3), (16, 0), (65, 2)]
] + [Row([5, PAD_ID, PAD_ID, 7, PAD_ID, 9]), Row([PAD_ID])]
TOLERANCE = 1e-5


def load(folder: Path, cache: Path) -> Pipeline:
    compilation = Compilation(
        identity=str(folder), precision="fp32", inference_hint="f32", threads=2, cache_dir=cache
    )
    return load_pipeline(read_recipe(folder), compilation)


def weights_of(recipe: Recipe, cache: Path) -> Mapping[str, NDArray[Any]]:
    table = list(recipe.family.weights(recipe.shape))
    parts = [Part(recipe.folder, table, recipe.family.prefix)]
    parts += [Part(folder, module.weights) for module, folder in recipe.modules if module.weights]
    return open_weights(parts, identity="obvious", precision="fp32", cache_dir=cache)


def obvious_vectors(recipe: Recipe, rows: Sequence[Row], cache: Path) -> NDArray[Any]:
    weights, vectors = weights_of(recipe, cache), []
    for row in rows:
        ops = RowOps(weights, recipe.shape, row.ids, row.masked_tokens)
        x = recipe.family.forward(ops, recipe.shape)[-1]
        for module, _ in recipe.modules:
            x = module.apply(ops, x)
        vectors.append(x[0])
    return np.array(vectors)


def relative_errors(vectors: NDArray[Any], expected: NDArray[Any]) -> NDArray[Any]:
    lengths: NDArray[Any] = np.linalg.norm(expected, axis=1)
    errors: NDArray[Any] = np.linalg.norm(vectors - expected, axis=1) / lengths
    return errors


def save(folder: Path, name: str) -> Path:
    """The model of a name in `CONFIGS`, with random weights."""
    write = save_decoder if name in DECODERS else save_encoder
    return write(folder, CONFIGS[name])


def save_modules(folder: Path, configs: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """`modules.json`, and each module's config with random weights where it needs some."""
    kinds = ["Transformer", *(kind for kind, _ in configs)]
    entries = [
        {"idx": n, "path": f"{n}" if n else "", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    for n, (kind, config) in enumerate(configs, start=1):
        (folder / f"{n}").mkdir()
        (folder / f"{n}" / "config.json").write_text(json.dumps(config))
        shapes: dict[str, tuple[int, ...]] = {}
        if kind == "Dense":
            width, out = config["in_features"], config["out_features"]
            shapes = {"linear.weight": (out, width), "linear.bias": (out,)}
            shapes["residual.weight"] = (out, width)
        elif kind == "LayerNorm":
            shapes = {"norm.weight": (config["dimension"],), "norm.bias": (config["dimension"],)}
        if shapes:
            tensors = {key: RANDOM.normal(0, 0.3, size) for key, size in shapes.items()}
            save_file(
                {key: value.astype(np.float32) for key, value in tensors.items()},
                folder / f"{n}" / "model.safetensors",
            )


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_gives_the_vectors_of_its_obvious_form(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", name)
    pipeline = load(folder, tmp_path / "c")
    expected = obvious_vectors(pipeline.recipe, ROWS, tmp_path / "c")
    assert relative_errors(pipeline.compute(ROWS), expected).max() < TOLERANCE
    for row, vector in list(zip(ROWS, expected, strict=True))[-4:]:
        alone = pipeline.compute([row])
        assert relative_errors(alone, vector[None]).max() < TOLERANCE
    pipeline.close()


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_compute_long_rows_in_blocks_of_queries(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MAX_MASK_CELLS", 16 * 80)
    folder = save(tmp_path / "m", name)
    pipeline = load(folder, tmp_path / "c")
    expected = obvious_vectors(pipeline.recipe, ROWS, tmp_path / "c")
    assert relative_errors(pipeline.compute(ROWS), expected).max() < TOLERANCE
    pipeline.close()


@pytest.mark.parametrize("mode", get_args(PoolingMode))
def test_every_pooling_gives_the_vectors_of_its_obvious_form(
    mode: PoolingMode, tmp_path: Path
) -> None:
    folder = save_encoder(tmp_path / "m", CONFIGS["bert"])
    save_modules(folder, [("Pooling", {"pooling_mode": mode})])
    pipeline = load(folder, tmp_path / "c")
    expected = obvious_vectors(pipeline.recipe, ROWS, tmp_path / "c")
    assert relative_errors(pipeline.compute(ROWS), expected).max() < TOLERANCE
    pipeline.close()


TORCH_NAMES: Mapping[Activation, str] = {
    "tanh": "activation.Tanh",
    "identity": "linear.Identity",
    "gelu": "activation.GELU",
    "relu": "activation.ReLU",
    "silu": "activation.SiLU",
    "sigmoid": "activation.Sigmoid",
}


@pytest.mark.parametrize("activation", TORCH_NAMES)
def test_every_module_gives_the_vectors_of_its_obvious_form(
    activation: Activation, tmp_path: Path
) -> None:
    folder = save_encoder(tmp_path / "m", CONFIGS["bert"])
    width, name = 2 * HIDDEN, f"torch.nn.modules.{TORCH_NAMES[activation]}"

    def dense(out_features: int, *, residual: bool) -> tuple[str, Mapping[str, Any]]:
        sizes = {"in_features": width, "out_features": out_features}
        return "Dense", {**sizes, "activation_function": name, "use_residual": residual}

    pooling = ("Pooling", {"pooling_mode": ["weightedmean", "max"]})
    norms = [("Normalize", {}), ("LayerNorm", {"dimension": width})]
    shortcuts = [dense(width, residual=True), dense(8, residual=True)]
    save_modules(folder, [pooling, dense(width, residual=False), *norms, *shortcuts])
    pipeline = load(folder, tmp_path / "c")
    expected = obvious_vectors(pipeline.recipe, ROWS, tmp_path / "c")
    vectors = pipeline.compute(ROWS)
    assert vectors.shape == (len(ROWS), 8)
    assert np.abs(vectors - expected).max() < TOLERANCE * max(1, np.abs(expected).max())
    pipeline.close()
