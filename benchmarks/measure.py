"""The measuring itself: every engine in turns, round by round, one at a time.

For each model all engines are loaded and warmed up first and stay; then each round measures each
of them once, so that whatever the machine does meanwhile falls on all alike.
"""

import base64
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import Model, export_onnx
from benchmarks.plan import (
    EXACT,
    HTTP_CLIENTS,
    HTTP_PRECISION,
    IN_PROCESS,
    ONNX_RUNTIME,
    Engine,
    Plan,
    Scope,
    defaults_of,
)
from benchmarks.processes import HOST, Server, Worker
from benchmarks.samples import Samples
from benchmarks.worker import memory
from benchmarks.workloads import Workload

TIMED = ("short", "passages", "mixed")
KEPT = (*TIMED, "queries")
HTTP_ONLY = ("crowd", "longest")
SETTLE_S = 0.1
"""Between two measurements, for threads that spin a while after their work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What measuring needs, and where its results go.

    Attributes:
        facts: what is not a number of a round, by model: for the report.
    """

    plan: Plan
    cache: Path
    samples: Samples = field(default_factory=Samples)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> Mapping[str, str]:
        """No network, and Fledge's converted weights where the benchmark's other files are."""
        return {
            "HF_HUB_OFFLINE": "1",
            "FLEDGE_CACHE_DIR": str(self.cache / "converted"),
            "FLEDGE_DATA_DIR": str(self.cache / "data"),
        }

    def worker(self, module: str, *arguments: str) -> Worker:
        """Start a worker of this package."""
        log = self.cache / f"{'-'.join([module, *arguments[-1:]]).replace('/', '-')[-80:]}.log"
        return Worker(f"benchmarks.{module}", *arguments, log=log, environment=self.environment)

    def engine(self, engine: Engine, model: Model) -> Worker:
        """Start an engine with a model."""
        how = [engine.precision]
        if engine.module == ONNX_RUNTIME:
            how = [str(export_onnx(model, self.cache))]
        elif engine == defaults_of(model.name):
            how.append("defaults")
        return self.worker(f"engines.{engine.module}", str(model.folder), *how)

    def server(self, model: Model) -> Server:
        """Start `fledge serve`."""
        log = self.cache / f"serve-{model.name}.log"
        return Server(model.folder, HTTP_PRECISION, log=log, environment=self.environment)


@dataclass(frozen=True, slots=True)
class Http:
    """A server, and what loads it."""

    server: Server
    load: Worker


def measure_model(bench: Bench, model: Model, workloads: Mapping[str, Workload]) -> None:
    """All rounds of one model."""
    scope, rounds = bench.plan.scopes[model.name], bench.plan.rounds
    with ExitStack() as stack:
        limits = [stack.enter_context(bench.worker("gemm", name)) for name in ("torch", "openvino")]
        workers = {
            one.id: stack.enter_context(bench.engine(one, model)) for one in scope.own_engines()
        }
        http = _start_http(bench, model, stack) if scope.has_http else None
        _hand_out(workers, workloads)
        if http:
            _hand_out_http(http, workloads)
        bench.facts[model.name] = _facts(workers, http, workloads["passages"])
        for number in range(1, rounds + 1):
            with _told(f"{model.name}, round {number} of {rounds}"):
                _measure_limits(bench, model, limits)
                _measure_engines(bench, model, workers, workloads)
                if http:
                    _measure_beside_http(bench, model, workers[IN_PROCESS], workloads)
                    _measure_http(bench, model, http.load, workloads)
        if http:
            used = memory(http.server.process.pid)
            bench.facts[model.name]["server_memory"] = used
    for number in range(1, rounds + 1):
        with _told(f"{model.name}, fresh processes, round {number} of {rounds}"):
            _measure_fresh(bench, model, scope, workloads["passages"])


def _start_http(bench: Bench, model: Model, stack: ExitStack) -> Http:
    server = stack.enter_context(bench.server(model))
    return Http(server, stack.enter_context(bench.worker("load")))


def _facts(
    workers: Mapping[str, Worker], http: Http | None, passages: Workload
) -> dict[str, Mapping[str, Any]]:
    """What does not change from round to round. Says so where engines have unequal threads."""
    threads = {name: worker.ready["threads"] for name, worker in workers.items()}
    if len({count for count in threads.values() if count is not None}) > 1:
        print(f"the engines do not compute with equally many threads: {threads}")
    return {
        "computes_in": {name: worker.ready["computes_in"] for name, worker in workers.items()},
        "threads": threads,
        "least_cosine": _agreement(workers, http, passages),
    }


@contextmanager
def _told(what: str) -> Iterator[None]:
    start = time.perf_counter()
    print(f"{what} ...", end="", flush=True)
    yield
    print(f" {time.perf_counter() - start:.0f} s", flush=True)


def _hand_out(workers: Mapping[str, Worker], workloads: Mapping[str, Workload]) -> None:
    """Give the texts to all engines, and warm them up on all of them."""
    for name, worker in workers.items():
        for workload in (*KEPT, *(HTTP_ONLY if name == IN_PROCESS else ())):
            if workload not in workloads:
                continue
            worker.ask("texts", name=workload, texts=workloads[workload].texts)
            if workload != "queries":
                worker.ask("vectors", name=workload)
        worker.ask("latency", name="queries", seconds=0.5)


