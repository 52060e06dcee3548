"""Limits as text: the fields in which clients look for them.

`x-ratelimit-*` is OpenAI's spelling, with its durations. `RateLimit` and `RateLimit-Policy` follow
draft-ietf-httpapi-ratelimit-headers-09 as far as huggingface_hub 1 and 2 read it: the first entry
alone, and of a 429 only when nothing remains. `api` is the hub's own name for requests.
"""

import math

from fledge.accounts.limits import WINDOW_S
from fledge.errors import LimitExceeded
from fledge.types import Standing


def limit_fields(standing: Standing, refused: LimitExceeded | None = None) -> dict[str, str]:
    """Names in lower case and values; none for a holder without limits per minute.

    Args:
        refused: of a request that was, the reason.
    """
    fields: dict[str, str] = {}
    entries: list[str] = []
    policies: list[str] = []
    for name, policy, room in (
        ("requests", "api", standing.requests),
        ("tokens", "tokens", standing.tokens),
    ):
        if room is None:
            continue
        fields[f"x-ratelimit-limit-{name}"] = str(room.limit)
        fields[f"x-ratelimit-remaining-{name}"] = str(room.remaining)
        fields[f"x-ratelimit-reset-{name}"] = duration(room.reset_s)
        remaining, reset_s, place = room.remaining, room.reset_s, len(entries)
        if refused is not None and refused.limit == name and refused.retry_after_s is not None:
            # What remains would not do, and the client is to know when it will: first, since it
            # reads no further.
            remaining, reset_s, place = 0, refused.retry_after_s, 0
        entries.insert(place, f'"{policy}";r={remaining};t={math.ceil(reset_s)}')
        policies.insert(place, f'"{policy}";q={room.limit};w={WINDOW_S}')
    if entries:
        fields["ratelimit"] = ", ".join(entries)
        fields["ratelimit-policy"] = ", ".join(policies)
    return fields


def duration(seconds: float) -> str:
    """As OpenAI writes it: 20ms, 1s, 1.5s, 6m0s, 2h0m5s; never less than it is."""
    ms = math.ceil(round(seconds * 1000, 3))  # 64.879 x 1000 is a little more than 64879
    if ms < 1000:
        return f"{ms}ms" if ms else "0s"
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{ms / 1000:g}s"
    if minutes or hours:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
