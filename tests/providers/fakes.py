"""Providers as real servers on this machine, with their ways to be out of order."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext

from tests.providers.troubles import Trouble, well
from tests.providers.wire import Answer, Flavour, Model, Received, answer_to, bad_key

WAIT_S = 30


class FakeProvider:
    """A provider of one model.

    How to use it:
        - Read `requests` to see what arrived, `most_at_once` to see how many at a time.
        - `misbehave(a, b)` spoils the next two answers, `always(a)` all of them, `behave()` none.
        - `hold()` keeps requests waiting, `release()` lets them go, `wait_for(n)` waits until so
          many are waiting or were answered.
        - Set `key` to what it wants to be sent, and `latency_s` to what every answer takes.

    Attributes:
        root: `http://127.0.0.1:PORT`.
        model: what it serves; may be changed.
        dropped: how many connections were closed by the other side before their answer.
    """

    def __init__(self, model: Model) -> None:
        self.root = ""
        self.model = model
        self.key: str | None = None
        self.latency_s = 0.0
        self.requests: list[Received] = []
        self.connections = 0
        self.dropped = 0
        self.most_at_once = 0
        self._at_once = 0
        self._next: deque[Trouble] = deque()
        self._always: Trouble = well
        self._changed = threading.Condition()
        self._may_go = threading.Event()
        self._may_go.set()

    @property
    def url(self) -> str:
        """The base URL that the settings of a provider of its flavour would have."""
        if self.model.flavour == "hf-inference":
            return f"{self.root}/hf-inference"
        is_rooted = self.model.flavour in ("tei", "toolkit", "cohere")
        return self.root if is_rooted else f"{self.root}/v1"

    def misbehave(self, *troubles: Trouble) -> None:
        self._next.extend(troubles)

    def always(self, trouble: Trouble) -> None:
        self._always = trouble

    def behave(self) -> None:
        self._next.clear()
        self._always = well

    def hold(self) -> None:
        self._may_go.clear()

    def release(self) -> None:
        self._may_go.set()

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, WAIT_S)

    def wait_for_dropped(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.dropped >= count, WAIT_S)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                while await self._answer_next(reader, writer):
                    pass
        finally:
            writer.close()

    async def _answer_next(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        request = await _read(reader)
        self._note(request)
        try:
            await self._wait(reader)
            trouble = self._next.popleft() if self._next else self._always
            return await trouble(writer, self._answer(request))
        finally:
            self._at_once -= 1

    def _answer(self, request: Received) -> Answer:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return bad_key(self.model.flavour)
        return answer_to(request, self.model)

    def _note(self, request: Received) -> None:
        with self._changed:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.requests.append(request)
            self._changed.notify_all()

    async def _wait(self, reader: asyncio.StreamReader) -> None:
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        while not self._may_go.is_set():
            if reader.at_eof():
                with self._changed:
                    self.dropped += 1
                    self._changed.notify_all()
                raise ConnectionResetError
            await asyncio.sleep(0.001)


async def _read(reader: asyncio.StreamReader) -> Received:
    raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = raw.rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): text for name, text in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body)


@contextmanager
def fake_provider(
    flavour: Flavour = "openai", *, certificate: Path | None = None, **facts: object
) -> Iterator[FakeProvider]:
    """One, running.

    Args:
        flavour: whose bodies it has.
        certificate: a PEM file with its key and certificate; then it speaks TLS.
        facts: other attributes of `Model`.
    """
    fake = FakeProvider(Model(flavour, **facts))  # type: ignore[arg-type] # checked by the one who calls
    context = None
    if certificate is not None:
        context = SSLContext(PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        server = await asyncio.start_server(fake.serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        fake.root = f"{'http' if context is None else 'https'}://127.0.0.1:{port}"
        started.set()
        await stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # connections are closed by the loop's next round

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(WAIT_S)
    try:
        yield fake
    finally:
        fake.release()
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(WAIT_S)
