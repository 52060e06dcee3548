"""A static model's folder: every table that is saved, and every way to be damaged or unknown."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fledge.engine.chain import Routing, read_chain
from fledge.engine.static_recipe import StaticRecipe, is_bare_model2vec, read_static
from fledge.errors import CorruptModel, UnsupportedModel
from fledge.types import Vectors
from tests.static_folders import draw, save_module, save_modules, save_static, write
from tests.unit.engine.test_static_words import save_words_model

VOCAB, SIZE = 20, 4
TABLE = draw(VOCAB, SIZE)
BAGS = [np.array([4, 5, 5, 9], np.int32), np.array([19], np.int32), np.array([], np.int32)]


def read(folder: Path) -> StaticRecipe:
    chain = read_chain(folder)
    assert not isinstance(chain, Routing)
    return read_static(folder, chain)


def vectors(folder: Path, tensors: Mapping[str, Any]) -> Vectors:
    return read(save_static(folder, tensors, vocab=VOCAB)).bag.vectors(BAGS)


def means(rows: Any) -> Any:
    wide = np.asarray(rows, np.float64)
    return np.stack([wide[[4, 5, 5, 9]].mean(axis=0), wide[19], np.zeros(wide.shape[1])])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["embedding.weight", "embeddings"])
def test_a_table_of_any_float_is_kept_as_it_is_and_computed_in_float32(
    name: str, dtype: str, tmp_path: Path
) -> None:
    stored = TABLE.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if dtype == "bfloat16":
        write_bfloat16(tmp_path, name, stored)
    else:
        save_static(tmp_path, {name: stored}, vocab=VOCAB)
    bag = read(tmp_path).bag
    assert np.abs(bag.vectors(BAGS) - means(stored)).max() <= 1e-6
    table: Any = bag
    assert table.table.rows.dtype == stored.dtype


def write_bfloat16(folder: Path, name: str, table: Any) -> None:
    """By hand: the safetensors library for NumPy does not know the type."""
    save_static(folder, {}, vocab=VOCAB)
    entry = {"dtype": "BF16", "shape": table.shape, "data_offsets": [0, table.nbytes]}
    header = json.dumps({name: entry}).encode()
    data = len(header).to_bytes(8, "little") + header + table.tobytes()
    (folder / "model.safetensors").write_bytes(data)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_a_table_of_integers_is_taken_by_its_numbers(dtype: Any, tmp_path: Path) -> None:
    stored = np.random.default_rng(3).integers(0, 128, (VOCAB, SIZE)).astype(dtype)
    assert np.abs(vectors(tmp_path, {"embeddings": stored}) - means(stored)).max() <= 1e-5


def test_a_quantized_vocabulary_maps_tokens_to_rows_and_weighs_them(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    mapping, factors = random.integers(0, 7, VOCAB), random.random(VOCAB)
    tensors = {"embeddings": TABLE[:7].astype(np.float16), "mapping": mapping}
    unweighted = vectors(tmp_path / "a", tensors)
    rows = TABLE[:7].astype(np.float16)[mapping]
    assert np.abs(unweighted - means(rows)).max() <= 1e-6
    for shape in ((VOCAB,), (VOCAB, 1)):  # the second as older releases saved them
        weighted = vectors(
            tmp_path / f"{len(shape)}", {**tensors, "weights": factors.reshape(shape)}
        )
        assert np.abs(weighted - means(rows * factors[:, None])).max() <= 1e-6


def test_weights_come_without_a_mapping_too(tmp_path: Path) -> None:
    factors = np.random.default_rng(5).random(VOCAB).astype(np.float32)
    found = vectors(tmp_path, {"embeddings": TABLE, "weights": factors})
    assert np.abs(found - means(TABLE * factors[:, None])).max() <= 1e-6


DAMAGE: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "no table": ({"other": TABLE}, "no tensor 'embeddings' in the checkpoint, only other"),
    "one axis": ({"embeddings": TABLE[0]}, r"has shape \[4\]"),
    "three axes": ({"embeddings": TABLE[None]}, r"has shape \[1, 20, 4\]"),
    "no columns": ({"embeddings": TABLE[:, :0]}, r"has shape \[20, 0\]"),
    "truth values": ({"embeddings": TABLE > 0}, "of bool"),
    "not a number": ({"embeddings": np.where(TABLE > 1, np.nan, TABLE)}, "not finite"),
    "too few rows": ({"embeddings": TABLE[:-1]}, "has 20 tokens, but the model only 19"),
    "a mapping too short": (
        {"embeddings": TABLE, "mapping": np.zeros(19, np.int64)},
        "has 20 tokens, but the model only 19",
    ),
    "weights too short": (
        {"embeddings": TABLE, "weights": np.ones(19)},
        "has 20 tokens, but the model only 19",
    ),
    "a mapping to no row": (
        {"embeddings": TABLE, "mapping": np.full(VOCAB, VOCAB)},
        "mapping leads outside of the 20 rows",
    ),
    "a mapping below zero": (
        {"embeddings": TABLE, "mapping": np.full(VOCAB, -1)},
        "mapping leads outside",
    ),
    "a mapping of floats": (
        {"embeddings": TABLE, "mapping": np.zeros(VOCAB)},
        "mapping is no list of rows",
    ),
    "weights that are no numbers": (
        {"embeddings": TABLE, "weights": np.full(VOCAB, np.inf)},
        "'weights' holds values that are not finite",
    ),
}


@pytest.mark.parametrize(("tensors", "message"), DAMAGE.values(), ids=DAMAGE)
def test_tensors_that_make_no_sense_are_a_corrupt_model(
    tensors: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CorruptModel, match=message):
        vectors(tmp_path, tensors)


def test_a_folder_without_its_files_says_which(tmp_path: Path) -> None:
    folder = save_static(tmp_path, {"embeddings": TABLE}, vocab=VOCAB)
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).unlink()
        with pytest.raises(CorruptModel, match=name):
            read(folder)


def test_a_tokenizer_that_is_none_is_a_corrupt_model(tmp_path: Path) -> None:
    folder = save_static(tmp_path, {"embeddings": TABLE}, vocab=VOCAB)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptModel, match=r"tokenizer\.json: not a readable tokenizer"):
        read(folder)


@pytest.mark.parametrize("kind", ["Pooling", "WeightedLayerPooling", "LSTM", "Transformer"])
def test_a_module_over_tokens_cannot_stand_behind_a_table(kind: str, tmp_path: Path) -> None:
    folder = save_static(tmp_path, {"embeddings": TABLE}, vocab=VOCAB, modules=[kind])
    write(folder / f"1_{kind}" / "config.json", {})
    if kind == "WeightedLayerPooling":
        write(folder / f"1_{kind}" / "config.json", {"embedding_dimension": SIZE})
    with pytest.raises(UnsupportedModel, match=kind):
        read(folder)


def test_modules_that_do_not_fit_are_a_corrupt_model(tmp_path: Path) -> None:
    folder = save_static(tmp_path, {"embeddings": TABLE}, vocab=VOCAB, modules=["LayerNorm"])
    save_module(
        folder / "1_LayerNorm",
        {"dimension": 5},
        {"norm.weight": draw(5), "norm.bias": draw(5)},
    )
    with pytest.raises(CorruptModel, match=r"module\.1 takes vectors of 5, but it gets 4"):
        _ = read(folder).dimension


def test_a_module_of_other_rows_than_its_config_says_is_a_corrupt_model(tmp_path: Path) -> None:
    folder = save_static(tmp_path, {"embeddings": TABLE}, vocab=VOCAB, modules=["Dense"])
    config = {"in_features": SIZE, "out_features": 7, "bias": False}
    save_module(folder / "1_Dense", config, {"linear.weight": draw(6, SIZE)})
    with pytest.raises(CorruptModel, match=r"shape \[6, 4\], but .* speaks of 7 rows"):
        read(folder)


@pytest.mark.parametrize("limit", [0, -1, "512", 1.5, True])
def test_a_limit_that_is_no_number_of_tokens_is_a_corrupt_model(
    limit: object, tmp_path: Path
) -> None:
    config = {"model_type": "model2vec", "max_length": limit}
    folder = save_static(tmp_path, {"embeddings": TABLE}, vocab=VOCAB, config=config, modules=None)
    with pytest.raises(CorruptModel, match="max_length"):
        read_static(folder)


def test_only_a_folder_without_modules_is_bare(tmp_path: Path) -> None:
    config = {"model_type": "model2vec"}
    bare = save_static(
        tmp_path / "bare", {"embeddings": TABLE}, vocab=VOCAB, config=config, modules=None
    )
    whole = save_static(tmp_path / "whole", {"embeddings": TABLE}, vocab=VOCAB, config=config)
    bert = save_static(tmp_path / "bert", {}, vocab=VOCAB, config={"model_type": "bert"})
    assert [is_bare_model2vec(folder) for folder in (bare, whole, bert)] == [True, False, False]


@pytest.mark.parametrize(
    "tokenizer",
    [
        "sentence_transformers.models.tokenizer.PhraseTokenizer.PhraseTokenizer",
        "sentence_transformers.models.tokenizer.WordTokenizer.TransformersTokenizerWrapper",
        "mine.WhitespaceTokenizer",
    ],
)
def test_other_tokenizers_of_words_are_refused_by_name(tokenizer: str, tmp_path: Path) -> None:
    folder = save_words_model(tmp_path, ["mean"])
    write(folder / "wordembedding_config.json", {"tokenizer_class": tokenizer})
    with pytest.raises(UnsupportedModel, match=tokenizer.rpartition(".")[2]):
        read(folder)


@pytest.mark.parametrize("kinds", [[], ["LSTM", "Pooling"], ["WordWeights", "Dense"]])
def test_words_must_be_pooled(kinds: list[str], tmp_path: Path) -> None:
    folder = save_words_model(tmp_path, ["mean"])
    save_modules(folder, "WordEmbeddings", *kinds)
    with pytest.raises(UnsupportedModel, match=", ".join(kinds) or "nothing"):
        read(folder)


def test_words_have_no_cls_token(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'cls'"):
        read(save_words_model(tmp_path, ["mean", "cls"]))


WORD_FILES = ["wordembedding_config.json", "whitespacetokenizer_config.json"]


@pytest.mark.parametrize("name", WORD_FILES)
def test_a_field_that_nobody_knows_is_refused_by_name(name: str, tmp_path: Path) -> None:
    folder = save_words_model(tmp_path, ["mean"])
    config = json.loads((folder / name).read_text())
    write(folder / name, {**config, "new_field": 1})
    with pytest.raises(UnsupportedModel, match="new_field"):
        read(folder)


@pytest.mark.parametrize("name", WORD_FILES)
@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_damaged_files_of_words_are_a_corrupt_model(name: str, text: str, tmp_path: Path) -> None:
    folder = save_words_model(tmp_path, ["mean"])
    (folder / name).write_text(text)
    with pytest.raises(CorruptModel, match="WordEmbeddings|" + name.replace(".", r"\.")):
        read(folder)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"vocab": "apple"},
        {"vocab": [1]},
        {"vocab": []},
        {"vocab": ["a"], "word_weights": {"a": "much"}},
        {"vocab": ["a"], "word_weights": {"a": None}},
        {"vocab": ["a"], "unknown_word_weight": float("nan")},
        {"vocab": ["a"], "word_weights": 7},
        {"vocab": ["a"], "unknown_word_weight": 10**400},
    ],
)
def test_a_bag_of_words_without_words_or_weights_is_a_corrupt_model(
    config: Mapping[str, Any], tmp_path: Path
) -> None:
    save_modules(tmp_path, "BoW")
    write(tmp_path / "config.json", config)
    with pytest.raises(CorruptModel):
        read(tmp_path)


def test_weights_of_fewer_words_than_there_are_do_not_fit(tmp_path: Path) -> None:
    folder = save_words_model(tmp_path, ["mean"], weights=True)
    write(folder / "1_WordWeights" / "config.json", {"vocab": ["PADDING_TOKEN", "apple"]})
    with pytest.raises(CorruptModel, match="has 5 tokens, but the model only 2"):
        read(folder)
