"""A Redis server of one's own, that can be stopped, killed, paused and started again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tests.conftest import skip_or_fail

START_S = 20


class RedisServer:
    """Keeps its port from one start to the next; what it has is lost when it stops.

    Attributes:
        url: where it is, or will be.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self._program = shutil.which("redis-server")
        if self._program is None:
            skip_or_fail("redis-server is not on this machine")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None
        assert self._program is not None
        options = ("--bind", "127.0.0.1", "--port", str(self.port), "--save", "", *self._options)
        self._process = subprocess.Popen(
            [self._program, *options], cwd=self._folder, stdout=subprocess.DEVNULL
        )
        until_s = time.monotonic() + START_S
        while not self._answers():
            assert time.monotonic() < until_s, "redis-server does not start"
            time.sleep(0.005)

    def stop(self) -> None:
        """End it, as it would like it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it accept connections, and answer nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    @contextmanager
    def client(self) -> Iterator[Redis]:
        """A client beside the one that is tested."""
        at_once = Retry(NoBackoff(), 0)
        with Redis(host="127.0.0.1", port=self.port, protocol=2, retry=at_once) as client:
            yield client

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                client.ping()
        except RedisError as error:
            return "NOAUTH" in str(error) or "Authentication" in str(error)
        return True

    def _end(self, number: int) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)
            os.kill(self._process.pid, signal.SIGCONT)
            self._process.wait(START_S)
            self._process = None


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A server that runs, unless a test stops it."""
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
