"""The driver's side: workers and the server as subprocesses, started, asked and stopped."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
START_TIMEOUT_S = 300
NO_HEADERS: Mapping[str, str] = {}


class WorkerError(Exception):
    """A worker failed; the message is its own traceback."""


class Process:
    """A subprocess with a log of its own, stopped when left."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        self.started = time.perf_counter()
        with log.open("w") as errors:
            self.process = subprocess.Popen(  # noqa: S603 - a command of this package
                [sys.executable, *command],
                cwd=ROOT,
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, kindly first."""
        if self.process.stdin:
            self.process.stdin.close()
        self._end()
        if self.process.stdout:
            self.process.stdout.close()

    def _end(self) -> None:
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def failure(self, what: str) -> WorkerError:
        """What to raise when it has gone."""
        return WorkerError(f"{what}; the end of its log:\n{self.log.read_text()[-2000:]}")


class Worker(Process):
    """A module of this package that answers lines of JSON. See `benchmarks.worker`.

    Args:
        on_start: called with the process's id before anything is waited for.

    Attributes:
        ready: what it said once it was ready.
        start_s: seconds from its start until then.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        log: Path,
        environment: Mapping[str, str],
        on_start: Callable[[int], object] = lambda _: None,
    ) -> None:
        super().__init__(["-m", module, *arguments], log, environment)
        on_start(self.process.pid)
        self.name = " ".join([module.rpartition(".")[2], *arguments])
        self.ready = self._answer()
        self.start_s = time.perf_counter() - self.started

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Have it do something, and wait for the result.

        Raises:
            WorkerError: it failed, or it has died.
        """
        pipe = self.process.stdin
        if pipe is None or self.process.poll() is not None:
            raise self.failure(f"{self.name} has died")
        pipe.write(json.dumps({"op": operation, **arguments}) + "\n")
        pipe.flush()
        return self._answer()

    def _answer(self) -> Any:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise self.failure(f"{self.name} died")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"{self.name}: {reply['error']}")
        return reply["ok"]


class Echo(Process):
    """`benchmarks.echo`, answering with the same bytes for ever, after `delay_s`."""

    def __init__(
        self,
        content: bytes,
        *,
        folder: Path,
        headers: Mapping[str, str] = NO_HEADERS,
        delay_s: float = 0.0,
    ) -> None:
        self.port = _free_port()
        file = folder / f"echo-{self.port}"
        file.write_bytes(content)
        command = ["-m", "benchmarks.echo", str(self.port), str(file), json.dumps(dict(headers))]
        super().__init__([*command, str(delay_s)], file.with_suffix(".log"), {})
        while not self._answers():
            time.sleep(0.01)
            if self.process.poll() is not None:
                raise self.failure("the echo died")

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port)):
                return True
        except OSError:
            return False

    def _end(self) -> None:
        self.process.terminate()
        super()._end()


class Server(Process):
    """`fledge serve` of one model, up and answering.

    Args:
        secret: the key that it asks for.

    Attributes:
        start_s: seconds from its start until the first vector came over HTTP.
    """

    def __init__(
        self,
        folder: Path,
        precision: str,
        *,
        log: Path,
        environment: Mapping[str, str],
        secret: str | None = None,
    ) -> None:
        self._headers = {"Content-Type": "application/json"}
        if secret:
            self._headers["Authorization"] = f"Bearer {secret}"
        self.port = _free_port()
        command = ["-c", "from fledge.cli.main import app; app()", "serve", str(folder)]
        flags = ["--port", str(self.port), "--precision", precision, "--log-level", "warning"]
        super().__init__([*command, *flags], log, environment)
        while not self._answers():
            time.sleep(0.01)
            if self.process.poll() is not None:
                raise self.failure("the server died")
            if time.perf_counter() - self.started > START_TIMEOUT_S:
                raise self.failure("the server does not answer")
        self.start_s = time.perf_counter() - self.started
        self.model = self._get("/v1/models")["data"][0]["id"]

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors, as plainly as can be: for comparing, not for measuring."""
        body = {"input": list(texts), "truncate": True}
        answer = self._get("/v1/embeddings", json.dumps(body).encode())
        return [entry["embedding"] for entry in answer["data"]]

    def answer(self, texts: Sequence[str]) -> tuple[bytes, dict[str, str]]:
        """The body of an answer in base64, and its headers but for those of every web server."""
        body = {"model": self.model, "input": list(texts), "encoding_format": "base64"}
        request = self._request("/v1/embeddings", json.dumps(body | {"truncate": True}).encode())
        for _ in range(2):  # the third time it is given as it was written before
            urllib.request.urlopen(request, timeout=60).close()  # noqa: S310 - likewise
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - likewise
            content, headers = response.read(), dict(response.headers)
        usual = ("date", "connection", "content-length", "content-type")
        return content, {n: v for n, v in headers.items() if n.lower() not in usual}

    def _answers(self) -> bool:
        try:
            return bool(self.embed(["The first text that a server turns into a vector."]))
        except urllib.error.HTTPError:
            raise  # it is up, and something is wrong
        except OSError:
            return False

    def _get(self, path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(self._request(path, body), timeout=60) as response:  # noqa: S310 - likewise
            return json.load(response)

    def _request(self, path: str, body: bytes | None = None) -> urllib.request.Request:
        return urllib.request.Request(f"http://{HOST}:{self.port}{path}", body, self._headers)

    def _end(self) -> None:
        self.process.terminate()
        super()._end()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
