"""Limits as headers: what OpenAI's documentation shows, and what the hub's own client reads."""

import asyncio
import re

import pytest
from huggingface_hub.utils._http import parse_ratelimit_headers
from hypothesis import given
from hypothesis import strategies as st

from fledge.accounts.limit_fields import duration, limit_fields
from fledge.accounts.limits import Holder
from fledge.accounts.limits_memory import MemoryLimits
from fledge.errors import LimitExceeded
from fledge.types import Room, Standing
from tests.unit.accounts_limits.clock import Clock

BOTH = Standing(Room(60, 59, 1.0), Room(150_000, 149_984, 0.0064))


def test_a_holder_with_both_limits_has_all_fields() -> None:
    assert limit_fields(BOTH) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "7ms",
        "ratelimit": '"api";r=59;t=1, "tokens";r=149984;t=1',
        "ratelimit-policy": '"api";q=60;w=60, "tokens";q=150000;w=60',
    }


def test_a_holder_has_only_the_fields_of_its_limits() -> None:
    assert limit_fields(Standing()) == {}
    assert set(limit_fields(Standing(tokens=Room(9, 9, 0)))) == {
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
        "ratelimit",
        "ratelimit-policy",
    }


def test_the_hubs_client_reads_how_many_requests_are_left() -> None:
    info = parse_ratelimit_headers(limit_fields(BOTH))
    assert info is not None
    assert (info.resource_type, info.remaining, info.reset_in_seconds) == ("api", 59, 1)
    assert (info.limit, info.window_seconds) == (60, 60)


@pytest.mark.parametrize(("tokens", "resource", "wait_s"), [(1, "api", 20), (900, "tokens", 48)])
def test_the_hubs_client_reads_when_a_refused_request_may_come_back(
    tokens: int, resource: str, wait_s: int
) -> None:
    limits = MemoryLimits(clock=Clock())
    holder = Holder(id="key_1", requests_per_minute=3, tokens_per_minute=1000)

    async def scenario() -> LimitExceeded:
        for _ in range(3 if tokens == 1 else 1):
            await limits.reserve(holder, tokens)
        with pytest.raises(LimitExceeded) as raised:
            await limits.reserve(holder, tokens)
        return raised.value

    error = asyncio.run(scenario())
    assert error.standing is not None
    info = parse_ratelimit_headers(limit_fields(error.standing, error))
    assert info is not None
    assert (info.resource_type, info.remaining) == (resource, 0)
    assert info.reset_in_seconds == wait_s


def test_a_request_that_can_never_pass_changes_nothing_in_the_fields() -> None:
    error = LimitExceeded("", limit="tokens", allowed=1, used=0, retry_after_s=None)
    assert limit_fields(BOTH, error) == limit_fields(BOTH)


@pytest.mark.parametrize("limit", ["concurrency", "budget"])
def test_limits_that_are_not_by_the_minute_are_not_in_the_fields(limit: str) -> None:
    error = LimitExceeded("", limit=limit, allowed=1, used=1, retry_after_s=9)  # type: ignore[arg-type] # of two
    assert limit_fields(BOTH, error) == limit_fields(BOTH)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.02, "20ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (59.9999, "1m0s"),
        (7205, "2h0m5s"),
    ],
)
def test_durations_are_spelled_as_openai_spells_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.integers(0, 10**9))
def test_a_duration_is_exact_to_the_millisecond(ms: int) -> None:
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?([\d.]+)(s|ms)", duration(ms / 1000))
    assert found is not None
    hours, minutes, rest, unit = found.groups(default="0")
    seconds = float(rest) / (1000 if unit == "ms" else 1)
    assert round((int(hours) * 3600 + int(minutes) * 60 + seconds) * 1000) == ms
