"""Times as people write them."""

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.accounts.moments import day, duration_s, moment
from fledge.errors import InvalidRequest

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@given(st.integers(0, 10**9 - 1), st.sampled_from(sorted(UNITS_S)))
def test_a_duration_is_its_number_of_its_unit(number: int, unit: str) -> None:
    assert duration_s(f"{number}{unit}", "grace") == number * UNITS_S[unit]


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS_S)))
def test_a_duration_counts_from_now(number: int, unit: str) -> None:
    seconds = number * UNITS_S[unit]
    if seconds < 365 * 86_400 * 1000:
        assert moment(f" {number}{unit.upper()} ", NOW, "x") == NOW + timedelta(seconds=seconds)


@given(st.text() | st.from_regex(r"[0-9+:.TZWsmhd -]{1,30}", fullmatch=True))
def test_any_text_is_a_moment_in_utc_or_refused(text: str) -> None:
    with suppress(InvalidRequest):
        assert moment(text, NOW, "expires").utcoffset() == timedelta(0)


@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)),  # noqa: DTZ001 - it gets its zone below
    st.integers(-14 * 60, 14 * 60),
)
def test_a_moment_that_is_written_out_is_read_back(when: datetime, offset_min: int) -> None:
    when = when.replace(tzinfo=timezone(timedelta(minutes=offset_min)))
    assert moment(when.isoformat(), NOW, "expires") == when


@given(st.dates())
def test_a_day_begins_at_midnight_utc(when: date) -> None:
    assert moment(when.isoformat(), NOW, "x") == datetime(
        when.year, when.month, when.day, tzinfo=UTC
    )
    assert day(when.isoformat(), "since") == when


@pytest.mark.parametrize("text", ["2027-01-01T12:00", "2027-01-01 12:00:00"])
def test_a_moment_without_a_zone_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="must name its time zone"):
        moment(text, NOW, "expires")


@pytest.mark.parametrize("text", ["999999999w", "9999-12-31T23:59:59-12:00"])
def test_what_is_beyond_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="beyond any calendar"):
        moment(text, NOW, "expires")


@pytest.mark.parametrize("text", ["", "30", "d", "1.5h", "-1d", "1h30m", "٣d", "30 days", "1y"])
def test_a_number_needs_one_unit(text: str) -> None:
    with pytest.raises(InvalidRequest, match="`grace` must be a number with"):
        duration_s(text, "grace")


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-02-30"])
def test_what_is_no_day_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="`since` must be a day"):
        day(text, "since")
