"""Lines in the log: their forms, whose request they are about, and what they never hold."""

import asyncio
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fledge.errors import BackendUnavailable, ComputeError, InvalidRequest, Overloaded
from fledge.telemetry.logs import configure_logging
from fledge.telemetry.notes import Notes, open_notes
from tests.keyed import Keyed

LOG = logging.getLogger("fledge.test")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The loggers as they were."""
    root, ours, access = map(logging.getLogger, (None, "fledge", "uvicorn.access"))
    before = root.level, root.handlers[:], ours.level, access.disabled
    yield
    root.level, root.handlers[:], level, access.disabled = before
    ours.setLevel(level)
    logging.captureWarnings(False)


def lines_of(do: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> list[str]:
    do()
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def json_of(do: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (line,) = lines_of(do, capsys)
    value: dict[str, Any] = json.loads(line)
    return value


def of_request(do: Callable[[], object], notes: Notes | None = None) -> None:
    """Do something while a request is answered."""

    async def answer() -> None:
        open_notes(notes or Notes("abc-1"))
        do()

    asyncio.run(answer())


def failing(error: BaseException) -> Callable[[], None]:
    """Log an error as those do who catch it."""

    def fail() -> None:
        try:
            raise error
        except type(error):
            LOG.exception("it failed")

    return fail


def test_logs_go_to_stderr_from_the_level_on(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning")
    assert lines_of(lambda: LOG.info("too quiet"), capsys) == []
    (line,) = lines_of(lambda: LOG.warning("loud"), capsys)
    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING fledge\.test: loud", line)


def test_libraries_are_heard_from_a_warning_on(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug")
    library = logging.getLogger("some.library")
    assert lines_of(lambda: library.info("authorization: Bearer x"), capsys) == []
    assert len(lines_of(lambda: library.warning("retrying"), capsys)) == 1
    assert len(lines_of(lambda: LOG.debug("a detail"), capsys)) == 1


def test_the_servers_own_access_log_is_off() -> None:
    configure_logging("debug")
    assert logging.getLogger("uvicorn.access").disabled


def test_json_is_an_object_a_line_with_the_time_in_utc(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", "json")
    line = json_of(lambda: LOG.warning("%s\nand more", "one"), capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {"level": "WARNING", "logger": "fledge.test", "message": "one\nand more"}


def test_json_holds_what_is_no_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    assert json_of(lambda: LOG.warning("a\udcff"), capsys)["message"] == "a\udcff"


def test_the_web_servers_lines_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    server = logging.getLogger("uvicorn.error")
    line = json_of(
        lambda: server.warning("Invalid request", extra={"color_message": "\x1b[1mx"}), capsys
    )
    assert (line["logger"], "color_message" in line) == ("uvicorn.error", False)


def test_warnings_of_python_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")

    def warn() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            # as `configure_logging` has it, which the block has put back to the interpreter's
            logging.captureWarnings(False)
            logging.captureWarnings(True)
            warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert json_of(warn, capsys)["logger"] == "py.warnings"


def test_a_line_of_a_request_has_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    (text,) = lines_of(lambda: of_request(lambda: LOG.info("a word")), capsys)
    assert text.endswith("fledge.test: a word (request abc-1)")
    (text,) = lines_of(lambda: of_request(lambda: LOG.info("request abc-1: a word")), capsys)
    assert text.endswith("fledge.test: request abc-1: a word")
    configure_logging("info", "json")
    notes = Notes("abc-2")
    notes.trace_id = "4bf9"
    line = json_of(lambda: of_request(lambda: LOG.info("a word"), notes), capsys)
    assert (line["request_id"], line["trace_id"]) == ("abc-2", "4bf9")


def test_a_thread_that_works_for_a_request_has_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")

    async def answer() -> None:
        open_notes(Notes("abc-1"))
        await asyncio.gather(
            asyncio.to_thread(LOG.info, "in a thread"), asyncio.create_task(in_a_task())
        )

    async def in_a_task() -> None:
        LOG.info("in a task")

    lines = lines_of(lambda: asyncio.run(answer()), capsys)
    assert len(lines) == 2
    assert all(line.endswith("(request abc-1)") for line in lines)


def test_requests_at_the_same_time_keep_their_ids_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info")

    async def answer(name: str) -> None:
        open_notes(Notes(name))
        await asyncio.sleep(0)
        LOG.info("I am %s", name[:1])

    async def both() -> None:
        await asyncio.gather(*[asyncio.create_task(answer(name)) for name in ("a-1", "b-2")])

    lines = lines_of(lambda: asyncio.run(both()), capsys)
    assert [line.partition(": ")[2] for line in lines] == [
        "I am a (request a-1)",
        "I am b (request b-2)",
    ]


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_error_in_a_request_is_logged_without_the_words_of_strangers(
    form: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("debug", form)
    group = ExceptionGroup("canary", [KeyError("canary"), InvalidRequest("not 'canary'")])
    group.__cause__ = UnicodeEncodeError("utf-8", "canary", 0, 1, "canary")
    text = "\n".join(lines_of(lambda: of_request(failing(group)), capsys))
    assert "canary" not in text
    for name in ("ExceptionGroup", "KeyError", "fledge.errors.InvalidRequest", "Unicode", __file__):
        assert name in text, text


@pytest.mark.parametrize(
    "error", [BackendUnavailable("the lane died"), OSError(28, "the lane died")]
)
def test_what_fledge_or_the_system_says_of_an_error_is_logged(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info")
    assert "the lane died" in "\n".join(lines_of(lambda: of_request(failing(error)), capsys))


def test_outside_of_requests_tracebacks_are_as_always(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    line = json_of(failing(ValueError("what is wrong")), capsys)
    assert line["exception"].endswith("ValueError: what is wrong")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Keyed]:
    with Keyed(tmp_path) as one:
        yield one


def test_the_line_of_a_request_tells_what_it_was(
    place: Keyed, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("debug", "json")
    with place.client(place.key()) as client:
        body = {"input": ["a b", "c"]}
        client.post("/v1/embeddings", json=body, headers={"x-request-id": "abc-1"})
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert line.pop("time")
    assert line.pop("duration_ms") > 0
    assert re.fullmatch("key_[0-9a-f]{16}", line["key_id"])
    assert re.fullmatch(
        r"POST /v1/embeddings 200 \d+\.\d ms model=fledge/fake tokens=7 key_id=key_[0-9a-f]{16}",
        line.pop("message"),
    )
    assert line == {
        "level": "DEBUG",
        "logger": "fledge.access",
        "method": "POST",
        "route": "/v1/embeddings",
        "status": 200,
        "model": "fledge/fake",
        "tokens": 7,
        "key_id": line["key_id"],
        "request_id": "abc-1",
    }


BODIES = (
    b'{"input": "canary", "inputs": "canary", "query": "canary", "documents": ["canary"]}',
    b'{"input": ["canary"], "inputs": ["canary"], "model": "canary/canary"}',
    b'{"input": {"canary": 1}, "inputs": {"canary": 1}}',
    b'{"input": "canary" * 3, canary',
    b'\xff"canary"',
)
PATHS = ("/v1/embeddings", "/", "/models/canary", "/rerank", "/canary", "/admin/keys")
STRANGERS = (
    {"authorization": "Bearer canary", "cookie": "canary", "x-hf-bill-to": "canary"},
    {"x-api-key": "canary", "tracestate": "canary", "x-request-id": 'canary"'},
    {"origin": "http://canary.example", "host": "canary.example"},
)
ERRORS = (
    Overloaded("busy", retry_after_s=1),
    ComputeError("broken"),
    KeyError("canary"),
    ZeroDivisionError("canary"),
)


@pytest.mark.parametrize("form", ["text", "json"])
def test_neither_texts_nor_secrets_nor_names_are_logged_whatever_happens(
    place: Keyed, form: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = place.key("canaryname", requests_per_minute=50)
    client = place.client()
    headers = {"authorization": f"Bearer {secret}", "x-hf-bill-to": "canary"}

    def post(path: str, body: bytes, headers: dict[str, str]) -> None:
        client.post(f"{path}?canary=canary", content=body, headers=headers)

    configure_logging("debug", form)
    caplog.set_level(logging.DEBUG, "fledge")
    logging.getLogger().addHandler(caplog.handler)
    for body in BODIES:
        for path in PATHS:
            post(path, body, headers)
    for stranger in STRANGERS:
        post("/v1/embeddings", BODIES[0], stranger)
        post("/", BODIES[0], stranger)
    for place.backend.error in ERRORS:
        post("/v1/embeddings", BODIES[0], headers)
    for _ in range(50):  # more than the key may
        post("/v1/embeddings", BODIES[0], headers)
    captured = capsys.readouterr()
    for expected in (" 200 ", " 400 ", " 401 ", " 403 ", " 404 ", " 429 ", " 500 ", "KeyError"):
        assert expected in captured.err
    told = [captured.err, *(one.getMessage() for one in caplog.records)]
    told += [str(vars(one)) for one in caplog.records if not one.exc_info]
    for text in told:
        assert "canary" not in text.lower()
        assert secret not in text


def test_a_log_that_is_not_configured_is_left_as_it_is() -> None:
    """As in a program that uses Fledge as a library."""
    assert not [one for one in logging.getLogger("fledge").handlers if one is not sys.stderr]
