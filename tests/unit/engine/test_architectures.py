"""The families: configs in their spellings, tables of weights, and what is refused by name."""

import math
from collections.abc import Mapping
from typing import Any

import pytest

from fledge.engine.architectures.decoder import DecoderShape
from fledge.engine.architectures.encoder import EncoderShape
from fledge.engine.architectures.family import PositionRule, RawConfig
from fledge.engine.architectures.fields import hidden_activation
from fledge.engine.architectures.registry import FAMILIES, find_family
from fledge.errors import CorruptModel, UnsupportedModel

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
DECODERS = ("gemma2", "llama", "mistral", "qwen2", "qwen3")
ENCODERS = tuple(name for name in FAMILIES if name not in DECODERS)
CONFIGS: Mapping[str, RawConfig] = {
    name: DISTILBERT if name == "distilbert" else BERT for name in FAMILIES
}


def shape_of(name: str, **fields: Any) -> EncoderShape:
    shape = find_family(name).read_config({**CONFIGS[name], **fields})
    assert isinstance(shape, EncoderShape)
    return shape


def decoder_shape(name: str, **fields: Any) -> DecoderShape:
    shape = find_family(name).read_config({**BERT, "num_key_value_heads": 2, **fields})
    assert isinstance(shape, DecoderShape)
    return shape


def sources(name: str, **fields: Any) -> set[str]:
    return {weight.source for weight in find_family(name).weights(shape_of(name, **fields))}


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_reads_the_same_sizes_from_its_own_spellings(name: str) -> None:
    shape = shape_of(name)
    assert (shape.num_layers, shape.num_heads) == (2, 4)
    assert (shape.hidden_size, shape.intermediate_size, shape.vocab_size) == (32, 64, 100)
    assert shape.activation == "gelu"
    assert shape.weights_per_token == 2 * (4 * 32 * 32 + 2 * 32 * 64)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_names_each_weight_once_on_both_sides(name: str) -> None:
    family = find_family(name)
    shape = family.read_config({**CONFIGS[name], "num_key_value_heads": 2})
    table = list(family.weights(shape))
    assert len({weight.name for weight in table}) == len(table)
    assert len({weight.source for weight in table}) == len(table)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoders_layer_has_six_matrices_and_two_norms(name: str) -> None:
    table = list(find_family(name).weights(shape_of(name)))
    for n in range(2):
        layer = [weight for weight in table if weight.name.startswith(f"layer.{n}.")]
        assert sum(weight.kind == "matrix" for weight in layer) == 6
        assert sum(weight.kind == "vector" for weight in layer) == 10


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_found_in_a_larger_model_by_its_own_prefix(name: str) -> None:
    shared = {"camembert": "roberta", "xlm-roberta": "roberta"} | dict.fromkeys(DECODERS, "model")
    prefix = shared.get(name, name)
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
@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "distilbert"])
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


@pytest.mark.parametrize(
    ("name", "kv_heads", "head_dim", "biased", "window"),
    [
        ("llama", 4, 8, set(), None),
        ("mistral", 8, 8, set(), 4096),
        ("qwen2", 32, 8, {"query", "key", "value"}, None),
        ("qwen3", 32, 128, set(), None),
        ("gemma2", 4, 256, set(), 4096),
    ],
)
def test_what_a_decoders_config_leaves_out_means_what_transformers_takes_it_for(
    name: str, kv_heads: int, head_dim: int, biased: set[str], window: int | None
) -> None:
    heads = {"num_attention_heads": 32, "hidden_size": 256, "head_dim": head_dim}
    if name in ("qwen3", "gemma2"):
        del heads["head_dim"]
    if name == "llama":
        heads = {}
    shape = find_family(name).read_config({**BERT, **heads})
    assert (shape.num_kv_heads, shape.head_dim) == (kv_heads, head_dim)
    assert (shape.biased, shape.windows[0], shape.rms_norm_eps) == (biased, window, 1e-6)
    assert shape.is_causal


