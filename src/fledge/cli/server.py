"""uvicorn, run by hand: a port that is taken is found early, and stopping is a written sequence.

1. A signal (Ctrl-C, or SIGTERM from whatever supervises this) arrives.
2. Connections that wait to be accepted are, and the socket is closed: the system refuses new ones.
3. A request that begins from now on gets a 503 and `Connection: close`. Those that are being
   answered, or still being received, have `drain_timeout_s` to end, and their connections end
   with them; what takes longer is cut, with a 503 too where its answer has not begun.
4. Idle connections stay open until no request ran for `LINGER_S`, so that a client that writes
   just then is told rather than reset.
5. The application's lifespan ends, which closes the service and its models.
6. The process exits with 0: it did what it was told. A load that was under way is a thread that
   nobody can stop; the process ends under it, at once and without the interpreter's own end.

A second signal ends the process where it stands, with 128 and the signal's number.

Why uvicorn: in turns with granian 2.8 in front of the same application and a backend that costs
nothing, on two cores, one client waited 0.39 ms against 0.57, and 64 clients got 2,508 answers a
second against 2,200 (uvicorn 0.54 with uvloop and httptools).
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType

import typer
import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from fledge.api.app import create_app
from fledge.api.middleware.draining import Drain
from fledge.service import Service
from fledge.settings import Settings
from fledge.stores import open_batches, warn_without_redis
from fledge.telemetry.logs import configure_logging
from fledge.telemetry.traces import open_tracing

KEEP_ALIVE_S = 75
"""Longer than clients keep idle connections, so that none writes into one that is being closed."""

LINGER_S = 1.0
"""A guess: a busy client writes again sooner, and nobody minds a stop that takes a second."""

CUT_S = 2.0
"""For the last words to those that were cut. A guess; clients that do not read lose them."""

UNLOAD_S = 10.0
"""A guess: closing models takes well under a second each, and the system frees what is left."""

EXIT_S = 2.0
"""For what remains when all is closed: only a thread that hangs takes longer."""

NATIVE_THREADS = ("fledge-build", "fledge-load", "fledge-find", "fledge-unload")
"""Daemon threads that may be deep in native code: it does not survive the end of the interpreter,
which takes a thread away from under it (one stop in 40 was a SIGSEGV)."""

_TICK_S = 0.02

_log = logging.getLogger(__name__)


class GracefulServer(uvicorn.Server):
    """A server that says so once it really answers, and stops as the module's text has it."""

    def __init__(
        self, config: uvicorn.Config, drain: Drain, *, drain_timeout_s: float, greeting: str
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._drain_timeout_s = drain_timeout_s
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then greet."""
        await super().startup(sockets)
        if self.started and not self.should_exit:
            typer.echo(self._greeting)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take the signals, and keep them: the second one counts until the process has ended."""
        for number in HANDLED_SIGNALS:
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as signals are handled
        """The first signal begins the stop, the second ends the process."""
        if self.should_exit:
            _end(128 + sig)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse, drain, unload."""
        self._drain.has_begun = True
        waiting = self._stop_listening(sockets or [])
        self._close_after_answers()
        running = len(self.server_state.tasks)
        _log.info("stopping; requests still running: %d; a second signal ends at once", running)
        await self._take(waiting)
        try:
            async with asyncio.timeout(self._drain_timeout_s):
                await self._quiet()
                await self._closed()
        except TimeoutError:
            await self._cut()
        unloading = _end_in(UNLOAD_S, "the models are not unloaded")
        await self.lifespan.shutdown()
        unloading.cancel()
        _end_in(EXIT_S, "a thread is still busy")

    def _stop_listening(self, sockets: list[socket.socket]) -> list[socket.socket]:
        """Close the sockets, but take the connections that wait there: they would be reset.

        A second handle keeps a socket open while uvicorn closes its own, so that next to no time
        passes between the last acceptance and the end.
        """
        listeners: list[socket.socket] = []
        with suppress(OSError):  # this process may open no more
            listeners.extend(one.dup() for one in sockets)
        for server in self.servers:
            server.close()
        for one in sockets:
            one.close()
        waiting: list[socket.socket] = []
        for listener in listeners:
            listener.settimeout(0)
            with listener, suppress(OSError):  # none is waiting, or no more can be opened
                for _ in range(self.config.backlog):
                    waiting.append(listener.accept()[0])  # noqa: PERF401 - it ends by an error
        return waiting

    async def _take(self, connections: list[socket.socket]) -> None:
        """Read what they ask for, and answer it, as with any other."""
        loop = asyncio.get_running_loop()
        for connection in connections:
            with suppress(OSError):  # it has left meanwhile
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes it for a connection that it accepts itself."""
        return self.config.http_protocol_class(  # type: ignore[call-arg] # uvicorn types it as any protocol
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )

    def _close_after_answers(self) -> None:
        """Let running requests end their connections, and say so in the answer.

        The cycle is that of the last request: one with others behind it does not end their
        connection. They will be refused, and the refusal does.
        """
        for connection in self.server_state.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is not None:
                cycle.keep_alive = False

    async def _quiet(self) -> None:
        """Until no connection is left, or no request ran for `LINGER_S`."""
        loop = asyncio.get_running_loop()
        quiet_since = loop.time()
        while self.server_state.connections or self.server_state.tasks:
            if self.server_state.tasks:
                quiet_since = loop.time()
            elif loop.time() - quiet_since >= LINGER_S:
                return
            await asyncio.sleep(_TICK_S)

    async def _closed(self) -> None:
        """Close idle connections, and wait until all answers are sent."""
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(_TICK_S)

    async def _cut(self) -> None:
        """Give up what still runs, tell its clients, and hang up on those that do not listen."""
        self._drain.is_over = True
        if self.server_state.tasks:
            count, timeout_s = len(self.server_state.tasks), self._drain_timeout_s
            _log.warning("requests still running after %g s, now cut: %d", timeout_s, count)
        for task in list(self.server_state.tasks):
            task.cancel()
        try:
            async with asyncio.timeout(CUT_S):
                await self._closed()
        except TimeoutError:
            for connection in list(self.server_state.connections):
                connection.transport.abort()


def run(service: Service, settings: Settings, listener: socket.socket, greeting: str) -> None:
    """Serve until a signal says to stop. The process ends soon after, by itself or not."""
    configure_logging(settings.log_level, settings.log_format)
    if settings.redis_url is not None:
        # Nobody waits for it: a server without its Redis serves all the same.
        threading.Thread(target=warn_without_redis, args=(settings,), daemon=True).start()
    # What was loaded stays: a collector that never looks at it again takes 3 ms off the p99.
    gc.collect()
    gc.freeze()
    drain = Drain()
    config = uvicorn.Config(
        create_app(
            service,
            settings,
            drain,
            tracing=open_tracing(settings.otlp_endpoint),
            batches=open_batches(settings),
        ),
        log_config=None,
        log_level="debug" if settings.log_level == "debug" else "warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    server = GracefulServer(
        config, drain, drain_timeout_s=settings.drain_timeout_s, greeting=greeting
    )
    server.run([listener])
    if busy := [one.name for one in threading.enumerate() if one.name in NATIVE_THREADS]:
        _log.info("ended under what was still being loaded: %s", ", ".join(busy))
        _end(0)


def _end_in(seconds: float, reason: str) -> threading.Timer:
    """End the process with 0 after that time, whatever still runs; it may end before by itself."""

    def end() -> None:
        _log.warning("%s after %g s: ended without", reason, seconds)
        _end(0)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


def _end(code: int) -> None:
    """End the process here and now. Log lines are written as they come; output may be pending."""
    with suppress(OSError, ValueError, RuntimeError):  # closed, or in the middle of a write
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
