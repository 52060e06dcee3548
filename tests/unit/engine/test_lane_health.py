"""What a lane says of itself: stuck, dead, what waits, what its batches were."""

import threading
from collections.abc import Iterator

import pytest

from fledge.engine.channel import MIN_BUDGET
from fledge.engine.watch import STUCK_FACTOR, STUCK_S, Watch
from fledge.errors import BackendUnavailable
from tests.unit.engine.lane_bench import (
    FATAL_ID,
    TIMEOUT_S,
    Bench,
    Model,
    TurnedClock,
    backend_of,
    eventually,
    result,
)

DIES = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Heard:
    """Remembers what an observer is told."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int, int, float, float]] = []

    def on_batch(self, model_id: str, rows: int, tokens: int, fill: float, seconds: float) -> None:
        self.batches.append((model_id, rows, tokens, fill, seconds))


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def bench(clock: TurnedClock, heard: Heard) -> Iterator[Bench]:
    bench = Bench(observer=heard, watch=Watch(clock))
    yield bench
    bench.model.gate.set()
    bench.close()


def hang(bench: Bench, *ids: int) -> None:
    bench.model.gate.clear()
    bench.submit(*ids)
    bench.model.wait_until_computing()


def test_a_thread_that_hangs_is_told_of_until_its_batch_ends(
    bench: Bench, clock: TurnedClock
) -> None:
    hang(bench, 1)
    waiting = bench.submit(2)
    clock.now_s += STUCK_S
    assert bench.lane.problem() is None
    clock.now_s += 1
    assert "is stuck" in (bench.lane.problem() or "")
    bench.model.gate.set()
    assert result(waiting) == [[2, 1]]
    assert bench.lane.problem() is None


def test_a_batch_that_has_to_take_long_is_given_its_time(bench: Bench, clock: TurnedClock) -> None:
    bench.model.gate.clear()
    bench.submit(1, length=10)  # ten seconds, at the speed of one token a second
    bench.model.wait_until_computing()
    clock.now_s += 10 * STUCK_FACTOR
    assert bench.lane.problem() is None
    clock.now_s += 1
    assert "is stuck" in (bench.lane.problem() or "")


def test_a_thread_that_hangs_before_its_batch_and_with_its_lock_is_told_of(
    bench: Bench, clock: TurnedClock
) -> None:
    gate = threading.Event()

    def budget(target_s: float, *, is_alone: bool) -> float:
        assert gate.wait(TIMEOUT_S)
        return MIN_BUDGET

    bench.channel.budget = budget  # type: ignore[method-assign] # a seam of this test
    answer = bench.submit(1)
    clock.now_s += STUCK_S + 1
    assert "is stuck" in (bench.lane.problem() or "")
    gate.set()
    assert result(answer) == [[1, 1]]


def test_a_lane_that_rests_is_well_however_long(bench: Bench, clock: TurnedClock) -> None:
    result(bench.submit(1))
    assert eventually(lambda: bench.lane._watch._due is None)
    clock.now_s += 1e6
    assert bench.lane.problem() is None


def test_work_behind_the_stuck_thread_of_a_model_that_left_is_told_of(
    bench: Bench, clock: TurnedClock
) -> None:
    bench.model.gate.clear()
    left = bench.submit(1)
    bench.model.wait_until_computing()
    left.cancel()
    leaving = threading.Thread(target=bench.lane.detach, args=(bench.channel,))
    leaving.start()
    assert eventually(lambda: not bench.lane.alive)
    later = bench.attach(Model())
    answer = bench.submit(7, channel=later)
    clock.now_s += STUCK_S + 1
    assert "is stuck" in (bench.lane.problem() or "")
    bench.model.gate.set()
    assert result(answer) == [[7, 1]]
    leaving.join(TIMEOUT_S)


@DIES
def test_a_thread_that_died_is_told_of_until_a_model_is_loaded_anew(bench: Bench) -> None:
    hang(bench, FATAL_ID)
    bench.model.gate.set()
    assert eventually(lambda: bench.lane.problem() == "the compute lane died")
    bench.attach(Model())
    assert bench.lane.problem() is None
    assert result(bench.submit(1)) == [[1, 1]]


def test_a_model_on_a_stuck_lane_has_failed_but_may_recover(
    bench: Bench, clock: TurnedClock
) -> None:
    backend = backend_of(bench.lane, Model())
    hang(bench, 1)
    clock.now_s += STUCK_S + 1
    health = backend.health()
    assert (health.state, health.may_recover) == ("failed", True)
    assert "is stuck" in health.reason
    bench.model.gate.set()
    assert eventually(lambda: backend.health().state == "warm")
    backend.close()
    assert backend.health().state == "cold"


@DIES
def test_a_model_on_a_dead_lane_has_to_be_loaded_anew(bench: Bench) -> None:
    backend = backend_of(bench.lane, Model())
    hang(bench, FATAL_ID)
    bench.model.gate.set()
    assert eventually(lambda: backend.health().state == "failed")
    assert not backend.health().may_recover
    with pytest.raises(BackendUnavailable):
        bench.submit(1)
    backend.close()


def test_what_waits_is_known_while_a_batch_is_computed(bench: Bench) -> None:
    hang(bench, 1)
    for tenant, ids in (("a", [2, 3]), ("b", [4]), ("a", [5])):
        bench.submit(*ids, length=10, tenant=tenant)
    with bench.lane.arriving(bench.channel, 7, tenant="c"):
        assert bench.lane.waiting_requests == 3
        assert bench.lane.waiting_tokens == 47
        assert bench.lane.waiting_tenants == 3
    bench.model.gate.set()
    assert eventually(lambda: bench.lane.waiting_requests == 0)
    assert (bench.lane.waiting_tokens, bench.lane.waiting_tenants) == (0, 0)


def test_the_observer_is_told_of_every_batch(bench: Bench, heard: Heard) -> None:
    hang(bench, 1)
    both = [bench.submit(2, length=10), bench.submit(3, 4, length=11)]
    bench.model.gate.set()
    for one in both:
        result(one)
    assert eventually(lambda: len(heard.batches) == 2)
    model_id, rows, tokens, fill, seconds = heard.batches[1]
    assert (model_id, rows, tokens) == ("test/model", 3, 32)
    assert fill == 32 / MIN_BUDGET
    assert seconds > 0


def test_the_busy_times_of_all_requests_are_the_time_that_the_lane_computed(
    bench: Bench, heard: Heard
) -> None:
    hang(bench, 1)
    bulk, query = bench.submit(*range(2, 9), length=30), bench.submit(9, length=10)
    bench.model.gate.set()
    first = bench.submit(10)
    answers = [one.result(TIMEOUT_S) for one in (bulk, query, first)]
    assert eventually(lambda: sum(rows for _, rows, *_ in heard.batches) == 10)
    computed_ms = 1000 * sum(seconds for *_, seconds in heard.batches[1:])
    assert sum(one.busy_ms for one in answers) == pytest.approx(computed_ms)
    assert all(0 < one.busy_ms <= one.compute_ms for one in answers)


def test_a_batch_is_shared_out_by_tokens(bench: Bench) -> None:
    hang(bench, 1)
    long, short = bench.submit(2, 3, length=15), bench.submit(4, length=10)
    bench.model.gate.set()
    long_ms, short_ms = (one.result(TIMEOUT_S).busy_ms for one in (long, short))
    assert long_ms == pytest.approx(3 * short_ms)
