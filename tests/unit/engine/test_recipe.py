"""A model's folder as one description: old and new layouts, and every way to be damaged."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fledge.engine.modules import Dense, Normalize, Pooling
from fledge.engine.recipe import Recipe, read_recipe
from fledge.engine.transformer_config import TRANSFORMER_CONFIGS
from fledge.errors import CorruptModel, UnsupportedModel
from tests.tiny import save_bert

BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}
OLD = "sentence_transformers.models."
NEW = "sentence_transformers.sentence_transformer.modules."
SPEECH = "config_sentence_transformers.json"


def listed(*kinds: str, package: str = OLD) -> list[dict[str, Any]]:
    return [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": package + kind}
        for n, kind in enumerate(kinds)
    ]


def save(folder: Path, files: Mapping[str, Any]) -> Path:
    """A folder with `files`, as values or as texts, and a BERT's config unless they have one."""
    for name, value in {"config.json": BERT, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def read(folder: Path, files: Mapping[str, Any]) -> Recipe:
    return read_recipe(save(folder, files))


def test_without_modules_json_a_model_is_pooled_by_the_mean(tmp_path: Path) -> None:
    recipe = read(tmp_path, {})
    assert recipe.pooling == Pooling(("mean",))
    assert not recipe.normalizes
    assert (recipe.folder, recipe.dimension, recipe.max_seq_length) == (tmp_path, 32, 128)
    speech = recipe.speech
    assert (speech.prompts, speech.default_prompt_name, speech.similarity) == ({}, None, "cosine")
    assert not recipe.do_lower_case


@pytest.mark.parametrize("package", [OLD, NEW, "sentence_transformers.base.modules."])
def test_modules_are_known_by_their_old_and_new_paths(package: str, tmp_path: Path) -> None:
    kinds = ("Transformer", "Pooling", "Dropout", "Dense", "Normalize")
    recipe = read(
        tmp_path,
        {
            "modules.json": listed(*kinds, package=package),
            "1_Pooling/config.json": {"pooling_mode": ["mean", "cls"]},
            "3_Dense/config.json": {"in_features": 64, "out_features": 16},
        },
    )
    assert [type(module) for module, _ in recipe.modules] == [Pooling, Dense]
    assert [path for _, path in recipe.modules] == [tmp_path / "1_Pooling", tmp_path / "3_Dense"]
    assert recipe.normalizes
    assert recipe.dimension == 16


def test_modules_are_taken_in_the_order_of_their_idx(tmp_path: Path) -> None:
    entries = listed("Transformer", "Pooling", "Normalize")
    assert read(tmp_path, {"modules.json": entries[::-1]}).normalizes


def test_a_normalize_that_is_not_the_last_is_computed(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        {
            "modules.json": listed("Transformer", "Pooling", "Normalize", "Dense"),
            "3_Dense/config.json": {"in_features": 32, "out_features": 16},
        },
    )
    assert [type(module) for module, _ in recipe.modules] == [Pooling, Normalize, Dense]
    assert not recipe.normalizes


def test_the_transformer_may_have_a_folder_of_its_own(tmp_path: Path) -> None:
    entries = listed("Transformer", "Pooling")
    entries[0]["path"] = "0_Transformer"
    recipe = read(
        tmp_path,
        {
            "modules.json": entries,
            "0_Transformer/config.json": {**BERT, "hidden_size": 16},
            "0_Transformer/sentence_bert_config.json": {"max_seq_length": 9},
        },
    )
    assert (recipe.folder, recipe.dimension) == (tmp_path / "0_Transformer", 16)
    assert recipe.max_seq_length == 9


def test_modules_that_do_not_fit_each_other_are_a_corrupt_model(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        {
            "modules.json": listed("Transformer", "Pooling", "Dense"),
            "2_Dense/config.json": {"in_features": 33, "out_features": 16},
        },
    )
    with pytest.raises(CorruptModel, match=r"module\.2 takes vectors of 33, but it gets 32"):
        _ = recipe.dimension


@pytest.mark.parametrize(
    "kinds",
    [("Transformer",), ("Transformer", "Dense", "Pooling"), ("Transformer", *["Pooling"] * 2)],
)
def test_exactly_one_pooling_must_follow_the_transformer(
    kinds: tuple[str, ...], tmp_path: Path
) -> None:
    files = {
        "modules.json": listed(*kinds),
        "1_Dense/config.json": {"in_features": 32, "out_features": 32},
    }
    with pytest.raises(UnsupportedModel, match="exactly one Pooling"):
        read(tmp_path, files)


@pytest.mark.parametrize("kinds", [("StaticEmbedding",), ("CLIPModel", "Pooling"), ()])
def test_a_model_must_begin_with_a_transformer(kinds: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=kinds[0] if kinds else "missing"):
        read(tmp_path, {"modules.json": listed(*kinds)})


def test_a_module_that_nothing_computes_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="LSTM"):
        read(tmp_path, {"modules.json": listed("Transformer", "LSTM", "Pooling")})


