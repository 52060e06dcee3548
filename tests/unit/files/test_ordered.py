import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from fledge.files.ordered import CHUNK_CHARS, CHUNK_ITEMS, in_order, next_chunk


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Counted:
    """Numbers up to a limit; counts how many were taken."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    async def numbers(self) -> AsyncGenerator[int, None]:
        for number in range(self.limit):
            self.taken += 1
            yield number


@pytest.mark.anyio
async def test_results_come_in_order_however_long_each_takes() -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.005 if number % 2 else 0)
        return number

    assert [n async for n in in_order(work, Counted(6).numbers())] == [0, 1, 2, 3, 4, 5]


@pytest.mark.anyio
async def test_no_more_is_taken_than_is_in_flight() -> None:
    source = Counted(100)

    async def work(number: int) -> int:
        return number

    async with aclosing(in_order(work, source.numbers(), in_flight=3)) as results:
        assert await anext(results) == 0
        assert source.taken == 3
        assert await anext(results) == 1
        assert source.taken == 4


@pytest.mark.anyio
async def test_an_error_cancels_what_is_in_flight() -> None:
    cancelled = []

    async def work(number: int) -> int:
        if number == 0:
            raise ValueError("first")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    with pytest.raises(ValueError, match="first"):
        [n async for n in in_order(work, Counted(5).numbers())]

    assert cancelled == [1]


def test_a_chunk_ends_by_number_or_by_characters() -> None:
    short = iter(["a"] * (CHUNK_ITEMS + 1))
    long = iter(["x" * CHUNK_CHARS] * 2)

    assert [len(next_chunk(short, len)) for _ in range(3)] == [CHUNK_ITEMS, 1, 0]
    assert [len(next_chunk(long, len)) for _ in range(3)] == [1, 1, 0]
