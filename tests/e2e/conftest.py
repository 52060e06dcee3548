"""A server as a user starts it: the command, a real model, a free port."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def environment(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """As on a machine that has never seen a model: nothing cached, no network needed."""
    home = tmp_path_factory.mktemp("home")
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "FLEDGE_CACHE_DIR": str(home / "fledge"),
    }


@pytest.fixture(scope="session")
def server_url(environment: dict[str, str]) -> Iterator[str]:
    """The address of `fledge serve`, once it says that it serves; it must end well, too."""
    with subprocess.Popen(
        [BIN / "fledge", "serve", "--port", "0", "--precision", "fp32"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        greeting = process.stdout.readline()
        yield greeting.split(" on ")[1].split(",")[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
