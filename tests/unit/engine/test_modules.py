"""The modules behind the transformer: read in every spelling, or refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fledge.engine.modules import (
    OLD_POOLING_FLAGS,
    POOLING_MODES,
    Dense,
    LayerNorm,
    Module,
    Normalize,
    Pooling,
    read_json,
    read_module,
)
from fledge.errors import CorruptModel, UnsupportedModel

DENSE = {"in_features": 8, "out_features": 4}


def read(kind: str, config: Any, folder: Path) -> Module | None:
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    return read_module(kind, folder, "module.2")


def read_pooling(config: Mapping[str, Any], folder: Path) -> Pooling:
    module = read("Pooling", config, folder)
    assert isinstance(module, Pooling)
    return module


@pytest.mark.parametrize(("flag", "mode"), OLD_POOLING_FLAGS.items())
def test_every_old_flag_is_the_mode_that_replaced_it(flag: str, mode: str, tmp_path: Path) -> None:
    flags = {**dict.fromkeys(OLD_POOLING_FLAGS, False), flag: True}
    assert read_pooling(flags, tmp_path).modes == (mode,)
    assert read_pooling({"pooling_mode": mode}, tmp_path).modes == (mode,)


def test_several_old_flags_are_concatenated_in_the_order_of_the_flags(tmp_path: Path) -> None:
    backwards = dict.fromkeys(reversed(list(OLD_POOLING_FLAGS)), True)
    assert read_pooling(backwards, tmp_path).modes == POOLING_MODES


def test_several_new_modes_are_concatenated_in_the_order_that_they_are_in(tmp_path: Path) -> None:
    pooling = read_pooling({"pooling_mode": ["max", "cls"]}, tmp_path)
    assert pooling.modes == ("max", "cls")
    assert pooling.output_size(8) == 16


def test_the_new_spelling_wins_over_the_old_flags(tmp_path: Path) -> None:
    config = {"pooling_mode": "cls", "pooling_mode_mean_tokens": True}
    assert read_pooling(config, tmp_path).modes == ("cls",)


def test_pooling_without_any_mode_is_the_mean(tmp_path: Path) -> None:
    assert read_pooling({}, tmp_path).modes == ("mean",)
    assert read_pooling(dict.fromkeys(OLD_POOLING_FLAGS, False), tmp_path).modes == ("mean",)


def test_prompts_are_pooled_unless_the_config_leaves_them_out(tmp_path: Path) -> None:
    assert read_pooling({}, tmp_path).include_prompt
    assert not read_pooling({"include_prompt": False}, tmp_path).include_prompt


@pytest.mark.parametrize("modes", ["medoid", ["mean", "medoid"]])
def test_an_unknown_pooling_mode_is_named_with_those_that_exist(
    modes: object, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match="'medoid'; Fledge computes cls, max, mean"):
        read_pooling({"pooling_mode": modes}, tmp_path)


@pytest.mark.parametrize("modes", [[], 7])
def test_a_pooling_mode_that_is_none_is_a_corrupt_model(modes: object, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel):
        read_pooling({"pooling_mode": modes}, tmp_path)


@pytest.mark.parametrize(
    ("saved", "activation"),
    [
        ("torch.nn.modules.activation.Tanh", "tanh"),
        ("torch.nn.modules.linear.Identity", "identity"),
        ("torch.nn.modules.activation.GELU", "gelu"),
        ("torch.nn.modules.activation.ReLU", "relu"),
        ("torch.nn.modules.activation.SiLU", "silu"),
        ("torch.nn.modules.activation.Sigmoid", "sigmoid"),
        ("torch.nn.Sigmoid", "sigmoid"),
    ],
)
def test_dense_activations_are_read_by_their_torch_name(
    saved: str, activation: str, tmp_path: Path
) -> None:
    dense = read("Dense", {**DENSE, "activation_function": saved}, tmp_path)
    assert isinstance(dense, Dense)
    assert dense.activation == activation


@pytest.mark.parametrize(
    "saved", ["torch.nn.modules.activation.PReLU", "mine.Tanh", "Tanh", "torch.nn", "", 7]
)
def test_any_other_activation_is_named_in_the_error(saved: object, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="activation_function") as raised:
        read("Dense", {**DENSE, "activation_function": saved}, tmp_path)
    assert repr(str(saved)) in str(raised.value)


def test_a_dense_layer_says_nothing_more_than_its_sizes(tmp_path: Path) -> None:
    dense = read("Dense", DENSE, tmp_path)
    assert dense == Dense("module.2", 8, 4, activation="tanh", bias=True, residual=False)
    assert [weight.source for weight in dense.weights] == ["linear.weight", "linear.bias"]
    assert {weight.name for weight in dense.weights} == {"module.2.weight", "module.2.bias"}


def test_a_dense_layer_may_have_no_bias_and_a_shortcut_with_a_projection(tmp_path: Path) -> None:
    dense = read("Dense", {**DENSE, "bias": False, "use_residual": True}, tmp_path)
    assert dense is not None
    assert [one.source for one in dense.weights] == ["linear.weight", "residual.weight"]


def test_a_shortcut_around_a_square_layer_needs_no_projection(tmp_path: Path) -> None:
    square = {"in_features": 8, "out_features": 8, "bias": False, "use_residual": True}
    dense = read("Dense", square, tmp_path)
    assert dense is not None
    assert [one.source for one in dense.weights] == ["linear.weight"]


def test_each_module_says_how_long_its_vectors_are(tmp_path: Path) -> None:
    dense = read("Dense", DENSE, tmp_path)
    norm = read("LayerNorm", {"dimension": 4}, tmp_path)
    assert dense is not None
    assert norm is not None
    assert dense.output_size(8) == 4
    assert norm.output_size(4) == 4
    assert Normalize().output_size(5) == 5
    for module, size in ((dense, 9), (norm, 5)):
        with pytest.raises(CorruptModel, match=r"module\.2 takes vectors of \d, but it gets"):
            module.output_size(size)


def test_a_layer_norm_has_two_weights(tmp_path: Path) -> None:
    norm = read("LayerNorm", {"dimension": 4}, tmp_path)
    assert isinstance(norm, LayerNorm)
    assert [one.source for one in norm.weights] == ["norm.weight", "norm.bias"]


@pytest.mark.parametrize("field", ["module_input_name", "module_output_name"])
@pytest.mark.parametrize("kind", ["Dense", "Normalize"])
def test_modules_over_anything_but_the_sentence_are_refused(
    kind: str, field: str, tmp_path: Path
) -> None:
    for allowed in (None, "sentence_embedding"):
        assert read(kind, {**DENSE, field: allowed}, tmp_path) is not None
    with pytest.raises(UnsupportedModel, match=f"{field} is 'token_embeddings'"):
        read(kind, {**DENSE, field: "token_embeddings"}, tmp_path)


def test_normalize_needs_no_config(tmp_path: Path) -> None:
    assert read_module("Normalize", tmp_path / "2_Normalize", "module.2") == Normalize()


def test_dropout_does_nothing(tmp_path: Path) -> None:
    assert read_module("Dropout", tmp_path, "module.2") is None


def test_any_other_module_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"'LSTM'; .*Pooling, .*Dense"):
        read_module("LSTM", tmp_path, "module.2")


@pytest.mark.parametrize(
    ("kind", "field"), [("Dense", "in_features"), ("Dense", "out_features"), ("LayerNorm", "dimen")]
)
def test_a_config_that_lacks_a_field_names_it(kind: str, field: str, tmp_path: Path) -> None:
    whole = DENSE if kind == "Dense" else {}
    config = {name: value for name, value in whole.items() if name != field}
    with pytest.raises(CorruptModel, match=field):
        read(kind, config, tmp_path)


DAMAGE = ["{", "[]", "7", "null", '"text"', "", "[" * 100_000]


@pytest.mark.parametrize("kind", ["Pooling", "Dense", "LayerNorm", "Normalize"])
@pytest.mark.parametrize("text", DAMAGE, ids=range(len(DAMAGE)))
def test_a_config_that_is_no_object_is_a_corrupt_model(
    kind: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(CorruptModel, match=r"config\.json"):
        read(kind, text, tmp_path)


def test_a_config_that_is_no_utf_8_is_a_corrupt_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(CorruptModel, match="cannot be read as JSON"):
        read_json(tmp_path / "config.json")


def test_an_absent_file_is_an_empty_object(tmp_path: Path) -> None:
    assert read_json(tmp_path / "config.json") == {}
