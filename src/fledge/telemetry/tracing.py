"""Traces to an OpenTelemetry collector, over OTLP. Needs the extra `otlp`.

Imported only where `otlp_endpoint` is set, and nothing else of OpenTelemetry is switched on: no
global provider is set, so libraries that look for one find none. Its variables are read only for
how to send (`OTEL_EXPORTER_OTLP_HEADERS`, certificates), what to call this server
(`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`) and how much to keep (`OTEL_TRACES_SAMPLER`).

Spans are made when a request is over, from the times of its stages; a thread of the SDK sends them
in batches, and drops what is too much for the collector.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_trace_id
from opentelemetry.trace import set_span_in_context as context_of
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fledge.errors import SettingsError
from fledge.telemetry.logs import AtMostEvery
from fledge.telemetry.notes import Notes, fledge_version

_log = logging.getLogger(__name__)

CLOSE_S = 2.0
"""For what waits to be sent when the server stops. A guess: a batch takes milliseconds."""

SEND_S = 5.0
"""For one batch, tries included."""

TELL_S = 60.0
"""Between two lines in the log about a collector that does not do as it should."""

# Of a model that is warm; waiting for others is never so short.
_LEAST_LOAD_MS = 1.0
_PATH = "/v1/traces"
_CONTEXT_HEADERS = ("traceparent", "tracestate")
# Asked every few seconds by machines, and of interest to nobody.
_UNTRACED = ("/health", "/health/live", "/health/ready", "/metrics")


class OtlpTracing:
    """Sends a trace of each request.

    Args:
        endpoint: the collector's address, with or without `/v1/traces`.

    Raises:
        SettingsError: one of the variables above cannot be used.
    """

    def __init__(self, endpoint: str) -> None:
        self._propagator = TraceContextTextMapPropagator()
        self._sdk_log = logging.getLogger("opentelemetry")
        self._relay = AtMostEvery(
            TELL_S,
            _log,
            "traces are not sent as they should be: %s (lines like this left out: %d)",
            of=("opentelemetry.sdk", "opentelemetry.exporter"),
        )
        self._hush()
        try:
            self._exporter = OTLPSpanExporter(
                endpoint=endpoint.rstrip("/").removesuffix(_PATH) + _PATH, timeout=SEND_S
            )
            self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        except (ValueError, RuntimeError, ImportError) as error:
            self._unhush()
            raise SettingsError(f"a variable of OpenTelemetry cannot be used: {error}") from None
        self._tracer = self._provider.get_tracer("fledge", fledge_version())
        self._closing: threading.Thread | None = None

    def begin(self, headers: Mapping[bytes, bytes], started_s: float) -> "OtlpTrace":
        """A request begins. See `Tracing.begin`."""
        carrier = {
            name: value.decode("latin-1")
            for name in _CONTEXT_HEADERS
            if (value := headers.get(name.encode("ascii"))) is not None
        }
        # An empty context of its own: the one that this task runs in may have a span of others.
        context = Context()
        if carrier:
            context = self._propagator.extract(carrier, context)
        # Spans are told by the wall clock, everything else here by one that does not jump.
        offset_ns = time.time_ns() - int(time.perf_counter() * 1e9)
        span = self._tracer.start_span(
            "request",
            context,
            SpanKind.SERVER,
            start_time=offset_ns + int(started_s * 1e9),
        )
        return OtlpTrace(self, span, offset_ns, started_s)

    def stage(self, name: str, context: Context, begin_ns: int, end_ns: int) -> None:
        """A part of a request that is over; the context has its span."""
        self._tracer.start_span(name, context, start_time=begin_ns).end(end_ns)

    async def aclose(self) -> None:
        """Send what waits, for `CLOSE_S` at most. Safe to call twice."""
        if self._closing is not None:
            return
        # A daemon, as the SDK's own thread is: a collector that hangs keeps nobody from stopping.
        closing = threading.Thread(target=self._shut_down, name="fledge-tracing-close", daemon=True)
        self._closing = closing
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_S)
        if closing.is_alive():
            self._relay.setLevel(logging.CRITICAL)  # enough was said; now it is given up
            self._exporter.shutdown()  # type: ignore[no-untyped-call] # which ends its waiting for a next try
            await asyncio.to_thread(closing.join, CLOSE_S / 4)

    def _shut_down(self) -> None:
        self._provider.shutdown()
        self._unhush()

    def _hush(self) -> None:
        self._sdk_log.addHandler(self._relay)
        self._sdk_log.propagate = False
        # A record of each span that is dropped would cost requests more than the spans do.
        logging.getLogger("opentelemetry.sdk").setLevel(logging.ERROR)

    def _unhush(self) -> None:
        self._sdk_log.removeHandler(self._relay)
        if not any(isinstance(one, AtMostEvery) for one in self._sdk_log.handlers):
            self._sdk_log.propagate = True
            logging.getLogger("opentelemetry.sdk").setLevel(logging.NOTSET)


class OtlpTrace:
    """The trace of one request. See `RequestTrace`.

    Attributes:
        id: of the trace.
    """

    __slots__ = ("_offset_ns", "_span", "_started_s", "_tracing", "id")

    def __init__(self, tracing: OtlpTracing, span: Span, offset_ns: int, started_s: float) -> None:
        self.id = format_trace_id(span.get_span_context().trace_id)
        self._tracing = tracing
        self._span = span
        self._offset_ns = offset_ns
        self._started_s = started_s

    def end(self, notes: Notes) -> None:
        """Tell what became of it."""
        if notes.route in _UNTRACED or not self._span.is_recording():
            return  # what is never ended is never sent
        self._span.update_name(f"{notes.method} {notes.route}")
        self._span.set_attributes(dict(_attributes(notes)))
        if notes.status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
        context = context_of(self._span, Context())
        for name, begin_s, end_s in _stages(notes):
            self._tracing.stage(name, context, self._ns(begin_s), self._ns(end_s))
        self._span.end(self._ns(self._started_s + notes.duration_s))

    def _ns(self, moment_s: float) -> int:
        return self._offset_ns + int(moment_s * 1e9)


def _resource() -> Resource:
    """Who sends; its own variables have the last word on the name."""
    own = Resource({"service.name": "fledge", "service.version": fledge_version()})
    return Resource.create().merge(own).merge(OTELResourceDetector().detect())


def _attributes(notes: Notes) -> Iterator[tuple[str, Any]]:
    """By the conventions for HTTP servers and for generative AI, as far as there is one."""
    yield "http.request.method", notes.method if notes.method != "OTHER" else "_OTHER"
    if notes.route != "unmatched":
        yield "http.route", notes.route
    yield "http.response.status_code", notes.status
    yield "fledge.request_id", notes.id
    if notes.error is not None:
        yield "error.type", notes.error
    elif notes.status >= 500:
        yield "error.type", str(notes.status)
    if notes.model is not None:
        yield "gen_ai.operation.name", "embeddings"
        yield "gen_ai.provider.name", "fledge"
        yield "gen_ai.request.model", notes.model
        yield "gen_ai.usage.input_tokens", notes.tokens
        yield "fledge.inputs", notes.input_count
        yield "fledge.cache.hits", notes.hit_count
        if notes.dimension:
            yield "gen_ai.embeddings.dimension.count", notes.dimension


def _stages(notes: Notes) -> Iterator[tuple[str, float, float]]:
    """Each stage that took time: name, beginning and end. They follow one another; what a request
    waits between two of its batches lies behind the last."""
    if notes.timings is None:
        return
    timings, begin_s = notes.timings, notes.began_s
    for name, length_ms in (
        ("load", timings.load_ms if timings.load_ms >= _LEAST_LOAD_MS else 0.0),
        ("cache", timings.cache_ms),
        ("tokenize", timings.tokenize_ms),
        ("queue", timings.queue_ms),
        ("compute", timings.compute_ms),
    ):
        if length_ms:
            end_s = begin_s + length_ms / 1000
            yield name, begin_s, end_s
            begin_s = end_s
