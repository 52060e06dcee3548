"""What is known of a request while it is answered, for its log lines, its counts and its trace.

The outermost layer makes the notes and reads them when the request is over; whoever learns
something in between writes it down. Never a text, a secret or the name of a key.
"""

import re
import secrets
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version

from fledge.types import Timings

_SANE_ID = re.compile(r"[A-Za-z0-9._:;=/+@-]{1,128}")


def fledge_version() -> str:
    """The installed version; `0+unknown` when run from a source tree that is not installed."""
    try:
        return version("fledge")
    except PackageNotFoundError:
        return "0+unknown"


def request_id(*candidates: bytes | None) -> str:
    """The first id that a client sent and that is safe to repeat, else a new one."""
    for candidate in candidates:
        if candidate is not None:
            text = candidate.decode("latin-1")
            if _SANE_ID.fullmatch(text):
                return text
    return secrets.token_hex(16)


class Notes:
    """One request.

    Not a dataclass: making one of these for every request takes a tenth of the time.

    Attributes:
        id: the request's.
        method: of a known set.
        route: a template, never a path that a client chose.
        status: of the answer.
        error: the code of a failure.
        duration_s: from the request's first byte to its answer's last.
        key_id: whose account it is on.
        limit: the name of the limit that refused it.
        model: the public id of the card that answered.
        input_count: what was embedded.
        tokens: of all inputs.
        hit_count: how many inputs were computed before.
        dimension: length of the vectors.
        timings: of its stages.
        began_s: `time.perf_counter()` at which its model was asked for.
        trace_id: of its trace, if there is one.
    """

    method = ""
    route = ""
    status = 500
    error: str | None = None
    duration_s = 0.0
    key_id: str | None = None
    limit: str | None = None
    model: str | None = None
    input_count = 0
    tokens = 0
    hit_count = 0
    dimension = 0
    timings: Timings | None = None
    began_s = 0.0
    trace_id: str | None = None

    def __init__(self, id: str) -> None:
        self.id = id


_current: ContextVar[Notes | None] = ContextVar("fledge_request", default=None)


def open_notes(notes: Notes) -> None:
    """Let everything that this task does from now on belong to a request.

    Nobody closes them: servers answer each request in a task of its own, and what is logged after
    an answer, as a traceback, is about it still.
    """
    _current.set(notes)


def open_request() -> Notes | None:
    """The notes of the request that is being answered here; None: none is."""
    return _current.get()


def request_notes() -> Notes:
    """Where to write down what is learnt of the request; outside of any, nobody reads it."""
    return _current.get() or Notes("")
