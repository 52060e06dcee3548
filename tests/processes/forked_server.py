"""`fledge serve` in a process that is to be killed, many times over."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

from fledge.cli.main import app
from tests.servers import environment

PATIENCE_S = 60

_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload(["fledge.cli.server", "fledge.engine.loader", "fledge.stores"])


class ForkedServer:
    """A server with its caches and data in `home`.

    It is a fork of a process that has everything imported: twenty starts would take longer than
    the tests.
    """

    def __init__(self, home: Path, number: int, settings: Mapping[str, Any]) -> None:
        self._out, self._log = home / f"out-{number}.txt", home / "log.txt"
        self._out.touch()
        variables = environment(home, settings, online=False)
        self._process = _PROCESSES.Process(
            target=_serve, args=(variables, self._out, self._log), daemon=True
        )
        self._process.start()

    def url(self) -> str:
        """Where it is, as soon as it says so."""
        until_s = time.monotonic() + PATIENCE_S
        while not (greeting := self._out.read_text()).endswith("\n"):
            assert self._process.is_alive(), self._log.read_text()
            assert time.monotonic() < until_s, "the server does not start"
            time.sleep(0.005)
        return greeting.split(" on ")[1].split()[0].rstrip(",.;")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """Tell it to end, and wait until it has."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGTERM)
        self._process.join(PATIENCE_S)
        assert self._process.exitcode == 0, self._log.read_text()


class Servers:
    """Servers on one folder, some of which start while others are at work.

    Args:
        home: where they are.
        settings: of all of them.
        ahead: how many start before they are asked for.
    """

    def __init__(self, home: Path, settings: Mapping[str, Any], *, ahead: int) -> None:
        self._home, self._settings, self._ahead = home, settings, ahead
        self._made: list[ForkedServer] = []
        self._taken = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self) -> ForkedServer:
        """The next one; it may still be starting."""
        self._taken += 1
        self._start()
        return self._made[self._taken - 1]

    def _start(self) -> None:
        while len(self._made) < self._taken + self._ahead:
            one = ForkedServer(self._home, len(self._made), self._settings)
            self._stack.callback(one.kill)
            self._made.append(one)


def _serve(variables: Mapping[str, str], out: Path, log: Path) -> None:
    os.environ.clear()
    os.environ.update(variables)
    for path, descriptor in ((out, 1), (log, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), descriptor)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - until it is killed
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - likewise
    app(["serve", "--port", "0"])
