"""One measurement of `benchmarks.cold_start` in a process of its own; prints one line of JSON."""

import argparse
import asyncio
import importlib
import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import write_folder
from benchmarks.models import minilm_folder, prepare_model
from benchmarks.shapes import BertShape
from fledge.bootstrap import build_service
from fledge.engine import disk, memory
from fledge.requests import EmbedRequest
from fledge.service import Service
from fledge.settings import DEFAULT_MODEL, load_settings

QUESTIONS = (
    "What is deep learning?",
    "how do I reset my password",
    "cheap flights to Oslo in May",
    "the capital of Australia is Canberra, not Sydney",
    "recipe for sourdough bread with rye",
)
PRIMER = BertShape(hidden=64, layers=1, heads=2, inner=256)
"""A model that is warm already, so that the runtime has been imported and has its threads."""

COLD_STARTS = 5
QUIET_S = 10.0
MOST_S = 120.0
BETWEEN_S = 0.1
"""From a load to the unloading: longer than any query, so that none is beside both."""

READ_BYTES = 2**24


class Server:
    """Fledge in this process: the one place that would change for another way to reach it."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def ask(self, model: str, text: str = QUESTIONS[0]) -> float:
        """Milliseconds from a request to its vector, however long the model takes to load."""
        start = time.perf_counter()
        await self._service.embed(EmbedRequest(inputs=[text], model=model))
        return (time.perf_counter() - start) * 1000

    async def load(self, model: str) -> None:
        await self._service.load(model)

    async def unload(self, model: str) -> None:
        await self._service.unload(model)

    async def close(self) -> None:
        await self._service.aclose()


class Stages(logging.Handler):
    """What the engine says of each load: `reading 40 ms, building 35 ms`."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.last: dict[str, float] = {}
        logger = logging.getLogger("fledge.engine.pipeline")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        found = re.findall(r"([a-z][a-z ]*) (\d+) ms", record.getMessage())
        self.last = {name: float(value) for name, value in found}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.cold_models", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("model")
    parser.add_argument("precision")
    parser.add_argument("cache", type=Path)
    parser.add_argument("--seconds", type=float, default=QUIET_S)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(TASKS[arguments.task](arguments))), file=sys.stdout, flush=True)


def _serve(arguments: argparse.Namespace, *models: str) -> Server:
    settings = load_settings(
        models=models,
        preload=False,
        catalog="none",
        precision=arguments.precision,
        cache_dir=_converted(arguments),
    )
    return Server(build_service(settings))


def _converted(arguments: argparse.Namespace) -> Path:
    path: Path = arguments.cache / "cold-start-converted"
    return path


def _forget_conversions(arguments: argparse.Namespace) -> None:
    shutil.rmtree(_converted(arguments), ignore_errors=True)


def _name(arguments: argparse.Namespace) -> str:
    """What the model is called: MiniLM by its id, which is how most would ask for it."""
    if arguments.model == "minilm":
        return DEFAULT_MODEL
    return str(prepare_model(arguments.model, arguments.cache).folder)


def _id(name: str) -> str:
    return name if name == DEFAULT_MODEL else Path(name).name


def _read_all(folder: Path) -> None:
    """Bring a folder's files into the page cache."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(READ_BYTES):
                    pass


async def cold_starts(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """From a request for a cold model to its vector: the first time ever, then converted."""
    primer = arguments.cache / "primer"
    if not primer.is_dir():
        write_folder(primer, PRIMER, minilm_folder())
    name, stages = _name(arguments), Stages()
    _forget_conversions(arguments)
    server = _serve(arguments, str(primer), name)
    await server.ask(primer.name)
    folder = prepare_model(arguments.model, arguments.cache).folder
    _read_all(folder)
    speed = disk.measure_bytes_per_s(folder)
    first = await server.ask(_id(name))
    first_stages, times, parts = stages.last, [], []
    for _ in range(COLD_STARTS):
        await server.unload(_id(name))
        times.append(await server.ask(_id(name)))
        parts.append(stages.last)
    await server.close()
    return {
        "first_ms": first,
        "first_stages": first_stages,
        "times_ms": times,
        "stages": parts,
        "bytes_per_s": speed,
    }


async def memory_taken(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """What a model takes, by its headers and by this process's own account."""
    name = _name(arguments)
    server = _serve(arguments, name)
    folder = prepare_model(arguments.model, arguments.cache).folder
    estimate = memory.model_bytes(folder, arguments.precision)
    importlib.import_module("fledge.engine.backend")  # the runtime's own memory is no model's
    memory.trim()
    before = memory.anonymous_bytes()
    await server.load(_id(name))
    memory.trim()
    measured = memory.anonymous_bytes() - before
    await server.close()
    return {"estimate": estimate, "measured": measured}


async def queries_beside(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Milliseconds of MiniLM's single queries: alone, and while the other model loads."""
    name, seconds = _name(arguments), arguments.seconds
    _forget_conversions(arguments)
    server = _serve(arguments, DEFAULT_MODEL, name)
    for _ in range(200):
        await server.ask(DEFAULT_MODEL)
    await server.load(_id(name))  # once, so that no first time is among those that follow
    await server.unload(_id(name))
    alone = [await server.ask(DEFAULT_MODEL, text) for text in _for_seconds(seconds)]
    results = {"alone": alone}
    for label, forget in (("converted", False), ("converting", True)):
        loading, leaving, loads = await _beside_loads(server, name, arguments, forget=forget)
        results |= {label: loading, f"{label}, unloading": leaving, f"{label}, loads": loads}
    await server.close()
    return results


def _for_seconds(seconds: float) -> Iterator[str]:
    """A question after another, until the time is over."""
    end, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        yield QUESTIONS[number % len(QUESTIONS)]
        number += 1


async def _beside_loads(
    server: Server, name: str, arguments: argparse.Namespace, *, forget: bool
) -> tuple[list[float], list[float], list[float]]:
    """Queries while the model loads, those while it leaves, and how long its loads took."""
    beside: dict[str, list[float]] = {"loading": [], "unloading": [], "nothing": []}
    loads: list[float] = []
    phase, is_over = "nothing", False

    async def load_again_and_again() -> None:
        nonlocal phase
        while not is_over:
            if forget:
                await asyncio.to_thread(_forget_conversions, arguments)
            phase, start = "loading", time.perf_counter()
            await server.load(_id(name))
            loads.append((time.perf_counter() - start) * 1000)
            phase = "nothing"
            await asyncio.sleep(BETWEEN_S)
            phase = "unloading"
            await server.unload(_id(name))
            phase = "nothing"
            await asyncio.sleep(BETWEEN_S)

    task = asyncio.create_task(load_again_and_again())
    for text in _for_seconds(MOST_S):
        before = phase
        milliseconds = await server.ask(DEFAULT_MODEL, text)
        beside[before if before != "nothing" else phase].append(milliseconds)
        if sum(beside["loading"]) / 1000 >= arguments.seconds and len(loads) > 1:
            break
    is_over = True
    await task
    return beside["loading"], beside["unloading"], loads


TASKS: Mapping[str, Callable[[argparse.Namespace], Coroutine[Any, Any, Mapping[str, Any]]]] = {
    "cold": cold_starts,
    "memory": memory_taken,
    "beside": queries_beside,
}


if __name__ == "__main__":
    main()
