"""The worker's side of a measurement: one engine in its own process, told what to do line by line.

A line of JSON comes in on stdin, `{"op": NAME, ...arguments}`, and one goes out on stdout,
`{"ok": RESULT}` or `{"error": TEXT}`. An engine of its own process has its own thread pools and
its own memory, and the driver lets only one of them work at a time.
"""

import base64
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

Embed: TypeAlias = Callable[[list[str]], NDArray[np.float32]]
Handler: TypeAlias = Callable[..., Any]

FIRST_TEXT = "The first text that a fresh process turns into a vector."


def serve(handlers: Mapping[str, Handler], ready: Any = None) -> None:
    """Say that this worker is ready, then answer requests until stdin ends."""
    answers = _private_stdout()
    _answer(answers, {"ok": ready})
    for line in sys.stdin:
        request = json.loads(line)
        operation = request.pop("op")
        try:
            reply = {"ok": handlers[operation](**request)}
        except Exception:  # noqa: BLE001 - the process's edge: the driver raises it again
            reply = {"error": traceback.format_exc()}
        _answer(answers, reply)


def serve_engine(embed: Embed, info: Mapping[str, Any]) -> None:
    """Answer as an engine. Its first vector is computed before it says that it is ready."""
    dimension = embed([FIRST_TEXT]).shape[1]
    bench = EngineBench(embed)
    handlers: dict[str, Handler] = {
        "texts": bench.take_texts,
        "vectors": bench.vectors,
        "throughput": bench.throughput,
        "latency": bench.latency,
        "memory": memory,
    }
    serve(handlers, ready={"dimension": dimension, **info})


class EngineBench:
    """What is measured of an engine that turns a list of texts into vectors."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._texts: dict[str, list[str]] = {}

    def take_texts(self, name: str, texts: Sequence[str]) -> None:
        """Keep texts for later, so that no measurement waits for a pipe."""
        self._texts[name] = list(texts)

    def vectors(self, name: str) -> str:
        """All vectors as base64 of float32: shows that engines agree, and warms them up."""
        vectors = np.ascontiguousarray(self._embed(self._texts[name]), dtype=np.float32)
        return base64.b64encode(vectors.tobytes()).decode()

    def throughput(self, name: str, min_seconds: float) -> float:
        """Seconds that one pass over the texts takes; fast engines make several passes."""
        texts, passes = self._texts[name], 0
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < min_seconds or passes == 0:
            self._embed(texts)
            passes += 1
        return elapsed / passes

    def latency(self, name: str, seconds: float, least: int = 20) -> list[float]:
        """Milliseconds of one text after another, each alone."""
        texts, samples = self._texts[name], list[float]()
        end = time.perf_counter() + seconds
        while len(samples) < least or time.perf_counter() < end:
            start = time.perf_counter()
            self._embed([texts[len(samples) % len(texts)]])
            samples.append((time.perf_counter() - start) * 1000)
        return samples


def memory(pid: int | None = None) -> dict[str, int]:
    """Bytes of a process: its peak, and what of its memory now is its own and not a mapped file."""
    status = Path(f"/proc/{pid or 'self'}/status")
    if not status.exists():  # not Linux: the peak alone, in bytes on macOS
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    kib = {name: int(fields[name].split()[0]) for name in ("VmHWM", "RssAnon")}
    return {"peak": kib["VmHWM"] * 1024, "anonymous": kib["RssAnon"] * 1024}


def _private_stdout() -> TextIO:
    """The real stdout for answers alone: what libraries print goes to stderr instead."""
    sys.stdout.flush()
    private = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return private


def _answer(answers: TextIO, reply: Mapping[str, Any]) -> None:
    answers.write(json.dumps(reply) + "\n")
    answers.flush()
