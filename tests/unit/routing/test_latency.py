"""What a request may take at a place."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.routing.latency import Latency
from fledge.routing.places import cost_nanos

SIZES = st.integers(1, 2048)


def measured(*pairs: tuple[int, float]) -> Latency:
    latency = Latency()
    for texts, seconds in pairs:
        latency.add(texts, seconds)
    return latency


def test_nothing_is_known_of_what_was_not_measured() -> None:
    assert (Latency().expected_s(1), Latency().request_s, Latency().text_s) == (None, None, None)


def test_bulk_does_not_make_a_place_slow_for_a_query() -> None:
    """0.05 s, and a millisecond a text."""
    latency = measured(*[(n, 0.05 + n / 1000) for n in (1, 500, 100, 1000, 2, 800)])
    assert latency.expected_s(1) == pytest.approx(0.051)
    assert latency.expected_s(2000) == pytest.approx(2.05)


def test_of_one_size_alone_more_texts_are_taken_to_be_slower_and_fewer_are_not() -> None:
    latency = measured((10, 0.2), (10, 0.2))
    assert latency.expected_s(1) == pytest.approx(0.2)
    assert latency.expected_s(20) == pytest.approx(0.4)


def test_a_place_that_slows_down_with_size_is_not_expected_before_it_was_asked() -> None:
    latency = measured((1, 0.001), (100, 0.1), (1000, 10.0))
    expected_s = latency.expected_s(1)
    assert expected_s is not None
    assert 0 < expected_s < 0.02


def test_what_was_lately_counts_more() -> None:
    latency = measured(*[(1, 1.0)] * 20, *[(1, 0.1)] * 20)
    assert latency.request_s is not None
    assert latency.request_s < 0.25


def test_a_request_that_was_given_up_tells_only_that_it_was_slow() -> None:
    latency = measured((1, 1.0))
    latency.add_unfinished(1, 0.2)
    before_s = latency.request_s
    latency.add_unfinished(1, 5.0)
    after_s = latency.request_s
    assert before_s == pytest.approx(1.0)
    assert after_s is not None
    assert after_s > 2.5


@settings(deadline=None)
@given(st.lists(st.tuples(SIZES, st.floats(0.0001, 100)), min_size=1), SIZES)
def test_every_expectation_is_a_time(pairs: list[tuple[int, float]], texts: int) -> None:
    expected_s = measured(*pairs).expected_s(texts)
    assert expected_s is not None
    assert 0.0 <= expected_s < 1e9


@settings(deadline=None)
@given(st.lists(st.tuples(SIZES, st.floats(0.0001, 100)), min_size=1), SIZES, SIZES)
def test_more_texts_are_never_expected_sooner(
    pairs: list[tuple[int, float]], texts: int, others: int
) -> None:
    latency = measured(*pairs)
    few, many = sorted((texts, others))
    a, b = latency.expected_s(few), latency.expected_s(many)
    assert a is not None
    assert b is not None
    assert a <= b * (1 + 1e-9) + 1e-9


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**12))
def test_costs_are_whole_and_rounded_up(tokens: int, price: int) -> None:
    cost = cost_nanos(tokens, price)
    assert cost * 1_000_000 >= tokens * price > (cost - 1) * 1_000_000
