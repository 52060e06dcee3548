"""`fledge models load`, `unload`, `pin`, `unpin`, `status` against a real server on loopback."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from fledge.cli.remote import Server, path_of
from fledge.errors import CorruptModel, ServerRefused, ServerUnreachable
from fledge.settings import Settings
from fledge.types import ModelEntry
from tests.clients.serving import Recording, serving
from tests.keyed import Keyed
from tests.unit.api.catalogue import ENTRIES, KNOWN, LARGE, PLAIN, Catalogue
from tests.unit.cli.fakes import run

ODD = ModelEntry(id="möbel/50% & more?")


@pytest.fixture
def place() -> Catalogue:
    return Catalogue(*ENTRIES, ODD)


@pytest.fixture
def recording(place: Catalogue) -> Recording:
    return Recording(place.app)


@pytest.fixture
def url(recording: Recording) -> Iterator[str]:
    with serving(recording) as address:
        yield address


def lines(text: str) -> list[list[str]]:
    """The rows of a table, without its borders."""
    rows = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]


def test_a_model_is_loaded_pinned_unpinned_and_unloaded(place: Catalogue, url: str) -> None:
    assert run("models", "load", "org/plain", "--url", url).stdout == "org/plain is warm\n"
    assert place.deployments.loads == ["org/plain"]
    pinned = run("models", "pin", "org/plain", "--url", url)
    assert pinned.stdout == "org/plain is warm, pinned\n"
    assert run("models", "unpin", "PLAIN", "--url", url).stdout == "org/plain is warm\n"
    unloaded = run("models", "unload", "org/known", "--url", url)
    assert unloaded.stdout == "org/known is cold\n"
    assert place.deployments.unloads == ["org/known"]


def test_what_a_model_takes_is_said(url: str) -> None:
    assert (
        run("models", "pin", "known", "--url", url).stdout == "org/known is warm, 87.0 MB, pinned\n"
    )


def test_load_need_not_wait(place: Catalogue, url: str) -> None:
    place.deployments.hold()
    result = run("models", "load", "org/plain", "--no-wait", "--url", url)
    assert result.stdout == "org/plain is loading, building, about 5 s to go\n"


def test_an_entry_comes_as_json_when_asked(url: str) -> None:
    entry = json.loads(run("models", "load", "org/plain", "--url", url, "--json").stdout)
    assert (entry["id"], entry["status"], entry["object"]) == ("org/plain", "warm", "model")


def test_a_name_of_any_characters_arrives_as_it_is(place: Catalogue, url: str) -> None:
    result = run("models", "load", ODD.id, "--url", f"{url}/")
    assert result.exit_code == 0, result.stderr
    assert place.deployments.loads == [ODD.id]


def test_the_server_s_own_words_are_shown(place: Catalogue, url: str) -> None:
    place.deployments.errors["org/plain"] = CorruptModel("model.safetensors ends too early")
    failed = run("models", "load", "org/plain", "--url", url)
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr == "error: model.safetensors ends too early\n"
    unknown = run("models", "pin", "org/none", "--url", url)
    assert unknown.exit_code == 1
    assert '"org/none" is not served here' in unknown.stderr


def test_status_shows_what_is_not_cold(place: Catalogue, url: str) -> None:
    place.deployments.set(PLAIN.id, state="loading", stage="downloading", remaining_s=61.2)
    place.deployments.set(
        LARGE.id, state="failed", failure="gated", reason="accept its terms", is_pinned=True
    )
    assert lines(run("models", "status", "--url", url).stdout) == [
        ["org/known", "warm", "87.0 MB", "", ""],
        ["org/plain", "loading", "-", "", "downloading, about 61 s to go"],
        ["Other/Large-Model", "failed", "-", "yes", "gated: accept its terms"],
    ]
    every = run("models", "status", "--url", url, "--all", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in every] == [entry.id for entry in (*ENTRIES, ODD)]


def test_the_server_is_where_the_settings_have_it(
    url: str, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEDGE_PORT", url.rpartition(":")[2])
    for host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - asked, not bound
        monkeypatch.setenv("FLEDGE_HOST", host)
        assert run("models", "status").exit_code == 0
    assert len(recording.seen) == 2


def test_a_port_that_is_picked_anew_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_PORT", "0")
    result = run("models", "status")
    assert (result.exit_code, "say with --url" in result.stderr) == (2, True)


def test_no_proxy_is_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert run("models", "status", "--url", url).exit_code == 0


def test_a_server_that_does_not_run_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    result = run("models", "load", KNOWN.id, "--url", f"http://127.0.0.1:{port}")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: no answer from http://127.0.0.1:{port}: Connection refused; start a server with "
        "`fledge serve`, or say with --url where it is\n"
    )


def test_a_program_can_tell_a_silent_server_from_one_that_refuses(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ServerUnreachable):
        Server(f"http://127.0.0.1:{port}", Settings()).ask("GET", "/v1/models")
    with pytest.raises(ServerRefused, match="is not served here"):
        Server(url, Settings()).ask("POST", path_of("org/none", "pin"))


def test_something_else_that_answers_is_one_line() -> None:
    async def other(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await PlainTextResponse("hello", 404)(scope, receive, send)

    with serving(other) as address:
        result = run("models", "status", "--url", address)
    assert result.exit_code == 1
    assert result.stderr == f"error: {address} answered 404, but not as Fledge does\n"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://host", "http://", "http://h:x", "http://h?a", "http://[x"]
)
def test_what_is_no_address_is_a_wrong_flag(url: str) -> None:
    result = run("models", "status", "--url", url)
    assert result.exit_code == 2
    assert "is no address of a server; give it as http://127.0.0.1:8080" in result.stderr


def test_a_host_that_no_dns_can_have_is_one_line() -> None:
    result = run("models", "status", "--url", f"http://{'a' * 64}.example:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no answer from ")


def test_json_before_the_command_is_refused() -> None:
    result = run("models", "--json", "status")
    assert (result.exit_code, "after `status`" in result.stderr) == (2, True)


def test_a_server_that_asks_for_keys_gets_the_one_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Keyed(tmp_path) as keyed, serving(keyed.app) as address:
        secret = keyed.key("boss", "admin")
        refused = run("models", "status", "--url", address)
        monkeypatch.setenv("FLEDGE_API_KEY", secret)
        answered = run("models", "status", "--url", address)

    assert refused.exit_code == 1
    assert "API key" in refused.stderr
    assert answered.exit_code == 0
    assert "fledge/fake" in answered.stdout


@pytest.mark.parametrize("key", ["fl-geheim\n", "fl-gehe\u00efm"])
def test_a_key_that_can_be_none_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("FLEDGE_API_KEY", key)
    result = run("models", "status", "--url", "http://127.0.0.1:1")

    assert result.exit_code == 2
    assert result.stderr == "error: api_key has characters that no key has\n"
