"""Trending: what is asked for now leads, and what was asked for long ago fades."""

import pytest

from fledge.catalog.traffic import HALF_LIFE_S, Traffic


class FakeClock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_model_that_was_never_asked_for_counts_nothing() -> None:
    traffic = Traffic()
    assert traffic.trending("a") == 0
    assert traffic.total("a") == 0


def test_a_request_counts_half_after_each_half_life_and_stays_in_the_total() -> None:
    clock = FakeClock()
    traffic = Traffic(clock)
    for _ in range(8):
        traffic.count("a")
    assert traffic.trending("a") == 8
    clock.now += HALF_LIFE_S
    assert traffic.trending("a") == pytest.approx(4)
    traffic.count("a")
    clock.now += HALF_LIFE_S
    assert traffic.trending("a") == pytest.approx(2.5)
    assert traffic.total("a") == 9


def test_what_is_asked_for_now_leads_over_what_was_asked_for_more_often_long_ago() -> None:
    clock = FakeClock()
    traffic = Traffic(clock)
    for _ in range(100):
        traffic.count("old")
    clock.now += 10 * HALF_LIFE_S
    traffic.count("new")
    assert traffic.trending("new") > traffic.trending("old")
