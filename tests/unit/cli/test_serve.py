"""`fledge serve`, up to the server itself in a process of its own."""

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fledge import bootstrap
from fledge.service import Service
from fledge.settings import Settings
from tests.unit.cli.fakes import FakeTools, run


def test_serving_is_announced_with_a_command_to_paste() -> None:
    tools = FakeTools()
    result = run("serve", "--port", "0", tools=tools)

    assert result.exit_code == 0
    assert tools.served is not None
    host, port, greeting = tools.served
    first, second = greeting.splitlines()
    assert host == "127.0.0.1"
    assert first.startswith(f"Fledge serves fledge/fake (fp32) on http://127.0.0.1:{port}, loaded")
    assert second.startswith(f"curl http://127.0.0.1:{port}/v1/embeddings ")


def test_flags_are_settings() -> None:
    tools = FakeTools()
    run(
        "serve",
        "a/b",
        "c/d",
        *("--port", "0", "--precision", "int8", "--threads", "2", "--log-level", "error"),
        tools=tools,
    )

    (settings,) = tools.loaded
    assert settings.models == ("a/b", "c/d")
    assert (settings.precision, settings.threads, settings.log_level) == ("int8", 2, "error")


class Unloaded(FakeTools):
    """Builds what is served as it really is built, and loads nothing."""

    def build_service(self, settings: Settings) -> Service:
        service = bootstrap.build_service(settings.model_copy(update={"preload": False}))
        self._note(settings)
        return service

    def run_server(
        self, service: Service, settings: Settings, listener: socket.socket, greeting: str
    ) -> None:
        super().run_server(service, settings, listener, greeting)
        asyncio.run(service.aclose())


@pytest.fixture
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts of the test's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "cache"):
        monkeypatch.setenv(f"FLEDGE_{name}_dir".upper(), str(tmp_path / name))


@pytest.mark.usefixtures("_own_data")
def test_an_address_that_others_reach_needs_a_key() -> None:
    tools = Unloaded()
    refused = run("serve", "--host", "0.0.0.0", "--port", "0", tools=tools)  # noqa: S104
    assert (refused.exit_code, tools.served) == (2, None)
    assert refused.stderr.startswith("error: listening on 0.0.0.0 would let anybody who reaches")
    assert "fledge keys create NAME" in refused.stderr
    assert "--no-auth" in refused.stderr

    assert run("keys", "create", "team").exit_code == 0
    served = run("serve", "--host", "0.0.0.0", "--port", "0", tools=tools)  # noqa: S104
    assert served.exit_code == 0, served.stderr
    assert tools.served is not None
    assert "Try it, with a key:\n" in tools.served[2]
    assert '-H "Authorization: Bearer $KEY"' in tools.served[2]


@pytest.mark.usefixtures("_own_data")
def test_without_a_database_it_is_not_told_to_make_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_DATABASE_URL", "none")
    refused = run("serve", "--host", "0.0.0.0", "--port", "0", tools=Unloaded())  # noqa: S104
    assert refused.exit_code == 2
    assert "since database_url is none" in refused.stderr
    assert "keys create" not in refused.stderr


@pytest.mark.usefixtures("_own_data")
def test_no_auth_allows_any_address_without_keys_and_with_them() -> None:
    for _ in range(2):
        tools = Unloaded()
        flags = ("--host", "0.0.0.0", "--port", "0", "--no-auth")  # noqa: S104
        assert run("serve", *flags, tools=tools).exit_code == 0
        assert tools.served is not None
        assert "$KEY" not in tools.served[2]
        run("keys", "create", "team")


@pytest.mark.usefixtures("_own_data")
@pytest.mark.parametrize(
    ("variable", "value", "code", "message"),
    [
        ("DATA_DIR", "/dev/null/x", 2, "data_dir: /dev/null/x cannot be made: Not a directory"),
        ("DATABASE_URL", "sqlite:////dev/null/x/a.db", 1, "cannot open /dev/null/x/a.db: Not a"),
        ("DATABASE_URL", "postgresql://u:geheim@127.0.0.1:1/x", 1, "does not answer: connection"),
        ("DATABASE_URL", "mysql://u:geheim@127.0.0.1/x", 2, "Fledge knows sqlite and postgresql"),
        ("DATABASE_URL", "NONE", 2, "database_url is malformed; write it as"),
        ("REDIS_URL", "http://u:geheim@127.0.0.1/x", 2, "FLEDGE_REDIS_URL: must be redis://user"),
        ("REDIS_URL", "redis://u:geheim@127.0.0.1/zero", 2, "must be redis://user"),
        ("REDIS_URL", "redis://u:geheim@127.0.0.1:x/0", 2, "must be redis://user"),
        ("REDIS_URL", "redis://u:geh#eim@127.0.0.1/0", 2, "must be redis://user"),
        ("REDIS_URL", "geheim", 2, "must be redis://user"),
    ],
)
def test_accounts_that_cannot_be_opened_are_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, code: int, message: str
) -> None:
    monkeypatch.setenv(f"FLEDGE_{variable}", value)
    result = run("serve", "--port", "0", tools=Unloaded())

    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "geheim" not in result.stderr


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost"])
def test_loopback_has_several_names(host: str) -> None:
    assert run("serve", "--host", host, "--port", "0").exit_code == 0


def test_a_host_that_is_no_name_is_found_before_a_model_is_loaded() -> None:
    tools = FakeTools()
    result = run("serve", "--host", ".foo", "--no-auth", tools=tools)

    assert result.exit_code == 2
    assert "cannot listen on .foo, port 8080: not a host name" in result.stderr
    assert tools.loaded == []


def test_a_port_that_is_taken_is_found_before_a_model_is_loaded() -> None:
    tools = FakeTools()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        result = run("serve", "--port", str(other.getsockname()[1]), tools=tools)

    assert result.exit_code == 2
    assert "Address already in use; choose another" in result.stderr
    assert tools.loaded == []


ROOT = Path(__file__).parents[3]
SERVE = """
import sys
from fledge.cli.main import app
from fledge.cli.tools import Tools
from tests.unit.cli.fakes import FakeTools

class Served(FakeTools):
    run_server = Tools.run_server

tools = Served()
tools.backend.delay_s = 0.5
try:
    app(["serve", "--port", "0", "--log-level", "error"], obj=tools)
finally:
    print("closed" if tools.backend.is_closed else "not closed")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_request_end_then_closes_the_model(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", SERVE], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout as stdout:
        url = stdout.readline().split(" on ")[1].split(",")[0]
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        body = json.dumps({"model": "fledge/fake", "input": "a"})
        connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        time.sleep(0.1)
        process.send_signal(number)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        rest = stdout.read()

    assert len(answer["data"][0]["embedding"]) == 4
    assert process.wait() == 0
    assert rest.endswith("closed\n")
    assert "not closed" not in rest
