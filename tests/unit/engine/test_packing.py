"""The arrays of a packed batch, each against a slow and obvious form of itself."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.engine.architectures.family import PositionRule, RelativeRule
from fledge.engine.packing import (
    Arrays,
    PackingRules,
    Row,
    pack,
    relative_buckets,
    round_length,
    round_rows,
    round_tokens,
)
from tests.unit.engine.obvious import bucket_of, positions_of

PLAIN = PackingRules(positions=PositionRule())
PAD_ID = 1
ROBERTA = PackingRules(positions=PositionRule(offset=PAD_ID + 1, skip_id=PAD_ID))

ROWS = st.lists(
    st.builds(
        Row, st.lists(st.integers(0, 5), min_size=1, max_size=40), masked_tokens=st.integers(0, 45)
    ),
    min_size=1,
    max_size=40,
)
MEANS = ("mean", "mean_sqrt_len_tokens", "weightedmean")


def num_tokens(rows: list[Row]) -> int:
    return sum(len(row.ids) for row in rows)


def remaining(row: Row) -> list[int]:
    """The places in a row that pooling sees."""
    return list(range(min(row.masked_tokens, len(row.ids)), len(row.ids)))


@pytest.mark.parametrize(
    ("count", "rounded"), [(1, 8), (8, 8), (9, 16), (64, 64), (65, 80), (97, 112), (513, 544)]
)
def test_tokens_are_rounded_to_8_then_to_16_then_to_32(count: int, rounded: int) -> None:
    assert round_tokens(count) == rounded


@pytest.mark.parametrize(("length", "rounded"), [(1, 8), (8, 8), (9, 16), (500, 504), (512, 512)])
def test_lengths_are_rounded_to_8(length: int, rounded: int) -> None:
    assert round_length(length) == rounded


@pytest.mark.parametrize(
    ("count", "rounded"),
    [(1, 1), (2, 2), (3, 3), (4, 4), (5, 8), (8, 8), (9, 12), (32, 32), (33, 48), (49, 64)],
)
def test_rows_are_exact_up_to_4_then_rounded_to_4_and_to_16(count: int, rounded: int) -> None:
    assert round_rows(count) == rounded


@given(st.integers(1, 5000))
def test_rounding_never_loses_anything_and_is_stable(count: int) -> None:
    for rounded in (round_tokens, round_length, round_rows):
        assert rounded(count) >= count
        assert rounded(rounded(count)) == rounded(count)


@given(ROWS)
def test_the_arrays_have_the_rounded_sizes_and_the_types_of_the_graph(rows: list[Row]) -> None:
    arrays = pack(rows, PLAIN)
    tokens = round_tokens(num_tokens(rows))
    square = (round_rows(len(rows)), round_length(max(len(row.ids) for row in rows)))
    masks = ("mask", "pool_mask", *MEANS)
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("ids", "positions", "unpad"), (tokens,)),
        **dict.fromkeys(("first", "last"), square[:1]),
        **dict.fromkeys(("pad", *masks), square),
    }
    assert {name: array.shape for name, array in arrays.items()} == shapes
    for name, array in arrays.items():
        assert array.dtype == (np.float32 if name in masks else np.int32)


@given(ROWS)
def test_gathering_by_pad_and_then_by_unpad_gives_the_tokens_back(rows: list[Row]) -> None:
    arrays = pack(rows, PLAIN)
    tokens = np.arange(1, len(arrays["ids"]) + 1)
    padded = tokens[arrays["pad"]]
    count = num_tokens(rows)
    assert (padded.reshape(-1)[arrays["unpad"]][:count] == tokens[:count]).all()
    ids = arrays["ids"][arrays["pad"]]
    for number, row in enumerate(rows):
        assert ids[number, : len(row.ids)].tolist() == list(row.ids)


@given(ROWS)
def test_every_index_points_at_a_real_token_or_slot(rows: list[Row]) -> None:
    arrays = pack(rows, PLAIN)
    for name in ("pad", "first", "last"):
        assert arrays[name].min() >= 0
        assert arrays[name].max() < num_tokens(rows)
    assert 0 <= arrays["unpad"].min() <= arrays["unpad"].max() < arrays["pad"].size


@given(ROWS)
def test_masks_count_tokens_and_what_pooling_sees(rows: list[Row]) -> None:
    arrays = pack(rows, PLAIN)
    empty = [0] * (len(arrays["mask"]) - len(rows))
    assert arrays["mask"].sum(axis=1).tolist() == [len(row.ids) for row in rows] + empty
    seen = [remaining(row) for row in rows]
    assert arrays["pool_mask"].sum(axis=1).tolist() == [len(one) for one in seen] + empty
    for number, places in enumerate(seen):
        assert np.flatnonzero(arrays["pool_mask"][number]).tolist() == places


@given(ROWS)
def test_first_and_last_are_the_ends_of_what_pooling_sees(rows: list[Row]) -> None:
    arrays = pack(rows, PLAIN)
    start = 0
    for number, row in enumerate(rows):
        # where a mask covers the whole row, nothing is left to prefer over its beginning
        first = min(remaining(row), default=0)
        assert arrays["first"][number] == start + first
        assert arrays["last"][number] == start + len(row.ids) - 1
        start += len(row.ids)


@pytest.mark.parametrize("rules", [PLAIN, ROBERTA], ids=["bert", "roberta"])
@given(rows=ROWS)
def test_positions_restart_in_every_row_by_the_models_rule(
    rows: list[Row], rules: PackingRules
) -> None:
    positions = pack(rows, rules)["positions"]
    expected = [one for row in rows for one in positions_of(row.ids, rules.positions)]
    assert positions[: len(expected)].tolist() == expected
    assert positions.min() >= 0


def test_robertas_padding_token_inside_a_text_does_not_move_the_count() -> None:
    rows = [Row([0, 5, PAD_ID, 6, 2]), Row([0, PAD_ID, 2])]
    assert pack(rows, ROBERTA)["positions"][:8].tolist() == [2, 3, 1, 4, 5, 2, 1, 3]


def test_without_a_rule_for_it_a_token_of_the_padding_id_counts() -> None:
    assert pack([Row([0, PAD_ID, 2])], PLAIN)["positions"][:3].tolist() == [0, 1, 2]


@given(ROWS)
def test_the_weights_of_a_mean_sum_to_1_where_pooling_sees_anything(rows: list[Row]) -> None:
    arrays = pack(rows, PLAIN)
    for number, row in enumerate(rows):
        total = 1.0 if remaining(row) else 0.0
        for name in ("mean", "weightedmean"):
            assert math.isclose(arrays[name][number].sum(), total, abs_tol=1e-5)


@given(ROWS)
def test_the_weights_of_every_mean_are_those_of_an_obvious_loop(rows: list[Row]) -> None:
    arrays = pack(rows, PLAIN)
    for number, row in enumerate(rows):
        places = remaining(row)
        places_sum = sum(place + 1 for place in places)
        for place in range(arrays["mask"].shape[1]):
            seen = place in places
            expected = {
                "mean": seen / max(len(places), 1),
                "mean_sqrt_len_tokens": seen / math.sqrt(max(len(places), 1)),
                "weightedmean": seen * (place + 1) / max(places_sum, 1),
            }
            for name, value in expected.items():
                assert math.isclose(arrays[name][number, place], value, abs_tol=1e-6)


def test_leaving_out_a_prompt_keeps_the_weights_of_what_remains_in_proportion() -> None:
    weights = pack([Row([7, 7, 7, 7], masked_tokens=2)], PLAIN)["weightedmean"][0, :4]
    assert np.allclose(weights, [0, 0, 3 / 7, 4 / 7])


@given(ROWS)
def test_rows_that_rounding_adds_are_empty_and_count_nothing(rows: list[Row]) -> None:
    arrays = pack(rows, PLAIN)
    for name in ("mask", "pool_mask", *MEANS):
        assert np.isfinite(arrays[name]).all()
        assert not arrays[name][len(rows) :].any()


@given(ROWS, ROWS)
def test_a_rows_own_arrays_do_not_depend_on_its_neighbours(
    rows: list[Row], others: list[Row]
) -> None:
    alone, together = pack(rows, ROBERTA), pack([*others, *rows], ROBERTA)
    width, skipped = alone["mask"].shape[1], len(others)

    def part(arrays: Arrays, name: str, start: int) -> list[float]:
        values = arrays[name][start : start + len(rows), :width]
        return np.round(values, 6).tolist()  # type: ignore[no-any-return] # NumPy's own Any

    for name in ("mask", "pool_mask", *MEANS):
        assert part(alone, name, 0) == part(together, name, skipped)
    start = num_tokens(others)
    for name in ("ids", "positions"):
        assert (
            together[name][start : start + num_tokens(rows)].tolist()
            == alone[name][: num_tokens(rows)].tolist()
        )


@pytest.mark.parametrize("num_buckets", [4, 8, 32])
@pytest.mark.parametrize("width", [1, 8, 200])
def test_relative_buckets_are_those_of_an_obvious_loop(width: int, num_buckets: int) -> None:
    rule = RelativeRule(num_buckets=num_buckets)
    buckets = relative_buckets(width, rule)
    expected = [[bucket_of(query, key, rule) for key in range(width)] for query in range(width)]
    assert buckets.tolist() == expected
    assert buckets.dtype == np.int32


def test_relative_buckets_come_with_the_batch_in_its_rounded_length() -> None:
    rules = PackingRules(positions=PositionRule(), relative=RelativeRule(num_buckets=32))
    assert pack([Row([5] * 9)], rules)["buckets"].shape == (16, 16)
