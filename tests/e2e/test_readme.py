"""Every line of the README that can be pasted is pasted."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.tiny import save_bert

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DEFAULT_URL = "http://127.0.0.1:8080"


def blocks(language: str) -> list[str]:
    # both fences of a block in one match, or a closing one would pass for an opening one
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


SHELL = [line for block in blocks("") for line in block.splitlines()]
COMMANDS = [line for line in SHELL if not line.startswith(("make ", "fledge serve"))]
PROGRAMS = blocks("python")


def test_the_readme_begins_with_the_two_commands_and_a_curl() -> None:
    assert SHELL[:2] == ["make serve", "make test"]
    assert SHELL[2].startswith(f"curl {DEFAULT_URL}/v1/embeddings ")


def test_the_readme_has_ten_things() -> None:
    assert re.findall(r"^\*\*(\d+)\.", README, flags=re.MULTILINE) == [
        str(number) for number in range(1, 11)
    ]


def test_the_shell_lines_work_in_their_order(
    server_url: str, environment: dict[str, str], tmp_path: Path
) -> None:
    for line in COMMANDS:
        # --fail-with-body: a line that the server refuses must not pass for one that works
        pasted = line.replace(DEFAULT_URL, server_url).replace("curl ", "curl --fail-with-body ")

        done = subprocess.run(
            ["bash", "-c", pasted],
            env={**environment, "FLEDGE_PORT": str(urlsplit(server_url).port)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

        assert done.returncode == 0, (line, done.stdout, done.stderr)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_the_python_programs_work(
    number: int, server_url: str, environment: dict[str, str], tmp_path: Path
) -> None:
    program = PROGRAMS[number].replace(DEFAULT_URL, server_url)

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={name: value for name, value in environment.items() if name != "HF_HUB_OFFLINE"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_serve_line_serves_both_models(environment: dict[str, str], tmp_path: Path) -> None:
    save_bert(tmp_path / "my-model")
    line = next(line for line in SHELL if line.startswith("fledge serve"))
    words = [*shlex.split(line)[:-2], "--port", "0"]  # the README's port may be taken

    with subprocess.Popen(
        words, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        greeting = process.stdout.readline()
        process.terminate()

    assert "all-MiniLM-L6-v2 (int8), my-model (int8)" in greeting
    assert process.returncode == 0
