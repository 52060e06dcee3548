"""`fledge serve` in a process of its own, as a user starts it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
STOP_S = 60


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it is, its process, and the file that its log goes to."""

    url: str
    process: "subprocess.Popen[str]"
    log: Path

    def rss_anon_bytes(self) -> int:
        """Memory that is the process's own."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024

    def said(self, words: str) -> int:
        """How many lines of the log have these words."""
        return sum(words in line for line in self.log.read_text().splitlines())


@contextmanager
def serving(home: Path, *arguments: str, online: bool = False, **settings: Any) -> Iterator[Server]:
    """Serve under some settings, with caches in `home`; stop with SIGTERM.

    The process must end with 0 when it is told to. Unless it is `online`, it asks no hub.
    """
    home.mkdir(parents=True, exist_ok=True)
    log = home / "log.txt"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [BIN / "fledge", "serve", "--port", "0", *arguments],
            env=environment(home, settings, online=online),
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            assert " on http://" in greeting, log.read_text()
            url = greeting.split(" on ")[1].split()[0].rstrip(",.;")
            yield Server(url, process, log)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=STOP_S) == 0, log.read_text()
        finally:
            process.kill()


def environment(home: Path, settings: Mapping[str, Any], *, online: bool) -> dict[str, str]:
    """Of a process with nothing cached."""
    own = {f"FLEDGE_{name.upper()}": _spelled(value) for name, value in settings.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLEDGE_")}
    return {
        **kept,
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "0" if online else "1",
        "FLEDGE_CACHE_DIR": str(home / "fledge"),
        "FLEDGE_DATA_DIR": str(home / "data"),
        **own,
    }


def _spelled(value: Any) -> str:
    return str(value) if isinstance(value, str | Path) else json.dumps(value)