@pytest.mark.parametrize("name", ["custom_st.Transformer", "modeling.Pooling", "Transformer"])
def test_code_of_the_repository_is_refused_by_name(name: str, tmp_path: Path) -> None:
    entries = [{"idx": 0, "path": "", "type": name}]
    with pytest.raises(UnsupportedModel, match=f"'{name}', which is code"):
        read(tmp_path, {"modules.json": entries})


@pytest.mark.parametrize(
    ("own", "tokenizers", "expected"),
    [
        (20, 50, 20),
        (50, 20, 50),
        (500, None, 128),
        (None, 50, 50),
        (None, 10**30, 128),
        (None, 1e30, 128),
        (None, None, 128),
        (0, 50, 128),
    ],
)
def test_max_seq_length_is_the_models_own_then_the_tokenizers_then_the_tables(
    own: int | None, tokenizers: float | None, expected: int, tmp_path: Path
) -> None:
    files = {
        "sentence_bert_config.json": {"max_seq_length": own},
        "tokenizer_config.json": {"model_max_length": tokenizers},
    }
    assert read(tmp_path, files).max_seq_length == expected


@pytest.mark.parametrize("limit", ["much", [5], {"a": 5}, float("inf"), float("nan")])
@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ],
)
def test_a_limit_that_is_no_number_is_a_corrupt_model(
    file: str, field: str, limit: object, tmp_path: Path
) -> None:
    with pytest.raises(CorruptModel, match="no number of tokens"):
        read(tmp_path, {file: {field: limit}})


@pytest.mark.parametrize("pad_token_id", [0, 1, 3])
def test_robertas_table_has_no_room_for_a_token_up_to_its_padding_position(
    pad_token_id: int, tmp_path: Path
) -> None:
    roberta = {**BERT, "model_type": "roberta", "pad_token_id": pad_token_id}
    assert read(tmp_path, {"config.json": roberta}).max_seq_length == 128 - pad_token_id - 1


@pytest.mark.parametrize("name", TRANSFORMER_CONFIGS)
def test_the_transformers_own_config_goes_by_many_names(name: str, tmp_path: Path) -> None:
    recipe = read(tmp_path, {name: {"max_seq_length": 12, "do_lower_case": True}})
    assert (recipe.max_seq_length, recipe.do_lower_case) == (12, True)


def test_another_task_than_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'fill-mask'"):
        read(tmp_path, {"sentence_bert_config.json": {"transformer_task": "fill-mask"}})


def test_prompts_and_the_default_one_are_read_and_null_is_an_empty_text(tmp_path: Path) -> None:
    speech = {"prompts": {"query": "q: ", "document": None}, "default_prompt_name": "query"}
    found = read(tmp_path, {SPEECH: speech}).speech
    assert found.prompts == {"query": "q: ", "document": ""}
    assert found.default_prompt_name == "query"


@pytest.mark.parametrize("name", ["other", 7, ["query"]])
def test_a_default_prompt_must_exist(name: object, tmp_path: Path) -> None:
    speech = {"prompts": {"query": "q: "}, "default_prompt_name": name}
    with pytest.raises(CorruptModel, match="is no prompt"):
        read(tmp_path, {SPEECH: speech})


@pytest.mark.parametrize("prompts", [["q: "], "q: ", {"query": 7}, {"query": ["q: "]}])
def test_prompts_must_be_texts_by_name(prompts: object, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="prompts must be texts by name"):
        read(tmp_path, {SPEECH: {"prompts": prompts}})


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_the_similarity_is_the_models_own(name: str, tmp_path: Path) -> None:
    assert read(tmp_path, {SPEECH: {"similarity_fn_name": name}}).speech.similarity == name


def test_no_similarity_means_the_cosine(tmp_path: Path) -> None:
    assert read(tmp_path, {SPEECH: {"similarity_fn_name": None}}).speech.similarity == "cosine"


