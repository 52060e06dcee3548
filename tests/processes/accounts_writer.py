"""An instance that does nothing but count usage, or open a database, until it is killed."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from fledge.accounts.database import open_database
from fledge.accounts.meter import Meter
from fledge.accounts.usage import UsageRecord

# A fork of a process that has everything imported: twenty starts would take longer than the tests.
_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload(["fledge.accounts.meter"])

MODELS = 20


class Writer:
    """A process that counts requests of `key_id`, one each millisecond, and says each beforehand.

    Attributes:
        key_id: whose requests it counts, all of one token.
        said: the `time.monotonic()` of each request, which all processes share.
        written: how many of them were surely counted when the last writing began that has ended.
        slowest_s: the longest time that a writing took.
    """

    def __init__(self, url: str, key_id: str, flush_s: float) -> None:
        self.key_id = key_id
        self.said: list[float] = []
        self.written = 0
        self.slowest_s = 0.0
        self._process, self._hears = _started(_count, url, key_id, flush_s)

    def run_for(self, seconds: float) -> None:
        """Wait until it has counted for so long."""
        while not self.said or self.said[-1] < self.said[0] + seconds:
            self._hear()

    def kill(self) -> float:
        """End it by SIGKILL; the time at which it was."""
        killed = time.monotonic()
        self._process.kill()
        self._process.join()
        while True:
            try:
                self._hear()
            except (EOFError, OSError):  # the last words may be cut
                return killed

    def _hear(self) -> None:
        match self._hears.recv():
            case float(said):
                self.said.append(said)
            case int(written), float(took_s):
                self.written = written
                self.slowest_s = max(self.slowest_s, took_s)


class _TellingMeter(Meter):
    """A meter that says what it has written, and how long that took."""

    counted = 0

    def __init__(self, url: str, flush_s: float, says: Connection) -> None:
        super().__init__(open_database(url), flush_s=flush_s)
        self._says = says
        self._saying = threading.Lock()

    def say(self, words: object) -> None:
        with self._saying:
            self._says.send(words)

    def flush(self) -> None:
        counted, began = self.counted, time.monotonic()
        super().flush()
        self.say((counted, time.monotonic() - began))


@contextmanager
def opening(url: str) -> Iterator[None]:
    """While a process begins to open a database, which is killed at the end of the block."""
    process, hears = _started(_open, url)
    hears.recv()
    yield
    process.kill()
    process.join()


def _started(target: object, *arguments: object) -> tuple[BaseProcess, Connection]:
    hears, says = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=target, args=(*arguments, says), daemon=True)  # type: ignore[arg-type] # one of the two below
    process.start()
    says.close()  # so that the other end is the only one, and its death is heard
    return process, hears


def _count(url: str, key_id: str, flush_s: float, says: Connection) -> None:
    meter = _TellingMeter(url, flush_s, says)
    meter.start()
    while True:
        meter.say(time.monotonic())
        meter.count(UsageRecord(key_id, f"org/{meter.counted % MODELS}", tokens=1))
        meter.counted += 1
        time.sleep(0.001)


def _open(url: str, says: Connection) -> None:
    says.send("opening")
    open_database(url)
    time.sleep(60)
