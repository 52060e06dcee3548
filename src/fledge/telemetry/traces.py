"""What a trace of a request is, without the library that sends it."""

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Protocol

from fledge.errors import SettingsError
from fledge.telemetry.notes import Notes

_NEEDED = "opentelemetry.exporter.otlp.proto.http"


class RequestTrace(Protocol):
    """The trace of one request that has begun."""

    @property
    def id(self) -> str:
        """Of the trace, which may be the caller's: 32 hexadecimal digits."""
        ...

    def end(self, notes: Notes) -> None:
        """Tell what became of it. Takes microseconds and never fails."""
        ...


class Tracing(Protocol):
    """Where traces go. For use from one event loop."""

    def begin(self, headers: Mapping[bytes, bytes], started_s: float) -> RequestTrace:
        """A request begins.

        Args:
            headers: its own, by lower-case name; `traceparent` says what it is a part of.
            started_s: `time.perf_counter()` of its first byte.
        """
        ...

    async def aclose(self) -> None:
        """Send what waits, for as long as that is quick. Safe to call twice."""
        ...


def check_tracing(endpoint: str | None) -> None:
    """Refuse an endpoint that nothing could be sent to, before time is spent on anything else.

    Raises:
        SettingsError: the extra is not installed.
    """
    if endpoint is None:
        return
    try:
        is_there = importlib.util.find_spec(_NEEDED) is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise SettingsError("otlp_endpoint needs the extra `otlp`: pip install 'fledge[otlp]'")


def open_tracing(endpoint: str | None) -> Tracing | None:
    """Where traces go; None: nowhere, and then nothing of OpenTelemetry's SDK is imported.

    Raises:
        SettingsError: the extra is not installed, or a variable of OpenTelemetry cannot be used.
    """
    if endpoint is None:
        return None
    check_tracing(endpoint)
    tracing: Tracing = importlib.import_module("fledge.telemetry.tracing").OtlpTracing(endpoint)
    return tracing