@pytest.mark.parametrize("name", ["jaccard", ["dot"]])
def test_an_unknown_similarity_is_named(name: object, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"similarity_fn_name is .*(jaccard|dot)"):
        read(tmp_path, {SPEECH: {"similarity_fn_name": name}})


@pytest.mark.parametrize(
    "field", [{"model_type": "SparseEncoder"}, {"truncate_dim": 128}], ids=["model_type", "dim"]
)
def test_a_field_that_would_change_the_vectors_is_refused_by_name(
    field: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=next(iter(field))):
        read(tmp_path, {SPEECH: field})


def test_a_folder_without_a_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"no config\.json; is it a model's folder\?"):
        read_recipe(tmp_path)


@pytest.mark.parametrize("model_type", ["gpt2", "", None])
def test_a_family_that_nothing_computes_is_named_with_those_that_exist(
    model_type: object, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=r"model_type is .*bert, camembert"):
        read(tmp_path, {"config.json": {**BERT, "model_type": model_type}})


@pytest.mark.parametrize("field", [name for name in BERT if name != "model_type"])
@pytest.mark.parametrize("value", [None, "many", -1, 0, 1.5, [4]])
def test_a_size_that_is_none_is_a_corrupt_model(field: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"config\.json"):
        read(tmp_path, {"config.json": {**BERT, field: value}})


@pytest.mark.parametrize("field", [name for name in BERT if name != "model_type"])
def test_a_size_that_is_missing_is_named(field: str, tmp_path: Path) -> None:
    config = {name: value for name, value in BERT.items() if name != field}
    with pytest.raises(CorruptModel, match=field):
        read(tmp_path, {"config.json": config})


@pytest.mark.parametrize("field", ["layer_norm_eps", "hidden_act"])
def test_a_field_of_another_type_is_a_corrupt_model(field: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"config\.json"):
        read(tmp_path, {"config.json": {**BERT, field: ["gelu"]}})


def test_heads_must_share_the_hidden_size(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="3 heads cannot share a hidden size of 32"):
        read(tmp_path, {"config.json": {**BERT, "num_attention_heads": 3}})


DAMAGE = ["{", "7", "", "[" * 100_000, '"text"']


@pytest.mark.parametrize("text", DAMAGE, ids=range(len(DAMAGE)))
@pytest.mark.parametrize(
    "file",
    ["config.json", "modules.json", "sentence_bert_config.json", "tokenizer_config.json", SPEECH],
)
def test_damage_in_any_file_is_a_corrupt_model_that_names_it(
    file: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(CorruptModel, match=file.replace(".", r"\.")):
        read(tmp_path, {file: text})


@pytest.mark.parametrize(
    "modules",
    [
        {"a": 1},
        [7],
        ["Transformer"],
        [{"type": OLD + "Transformer", "path": ""}],
        [{"idx": 0, "path": ""}],
        [{"idx": 0, "type": OLD + "Transformer"}],
        [{"idx": 0, "type": 7, "path": ""}],
        [{"idx": 0, "type": OLD + "Transformer", "path": None}],
        [*listed("Transformer"), {"idx": "1", "type": OLD + "Pooling", "path": ""}],
    ],
)
def test_a_malformed_list_of_modules_is_a_corrupt_model(modules: Any, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"modules\.json: malformed"):
        read(tmp_path, {"modules.json": modules})


@pytest.mark.parametrize("path", ["../1_Pooling", "/tmp/1_Pooling", "a/../../b"])  # noqa: S108 - not written to
def test_a_module_outside_of_the_folder_is_refused(path: str, tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))

    with pytest.raises(CorruptModel, match="lies outside"):
        read_recipe(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"}}, "auto_map.*modeling_qwen"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
    ],
)
def test_what_makes_another_network_of_the_one_named_is_refused(
    fields: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    folder = save_bert(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(UnsupportedModel, match=message):
        read_recipe(folder)


def test_code_for_another_class_of_model_does_not_matter(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    code = {"auto_map": {"AutoModelForCausalLM": "modeling_gritlm.GritLM"}}
    (folder / "config.json").write_text(json.dumps(config | code))
    assert read_recipe(folder).model_type == "bert"


def test_an_adapter_is_refused_instead_of_its_base_models_vectors(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "m")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match="adapter"):
        read_recipe(folder)
