"""The families: configs in their spellings, tables of weights, and what is refused by name."""

from collections.abc import Mapping
from typing import Any

import pytest

from fledge.engine.architectures.encoder import hidden_activation
from fledge.engine.architectures.family import EncoderShape, PositionRule, RawConfig
from fledge.engine.architectures.registry import FAMILIES, find_family
from fledge.errors import UnsupportedModel

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}
DISTILBERT = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 64,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}
CONFIGS: Mapping[str, RawConfig] = {
    name: DISTILBERT if name == "distilbert" else BERT for name in FAMILIES
}


def shape_of(name: str, **fields: Any) -> EncoderShape:
    return find_family(name).read_config({**CONFIGS[name], **fields})


def sources(name: str, **fields: Any) -> set[str]:
    return {weight.source for weight in find_family(name).weights(shape_of(name, **fields))}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_reads_the_same_sizes_from_its_own_spellings(name: str) -> None:
    shape = shape_of(name)
    assert (shape.num_layers, shape.num_heads) == (2, 4)
    assert (shape.hidden_size, shape.intermediate_size, shape.vocab_size) == (32, 64, 100)
    assert shape.activation == "gelu"
    assert shape.weights_per_token == 2 * (4 * 32 * 32 + 2 * 32 * 64)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_names_each_weight_once_on_both_sides(name: str) -> None:
    table = list(find_family(name).weights(shape_of(name)))
    assert len({weight.name for weight in table}) == len(table)
    assert len({weight.source for weight in table}) == len(table)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_has_six_matrices_and_two_norms(name: str) -> None:
    table = list(find_family(name).weights(shape_of(name)))
    for n in range(2):
        layer = [weight for weight in table if weight.name.startswith(f"layer.{n}.")]
        assert sum(weight.kind == "matrix" for weight in layer) == 6
        assert sum(weight.kind == "vector" for weight in layer) == 10


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_found_in_a_larger_model_by_its_own_prefix(name: str) -> None:
    prefix = "roberta" if name in ("camembert", "xlm-roberta") else name
    assert find_family(name).prefix == f"{prefix}."


@pytest.mark.parametrize(
    ("name", "rule", "max_length"),
    [
        ("bert", PositionRule(), 128),
        ("electra", PositionRule(), 128),
        ("distilbert", PositionRule(), 128),
        ("roberta", PositionRule(offset=2, skip_id=1), 126),
        ("xlm-roberta", PositionRule(offset=2, skip_id=1), 126),
        ("camembert", PositionRule(offset=2, skip_id=1), 126),
        ("mpnet", PositionRule(offset=2, skip_id=1), 126),
    ],
)
def test_positions_follow_the_familys_rule_and_shorten_its_table(
    name: str, rule: PositionRule, max_length: int
) -> None:
    shape = shape_of(name)
    assert (shape.positions, shape.max_length) == (rule, max_length)


def test_robertas_positions_follow_its_padding_token() -> None:
    assert shape_of("roberta", pad_token_id=3).positions == PositionRule(offset=4, skip_id=3)


def test_mpnets_padding_position_is_1_whatever_its_config_says() -> None:
    assert shape_of("mpnet", pad_token_id=7).positions == PositionRule(offset=2, skip_id=1)


def test_mpnet_has_a_relative_bias_and_no_token_types() -> None:
    shape = shape_of("mpnet", relative_attention_num_buckets=16)
    assert shape.relative is not None
    assert shape.relative.num_buckets == 16
    table = sources("mpnet")
    assert "encoder.relative_attention_bias.weight" in table
    assert "embeddings.token_type_embeddings.weight" not in table


@pytest.mark.parametrize("buckets", [0, 2, 3])
def test_too_few_buckets_for_a_relative_bias_are_refused(buckets: int) -> None:
    with pytest.raises(UnsupportedModel, match=f"relative_attention_num_buckets is {buckets}"):
        shape_of("mpnet", relative_attention_num_buckets=buckets)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_token_types_are_added_where_there_are_any(size: int) -> None:
    table = sources("bert", type_vocab_size=size)
    assert ("embeddings.token_type_embeddings.weight" in table) == (size > 0)


def test_distilbert_has_names_of_its_own_and_no_token_types() -> None:
    table = sources("distilbert")
    assert "transformer.layer.1.attention.q_lin.weight" in table
    assert "transformer.layer.0.ffn.lin2.bias" in table
    assert "embeddings.token_type_embeddings.weight" not in table


def test_electras_embeddings_may_be_narrower_than_its_layers() -> None:
    assert shape_of("electra", embedding_size=16).embedding_size == 16
    assert "embeddings_project.weight" in sources("electra", embedding_size=16)
    assert "embeddings_project.weight" not in sources("electra", embedding_size=32)


def test_an_electra_that_names_no_embedding_size_has_128() -> None:
    assert shape_of("electra").embedding_size == 128


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("add_cross_attention", True),
    ],
)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "distilbert"])
def test_arithmetic_that_is_not_written_is_refused_by_field_and_value(
    name: str, field: str, value: object
) -> None:
    with pytest.raises(UnsupportedModel, match=f"{field} is {value!r}; Fledge computes only"):
        shape_of(name, **{field: value})


@pytest.mark.parametrize(
    ("name", "computed"),
    [("gelu", "gelu"), ("gelu_new", "gelu_tanh"), ("relu", "relu"), ("swish", "silu")],
)
def test_activations_are_known_by_every_spelling(name: str, computed: str) -> None:
    assert hidden_activation(name) == computed


def test_an_unknown_activation_is_named_with_those_that_exist() -> None:
    with pytest.raises(UnsupportedModel, match=r"'mish'; Fledge computes gelu, gelu_fast"):
        hidden_activation("mish")


def test_an_unknown_family_is_named_with_those_that_exist() -> None:
    with pytest.raises(UnsupportedModel, match=r"'t5'; Fledge runs bert, camembert"):
        find_family("t5")