def test_attention_bias_is_of_all_four_projections_and_mlp_bias_of_the_others() -> None:
    shape = decoder_shape("llama", attention_bias=True, mlp_bias=True)
    everything = {"query", "key", "value", "attention_out", "gate", "up", "down"}
    assert shape.biased == everything


def test_gemma2_looks_back_through_a_window_in_every_other_layer_beginning_with_the_first() -> None:
    shape = decoder_shape("gemma2", num_hidden_layers=3, sliding_window=7)
    assert shape.windows == (7, None, 7)


def test_qwens_windows_begin_at_a_layer_and_only_when_they_are_switched_on() -> None:
    window = {"num_hidden_layers": 3, "sliding_window": 7, "max_window_layers": 1}
    assert decoder_shape("qwen2", **window, use_sliding_window=True).windows == (None, 7, 7)
    assert decoder_shape("qwen2", **window).windows == (None, None, None)


def test_layer_types_go_before_a_familys_own_rule() -> None:
    kinds = ["full_attention", "sliding_attention"]
    shape = decoder_shape("gemma2", sliding_window=7, layer_types=kinds)
    assert shape.windows == (None, 7)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("qwen3", {"is_causal": False}, "is_causal is False"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
        ("qwen3", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen3", {"layer_types": ["full_attention", "linear_attention"]}, "'linear_attention'"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding_window is"),
        ("llama", {"num_key_value_heads": 3}, "cannot share 3"),
        ("llama", {"rope_scaling": {"rope_type": "longrope"}}, "rope_scaling.*longrope"),
        ("llama", {"rope_scaling": "yarn"}, "rope_scaling is 'yarn'"),
        ("qwen3", {"rope_parameters": {"full_attention": {"rope_theta": 2.0}}}, "rope_parameters"),
        ("llama", {"partial_rotary_factor": 0.5}, "whole heads"),
    ],
)
def test_a_decoder_that_asks_for_other_arithmetic_is_refused_by_field(
    name: str, fields: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        decoder_shape(name, **fields)


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, 10**10])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_number_of_layers_that_is_none_is_named(name: str, value: object) -> None:
    field = "n_layers" if name == "distilbert" else "num_hidden_layers"
    with pytest.raises(CorruptModel, match=f"{field} cannot be"):
        find_family(name).read_config({**CONFIGS[name], field: value})


def test_llama_reads_past_a_window_that_its_config_inherited() -> None:
    assert decoder_shape("llama", sliding_window=5).windows == (None, None)


def test_rope_turns_the_first_dimension_by_one_radian_and_the_last_by_nearly_theta() -> None:
    frequencies = decoder_shape("llama", rope_theta=100.0, head_dim=8).frequencies
    assert frequencies == pytest.approx([1.0, 100**-0.25, 100**-0.5, 100**-0.75])


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("kind", ["type", "rope_type"])
def test_rope_is_read_in_old_and_new_spellings(spelling: str, kind: str) -> None:
    plain = decoder_shape("llama", rope_theta=500.0).frequencies
    scaling = {kind: "linear", "factor": 4.0, "rope_theta": 500.0}
    scaled = decoder_shape("llama", **{spelling: scaling}).frequencies
    assert scaled == pytest.approx([one / 4 for one in plain])


def test_llama3s_scaling_keeps_short_waves_and_stretches_long_ones() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    plain = decoder_shape("llama", head_dim=16).frequencies
    scaled = decoder_shape("llama", head_dim=16, rope_scaling=scaling).frequencies
    assert scaled[0] == plain[0]
    assert scaled[-1] == pytest.approx(plain[-1] / 8)
    assert plain[2] / 8 < scaled[2] < plain[2]


def test_yarn_scales_the_angles_and_their_cosines() -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    plain = decoder_shape("qwen3", head_dim=16)
    scaled = decoder_shape("qwen3", head_dim=16, rope_scaling=scaling)
    assert scaled.frequencies[0] == pytest.approx(plain.frequencies[0])
    assert scaled.frequencies[-1] == pytest.approx(plain.frequencies[-1] / 4)
    assert scaled.rotation_scale == pytest.approx(0.1 * math.log(4) + 1)
