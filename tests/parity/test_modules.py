"""sentence-transformers folders: every module, every pooling, in each generation's spelling."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.engine.modules import DENSE_ACTIVATIONS
from fledge.errors import CorruptModel, UnsupportedModel
from tests.parity.agreement import BF16_ALLOWANCE, assert_agrees
from tests.parity.checkpoints import Recipe
from tests.parity.engine import Engine, needs_bf16
from tests.parity.folders import (
    Bundle,
    Spelling,
    Stage,
    dense,
    dropout,
    layer_norm,
    layer_pooling,
    make_bundle,
    normalize,
    pooling,
)
from tests.parity.reference import (
    Reference,
    cosines,
    relative_error,
    sentence_transformers,
)
from tests.parity.texts import TEXTS

BERT = Recipe(family="bert")
ALL_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
SPELLINGS: tuple[Spelling, ...] = ("old", "middle", "new")
SIX = 6 * 64


def bundle(*stages: Stage, spelling: Spelling = "new") -> Bundle:
    return Bundle(recipe=BERT, stages=stages, spelling=spelling)


@pytest.mark.parametrize("spelling", ["old", "new"])
@pytest.mark.parametrize("mode", ALL_MODES)
def test_every_pooling_agrees(mode: str, spelling: Spelling, engine: Engine, forge: Path) -> None:
    folder = make_bundle(bundle(pooling(mode, spelling=spelling), spelling=spelling), forge)
    assert_agrees(engine, folder)


@pytest.mark.parametrize("family", ["roberta", "mpnet", "electra"])
def test_every_pooling_at_once_agrees_in_other_families(
    family: str, engine: Engine, forge: Path
) -> None:
    made = Bundle(recipe=Recipe(family=family), stages=(pooling(*ALL_MODES),))
    assert_agrees(engine, make_bundle(made, forge))


CONCATENATIONS = {
    "old-flags-have-a-fixed-order": bundle(
        pooling(*reversed(ALL_MODES), spelling="old"), spelling="old"
    ),
    "old-two": bundle(pooling("mean", "cls", spelling="old"), spelling="old"),
    "old-none-means-mean": bundle(pooling(spelling="old"), spelling="old"),
    "new-list": bundle(pooling("mean", "max", "cls")),
    "new-list-keeps-its-order": bundle(pooling(*reversed(ALL_MODES))),
    "new-list-of-one": bundle(
        Stage(kind="Pooling", config={"embedding_dimension": 64, "pooling_mode": ["max"]})
    ),
    "new-key-wins-over-old-flags": bundle(
        pooling("cls", pooling_mode_mean_tokens=True, pooling_mode_cls_token=False)
    ),
    "new-key-with-old-width": bundle(
        Stage(kind="Pooling", config={"word_embedding_dimension": 64, "pooling_mode": "cls"})
    ),
    "old-flags-of-the-first-releases": bundle(
        Stage(
            kind="Pooling",
            config={"word_embedding_dimension": 64, "pooling_mode_cls_token": True},
        ),
        spelling="old",
    ),
    "nothing-but-the-width": bundle(Stage(kind="Pooling", config={"embedding_dimension": 64})),
}


@pytest.mark.parametrize("name", CONCATENATIONS)
def test_every_combination_of_poolings_agrees(name: str, engine: Engine, forge: Path) -> None:
    assert_agrees(engine, make_bundle(CONCATENATIONS[name], forge))


PIPELINES = {
    "dense-tanh": (pooling("mean"), dense(64, 32, "Tanh")),
    "dense-identity": (pooling("mean"), dense(64, 32, "Identity")),
    "dense-gelu": (pooling("mean"), dense(64, 96, "GELU")),
    "dense-relu": (pooling("mean"), dense(64, 64, "ReLU")),
    "dense-no-bias": (pooling("mean"), dense(64, 32, "Identity", bias=False)),
    "dense-without-activation-key": (pooling("mean"), dense(64, 32, None)),
    "dense-twice": (pooling("mean"), dense(64, 128, "ReLU"), dense(128, 48, "Identity")),
    "dense-after-six-poolings": (pooling(*ALL_MODES), dense(SIX, 64), normalize()),
    "normalize-last": (pooling("cls"), normalize()),
    "normalize-with-keys": (
        pooling("mean"),
        normalize(module_input_name="sentence_embedding", module_output_name="sentence_embedding"),
    ),
    "normalize-in-the-middle": (pooling("mean"), normalize(), dense(64, 32, "Tanh")),
    "normalize-twice": (pooling("mean"), normalize(), dense(64, 32, "Identity"), normalize()),
    "layer-norm": (pooling("mean"), layer_norm(), normalize()),
    "layer-norm-last": (pooling("mean"), dense(64, 32, "Identity"), layer_norm(32)),
    "dropout": (pooling("mean"), dropout(), normalize()),
    "dropout-before-dense": (pooling("max"), dropout(), dense(64, 16, "Tanh")),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_every_chain_of_modules_agrees(name: str, engine: Engine, forge: Path) -> None:
    assert_agrees(engine, make_bundle(bundle(*PIPELINES[name]), forge))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_class_paths_of_every_generation_are_understood(
    spelling: Spelling, engine: Engine, forge: Path
) -> None:
    stages = (
        pooling("mean", "max", spelling=spelling),
        dense(128, 64, "Tanh"),
        layer_norm(),
        dropout(),
        normalize(),
    )
    assert_agrees(engine, make_bundle(bundle(*stages, spelling=spelling), forge))


@pytest.mark.parametrize("name", DENSE_ACTIVATIONS)
def test_every_activation_agrees(name: str, engine: Engine, forge: Path) -> None:
    assert_agrees(engine, make_bundle(bundle(pooling("mean"), dense(64, 32, name)), forge))


@pytest.mark.parametrize("outputs", [64, 32])
def test_a_residual_dense_agrees(outputs: int, engine: Engine, forge: Path) -> None:
    stages = pooling("mean"), dense(64, outputs, "Tanh", use_residual=True)
    assert_agrees(engine, make_bundle(bundle(*stages), forge))


STATES = Recipe(family="bert", config={"output_hidden_states": True})


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_weighted_layers_agree(count: int, spelling: Spelling, engine: Engine, forge: Path) -> None:
    stages = layer_pooling(count), pooling("mean", "cls", spelling=spelling), normalize()
    folder = make_bundle(Bundle(recipe=STATES, stages=stages, spelling=spelling), forge)
    assert_agrees(engine, folder)


def test_weighted_layers_agree_in_the_older_key(engine: Engine, forge: Path) -> None:
    stage = layer_pooling(3)
    config = {**(stage.config or {}), "word_embedding_dimension": 64}
    del config["embedding_dimension"]
    made = Bundle(recipe=STATES, stages=(replace(stage, config=config), pooling("mean")))
    assert_agrees(engine, make_bundle(made, forge))


@pytest.mark.parametrize(("in_config", "argument"), [(False, None), (False, True), (True, False)])
def test_weighted_layers_do_nothing_where_the_network_gives_only_the_last(
    *, in_config: bool, argument: bool | None, engine: Engine, forge: Path
) -> None:
    recipe = Recipe(family="bert", config={"output_hidden_states": in_config})
    arguments = {} if argument is None else {"config_args": {"output_hidden_states": argument}}
    made = Bundle(
        recipe=recipe,
        stages=(layer_pooling(2), pooling("mean")),
        spelling="old",
        transformer=arguments,
    )
    folder = make_bundle(made, forge)
    assert_agrees(engine, folder)
    plain = make_bundle(Bundle(recipe=recipe, stages=(pooling("mean"),)), forge)
    differs = relative_error(engine.embed(folder, TEXTS), engine.embed(plain, TEXTS)) > 0.01
    assert differs == (in_config if argument is None else argument)


def test_weights_for_other_layers_than_there_are_are_a_corrupt_model(
    engine: Engine, forge: Path
) -> None:
    stage = replace(layer_pooling(2), shapes={"layer_weights": (3,)})
    folder = make_bundle(Bundle(recipe=STATES, stages=(stage, pooling("mean"))), forge)
    with pytest.raises(CorruptModel, match="cannot be the weights of 2 layers"):
        engine.load(folder)


def test_a_folder_that_sentence_transformers_saved_itself_agrees(
    engine: Engine, forge: Path, tmp_path: Path
) -> None:
    made = bundle(pooling("mean", "cls"), dense(128, 32), layer_norm(32), normalize())
    source = make_bundle(made, forge)
    saved = tmp_path / "saved"
    model = Reference(source).model
    model.max_seq_length = 30
    model.prompts = {"query": "query: "}
    model.save_pretrained(str(saved), create_model_card=False)
    assert_agrees(engine, saved)
    assert_agrees(engine, saved, prompt_name="query")


@pytest.mark.parametrize(
    ("subfolder", "file"),
    [
        ("0_Transformer", "sentence_bert_config.json"),
        ("", "sentence_roberta_config.json"),
        ("0_RoBERTa", "sentence_roberta_config.json"),
    ],
)
def test_the_first_releases_put_the_transformer_elsewhere(
    subfolder: str, file: str, engine: Engine, forge: Path
) -> None:
    made = Bundle(
        recipe=Recipe(family="roberta", spelling="old", layout="prefixed"),
        stages=(pooling("mean", spelling="old"),),
        spelling="old",
        subfolder=subfolder,
        transformer={"max_seq_length": 24},
        transformer_file=file,
    )
    folder = make_bundle(made, forge)
    assert Reference(folder).model.max_seq_length == 24
    assert_agrees(engine, folder)


def test_the_card_says_what_the_folder_says(engine: Engine, forge: Path) -> None:
    made = replace(
        bundle(pooling("cls", "mean"), dense(128, 32), normalize()),
        sentence={
            "prompts": {"query": "query: ", "document": ""},
            "default_prompt_name": "query",
            "similarity_fn_name": "dot",
        },
        transformer={"max_seq_length": 40},
    )
    folder = make_bundle(made, forge)
    reference = Reference(folder).model
    card = engine.load(folder).card
    assert card.family == "bert"
    assert card.precision == "fp32"
    assert card.dimension == reference.get_embedding_dimension() == 32
    assert card.max_seq_length == reference.max_seq_length == 40
    assert card.pooling == ("cls", "mean")
    assert card.prompts["query"] == "query: "
    assert card.default_prompt_name == "query"
    assert card.similarity == reference.similarity_fn_name == "dot"
    assert card.normalizes


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan", None])
def test_the_similarity_function_is_the_one_named(
    name: str | None, engine: Engine, forge: Path
) -> None:
    made = replace(bundle(pooling("mean")), sentence={"similarity_fn_name": name})
    folder = make_bundle(made, forge)
    assert engine.load(folder).card.similarity == Reference(folder).model.similarity_fn_name


def test_the_reference_is_the_version_these_folders_were_written_for() -> None:
    major = int(sentence_transformers.__version__.split(".")[0])
    assert major >= 6


@needs_bf16
def test_every_module_at_once_is_right_in_the_short_precisions(engine: Engine, forge: Path) -> None:
    stages = (pooling(*ALL_MODES), dense(SIX, 64, "GELU"), layer_norm(), dense(64, 64, "Identity"))
    folder = make_bundle(bundle(*stages), forge)
    exact = Reference(folder).embed(TEXTS)
    of_torch = relative_error(Reference(folder, "bfloat16").embed(TEXTS), exact)
    of_fledge = relative_error(engine.embed(folder, TEXTS, "bf16"), exact)
    assert of_fledge <= BF16_ALLOWANCE * of_torch
    assert cosines(engine.embed(folder, TEXTS, "int8"), exact).mean() >= 0.98


def test_modules_json_without_a_pooling_of_its_own_is_not_guessed_at(
    engine: Engine, forge: Path, tmp_path: Path
) -> None:
    # sentence-transformers fails on such a folder; so does the engine, and it says so.
    source = make_bundle(bundle(pooling("mean")), forge)
    folder = tmp_path / "headless"
    folder.mkdir()
    for file in source.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    entries = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(entries[:1]))
    with pytest.raises(UnsupportedModel):
        engine.load(folder)
