"""When a place may be asked."""

from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.routing.health import (
    FAILURES,
    FIRST_REST_S,
    KEY_REST_S,
    LONGEST_ERROR_CHARS,
    LONGEST_REST_S,
    LONGEST_TOLD_S,
    Health,
    one_line,
)
from fledge.routing.outcomes import Fault

FAULT = Fault(reason="it broke", status=502)


class Clock:
    def __init__(self) -> None:
        self.now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


def fail(health: Health, times: int = FAILURES) -> None:
    for _ in range(times):
        health.fail(FAULT)


def test_a_place_is_well_until_it_has_failed_some_times_in_a_row(health: Health) -> None:
    fail(health, FAILURES - 1)
    assert health.may_be_asked
    health.succeed(1, 0.1)
    fail(health, FAILURES - 1)
    assert health.is_well
    fail(health, 1)
    assert (health.may_be_asked, health.rest_s) == (False, FIRST_REST_S)


def test_after_its_rest_one_request_is_let_through(health: Health, clock: Clock) -> None:
    fail(health)
    clock.now_s += FIRST_REST_S
    assert health.may_be_asked
    with health.asked():
        assert not health.may_be_asked
    assert health.may_be_asked  # nothing came of it, so another may try


def test_a_trial_that_succeeds_lets_everybody_in(health: Health, clock: Clock) -> None:
    fail(health)
    clock.now_s += FIRST_REST_S
    with health.asked():
        health.succeed(1, 0.1)
        assert health.is_well


def test_it_takes_two_successes_to_make_good(health: Health, clock: Clock) -> None:
    fail(health)
    clock.now_s += FIRST_REST_S
    health.succeed(1, 0.1)
    fail(health, 1)
    assert health.rest_s == 2 * FIRST_REST_S


def test_rests_double_up_to_the_longest(health: Health, clock: Clock) -> None:
    fail(health)
    rests_s = []
    for _ in range(7):
        rests_s.append(health.rest_s)
        clock.now_s += health.rest_s
        with health.asked():
            fail(health, 1)
    assert rests_s == [1, 2, 4, 8, 16, LONGEST_REST_S, LONGEST_REST_S]


def test_those_who_were_at_it_already_make_no_rest_longer(health: Health) -> None:
    fail(health, 50)
    assert health.rest_s == FIRST_REST_S


def test_a_place_that_says_when_to_come_again_is_believed_at_once(
    health: Health, clock: Clock
) -> None:
    health.fail(Fault(reason="slow down", status=429, retry_after_s=20))
    assert health.rest_s == 20
    health.succeed(1, 0.1)  # of somebody who was at it already
    assert health.rest_s == 20
    clock.now_s += 20
    assert health.may_be_asked


def test_too_many_requests_without_a_time_are_a_rest_at_once(health: Health) -> None:
    health.fail(Fault(reason="slow down", status=429, is_throttled=True))
    assert health.rest_s == FIRST_REST_S


def test_a_key_that_is_not_accepted_is_left_alone_for_long(health: Health) -> None:
    health.fail(Fault(reason="who are you", status=401, is_lasting=True))
    assert health.rest_s == KEY_REST_S
    health.forgive()
    assert health.is_well


def test_nobody_is_believed_for_ever(health: Health) -> None:
    health.fail(Fault(reason="no", status=503, retry_after_s=1e9))
    assert health.rest_s == LONGEST_TOLD_S


def test_a_report_tells_how_it_does(health: Health, clock: Clock) -> None:
    health.succeed(4, 0.2)
    clock.now_s += 10
    fail(health)
    clock.now_s += 0.5
    report = health.report()
    assert (report.state, report.for_s, report.rest_s) == ("resting", 0.5, 0.5)
    assert (report.successes, report.failures) == (1, FAILURES)
    assert report.request_ms == pytest.approx(200)
    assert report.text_ms == pytest.approx(50)
    assert (report.last_error, report.last_status, report.last_error_ago_s) == (
        "it broke",
        502,
        0.5,
    )
    clock.now_s += 1
    assert health.report().state == "trying"


def test_an_error_is_one_line_and_short() -> None:
    assert one_line("a\r\nb\x1b[31m\tc\u202e") == "a b [31m c"
    assert len(one_line("x" * 1000)) == LONGEST_ERROR_CHARS


@settings(deadline=None)
@given(st.lists(st.sampled_from(["fail", "throttle", "told", "succeed", "ask", "leave", "wait"])))
def test_a_place_that_is_not_well_is_tried_by_one_at_a_time(events: list[str]) -> None:
    """Whatever happens in whatever order."""
    clock = Clock()
    health = Health(clock)
    trials: list[ExitStack] = []
    for event in events:
        if event == "fail":
            health.fail(FAULT)
        elif event == "throttle":
            health.fail(Fault(reason="", is_throttled=True))
        elif event == "told":
            health.fail(Fault(reason="", retry_after_s=3))
        elif event == "succeed":
            health.succeed(1, 0.1)
        elif event == "wait":
            clock.now_s += 2
        elif event == "leave" and trials:
            trials.pop().close()
        elif event == "ask" and health.may_be_asked and not health.is_well:
            assert not trials
            trials.append(ExitStack())
            trials[0].enter_context(health.asked())
