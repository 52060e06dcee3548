"""A PostgreSQL server of the tests' own: on a free port, in a temporary folder, gone afterwards.

A test module or a conftest that wants it says `from tests.postgres import postgres_server`.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from tests.conftest import skip_or_fail

__all__ = ["PostgresServer", "postgres_server"]

_START_S = 60


class PostgresServer:
    """A server that can be stopped and started again, and makes databases.

    It does not run as root, so it does not where the tests do: then it runs as `postgres`.
    """

    def __init__(self, bin_folder: Path, folder: Path) -> None:
        self._bin = bin_folder
        self._folder = folder
        self._data = folder / "data"
        self._user = "postgres" if os.geteuid() == 0 else None
        self._numbers = count(1)
        self._is_running = False
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        if self._user:
            shutil.chown(folder, self._user, self._user)
        self._run("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8")

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
            f"{self._folder} -c fsync=off -c full_page_writes=off -c shared_buffers=16MB"
        )
        log = str(self._folder / "log")
        self._run("pg_ctl", "start", "--wait", f"--timeout={_START_S}", "--log", log, "-o", options)
        self._is_running = True

    def start_if_stopped(self) -> None:
        """For the end of a test that may have stopped it."""
        if not self._is_running:
            self.start()

    def stop(self) -> None:
        """Stop at once, as a crash does: connections break, and nothing is tidied up."""
        self._run("pg_ctl", "stop", "--wait", "--mode=immediate")
        self._is_running = False

    def new_database(self) -> str:
        """A URL under which there are no tables: a schema, which is made faster than a database."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self._url}?options=-csearch_path%3D{name}"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments],
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "PGDATA": str(self._data)},
            # Not a pipe: the server inherits it, and reading would wait for the server's end.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        log = self._folder / "log"
        assert done.returncode == 0, (program, log.read_text() if log.exists() else "")


def _bin_folder() -> Path | None:
    """Where the server's programs are; distributions do not put them on the path."""
    folders = [Path(found).parent for found in [shutil.which("initdb")] if found]
    folders += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name)
    )
    return next((one for one in reversed(folders) if (one / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server, one for each process of the tests; skips where PostgreSQL is not."""
    bin_folder = _bin_folder()
    if bin_folder is None:
        skip_or_fail("PostgreSQL is not installed on this machine")
    # Not pytest's own folder, which only the user who runs the tests may enter.
    with tempfile.TemporaryDirectory(prefix="fledge-postgres-") as name:
        server = PostgresServer(bin_folder, Path(name))
        server.start()
        try:
            yield server
        finally:
            server.stop()
