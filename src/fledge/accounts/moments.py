"""Times as people write them: `30d`, `2027-01-01`, `2027-01-01T12:00:00+01:00`."""

import re
from datetime import UTC, date, datetime, timedelta

from fledge.errors import InvalidRequest
from fledge.names import quoted

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION = re.compile(rf"([0-9]{{1,9}})([{''.join(_UNITS_S)}])")


def duration_s(text: str, field: str) -> int:
    """The seconds of a number with one unit: `90s`, `30m`, `12h`, `30d`, `2w`.

    Args:
        field: what errors call it.

    Raises:
        InvalidRequest: it is no such thing.
    """
    seconds = _seconds(text)
    if seconds is None:
        raise InvalidRequest(
            f"`{field}` must be a number with s, m, h, d or w behind it, as 12h or 30d, not "
            f"{quoted(text)}",
            field=field,
        )
    return seconds


def moment(text: str, now: datetime, field: str) -> datetime:
    """A moment in UTC: a duration from now, the beginning of a day in UTC, or date and time.

    Raises:
        InvalidRequest: it is none of these, or names no time zone.
    """
    text = text.strip()
    try:
        seconds = _seconds(text)
        if seconds is not None:
            return now.astimezone(UTC) + timedelta(seconds=seconds)
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            if not _is_day(text):
                raise InvalidRequest(
                    f"`{field}` must name its time zone, as {quoted(f'{text}Z')}", field=field
                )
            found = found.replace(tzinfo=UTC)
        return found.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(f"`{field}` is beyond any calendar", field=field) from None
    except ValueError:
        raise InvalidRequest(
            f"`{field}` must be a duration as 30d or 12h, a day as 2027-01-01, or a moment as "
            f"2027-01-01T12:00:00Z, not {quoted(text)}",
            field=field,
        ) from None


def day(text: str, field: str) -> date:
    """A day of the calendar.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise InvalidRequest(
            f"`{field}` must be a day, as 2026-11-21, not {quoted(text)}", field=field
        ) from None


def _seconds(text: str) -> int | None:
    found = _DURATION.fullmatch(text.strip().lower())
    return None if found is None else int(found[1]) * _UNITS_S[found[2]]


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
