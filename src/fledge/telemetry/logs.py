"""Lines in the log: for people, or a JSON object each for programs.

Every line that is written while a request is answered has its id. What libraries say below a
warning is left out at every level: some of them would show headers, addresses and parameters of
SQL.
"""

import json
import logging
import sys
import time
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import TypeAlias

from pythonjsonlogger.core import RESERVED_ATTRS, LogData
from pythonjsonlogger.orjson import OrjsonFormatter

from fledge.errors import FledgeError, InvalidRequest
from fledge.telemetry.notes import Notes, open_request
from fledge.types import LogFormat

_access = logging.getLogger("fledge.access")

_ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


def configure_logging(level: str, log_format: LogFormat = "text") -> None:
    """Log to stderr from `level` on. Called once, by the program, never by the library."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    number = getattr(logging, level.upper())
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("fledge").setLevel(number)
    # Its own line per request would repeat ours, with the query string in it.
    logging.getLogger("uvicorn.access").disabled = True
    # A warning of Python's would be a line of its own form.
    logging.captureWarnings(log_format == "json")


def log_access(notes: Notes) -> None:
    """The line of a request that is over: for those that failed from `info` on, else `debug`."""
    level = logging.DEBUG if notes.status < 400 else logging.INFO
    if not _access.isEnabledFor(level):
        return
    facts = {
        "method": notes.method,
        "route": notes.route,
        "status": notes.status,
        "duration_ms": round(notes.duration_s * 1000, 3),
        "model": notes.model,
        "tokens": notes.tokens or None,
        "key_id": notes.key_id,
        "error": notes.error,
        "request_id": notes.id,
        "trace_id": notes.trace_id,
    }
    more = [
        f"{name}={facts[name]}"
        for name in ("model", "tokens", "key_id", "error")
        if facts[name] is not None
    ]
    _access.log(
        level,
        "%s %s %d %.1f ms%s",
        notes.method,
        notes.route,
        notes.status,
        notes.duration_s * 1000,
        "".join(f" {one}" for one in more),
        extra={name: value for name, value in facts.items() if value is not None},
    )


class _SafeTracebacks(logging.Formatter):
    """Keeps an exception's own words out of the log while a request is answered.

    A library may say what it stumbled over, which may be a part of a text. Fledge's own errors do
    not, but for those that tell a caller what was wrong with a request.
    """

    def formatException(self, ei: _ExcInfo) -> str:
        """The traceback; outside of requests as it always is."""
        if open_request() is None or ei[1] is None:
            return super().formatException(ei)
        return "".join(_told(ei[1])).rstrip("\n")


class TextLines(_SafeTracebacks):
    """For people: local time, level, logger, message, and of which request it is."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The first line."""
        line = super().formatMessage(record)
        notes = open_request()
        if notes is None or notes.id in record.message:
            return line
        return f"{line} (request {notes.id})"


class JsonLines(_SafeTracebacks, OrjsonFormatter):
    """For programs: an object a line, with the time in UTC."""

    def __init__(self) -> None:
        OrjsonFormatter.__init__(
            self,
            ("asctime", "levelname", "name", "message"),
            rename_fields={
                "asctime": "time",
                "levelname": "level",
                "name": "logger",
                "exc_info": "exception",
            },
            # uvicorn's, with the escape sequences of a terminal.
            reserved_attrs=[*RESERVED_ATTRS, "taskName", "color_message"],
        )

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002 - likewise
        """As ISO 8601 has it, to the millisecond."""
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def process_log_record(self, log_data: LogData) -> LogData:
        """Add whose request it is."""
        if (notes := open_request()) is not None:
            log_data.setdefault("request_id", notes.id)
            if notes.trace_id is not None:
                log_data.setdefault("trace_id", notes.trace_id)
        return log_data

    def jsonify_log_record(self, log_data: LogData) -> str:
        """JSON, whatever there is: a path may hold bytes that are no UTF-8."""
        try:
            return super().jsonify_log_record(log_data)
        except TypeError:
            return json.dumps(log_data, default=repr)


class AtMostEvery(logging.Handler):
    """Passes on one record in a while, and how many were not.

    Args:
        every_s: that while.
        to: whose records they become, as warnings.
        message: with a place for what was said, and one for how often.
        of: beginnings of the names of loggers; what others say is dropped.
    """

    def __init__(
        self, every_s: float, to: logging.Logger, message: str, of: tuple[str, ...]
    ) -> None:
        super().__init__(logging.WARNING)
        self._every_s = every_s
        self._to = to
        self._message = message
        self._of = of
        self._next_s = 0.0
        self._withheld = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Called under the handler's own lock."""
        if not record.name.startswith(self._of):
            return
        now_s = time.monotonic()
        if now_s < self._next_s:
            self._withheld += 1
            return
        self._to.warning(self._message, record.getMessage(), self._withheld)
        self._next_s, self._withheld = now_s + self._every_s, 0


def _told(error: BaseException, indent: str = "") -> list[str]:
    """A traceback with the words of few."""
    lines = []
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        lines += [*_told(earlier, indent), f"\n{indent}which led to:\n\n"]
    lines += [
        f"{indent}{line}\n"
        for frame in traceback.format_tb(error.__traceback__)
        for line in frame.splitlines()
    ]
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    is_ours = isinstance(error, FledgeError) and not isinstance(error, InvalidRequest)
    words = f": {error}" if is_ours or isinstance(error, OSError) else ""
    lines.append(f"{indent}{name}{words}\n")
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            lines += _told(one, indent + "  | ")
    return lines
