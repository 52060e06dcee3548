"""Traces: what is sent to a collector, what never is, and collectors that are out of order."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from starlette.testclient import TestClient

from fledge.api.app import create_app
from fledge.cache.cache import Cache
from fledge.cache.memory import MemoryTier
from fledge.errors import Overloaded, SettingsError
from fledge.fixed import FixedDeployments, catalog_of
from fledge.service import Service
from fledge.settings import Settings
from fledge.telemetry import tracing
from fledge.telemetry.logs import AtMostEvery
from fledge.telemetry.traces import open_tracing
from fledge.testing import FakeBackend
from tests.collector import Collector, collecting, values

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with collecting() as one:
        yield one


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "CLOSE_S", 0.1)


@contextmanager
def tracing_to(endpoint: str, backend: FakeBackend | None = None) -> Iterator[TestClient]:
    """A client of an application that sends its traces somewhere, and stops at the end."""
    settings = Settings(otlp_endpoint=endpoint)
    backends = [backend or FakeBackend()]
    cache = Cache(MemoryTier(2**20))
    service = Service(catalog_of(backends), FixedDeployments(backends), settings, cache=cache)
    app = create_app(service, settings, tracing=open_tracing(settings.otlp_endpoint))
    with TestClient(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False) as client:
        yield client


def refusing_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def relays() -> list[logging.Handler]:
    handlers = logging.getLogger("opentelemetry").handlers
    return [one for one in handlers if isinstance(one, AtMostEvery)]


def record_of(logger: str, message: str) -> logging.LogRecord:
    return logging.LogRecord(logger, logging.ERROR, "file.py", 1, message, (), None)


def by_name(spans: list[Span]) -> dict[str, Span]:
    return {span.name: span for span in spans}


def test_a_request_is_a_span_with_its_stages_below_it(collector: Collector) -> None:
    begun_ns = time.time_ns()
    with tracing_to(collector.url) as client:
        client.post("/v1/embeddings", json={"input": ["a", "b c"], "model": "fledge/fake"})
        spans = by_name(collector.take(5))
    assert list(spans) == ["cache", "tokenize", "queue", "compute", "POST /v1/embeddings"]
    whole = spans.pop("POST /v1/embeddings")
    assert whole.kind == Span.SPAN_KIND_SERVER
    assert whole.parent_span_id == b""
    assert values(whole.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 200,
        "fledge.request_id": values(whole.attributes)["fledge.request_id"],
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "fledge",
        "gen_ai.request.model": "fledge/fake",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.embeddings.dimension.count": 8,
        "fledge.inputs": 2,
        "fledge.cache.hits": 0,
    }
    assert {span.parent_span_id for span in spans.values()} == {whole.span_id}
    assert {span.trace_id for span in spans.values()} == {whole.trace_id}
    # as the fake backend tells its times
    assert spans["queue"].end_time_unix_nano - spans["queue"].start_time_unix_nano == pytest.approx(
        500_000, abs=1000
    )
    assert spans["compute"].start_time_unix_nano == spans["queue"].end_time_unix_nano
    assert begun_ns <= whole.start_time_unix_nano <= spans["cache"].start_time_unix_nano
    assert whole.end_time_unix_nano <= time.time_ns()


def test_a_hit_has_no_stage_of_the_engine(collector: Collector) -> None:
    with tracing_to(collector.url) as client:
        client.post("/", json={"inputs": "a"})
        collector.take(5)
        client.post("/", json={"inputs": "a"})
        spans = by_name(collector.take(2))
    assert list(spans) == ["cache", "POST /"]
    assert values(spans["POST /"].attributes)["fledge.cache.hits"] == 1


def test_the_trace_of_the_caller_goes_on(collector: Collector) -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
    with tracing_to(collector.url) as client:
        client.get("/v1/models", headers=headers)
        (span,) = collector.take(1)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)


def test_a_caller_that_does_not_sample_is_not_traced(collector: Collector) -> None:
    with tracing_to(collector.url) as client:
        client.get("/v1/models", headers={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"})
        client.get("/info")
        (span,) = collector.take(1)
    assert span.name == "GET /info"
    assert collector.rest() == []


@pytest.mark.parametrize("bad", ["", "00-xyz", f"00-{'0' * 32}-{PARENT_ID}-01", "caf\xe9"])
def test_a_malformed_parent_begins_a_new_trace(collector: Collector, bad: str) -> None:
    with tracing_to(collector.url) as client:
        client.get("/v1/models", headers={b"traceparent": bad.encode("latin-1")})
        (span,) = collector.take(1)
    assert span.parent_span_id == b""


def test_failures_are_errors_of_their_code(collector: Collector) -> None:
    backend = FakeBackend()
    with tracing_to(collector.url, backend) as client:
        backend.error = Overloaded("busy", retry_after_s=1)
        client.post("/", json={"inputs": "a"})
        backend.error = ZeroDivisionError("at home")
        client.post("/", json={"inputs": "a"})
        overloaded, failed = collector.take(2)
    assert values(overloaded.attributes)["error.type"] == "overloaded"
    assert overloaded.status.code == Status.STATUS_CODE_UNSET  # the caller's affair, for a server
    assert values(failed.attributes)["error.type"] == "internal_error"
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert not failed.events


def test_probes_are_not_traced(collector: Collector) -> None:
    with tracing_to(collector.url) as client:
        for path in ("/health", "/metrics", "/info"):
            client.get(path)
        (span,) = collector.take(1)
    assert span.name == "GET /info"
    assert collector.rest() == []


def test_neither_texts_nor_keys_are_sent(collector: Collector) -> None:
    headers = {
        "authorization": "Bearer canary",
        "tracestate": "canary=canary",
        "x-canary": "canary",
    }
    with tracing_to(collector.url) as client:
        client.post("/?canary=canary", json={"inputs": "canary"}, headers=headers)
        client.post("/v1/embeddings", json={"input": "canary", "model": "canary"}, headers=headers)
        client.get("/canary", headers=headers)
        client.request("CANARY", "/", headers=headers)
    assert collector.bodies
    assert not any(b"canary" in body.lower() for body in collector.bodies)


def test_the_sender_says_who_it_is(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "vectors-eu")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=ours")
    with tracing_to(f"{collector.url}/v1/traces") as client:
        client.get("/info")
        collector.take(1)
    assert collector.paths == ["/v1/traces"]
    assert collector.headers[0]["x-tenant"] == "ours"
    assert collector.resources[0]["service.name"] == "vectors-eu"
    assert "service.version" in collector.resources[0]


def test_what_waits_is_sent_when_the_server_stops(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    with tracing_to(collector.url) as client:
        for _ in range(10):
            client.get("/info")
        assert collector.rest() == []
    assert len(collector.rest()) == 10


def test_a_collector_that_hangs_holds_up_neither_requests_nor_the_stop(
    collector: Collector, impatient: None
) -> None:
    collector.hold()
    with tracing_to(collector.url) as client:
        assert client.get("/info").status_code == 200
        collector.asked.wait(30)
        assert client.get("/info").status_code == 200
    assert collector.rest() == []  # it has stopped, and the collector holds still
    collector.release()
    for one in threading.enumerate():
        if one.name in ("fledge-tracing-close", "OtelBatchSpanRecordProcessor"):
            one.join(30)


def test_a_collector_that_is_not_there_is_told_of_once(
    impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with tracing_to(f"http://127.0.0.1:{refusing_port()}") as client:
        for _ in range(600):  # more than the SDK sends at once
            client.get("/nowhere")
    # pytest also hears what is kept from all others
    (line,) = [one for one in caplog.records if not one.name.startswith("opentelemetry")]
    assert line.getMessage().startswith("traces are not sent as they should be: Transient error")


def test_the_tracing_may_be_closed_twice_and_leaves_nothing(collector: Collector) -> None:
    opened = open_tracing(collector.url)
    assert opened is not None
    assert len(relays()) == 1

    async def close() -> None:
        await opened.aclose()
        await opened.aclose()

    asyncio.run(close())
    assert relays() == []
    assert logging.getLogger("opentelemetry").propagate


def test_lines_about_a_collector_come_at_most_once_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours = logging.getLogger("fledge.test")
    handler = AtMostEvery(3600, ours, "trouble: %s (%d more)", of=("sdk",))
    for number in range(100):
        handler.handle(record_of("sdk.exporter", f"number {number}"))
    assert [one.getMessage() for one in caplog.records] == ["trouble: number 0 (0 more)"]


def test_what_others_log_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    handler = AtMostEvery(0, logging.getLogger("fledge.test"), "%s %d", of=("sdk",))
    handler.handle(record_of("api.trace", "a header's own words"))
    assert caplog.records == []


@pytest.mark.parametrize(
    "bad", ["", "collector:4318", "ftp://a", "http://", "http://u:p@a", "http://a?b", "http://a#b"]
)
def test_an_endpoint_is_an_address_and_nothing_more(bad: str) -> None:
    with pytest.raises(ValueError, match="no address to send to"):
        Settings(otlp_endpoint=bad)


def test_a_variable_that_cannot_be_used_is_a_mistake_in_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "none-of-these")
    with pytest.raises(SettingsError, match="OpenTelemetry"):
        open_tracing("http://127.0.0.1:1")
    assert logging.getLogger("opentelemetry").propagate


def test_without_an_endpoint_nothing_of_the_sdk_is_imported_whatever_the_environment_says(
    collector: Collector,
) -> None:
    """In a process of its own: here the SDK is imported already."""
    program = (
        "import sys\n"
        "from starlette.testclient import TestClient\n"
        "from fledge.api.app import create_app\n"
        "from fledge.service import Service\n"
        "from fledge.settings import load_settings\n"
        "from fledge.telemetry.traces import open_tracing\n"
        "from fledge.testing import FakeBackend\n"
        "settings = load_settings()\n"
        "service = Service.over([FakeBackend()], settings)\n"
        "app = create_app(service, settings, tracing=open_tracing(settings.otlp_endpoint))\n"
        "with TestClient(app, base_url='http://127.0.0.1:8080') as client:\n"
        "    assert client.post('/', json={'inputs': 'a'}).status_code == 200\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])\n"
    )
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.url,
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
        "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
    }
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | variables,
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout == "[]\n"
    assert collector.paths == []
