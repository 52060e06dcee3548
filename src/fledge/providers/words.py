"""What is passed on of a provider's own words: a short line, without texts and without keys.

Providers repeat what they were sent when they complain about it, and whoever reads the message, or
the log that it ends in, need not be who sent it.
"""

import re
from collections.abc import Sequence
from typing import Any

import orjson

LONGEST = 300
"""Characters that are passed on at most."""

_HIDDEN = "…"
_TEXT_RUN = 12
"""So many characters in a row of a text are taken for a part of it."""
_KEY_RUN = 6
_SHORTEST_RUN = 3
"""Shorter texts are in every sentence."""
# Bytes and characters as programs spell those beyond ASCII, and keys with their middle struck out.
_SPELLED_OUT = re.compile(r"(?:\\+(?:x[0-9a-f]{2}|u[0-9a-f]{4})){2,}", re.I)
_STRUCK_OUT = re.compile(r"\S*\*{2,}\S*")
# What touches a part of a text may be the rest of it.
_AROUND = re.compile(rf"\S*{_HIDDEN}\S*(?:\s+\S*{_HIDDEN}\S*)*")
# As much as can end up in the line, so that nothing looks at a page of megabytes.
_LONGEST_LOOKED_AT = 4 * LONGEST


def told(body: bytes, *, key: str | None, texts: Sequence[str]) -> str:
    """The message of an error's body; "" if there is none that can be passed on.

    Args:
        key: what must not be in it.
        texts: what else must not be in it.
    """
    line = _one_line(_message(body))
    # Cut at last: of a text that ends with the line there must be enough to know it by.
    line = _STRUCK_OUT.sub(_HIDDEN, _SPELLED_OUT.sub(_HIDDEN, line))[: LONGEST + _TEXT_RUN]
    shared = [False] * len(line)
    for secret, run in [(key or "", _KEY_RUN), *((text, _TEXT_RUN) for text in texts)]:
        _mark(line, " ".join(secret.split()), run, shared)
    kept = "".join(_HIDDEN if is_in else c for c, is_in in zip(line, shared, strict=True))
    return _AROUND.sub(_HIDDEN, kept)[:LONGEST]


def _message(body: bytes) -> str:
    """As the servers of OpenAI, Hugging Face, Cohere and FastAPI put it, or plain text."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body[:_LONGEST_LOOKED_AT].decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else text
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return _as_text(found)


def _as_text(found: Any) -> str:
    """A text, or the texts of a list; FastAPI's list has objects with a `msg`."""
    if isinstance(found, str):
        return found
    if isinstance(found, dict):
        return _as_text(found.get("msg", found.get("message", "")))
    return "; ".join(filter(None, map(_as_text, found[:3]))) if isinstance(found, list) else ""


def _one_line(text: str) -> str:
    kept = text[:_LONGEST_LOOKED_AT]
    return " ".join("".join(c if c.isprintable() else " " for c in kept).split())


def _mark(line: str, secret: str, longest_run: int, shared: list[bool]) -> None:
    """Mark what the line shares with a secret."""
    run = min(longest_run, len(secret))
    if run < _SHORTEST_RUN:
        return
    for start in range(len(line) - run + 1):
        if line[start : start + run] in secret:
            shared[start : start + run] = [True] * run
