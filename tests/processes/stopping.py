"""`fledge serve` with a fake model that does as the texts say, to be stopped by a test.

Argument: a JSON object with the constants of `fledge.cli.server` to change, and `dimension` and
`on_close` of the model. Its lines on stdout, after the greeting, are what has happened: `held`,
`blocked`, `closing`, at last `closed` or `not closed`. A line on stdin releases what is held.

With `builds`, a model's folder, the real engine builds that model whenever it is asked for, again
and again without end, and says `building`.
"""

import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any

from fledge.catalog.catalog import Catalog
from fledge.cli import server
from fledge.cli.main import app
from fledge.cli.tools import Tools
from fledge.engine import memory
from fledge.engine.backend import load_transformer
from fledge.engine.lane import Lane
from fledge.engine.lifecycle.lifecycle import Lifecycle
from fledge.engine.lifecycle.ports import LifecycleOptions, Memory
from fledge.engine.loader import LocalLoader
from fledge.engine.recipe import Recipe
from fledge.engine.routes import RunningModel
from fledge.engine.sources import ModelFolder
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend, fake_card
from fledge.types import EmbedJob, EmbedResult, ModelEntry, Precision
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


class Building(FakeTools):
    """Serves a model that the real engine never has done with."""

    run_server = Tools.run_server

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def build_service(self, settings: Settings) -> Service:
        loader = LocalLoader(
            load_transformer=self._build, precision_of=lambda _: "fp32", max_queued_tokens=1000
        )
        # a build ends in between, and nobody waits for that: it is to be caught in the middle
        options = LifecycleOptions(budget_bytes=10**9, stopping_s=0)
        lifecycle = Lifecycle(loader, options, memory=Memory(memory.anonymous_bytes, memory.trim))
        entry = ModelEntry(id="test/built", folder=self._folder)
        return Service(Catalog([entry]), lifecycle, settings)

    def _build(self, source: ModelFolder, recipe: Recipe, precision: Precision) -> RunningModel:
        lane = Lane(batch_target_ms=35, max_queued_tokens=1000)
        is_said = False
        while True:
            load_transformer(
                source,
                recipe,
                lane=lane,
                precision=precision,
                threads=1,
                cache_dir=self._folder / "cache",
            ).close()
            if not is_said:
                say("building")
                is_said = True


def build(folder: Path) -> None:
    try:
        app(["serve", "--port", "0"], obj=Building(folder))
    finally:
        say("the interpreter ends")


def main(choices: dict[str, Any]) -> None:
    if builds := choices.pop("builds", None):
        build(Path(builds))
        return
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
