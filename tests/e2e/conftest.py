"""A server as a user starts it: the command, a real model, a free port."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import save_bert

BIN = Path(sys.executable).parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def environment(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """As on a machine that has seen no model but one, and that without the network.

    The one is where the README's `BAAI/bge-small-en-v1.5` would be: a small random model in its
    place, so that the line can be run as it is.
    """
    home = tmp_path_factory.mktemp("home")
    repository = home / "huggingface" / "hub" / "models--BAAI--bge-small-en-v1.5"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    save_bert(repository / "snapshots" / COMMIT)
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
