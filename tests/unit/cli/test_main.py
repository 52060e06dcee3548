import os
import subprocess
import sys
from pathlib import Path

import pytest

from fledge import __version__
from fledge.cli.main import BROKEN_PIPE
from fledge.errors import ModelOffline, SettingsError
from tests.unit.cli.fakes import FakeTools, run

ROOT = Path(__file__).parents[3]
COMMANDS = (
    *("serve", "embed", "similarity", "rerank", "models", "pull"),
    *("keys", "usage", "config", "doctor"),
)


def failing(error: BaseException) -> FakeTools:
    tools = FakeTools()
    tools.error = error
    return tools


def test_help_lists_the_commands() -> None:
    result = run("--help")

    assert result.exit_code == 0
    assert all(f"  {command} " in result.stdout for command in COMMANDS)


def test_no_help_line_is_cut_off() -> None:
    assert "..." not in run("--help").stdout.partition("Commands:")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    assert run(command, "--help").exit_code == 0


def test_the_version_is_the_package_s() -> None:
    assert run("--version").stdout.strip() == __version__


def test_an_error_is_one_line_and_1() -> None:
    result = run("embed", "one", tools=failing(ModelOffline("not here; pull it first")))

    assert result.exit_code == 1
    assert result.stderr == "error: not here; pull it first\n"
    assert result.stdout == ""


def test_a_wrong_setting_is_one_line_and_2() -> None:
    result = run("embed", "one", tools=failing(SettingsError("port: too large")))

    assert result.exit_code == 2
    assert result.stderr == "error: port: too large\n"


def test_an_unknown_variable_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_PRECISON", "int8")
    result = run("embed", "one")

    assert result.exit_code == 2
    assert "FLEDGE_PRECISON" in result.stderr


def test_an_error_of_the_system_names_the_file() -> None:
    result = run("embed", "one", tools=failing(OSError(28, "No space left on device", "/x")))

    assert result.exit_code == 1
    assert result.stderr == "error: /x: No space left on device\n"


def test_an_interrupt_is_130() -> None:
    assert run("embed", "one", tools=failing(KeyboardInterrupt())).exit_code == 130


def test_debug_shows_where_it_came_from() -> None:
    error = ModelOffline("not here")

    assert run("--debug", "embed", "one", tools=failing(error)).exception is error


def test_a_closed_pipe_ends_without_a_word() -> None:
    script = "\n".join(
        [
            "from fledge.cli.main import app",
            "from tests.unit.cli.fakes import FakeTools",
            "app(['embed', *map(str, range(20_000))], obj=FakeTools())",
        ]
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as stdout, process.stderr as stderr:
        os.read(stdout.fileno(), 1)
        stdout.close()
        message = stderr.read()

    assert process.wait() == BROKEN_PIPE
    assert message == b""


def test_starting_imports_neither_the_engine_nor_the_web_framework() -> None:
    script = "import sys, fledge.cli.main; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()

    slow = {"openvino", "fastapi", "uvicorn", "pyarrow", "tokenizers", "torch", "huggingface_hub"}
    slow |= {"redis", "sqlalchemy"}
    assert slow.isdisjoint(loaded)
