"""The deadline of a request, and what is learnt from its turns."""

import asyncio

import pytest

from fledge.routing.turns import GRACE_S, Deadline
from tests.unit.routing.virtual import clock, run


def test_a_deadline_comes_no_nearer_while_a_model_loads() -> None:
    async def story() -> None:
        async with asyncio.timeout(None) as timer:
            deadline = Deadline(timer, 10.0, clock)
            await asyncio.sleep(4)
            with deadline.paused():
                assert timer.when() is None
                await asyncio.sleep(1000)
            assert deadline.left_s == pytest.approx(6)
            assert timer.when() == pytest.approx(clock() + 6 + GRACE_S)

    run(story())


def test_without_a_time_out_there_is_none() -> None:
    async def story() -> None:
        async with asyncio.timeout(None) as timer:
            deadline = Deadline(timer, None, clock)
            with deadline.paused():
                await asyncio.sleep(1000)
            assert (deadline.at_s, deadline.left_s, timer.when()) == (None, float("inf"), None)

    run(story())


def test_who_still_loads_after_the_end_sets_no_timer() -> None:
    async def story() -> None:
        async with asyncio.timeout(None) as timer:
            deadline = Deadline(timer, 10.0, clock)
            pause = deadline.paused()
            pause.__enter__()
            deadline.close()
            await asyncio.sleep(0)
        pause.__exit__(None, None, None)

    run(story())
