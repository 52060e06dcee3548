"""What differs between checkpoints of one family: arithmetic, spelling, and layout of the files."""

from pathlib import Path

import numpy as np
import pytest

from tests.parity.agreement import assert_agrees, assert_vectors_agree
from tests.parity.checkpoints import (
    FAMILIES,
    Recipe,
    load_weights,
    make_checkpoint,
    save_weights,
    torch,
)
from tests.parity.engine import Engine
from tests.parity.reference import Reference, relative_errors
from tests.parity.texts import TEXTS

LARGE_EPS = 0.03  # of the size of the variances, so that leaving it out shows

ARITHMETIC = {
    "bert-gelu_new": Recipe(family="bert", config={"hidden_act": "gelu_new"}),
    "bert-gelu_pytorch_tanh": Recipe(family="bert", config={"hidden_act": "gelu_pytorch_tanh"}),
    "bert-relu": Recipe(family="bert", config={"hidden_act": "relu"}),
    "bert-silu": Recipe(family="bert", config={"hidden_act": "silu"}),
    "bert-large-eps": Recipe(family="bert", config={"layer_norm_eps": LARGE_EPS}),
    "bert-one-token-type": Recipe(family="bert", config={"type_vocab_size": 1}),
    "bert-three-token-types": Recipe(family="bert", config={"type_vocab_size": 3}),
    "bert-eight-heads": Recipe(family="bert", config={"num_attention_heads": 8}),
    "bert-one-layer": Recipe(family="bert", config={"num_hidden_layers": 1}),
    "roberta-pad-0": Recipe(family="roberta", config={"pad_token_id": 0}, tokenizer={"pad_id": 0}),
    "roberta-pad-3": Recipe(family="roberta", config={"pad_token_id": 3}, tokenizer={"pad_id": 3}),
    "roberta-usual": Recipe(
        family="roberta", config={"layer_norm_eps": 1e-5, "type_vocab_size": 1}
    ),
    "roberta-relu": Recipe(family="roberta", config={"hidden_act": "relu"}),
    "xlm-roberta-usual": Recipe(
        family="xlm-roberta", config={"layer_norm_eps": 1e-5, "type_vocab_size": 1}
    ),
    "xlm-roberta-gelu_new": Recipe(family="xlm-roberta", config={"hidden_act": "gelu_new"}),
    "camembert-usual": Recipe(
        family="camembert", config={"layer_norm_eps": 1e-5, "type_vocab_size": 1}
    ),
    "camembert-silu": Recipe(family="camembert", config={"hidden_act": "silu"}),
    "distilbert-relu": Recipe(family="distilbert", config={"activation": "relu"}),
    "distilbert-gelu_new": Recipe(family="distilbert", config={"activation": "gelu_new"}),
    "distilbert-sinusoidal": Recipe(family="distilbert", config={"sinusoidal_pos_embds": True}),
    "mpnet-usual": Recipe(family="mpnet", config={"layer_norm_eps": 1e-5}),
    "mpnet-large-eps": Recipe(family="mpnet", config={"layer_norm_eps": LARGE_EPS}),
    "mpnet-relu": Recipe(family="mpnet", config={"hidden_act": "relu"}),
    # MPNet counts positions from 2 whatever its configuration says of padding.
    "mpnet-pad-0": Recipe(family="mpnet", config={"pad_token_id": 0}),
    "electra-no-projection": Recipe(family="electra", config={"embedding_size": 64}),
    "electra-wide-embeddings": Recipe(family="electra", config={"embedding_size": 96}),
    "electra-large-eps": Recipe(family="electra", config={"layer_norm_eps": LARGE_EPS}),
    "electra-one-token-type": Recipe(family="electra", config={"type_vocab_size": 1}),
    "electra-relu": Recipe(family="electra", config={"hidden_act": "relu"}),
}

FILES = {
    "bert-gamma-and-beta": Recipe(family="bert", layout="gamma"),
    "bert-gamma-and-beta-prefixed": Recipe(family="bert", layout="ancient", spelling="old"),
    "bert-shards": Recipe(family="bert", shards=3),
    "bert-prefixed-shards": Recipe(family="bert", layout="prefixed", shards=2),
    "bert-position-ids": Recipe(family="bert", position_ids=True),
    "roberta-position-ids": Recipe(family="roberta", layout="prefixed", position_ids=True),
    "bert-bf16": Recipe(family="bert", dtype="bfloat16"),
    "bert-fp16": Recipe(family="bert", dtype="float16"),
    "mpnet-bf16": Recipe(family="mpnet", dtype="bfloat16", spelling="old"),
    "roberta-fp16": Recipe(family="roberta", dtype="float16", layout="prefixed"),
    "electra-fp16": Recipe(family="electra", dtype="float16"),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_every_variant_of_the_arithmetic_agrees(name: str, engine: Engine, forge: Path) -> None:
    assert_agrees(engine, make_checkpoint(ARITHMETIC[name], forge))


@pytest.mark.parametrize("name", FILES)
def test_every_layout_of_the_weights_agrees(name: str, engine: Engine, forge: Path) -> None:
    assert_agrees(engine, make_checkpoint(FILES[name], forge))


@pytest.mark.parametrize("spelling", ["old", "minimal"])
@pytest.mark.parametrize("family", FAMILIES)
def test_prefixed_weights_and_other_config_spellings_give_the_same_vectors(
    family: str, spelling: str, engine: Engine, forge: Path
) -> None:
    twin = make_checkpoint(Recipe(family=family), forge)
    recipe = Recipe(
        family=family,
        layout="prefixed",
        spelling="old" if spelling == "old" else "minimal",
        position_ids=spelling == "old",
    )
    folder = make_checkpoint(recipe, forge)
    wanted = Reference(twin).embed(TEXTS)
    assert relative_errors(Reference(folder).embed(TEXTS), wanted).max() == 0
    assert_vectors_agree(engine.embed(folder, TEXTS), wanted, TEXTS)


def test_without_token_types_nothing_is_added(engine: Engine, forge: Path, tmp_path: Path) -> None:
    # Torch cannot look up row 0 of no rows, so the reference has one row of zeros instead.
    folder = make_checkpoint(Recipe(family="bert", config={"type_vocab_size": 0}), forge)
    twin = tmp_path / "twin"
    twin.mkdir()
    for file in folder.iterdir():
        (twin / file.name).write_bytes(file.read_bytes())
    config = (
        (twin / "config.json").read_text().replace('"type_vocab_size": 0', '"type_vocab_size": 1')
    )
    (twin / "config.json").write_text(config)
    weights = load_weights(folder)
    weights["embeddings.token_type_embeddings.weight"] = torch.zeros(1, 64)
    save_weights(weights, twin)
    wanted = Reference(twin).embed(TEXTS)
    assert np.isfinite(wanted).all()
    assert_vectors_agree(engine.embed(folder, TEXTS), wanted, TEXTS)
