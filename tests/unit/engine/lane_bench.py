"""A compute lane, models on it that a test holds in its hands, and a backend over them."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import cast

import numpy as np

from fledge.engine.backend import LocalBackend
from fledge.engine.batcher import Cost
from fledge.engine.channel import Channel, Computed
from fledge.engine.lane import Lane
from fledge.engine.observing import LaneObserver
from fledge.engine.packing import Row
from fledge.engine.pipeline import Pipeline
from fledge.engine.tokenizer import Encoded
from fledge.engine.watch import Watch
from fledge.testing import fake_card
from fledge.types import EmbedJob, Vectors

TIMEOUT_S = 10
COST = Cost(per_cell=0)
BAD_ID, FATAL_ID, NAN_ID = 901, 902, 903


class Fatal(BaseException):
    """What only a lane that dies lets through."""


class Model:
    """Computes `[first id, number of ids]`; waits for `gate` first, and remembers its batches."""

    def __init__(self, name: str = "", log: list[str] | None = None) -> None:
        self.name = name
        self.log = [] if log is None else log
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.gate.set()

    def compute(self, rows: Sequence[Row]) -> Vectors:
        ids = [row.ids[0] for row in rows]
        self.batches.append(ids)
        self.log.append(self.name)
        self.entered.release()
        assert self.gate.wait(TIMEOUT_S)
        if BAD_ID in ids:
            raise RuntimeError("boom")
        if FATAL_ID in ids:
            raise Fatal
        vectors = np.array([[row.ids[0], len(row.ids)] for row in rows], np.float32)
        vectors[[one == NAN_ID for one in ids]] = np.nan
        return vectors

    def wait_until_computing(self) -> None:
        assert self.entered.acquire(timeout=TIMEOUT_S)


def learn_nothing(channel: Channel) -> None:
    """Budgets are learned elsewhere: here the number of rows in a batch must be known."""
    channel.learn = lambda *_: None  # type: ignore[method-assign] # a seam of these tests


class Bench:
    """A lane with a model on it, whose budget is `MIN_BUDGET` tokens a batch."""

    def __init__(
        self,
        *,
        max_queued_tokens: int = 10**6,
        observer: LaneObserver | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.lane = Lane(
            batch_target_ms=1, max_queued_tokens=max_queued_tokens, observer=observer, watch=watch
        )
        self.channels: list[Channel] = []
        self.model = Model()
        self.channel = self.attach(self.model)

    def attach(self, model: Model) -> Channel:
        channel = Channel(model.compute, COST, rate=1.0, model_id="test/model")
        learn_nothing(channel)
        self.lane.attach(channel)
        self.channels.append(channel)
        return channel

    def submit(
        self,
        *ids: int,
        length: int = 1,
        channel: Channel | None = None,
        deadline_in_s: float | None = None,
        tenant: str | None = None,
    ) -> "Future[Computed]":
        deadline = None if deadline_in_s is None else time.monotonic() + deadline_in_s
        rows = [Row([one] * length) for one in ids]
        channel = channel or self.channel
        return self.lane.submit(channel, rows, priority=0, deadline=deadline, tenant=tenant)

    def close(self) -> None:
        for channel in self.channels:
            self.lane.detach(channel)


def result(future: "Future[Computed]") -> list[list[float]]:
    return future.result(TIMEOUT_S).vectors.tolist()  # type: ignore[no-any-return] # NumPy's own Any


def eventually(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + TIMEOUT_S
    while not holds() and time.monotonic() < until:
        time.sleep(0.001)
    return holds()


class Pipe:
    """Of a pipeline what the backend asks for: a text is as many tokens as it has characters.

    The ids of its tokens are all the code of its first character.
    """

    def __init__(self, model: Model) -> None:
        self.cost, self.rate, self.compute = COST, 1.0, model.compute

    def encode(self, job: EmbedJob) -> Sequence[Encoded]:
        rows = [Row([ord(str(item)[0])] * len(item)) for item in job.items]
        return [cast("Encoded", SimpleNamespace(row=row, truncated=False)) for row in rows]

    def close(self) -> None:
        pass


def backend_of(lane: Lane, model: Model, model_id: str = "org/model") -> LocalBackend:
    """A model of two numbers a vector, as the service sees it."""
    card = fake_card(id=model_id, dimension=2, max_seq_length=500)
    backend = LocalBackend(card, cast("Pipeline", Pipe(model)), lane)
    learn_nothing(backend._channel)
    return backend


class TurnedClock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s
