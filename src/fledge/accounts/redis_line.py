"""A line to Redis on which many requests call scripts at once. Needs the extra `redis`.

One task speaks, on one connection: what has been asked meanwhile goes out together, in the order in
which it was asked, and takes a quarter of the time that redis-py needs for one by one. Requests
wait for their answers for a bounded time, and whoever gives up leaves the exchange alone.

After some failures in a row the line rests, and nobody is kept waiting; then it tries by itself.
"""

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from fledge.redis_client import client_of

log = logging.getLogger(__name__)

PATIENCE_S = 0.05
"""How long a request waits for an answer. An exchange that takes longer is a failure."""

GIVE_UP_S = 1.0
"""How long an exchange may take, connecting included, before its connection is closed."""

BATCH = 128
"""Calls of one exchange: the server needs some 20 us for each, and redis-py twice that."""

FAILURES = 3
FIRST_REST_S = 1.0
LONGEST_REST_S = 5.0
"""So many in a row, and for so long nobody asks; twice as long where nothing has worked since the
last rest, as on a server that is there but may not be written to."""


class Script:
    """What Redis runs: it is sent once, and called by its digest."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Call:
    """A script to be run once.

    Attributes:
        answer: None if there is none, or nobody knows.
        must_go: whether it is sent also when nobody waits for it any more.
    """

    __slots__ = ("answer", "arguments", "keys", "must_go", "script")

    def __init__(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Any], *, must_go: bool
    ) -> None:
        self.script = script
        self.keys = keys
        self.arguments = arguments
        self.must_go = must_go
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def end(self, answer: Any) -> None:
        """Give the answer to whoever still waits."""
        if not self.answer.done():
            self.answer.set_result(answer)


class Line:
    """For use from one event loop.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        what: is spoken about, for the log.
        patience_s: as `PATIENCE_S`.
        on_lost: told of every call that must go and of which nobody knows whether it did.
        on_return: told when Redis answers after a rest.

    Raises:
        SettingsError: the URL is none of Redis.

    Attributes:
        is_resting: whether nobody asks, after failures in a row.
    """

    def __init__(
        self,
        url: str,
        what: str,
        *,
        patience_s: float,
        on_lost: Callable[[Call], None],
        on_return: Callable[[], None],
    ) -> None:
        self.patience_s = patience_s
        self._client = client_of(url, name="fledge-limits", give_up_s=GIVE_UP_S)
        self._what = what
        self._on_lost = on_lost
        self._on_return = on_return
        self._calls: deque[Call] = deque()
        self._has_calls = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_closed = False
        self._failures = 0
        self.is_resting = False
        self._rest_s = 0.0
        self._overdue_s: float | None = None  # when the exchange under way will be too slow
        self._task: asyncio.Task[None] | None = None

    @property
    def is_clear(self) -> bool:
        """Whether an answer may be hoped for: not while it rests, nor behind a slow exchange."""
        return not self.is_resting and (
            self._overdue_s is None or time.monotonic() <= self._overdue_s
        )

    async def ask(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """The answer; None if there is none in time, and then nobody knows whether it ran."""
        return await self.wait(self.send(script, keys, arguments, must_go=False))

    async def wait(self, call: Call) -> Any:
        """The answer to a call; None if there is none in time."""
        timer = asyncio.get_running_loop().call_later(self.patience_s, call.end, None)
        try:
            return await call.answer
        finally:
            timer.cancel()

    def send(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Any], *, must_go: bool
    ) -> Call:
        """Let a call go out, behind all others."""
        call = Call(script, keys, arguments, must_go=must_go)
        if self.is_resting or self._is_closed:
            self._lose([call])
            return call
        if self._task is None:
            # For all requests: its lines in the log are none of the one that came first.
            self._task = asyncio.create_task(self._speak(), context=Context())
        self._calls.append(call)
        self._has_calls.set()
        self._is_idle.clear()
        return call

    async def aclose(self) -> None:
        """Say what is left to be said, if Redis is there, and hang up. Safe to call twice."""
        self._is_closed = True
        if not self.is_resting:
            with suppress(TimeoutError):
                async with asyncio.timeout(GIVE_UP_S):
                    await self._is_idle.wait()
        if self._task is not None:
            # In Python 3.11 `wait_for`, which redis-py writes with, may overlook that it has been
            # cancelled.
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=GIVE_UP_S)
            self._task = None
        self._lose(self._calls)
        self._calls.clear()
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(GIVE_UP_S):
                await self._client.aclose()

    async def _speak(self) -> None:
        """Send calls, for as long as the line is open."""
        while True:
            if self.is_resting:
                self._lose(self._calls)
                self._calls.clear()
                await asyncio.sleep(self._rest_s)
                await self._exchange([])
            elif batch := self._next_calls():
                await self._exchange(batch)
            else:
                self._has_calls.clear()
                self._is_idle.set()
                await self._has_calls.wait()

    def _next_calls(self) -> list[Call]:
        batch: list[Call] = []
        while self._calls and len(batch) < BATCH:
            call = self._calls.popleft()
            if call.must_go or not call.answer.done():
                batch.append(call)
        return batch

    async def _exchange(self, batch: list[Call]) -> None:
        """Send calls, or with none ask whether anybody is there, and give out the answers."""
        begun_s = time.monotonic()
        self._overdue_s = begun_s + self.patience_s
        try:
            async with asyncio.timeout(GIVE_UP_S):
                answers = await self._run(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is: others wait for this task
            self._fail(error)
            self._lose(batch)
        except asyncio.CancelledError:
            self._lose(batch)
            raise
        else:
            self._judge(batch, answers, time.monotonic() - begun_s)
            for call, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Exception):
                    self._lose([call])
                else:
                    call.end(answer)
        finally:
            self._overdue_s = None

    async def _run(self, batch: Sequence[Call]) -> list[Any]:
        if not batch:
            await self._client.ping()
            return []
        answers = await self._send_all(batch)
        unknown = [n for n, one in enumerate(answers) if isinstance(one, NoScriptError)]
        if unknown:
            for text in {batch[n].script.text for n in unknown}:
                await self._client.script_load(text)
            again = await self._send_all([batch[n] for n in unknown])
            for n, answer in zip(unknown, again, strict=True):
                answers[n] = answer
        return answers

    async def _send_all(self, batch: Sequence[Call]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for call in batch:
                pipeline.evalsha(call.script.sha, len(call.keys), *call.keys, *call.arguments)
            return await pipeline.execute(raise_on_error=False)

    def _judge(self, batch: Sequence[Call], answers: Sequence[Any], took_s: float) -> None:
        """Whether an exchange counts as a failure; by the calls that somebody waits for alone,
        since a server without memory still takes those that only free some."""
        asked = [one for call, one in zip(batch, answers, strict=True) if not call.must_go]
        refusals = [one for one in asked if isinstance(one, Exception)]
        if took_s > self.patience_s:
            self._fail(TimeoutError(f"it took {took_s * 1000:.0f} ms"))
        elif refusals and len(refusals) == len(asked):
            self._fail(refusals[0])
        elif asked or not batch:
            if refusals:
                log.warning("Redis refuses a script of %s: %s", self._what, refusals[0])
            self._succeed(is_proof=bool(asked))

    def _succeed(self, *, is_proof: bool) -> None:
        self._failures = 0
        if is_proof:
            self._rest_s = 0.0
        if self.is_resting:
            self.is_resting = False
            log.info("Redis answers again: %s are shared", self._what)
            self._on_return()

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= FAILURES and not self.is_resting:
            self.is_resting = True
            self._rest_s = min(2 * self._rest_s or FIRST_REST_S, LONGEST_REST_S)
            log.warning(
                "Redis does not answer (%s): going on without it for %s",
                str(error) or type(error).__name__,
                self._what,
            )

    def _lose(self, calls: Iterable[Call]) -> None:
        """Nobody knows whether they ran."""
        for call in calls:
            call.end(None)
            if call.must_go:
                self._on_lost(call)


async def probe(url: str) -> str:
    """Why Redis does not answer, on one line; empty: it does.

    Raises:
        SettingsError: the URL is none of Redis.
    """
    client = client_of(url, name="fledge-limits", give_up_s=GIVE_UP_S)
    try:
        async with asyncio.timeout(GIVE_UP_S):
            await client.ping()
    except (RedisError, OSError, TimeoutError) as error:
        return next(iter(str(error).splitlines()), f"nothing came within {GIVE_UP_S:g} s")
    finally:
        await client.aclose()
    return ""
