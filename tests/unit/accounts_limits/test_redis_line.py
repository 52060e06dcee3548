"""The line to Redis ends when it is told to, whatever it is in the middle of."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from fledge.accounts import redis_line
from fledge.accounts.limits import Holder
from fledge.accounts.limits_memory import MemoryLimits
from fledge.accounts.limits_redis import RedisLimits
from fledge.accounts.redis_line import Line, Script

GUARD_S = 30


def test_closing_ends_though_a_cancellation_was_overlooked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Deaf(Line):
        async def _exchange(self, batch: list[Any]) -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def scenario() -> list[Any]:
        lost: list[Any] = []
        line = Deaf(
            "redis://127.0.0.1:1/0",
            "the limits",
            patience_s=1.0,
            on_lost=lost.append,
            on_return=lambda: None,
        )
        for _ in range(redis_line.BATCH + 1):  # one more than go out together
            line.send(Script("return 1"), ["key"], [1], must_go=True)
        async with asyncio.timeout(GUARD_S):
            await line.aclose()
        return lost

    monkeypatch.setattr(redis_line, "GIVE_UP_S", 0.01)
    assert len(asyncio.run(scenario())) <= 1


def test_limits_know_whether_they_are_shared() -> None:
    async def scenario() -> None:
        limits = RedisLimits(
            "redis://127.0.0.1:1/0", fallback=MemoryLimits(), patience_s=GUARD_S, lease_s=GUARD_S
        )
        assert limits.are_shared  # nothing else is known as yet
        for _ in range(redis_line.FAILURES):
            await limits.reserve(Holder(id="key_1", requests_per_minute=9), 0)
        assert limits.are_shared is False
        await limits.aclose()
        assert MemoryLimits().are_shared is None

    asyncio.run(scenario())
