"""`fledge serve` with a fake model that does as the texts say, to be stopped by a test.

Argument: a JSON object with the constants of `fledge.cli.server` to change, and `dimension` and
`on_close` of the model. Its lines on stdout, after the greeting, are what has happened: `held`,
`blocked`, `closing`, at last `closed` or `not closed`. A line on stdin releases what is held.
"""

import asyncio
import json
import sys
import threading
from typing import Any

from fledge.cli import server
from fledge.cli.main import app
from fledge.cli.tools import Tools
from fledge.testing import FakeBackend, fake_card
from fledge.types import EmbedJob, EmbedResult
from tests.unit.cli.fakes import FakeTools


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


class Obedient(FakeBackend):
    """A text `hold` waits to be released; `block` does so too, and nothing else runs meanwhile;
    `stick` leaves a thread behind that never ends."""

    def __init__(self, *, dimension: int = 4, on_close: str = "") -> None:
        super().__init__(fake_card(dimension=dimension))
        self._on_close = on_close
        self._released = threading.Event()
        self._never = threading.Event()
        self._stuck: list[asyncio.Task[bool]] = []

    def wait_for_release(self) -> None:
        sys.stdin.readline()
        self.release()
        self._released.set()

    async def embed(self, job: EmbedJob) -> EmbedResult:
        match job.items[0]:
            case "hold":
                say("held")
                self.hold()
            case "block":
                say("blocked")
                self._released.wait()
            case "stick":
                self._stuck.append(asyncio.create_task(asyncio.to_thread(self._never.wait)))
        return await super().embed(job)

    async def aclose(self) -> None:
        say("closing")
        if self._on_close == "wait":
            await asyncio.Event().wait()
        elif self._on_close == "block":
            self._never.wait()
        await super().aclose()


class Served(FakeTools):
    run_server = Tools.run_server

    def __init__(self, backend: Obedient) -> None:
        super().__init__()
        self.backend = backend


def main(choices: dict[str, Any]) -> None:
    backend = Obedient(dimension=choices.pop("dimension", 4), on_close=choices.pop("on_close", ""))
    for name, value in choices.items():
        setattr(server, name, value)
    threading.Thread(target=backend.wait_for_release, daemon=True).start()
    try:
        app(["serve", "--port", "0"], obj=Served(backend))
    finally:
        say("closed" if backend.is_closed else "not closed")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
