"""The compute lane with a computation that the test holds in its hands."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest

from fledge.engine.channel import MAX_BUDGET, MIN_BUDGET, Channel
from fledge.engine.lane import Lane
from fledge.engine.packing import Row
from fledge.errors import BackendUnavailable, ComputeError, DeadlineExceeded, Overloaded
from fledge.types import Vectors
from tests.unit.engine.lane_bench import (
    BAD_ID,
    COST,
    FATAL_ID,
    NAN_ID,
    TIMEOUT_S,
    Bench,
    Model,
    eventually,
    result,
)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.model.gate.set()
    bench.close()


def test_vectors_come_back_in_the_order_of_the_rows(bench: Bench) -> None:
    rows = [Row([n] * length) for n, length in enumerate([3, 40, 1, 90, 7, 40])]
    future = bench.lane.submit(bench.channel, rows, priority=0, deadline=None)
    assert result(future) == [[n, len(row.ids)] for n, row in enumerate(rows)]
    assert len(bench.model.batches) > 1


def test_the_answer_says_how_long_it_waited_and_was_computed(bench: Bench) -> None:
    bench.model.gate.clear()
    first, second = bench.submit(1, length=64), bench.submit(2, length=64)
    bench.model.wait_until_computing()
    time.sleep(0.02)
    bench.model.gate.set()
    assert first.result(TIMEOUT_S).compute_ms >= 20
    assert second.result(TIMEOUT_S).queue_ms >= 20
    assert second.result(TIMEOUT_S).compute_ms < 20 + second.result(TIMEOUT_S).queue_ms


def test_work_is_answered_as_soon_as_its_own_batch_is_done(bench: Bench) -> None:
    bench.model.gate.clear()
    bulk = bench.submit(*range(1, 100), length=64)
    bench.model.wait_until_computing()
    query = bench.submit(500)
    bench.model.gate.set()
    assert result(query) == [[500, 1]]
    assert bench.model.batches[1] == [500]
    assert len(result(bulk)) == 99


def test_works_of_several_callers_share_a_batch(bench: Bench) -> None:
    bench.model.gate.clear()
    blocker = bench.submit(1)
    bench.model.wait_until_computing()
    futures = [bench.submit(n, n + 1) for n in (10, 20, 30)]
    bench.model.gate.set()
    for number, future in zip((10, 20, 30), futures, strict=True):
        assert result(future) == [[number, 1], [number + 1, 1]]
    assert result(blocker) == [[1, 1]]
    assert sorted(bench.model.batches[1]) == [10, 11, 20, 21, 30, 31]


def test_cancelled_work_leaves_the_queue(bench: Bench) -> None:
    bench.model.gate.clear()
    running, waiting, other = bench.submit(1), bench.submit(2, length=64), bench.submit(3)
    bench.model.wait_until_computing()
    assert waiting.cancel()
    assert bench.channel.batcher.waiting_tokens == sum(
        request.tokens_left for request in bench.channel.batcher
    )
    bench.model.gate.set()
    assert result(running) == [[1, 1]]
    assert result(other) == [[3, 1]]
    assert all(2 not in batch for batch in bench.model.batches)


def test_what_is_computed_for_cancelled_work_is_thrown_away(bench: Bench) -> None:
    bench.model.gate.clear()
    cancelled = bench.submit(*range(1, 10), length=64)
    bench.model.wait_until_computing()
    assert cancelled.cancel()
    bench.model.gate.set()
    assert result(bench.submit(50)) == [[50, 1]]
    assert len(bench.model.batches) == 2
    assert not bench.channel.works
    with pytest.raises(CancelledError):
        cancelled.result(TIMEOUT_S)


def test_a_deadline_that_passes_in_the_queue_fails_without_a_computation(bench: Bench) -> None:
    bench.model.gate.clear()
    bench.submit(1)
    bench.model.wait_until_computing()
    late = bench.submit(2, deadline_in_s=-0.001)
    in_time = bench.submit(3, deadline_in_s=TIMEOUT_S)
    bench.model.gate.set()
    with pytest.raises(DeadlineExceeded, match="gave up after"):
        result(late)
    assert result(in_time) == [[3, 1]]
    assert all(2 not in batch for batch in bench.model.batches)


def test_a_deadline_stops_the_rest_of_work_that_was_begun(bench: Bench) -> None:
    bench.model.gate.clear()
    begun = bench.submit(*range(1, 10), length=64, deadline_in_s=0.02)
    bench.model.wait_until_computing()
    time.sleep(0.03)
    bench.model.gate.set()
    with pytest.raises(DeadlineExceeded):
        result(begun)
    assert result(bench.submit(50)) == [[50, 1]]
    assert len(bench.model.batches) == 2


def test_more_than_may_wait_is_refused_with_a_time_to_come_back() -> None:
    bench = Bench(max_queued_tokens=100)
    bench.model.gate.clear()
    running = bench.submit(1)
    bench.model.wait_until_computing()
    waiting = bench.submit(2, length=60)
    with pytest.raises(Overloaded, match=r"60 tokens are waiting .* at most 100") as raised:
        bench.submit(3, length=41)
    assert raised.value.retry_after_s >= 1
    fits = bench.submit(4, length=40)
    bench.model.gate.set()
    wait([running, waiting, fits], TIMEOUT_S)
    assert result(bench.submit(5, length=41)) == [[5, 41]]
    bench.close()


def test_one_request_beyond_the_limit_is_admitted_when_nothing_else_waits() -> None:
    bench = Bench(max_queued_tokens=100)
    assert len(result(bench.submit(*range(1, 50), length=64))) == 49
    bench.close()


def test_the_limit_counts_what_waits_for_every_model() -> None:
    bench = Bench(max_queued_tokens=100)
    bench.model.gate.clear()
    other = bench.attach(Model())
    bench.submit(1)
    bench.model.wait_until_computing()
    bench.submit(2, length=60)
    with pytest.raises(Overloaded):
        bench.submit(3, length=60, channel=other)
    bench.model.gate.set()
    bench.close()


def test_cancelling_makes_room_for_others() -> None:
    bench = Bench(max_queued_tokens=100)
    bench.model.gate.clear()
    bench.submit(1)
    bench.model.wait_until_computing()
    bench.submit(2, length=100).cancel()
    future = bench.submit(3, length=100)
    bench.model.gate.set()
    assert result(future) == [[3, 100]]
    bench.close()


def test_a_failed_batch_fails_those_in_it_and_nobody_else(bench: Bench) -> None:
    bench.model.gate.clear()
    before = bench.submit(1)
    bench.model.wait_until_computing()
    bad, beside = bench.submit(BAD_ID, BAD_ID), bench.submit(2)
    elsewhere = bench.submit(3, length=64)
    bench.model.gate.set()
    for future in (bad, beside):
        with pytest.raises(ComputeError, match="the computation failed: RuntimeError"):
            result(future)
    assert result(before) == [[1, 1]]
    assert result(elsewhere) == [[3, 64]]
    assert result(bench.submit(4)) == [[4, 1]]
    assert bench.lane.alive


def test_a_failed_batch_takes_the_rest_of_its_work_out_of_the_queue(bench: Bench) -> None:
    future = bench.submit(*[BAD_ID] * 9, length=64)
    with pytest.raises(ComputeError):
        result(future)
    assert result(bench.submit(1)) == [[1, 1]]
    assert len(bench.model.batches) == 2
    assert not bench.channel.works


def test_a_vector_that_is_not_finite_fails_its_own_work_only(bench: Bench) -> None:
    bench.model.gate.clear()
    bench.submit(1)
    bench.model.wait_until_computing()
    bad, good = bench.submit(10, NAN_ID, 11), bench.submit(20, 21)
    bench.model.gate.set()
    with pytest.raises(ComputeError, match="not finite"):
        result(bad)
    assert result(good) == [[20, 1], [21, 1]]
    assert len(bench.model.batches) == 2


def test_models_take_turns(bench: Bench) -> None:
    log: list[str] = []
    models = [Model(name, log) for name in "abc"]
    channels = [bench.attach(model) for model in models]
    bench.model.gate.clear()
    bench.submit(1)
    bench.model.wait_until_computing()
    futures = [bench.submit(*range(1, 4), length=64, channel=channel) for channel in channels]
    bench.model.gate.set()
    wait(futures, TIMEOUT_S)
    assert log == list("abc") * 3


def test_detaching_waits_for_accepted_work_and_refuses_more(bench: Bench) -> None:
    bench.model.gate.clear()
    accepted = [bench.submit(n, length=64) for n in (1, 2, 3)]
    bench.model.wait_until_computing()
    detaching = threading.Thread(target=bench.lane.detach, args=(bench.channel,))
    detaching.start()
    assert eventually(lambda: not bench.channel.is_open)
    with pytest.raises(BackendUnavailable, match="being unloaded"):
        bench.submit(4)
    assert detaching.is_alive()
    bench.model.gate.set()
    detaching.join(TIMEOUT_S)
    assert not detaching.is_alive()
    assert [result(one) for one in accepted] == [[[n, 64]] for n in (1, 2, 3)]


def test_the_thread_lives_from_the_first_model_to_the_last() -> None:
    lane = Lane(batch_target_ms=35, max_queued_tokens=100)
    assert not lane.alive
    channels = [Channel(Model().compute, COST, rate=1.0) for _ in range(2)]
    for channel in channels:
        lane.attach(channel)
    assert lane.alive
    lane.detach(channels[0])
    assert lane.alive
    lane.detach(channels[1])
    assert not lane.alive


def test_a_lane_without_a_model_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    Lane(batch_target_ms=35, max_queued_tokens=100)
    assert threading.active_count() == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lane_that_dies_fails_all_that_wait_and_says_so() -> None:
    bench = Bench()
    other = bench.attach(Model())
    bench.model.gate.clear()
    fatal = bench.submit(FATAL_ID)
    bench.model.wait_until_computing()
    waiting = [bench.submit(1, length=64), bench.submit(2, channel=other)]
    bench.model.gate.set()
    for future in (fatal, *waiting):
        with pytest.raises(BackendUnavailable, match="the compute lane died"):
            result(future)
    assert eventually(lambda: not bench.lane.alive)
    with pytest.raises(BackendUnavailable):
        bench.submit(3)
    bench.close()  # does not hang


def test_no_rows_are_refused_and_the_lane_goes_on(bench: Bench) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        bench.submit()
    assert result(bench.submit(1)) == [[1, 1]]


def test_many_callers_from_many_threads_all_get_their_own_vectors(bench: Bench) -> None:
    answers: dict[int, list[list[float]]] = {}

    def call(number: int) -> None:
        for n in range(20):
            future = bench.submit(number, length=n + 1)
            if n % 5 == 4:
                future.cancel()
            else:
                answers[number * 100 + n] = result(future)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert len(answers) == 8 * 16
    assert all(value == [[key // 100, key % 100 + 1]] for key, value in answers.items())
    assert eventually(lambda: not bench.channel.works)
    assert bench.channel.batcher.waiting_tokens == 0


@pytest.mark.parametrize(
    ("rate", "budget"), [(0.001, MIN_BUDGET), (10_000, 350), (10**9, MAX_BUDGET)]
)
def test_a_budget_is_what_the_target_time_computes_within_bounds(
    rate: float, budget: float
) -> None:
    channel = Channel(Model().compute, COST, rate=rate)
    assert channel.budget(0.035, is_alone=False) == pytest.approx(budget)


@pytest.mark.parametrize(
    ("rate", "budget"), [(100, MIN_BUDGET), (1_000, 200), (2_000, 400), (5_000, 512), (20_000, 700)]
)
def test_a_request_that_waits_alone_may_have_a_batch_as_large_as_pays(
    rate: float, budget: float
) -> None:
    channel = Channel(Model().compute, COST, rate=rate)
    assert channel.budget(0.035, is_alone=True) == pytest.approx(budget)


def test_the_speed_is_learned_from_batches_that_are_nearly_full() -> None:
    channel = Channel(Model().compute, COST, rate=1000.0)
    channel.learn(cost=100, seconds=0.001, budget=1000)
    assert channel.rate == 1000
    for _ in range(30):
        channel.learn(cost=800, seconds=0.1, budget=1000)
    assert channel.rate == pytest.approx(8000, rel=0.01)


def test_a_slow_model_gets_smaller_batches() -> None:
    lane = Lane(batch_target_ms=10, max_queued_tokens=10**6)
    sizes: list[int] = []

    def compute(rows: Sequence[Row]) -> Vectors:
        sizes.append(len(rows))
        time.sleep(0.00005 * len(rows))  # about 20,000 tokens a second, not 100,000
        return np.zeros((len(rows), 1), np.float32)

    channel = Channel(compute, COST, rate=100_000.0)
    lane.attach(channel)
    rows = [Row([1])] * 4000
    lane.submit(channel, rows, priority=0, deadline=None).result(TIMEOUT_S)
    lane.detach(channel)
    assert sizes[0] == 1000
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-2] < 700


def test_work_that_is_still_being_tokenized_counts_as_waiting_until_it_is_queued() -> None:
    bench = Bench(max_queued_tokens=100)
    with bench.lane.arriving(bench.channel, 60):
        with pytest.raises(Overloaded, match="60 tokens are waiting"):
            bench.submit(1, length=41)
        with pytest.raises(Overloaded), bench.lane.arriving(bench.channel, 41):
            pass
    assert result(bench.submit(1, length=41)) == [[1, 41]]
    bench.close()


def test_a_model_that_comes_after_the_last_one_has_left_is_computed(bench: Bench) -> None:
    bench.lane.detach(bench.channel)
    assert not bench.lane.alive

    later = bench.attach(Model())

    assert result(bench.submit(7, channel=later)) == [[7, 1]]


def test_a_model_that_comes_while_the_last_one_leaves_neither_waits_nor_is_lost(
    bench: Bench,
) -> None:
    bench.model.gate.clear()
    left = bench.submit(1)
    bench.model.wait_until_computing()
    left.cancel()  # nothing is owed any more, but the batch is still computed
    leaving = threading.Thread(target=bench.lane.detach, args=(bench.channel,))
    leaving.start()
    assert eventually(lambda: not bench.lane.alive)
    attached: list[Channel] = []
    coming = threading.Thread(target=lambda: attached.append(bench.attach(Model())))
    coming.start()
    coming.join(TIMEOUT_S)
    assert not coming.is_alive()
    assert leaving.is_alive()
    answer = bench.submit(7, channel=attached[0])
    bench.model.gate.set()
    assert result(answer) == [[7, 1]]
    leaving.join(TIMEOUT_S)  # it waits for its own thread, not for the newcomer's
    assert not leaving.is_alive()
    assert bench.lane.alive


def test_models_that_come_and_go_in_many_threads_are_all_computed() -> None:
    lane = Lane(batch_target_ms=1, max_queued_tokens=10**6)
    answers: list[list[list[float]]] = []

    def come_and_go() -> None:
        for _ in range(100):
            channel = Channel(Model().compute, COST, rate=1.0)
            lane.attach(channel)
            future = lane.submit(channel, [Row([3])], priority=0, deadline=None)
            answers.append(result(future))
            lane.detach(channel)

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet in the few lines where they can
    try:
        threads = [threading.Thread(target=come_and_go, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(6 * TIMEOUT_S)
    finally:
        sys.setswitchinterval(interval_s)
    assert not any(thread.is_alive() for thread in threads)
    assert answers == [[[3, 1]]] * 300
    assert not lane.alive
