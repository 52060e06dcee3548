"""What a provider's status, headers and words mean: whose fault it is, and when to come again."""

import re
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from fledge.errors import (
    CannotCarry,
    FledgeError,
    ProviderDenied,
    ProviderRefused,
    ProviderUnavailable,
)
from fledge.providers.shapes import Reply
from fledge.providers.words import told

LONGEST_RETRY_AFTER_S = 3600.0
"""A provider may ask for a day of silence: it is asked again after an hour whether it meant it."""

_LOADING_RETRY_AFTER_S = 30.0
"""A guess: Featherless tells of 5 minutes for small models and up to an hour for large ones, and
another caller may have begun that long ago."""

_BODY_TOO_LARGE = 413
_MAY_BE_TOO_LONG = frozenset({400, 413, 422})
_LATER = frozenset({408, 409, 423, 424, 425, 429})
_OPERATORS = frozenset({401, 402, 403, 404, 405, 406, 407, 410, 411, 414, 415, 421, 426, 431, 451})

# The words of OpenAI, vLLM, TEI, Fledge, Cohere, Infinity, and of others that run these.
_TOO_LONG = re.compile(
    r"must have less than \d+ (?:tokens|characters)"
    r"|maximum (?:context|input|sequence|allowed)? ?(?:length|number of tokens)"
    r"|max(?:imum)?[ _](?:model|seq|sequence|input|context|position)\w*[ _]len"
    r"|too many tokens|too long|input_too_long|context_length_exceeded"
    r"|(?:at most|exceeds?|longer than|more than)\b.{0,40}\btokens?\b"
    r"|tokens?\b.{0,60}\b(?:exceeds?|longer than|more than|at most)\b",
    re.I,
)
# Words about a whole request, for which no single text is at fault.
_TOO_MUCH = re.compile(r"per request|batch size|one request|in all\b", re.I)
_INDEX = re.compile(r"\b(?:inputs?|items|texts)\b[`'\"]?[ .]?\[?(\d+)\]?", re.I)
_UNKNOWN_MODEL = re.compile(
    r"model_not_found|not supported by provider|model\b.{0,80}\b(?:not found|does not exist)", re.I
)


def is_too_long(reply: Reply) -> bool:
    """Whether it was refused because a text has too many tokens."""
    if reply.status not in _MAY_BE_TOO_LONG:
        return False
    said = _code_and_words(reply)
    return bool(_TOO_LONG.search(said)) and not _TOO_MUCH.search(said)


def named_index(reply: Reply, count: int) -> int | None:
    """The number of the input that a refusal is about, if it says so."""
    found = {int(number) for number in _INDEX.findall(_code_and_words(reply))}
    return found.pop() if len(found) == 1 and max(found) < count else None


def error_of(
    reply: Reply,
    *,
    provider: str,
    key: str | None,
    texts: Sequence[str],
    says_400_while_loading: bool,
) -> FledgeError:
    """The error that a reply without vectors stands for.

    Args:
        key: left out of what the provider said.
        texts: likewise.
        says_400_while_loading: what the provider refuses with a 400, it may well take later.
    """
    status = reply.status
    words = told(reply.body, key=key, texts=texts)
    message = f"{provider} answered {status}" + (f": {words}" if words else "")
    if status == 400 and says_400_while_loading:
        return ProviderUnavailable(
            f"{message} (it answers so while it loads a model)",
            provider=provider,
            status=status,
            retry_after_s=retry_after_s(reply) or _LOADING_RETRY_AFTER_S,
        )
    is_too_much = status in _MAY_BE_TOO_LONG and _TOO_MUCH.search(_code_and_words(reply))
    if status == _BODY_TOO_LARGE or is_too_much:
        return CannotCarry(f"{message}; it takes less in one request")
    kind: type[ProviderUnavailable | ProviderRefused] = ProviderRefused
    if status < 400 or status >= 500 or status in _LATER:
        kind = ProviderUnavailable
    # Not in all that came: a text that is quoted there may say so, and be meant to.
    elif status in _OPERATORS or _UNKNOWN_MODEL.search(f"{words} {_code(reply)}"):
        kind = ProviderDenied
    return kind(message, provider=provider, status=status, retry_after_s=retry_after_s(reply))


def retry_after_s(reply: Reply, *, now_s: float | None = None) -> float | None:
    """Seconds after which the provider wants to be asked again; None: it does not say.

    Args:
        now_s: the time, in seconds since 1970, for dates.
    """
    headers = reply.headers
    candidates = (
        _number(headers.get("retry-after-ms"), 0.001),
        _number(headers.get("retry-after")),
        _until(headers.get("retry-after"), time.time() if now_s is None else now_s),
        _hub_window(headers.get("ratelimit")),
        _estimated_time(reply) if reply.status == 503 else None,
    )
    found = next((seconds for seconds in candidates if seconds is not None), None)
    return None if found is None else min(max(found, 0.0), LONGEST_RETRY_AFTER_S)


def _number(text: str | None, unit_s: float = 1.0) -> float | None:
    if text is None or not re.fullmatch(r"\d{1,12}(?:\.\d{1,9})?", text.strip()):
        return None
    return float(text) * unit_s


def _until(text: str | None, now_s: float) -> float | None:
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp() - now_s
    except (ValueError, OverflowError, OSError):
        return None


def _hub_window(text: str | None) -> float | None:
    """`"api";r=0;t=55`: none left for 55 seconds."""
    found = re.search(r";\s*r=0\b.*?;\s*t=(\d{1,9})", text or "")
    return float(found[1]) if found else None


def _estimated_time(reply: Reply) -> float | None:
    """Of a model that hf-inference, or another Fledge, is loading."""
    found: Any = _object(reply).get("estimated_time")
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    return float(found) if is_number else None


def _code(reply: Reply) -> str:
    """What OpenAI's servers name an error for programs."""
    found = _object(reply).get("error")
    return str(found.get("code", "")) if isinstance(found, dict) else ""


def _object(reply: Reply) -> dict[str, Any]:
    try:
        found = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _code_and_words(reply: Reply) -> str:
    """What is only looked at: no more of it than words that fit into a line or two."""
    return reply.body[:4096].decode("utf-8", "replace")
