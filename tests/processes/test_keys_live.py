"""Keys that the command makes and ends, while real servers run on the same database."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fledge.settings import Settings
from fledge.stores import describe_stores
from tests.postgres import PostgresServer, postgres_server
from tests.processes.redis_server import redis_server
from tests.servers import BIN, Server, environment, serving
from tests.static_folders import draw, save_static

__all__ = ["postgres_server"]

KNOWN_WITHIN_S = 2.0
WRITTEN_WITHIN_S = 30.0


class Place:
    """A database, the command beside it, and servers on it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self._settings: dict[str, Any] = {"database_url": url, "data_dir": folder / "data"}
        self._model = folder / "models" / "one"
        save_static(self._model, {"embedding.weight": draw(10, 4)}, vocab=10)
        self._stack = ExitStack()

    def fledge(self, *arguments: str) -> str:
        """What the command prints."""
        done = subprocess.run(
            [BIN / "fledge", *arguments],
            env=environment(self.folder, self._settings, online=False),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def serve(self, name: str, *arguments: str) -> Server:
        home = self.folder / name
        serve = serving(home, str(self._model), *arguments, **self._settings)
        return self._stack.enter_context(serve)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/accounts.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_database()
    place = Place(tmp_path, url)
    try:
        yield place
    finally:
        place.close()


def status(server: Server, secret: str = "") -> int:
    """Of an embedding that is asked for with a key."""
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    url = server.url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - asked, not bound
    return httpx2.post(f"{url}/v1/embeddings", json={"input": "a"}, headers=headers).status_code


def wait_until(is_so: Callable[[], bool], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_server_on_a_database_knows_within_two_seconds_who_may(place: Place) -> None:
    servers = [place.serve("one"), place.serve("two")]

    def soon(wanted: int, secret: str = "") -> None:
        """From the end of the command on, every server answers so."""
        wait_until(lambda: all(status(one, secret) == wanted for one in servers), KNOWN_WITHIN_S)

    soon(200)
    secret = place.fledge("keys", "create", "team")
    soon(401)
    soon(200, secret)
    second = place.fledge("keys", "rotate", "team")
    soon(200, second)
    soon(401, secret)
    place.fledge("keys", "revoke", "team")
    soon(401, second)

    for server in servers:
        log = server.log.read_text()
        assert secret not in log
        assert second not in log


def test_a_team_makes_a_key_serves_everybody_and_sees_what_was_used(place: Place) -> None:
    secret = place.fledge("keys", "create", "team")
    server = place.serve("one", "--host", "0.0.0.0")  # noqa: S104 - what is tested
    assert status(server) == 401
    assert status(server, secret) == status(server, secret) == 200

    def requests() -> int:
        rows = place.fledge("usage", "--by", "key", "--key", "team", "--format", "json")
        found: int = json.loads(rows)["requests"] if rows else 0
        return found

    wait_until(lambda: requests() == 2, WRITTEN_WITHIN_S)


def test_doctor_tells_what_answers_and_never_a_password(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    with redis_server(tmp_path, "--requirepass", "geheim") as redis:
        url = postgres_server.new_database().replace("postgres@", "postgres:geheim@")
        told = describe(database_url=url, redis_url=redis.url.replace("//", "//:geheim@"))
        assert told["database"].endswith(": answers")
        assert told["redis server"] == f"{redis.url.replace('//', '//:***@')}: answers"

        told = describe(redis_url=redis.url.replace("//", "//:falsch@"))
        assert "does not answer: " in told["redis server"]
        assert "falsch" not in told["redis server"]


def describe(**settings: str) -> dict[str, str]:
    return dict(describe_stores(Settings.model_validate(settings)))
