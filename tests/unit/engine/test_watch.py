"""When a lane is taken for stuck, by a clock that the test turns."""

import pytest

from fledge.engine.watch import STUCK_FACTOR, STUCK_S, Watch
from tests.unit.engine.lane_bench import TurnedClock


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def watch(clock: TurnedClock) -> Watch:
    return Watch(clock)


def test_a_lane_with_nothing_to_do_is_never_stuck(clock: TurnedClock, watch: Watch) -> None:
    clock.now_s += 1e6
    assert watch.problem() is None
    watch.begin("org/model", 0.035)
    watch.rest()
    clock.now_s += 1e6
    assert watch.problem() is None


def test_a_batch_is_stuck_when_it_takes_longer_than_the_bound(
    clock: TurnedClock, watch: Watch
) -> None:
    watch.begin("org/model", 0.035)
    clock.now_s += STUCK_S
    assert watch.problem() is None
    clock.now_s += 1
    assert watch.problem() == (
        "the compute lane is stuck: nothing has come of its work for org/model for 31 s"
    )


def test_a_large_model_on_a_slow_machine_is_allowed_much_more(
    clock: TurnedClock, watch: Watch
) -> None:
    watch.begin("org/huge", 100.0)
    clock.now_s += 100 * STUCK_FACTOR
    assert watch.problem() is None
    clock.now_s += 1
    assert watch.problem()


def test_every_batch_begins_anew(clock: TurnedClock, watch: Watch) -> None:
    for _ in range(10):
        watch.begin("org/model", 0.035)
        clock.now_s += STUCK_S
    assert watch.problem() is None


def test_work_with_which_nobody_begins_is_as_bad(clock: TurnedClock, watch: Watch) -> None:
    watch.expect("org/model")
    clock.now_s += STUCK_S / 2
    watch.expect("org/other")
    clock.now_s += STUCK_S / 2 + 1
    assert "org/model for 31 s" in (watch.problem() or "")


def test_work_that_comes_meanwhile_does_not_excuse_a_batch(
    clock: TurnedClock, watch: Watch
) -> None:
    watch.begin("org/model", 0.035)
    clock.now_s += STUCK_S
    watch.expect("org/model")
    clock.now_s += 1
    assert watch.problem()