def _hand_out_http(http: Http, workloads: Mapping[str, Workload]) -> None:
    """Build the requests, and warm the server up."""
    server, load = http.server, http.load
    load.ask("connect", host=HOST, port=server.port, model=server.model)
    for workload in ("crowd", "queries"):
        load.ask("texts", name=workload, texts=workloads[workload].texts)
    bulk = workloads["bulk"].texts
    load.ask("texts", name="bulk", texts=bulk, per_request=len(bulk))
    load.ask("throughput", name="crowd", clients=max(HTTP_CLIENTS), seconds=1.0)


def _measure_limits(bench: Bench, model: Model, limits: list[Worker]) -> None:
    """The machine's own limit, the better of the libraries."""
    best: dict[str, float] = {}
    for worker in limits:
        time.sleep(SETTLE_S)
        for precision, rate in worker.ask("rates").items():
            best[precision] = max(rate, best.get(precision, 0.0))
    for precision, rate in best.items():
        bench.samples.add((model.name, "gemm", precision, "gop_per_s"), rate)


def _measure_engines(
    bench: Bench, model: Model, workers: Mapping[str, Worker], workloads: Mapping[str, Workload]
) -> None:
    for name in (one for one in TIMED if one in workloads):
        for engine, worker in workers.items():
            _add_pass(bench, (model.name, engine, name), worker, workloads[name])
    for engine, worker in workers.items():
        time.sleep(SETTLE_S)
        times = worker.ask("latency", name="queries", seconds=bench.plan.latency_seconds)
        bench.samples.add_latencies(model.name, engine, "query", times)


def _add_pass(bench: Bench, key: tuple[str, str, str], worker: Worker, workload: Workload) -> None:
    """A throughput measurement in process."""
    time.sleep(SETTLE_S)
    took = worker.ask("throughput", name=key[2], min_seconds=bench.plan.min_seconds)
    bench.samples.add((*key, "tokens_per_s"), workload.total_tokens / took)
    bench.samples.add((*key, "texts_per_s"), len(workload.texts) / took)


def _measure_http(
    bench: Bench, model: Model, load: Worker, workloads: Mapping[str, Workload]
) -> None:
    samples, seconds = bench.samples, bench.plan.load_seconds
    time.sleep(SETTLE_S)
    times = load.ask("latency", name="queries", seconds=bench.plan.latency_seconds)
    samples.add_latencies(model.name, "http-1", "query", times)
    crowd = workloads["crowd"]
    for clients in HTTP_CLIENTS:
        time.sleep(SETTLE_S)
        result = load.ask("throughput", name="crowd", clients=clients, seconds=seconds)
        engine, took = f"http-{clients}", result["seconds"]
        tokens = sum(crowd.tokens[index] for index in result["indexes"])
        samples.add((model.name, engine, "crowd", "tokens_per_s"), tokens / took)
        samples.add((model.name, engine, "crowd", "texts_per_s"), len(result["indexes"]) / took)
        share = result["own_cpu_share"]
        samples.add((model.name, engine, "crowd", "generator_cpu_share"), share)
        samples.add_latencies(model.name, engine, "crowd", result["milliseconds"])
    time.sleep(SETTLE_S)
    beside = load.ask("beside", name="queries", bulk="bulk", seconds=2 * seconds)
    samples.add_latencies(model.name, "http-1", "query beside bulk", beside["milliseconds"])
    time.sleep(1.0)  # the bulk request that was left is taken out of the queue meanwhile


def _measure_beside_http(
    bench: Bench, model: Model, worker: Worker, workloads: Mapping[str, Workload]
) -> None:
    """In process, what the server is held against: the crowd's texts, and the longest passage.

    A batch cannot be shorter than the longest text in it.
    """
    _add_pass(bench, (model.name, IN_PROCESS, "crowd"), worker, workloads["crowd"])
    times = worker.ask("latency", name="longest", seconds=0, least=3)
    bench.samples.add((model.name, IN_PROCESS, "longest", "p50_ms"), float(np.median(times)))


def _measure_fresh(bench: Bench, model: Model, scope: Scope, passages: Workload) -> None:
    """A new process of each engine: from its start to its first vector, then its memory."""
    for engine in scope.own_engines():
        if engine.id not in scope.fresh:
            continue
        with bench.engine(engine, model) as worker:
            key = (model.name, engine.id, "fresh")
            bench.samples.add((*key, "first_vector_s"), worker.start_s)
            worker.ask("texts", name="passages", texts=passages.texts)
            worker.ask("vectors", name="passages")
            for name, size in worker.ask("memory").items():
                bench.samples.add((*key, f"{name}_bytes"), size)
    if scope.has_http:
        with bench.server(model) as server:
            bench.samples.add((model.name, "http-1", "fresh", "first_vector_s"), server.start_s)


def _agreement(
    workers: Mapping[str, Worker], http: Http | None, passages: Workload
) -> dict[str, float]:
    """Each engine's least cosine to the exact one, to show that all compute the same."""
    found: dict[str, NDArray[np.float32]] = {}
    for name, worker in workers.items():
        raw = base64.b64decode(worker.ask("vectors", name="passages"))
        vectors = np.frombuffer(raw, np.float32)
        found[name] = vectors.reshape(-1, worker.ready["dimension"])
    if http:
        found["http"] = np.array(http.server.embed(passages.texts[:8]), np.float32)
    exact = found[EXACT]
    cosines = {name: (one * exact[: len(one)]).sum(axis=1) for name, one in found.items()}
    return {name: float(one.min()) for name, one in cosines.items()}
