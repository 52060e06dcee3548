"""The engine's first tests: it comes silently, computes any shape, and leaves no memory behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fledge.engine.cpu import choose_precision, detect
from tests.tiny import save_bert

SOAK = Path(__file__).with_name("soak.py")
CYCLES, BATCHES = 50, 40

# Prints each attempt to reach a network, to fork, or to start a program, in forked children too.
# An event loop wakes itself through a pair of unnamed Unix sockets, which reach nobody: giving one
# a name or a peer would be seen.
WATCH = """
import os, sys
WATCHED = ("socket.", "os.fork", "os.posix_spawn", "os.exec", "os.system", "subprocess.Popen")
AF_UNIX = 1
def watch(event, arguments):
    if event == "socket.__new__" and arguments[1] == AF_UNIX:
        return
    if event.startswith(WATCHED):
        os.write(1, f"{event}\\n".encode())
sys.addaudithook(watch)
"""
CI_VARIABLES = {"CI", "GITHUB_ACTIONS", "TF_BUILD", "JENKINS_URL", "TRAVIS", "GITLAB_CI"}


def watched(program: str) -> list[str]:
    """What a fresh interpreter without CI variables was seen to attempt while it ran `program`."""
    environment = {name: value for name, value in os.environ.items() if name not in CI_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", WATCH + program],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        timeout=60,
    )
    return done.stdout.splitlines()


def test_importing_the_engine_opens_no_socket_and_forks_no_process() -> None:
    assert watched("import fledge.engine.backend") == []


def test_loading_a_folder_and_embedding_reaches_no_network_and_starts_no_process(
    tmp_path: Path,
) -> None:
    folder, cache = str(save_bert(tmp_path / "model")), str(tmp_path / "cache")
    program = f"""
from fledge import library
with library.load({folder!r}, precision="fp32", cache_dir={cache!r}) as model:
    print(model.embed("w5 w6").shape)
"""

    assert watched(program) == ["(64,)"]


def test_the_watch_sees_sockets_and_forks() -> None:
    program = "import socket; socket.socket().close()\nif os.fork() == 0: os._exit(0)"

    assert {"socket.__new__", "os.fork"} <= set(watched(program))


def test_the_watch_sees_a_unix_socket_that_reaches_out(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    program = f"import socket; socket.socket(socket.AF_UNIX).bind({path!r})"

    assert watched(program) == ["socket.bind"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_fifty_loads_and_two_thousand_shapes_leave_no_memory_behind(
    precision: str, tmp_path: Path
) -> None:
    if choose_precision(precision, detect()).chosen != precision:  # type: ignore[arg-type]  # from the list above
        pytest.skip(f"this CPU does not compute {precision}")
    folder = save_bert(tmp_path / "model", hidden=128, layers=4, vocab=1000)

    done = subprocess.run(
        [sys.executable, SOAK, folder, tmp_path / "cache", str(CYCLES), str(BATCHES), precision],
        capture_output=True,
        text=True,
        check=True,
        timeout=800,
    )

    memory_kib = json.loads(done.stdout)
    assert len(memory_kib) == CYCLES
    # one cycle's reading jumps by megabytes now and then, so the lowest of the last five counts
    assert min(memory_kib[-5:]) <= 1.1 * memory_kib[4], memory_kib
