"""What fails is left alone for a while, and tried again."""

import logging

import pytest

from fledge.cache.breaker import FAILURES, FIRST_REST_S, LONGEST_REST_S, Breaker


class World:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.breaker = Breaker("the thing", clock=lambda: self.now_s)

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.fail("no answer")

    def rest(self) -> float:
        """Let its rest pass; how long it was."""
        rest_s = self.breaker.remaining_s
        self.now_s += rest_s
        return rest_s


def test_a_few_failures_are_no_reason() -> None:
    world = World()
    for _ in range(10):
        world.fail(FAILURES - 1)
        assert not world.breaker.is_open
        world.breaker.succeed()
    assert world.breaker.remaining_s == 0


def test_failures_in_a_row_open_it_until_it_has_rested_and_was_tried() -> None:
    world = World()
    world.fail(FAILURES)
    assert world.breaker.is_open
    assert world.rest() == FIRST_REST_S
    assert world.breaker.is_open
    assert world.breaker.remaining_s == 0
    world.breaker.succeed()
    assert not world.breaker.is_open


def test_it_rests_longer_every_time_up_to_a_limit() -> None:
    world = World()
    world.fail(FAILURES)
    rests = [world.rest()]
    while rests[-1] < LONGEST_REST_S:
        world.fail()
        rests.append(world.rest())
    assert rests[:3] == [FIRST_REST_S, 2 * FIRST_REST_S, 4 * FIRST_REST_S]
    world.fail()
    assert world.rest() == LONGEST_REST_S


def test_one_success_among_failures_does_not_make_it_forget() -> None:
    world = World()
    world.fail(FAILURES)
    world.rest()
    world.breaker.succeed()
    world.fail()
    assert world.breaker.is_open
    assert world.rest() == 2 * FIRST_REST_S


def test_two_successes_make_it_forget() -> None:
    world = World()
    world.fail(FAILURES)
    world.rest()
    world.breaker.succeed()
    world.breaker.succeed()
    world.fail(FAILURES - 1)
    assert not world.breaker.is_open
    world.fail()
    assert world.rest() == FIRST_REST_S


def test_the_log_has_a_line_when_it_opens_and_one_when_it_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    with caplog.at_level(logging.INFO):
        world.fail(FAILURES + 5)
        world.breaker.succeed()
        world.breaker.succeed()
    assert [record.getMessage() for record in caplog.records] == [
        "the thing does not work (no answer): going on without it",
        "the thing works again",
    ]
