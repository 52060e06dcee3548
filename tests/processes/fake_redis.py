"""Servers that misbehave as real ones do now and then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Literal, TypeAlias

Manner: TypeAlias = Literal["silent", "hanging up", "babbling", "holding", "slow"]

SLOW_S = 0.03


class FakeRedis:
    """Answers PING, MGET, SET and whatever a client says at the beginning.

    silent: accepts, and never answers. hanging up: closes every connection at the first command.
    babbling: answers with what is no answer. holding: answers, and MGET not before `release`.
    slow: answers, and MGET after a while.

    Attributes:
        manner: how it behaves to commands that come from now on.
        connections: how many there have been.
        commands: the names of all commands, in the order of arrival.
        held: is set when an MGET waits.
        kept: what was SET.
    """

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self.connections = 0
        self.commands: list[str] = []
        self.held = asyncio.Event()
        self.kept: dict[bytes, bytes] = {}
        self.url = ""
        self._may_go = asyncio.Event()

    def release(self) -> None:
        self._may_go.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError), closing(writer):
            while True:
                command = await self._command(reader)
                self.commands.append(command[0].decode().upper())
                if self.manner == "hanging up":
                    break
                if self.manner != "silent":
                    writer.write(await self._answer(command))
                    await writer.drain()

    async def _command(self, reader: asyncio.StreamReader) -> list[bytes]:
        count = int((await reader.readuntil(b"\r\n"))[1:])
        return [await self._argument(reader) for _ in range(count)]

    async def _argument(self, reader: asyncio.StreamReader) -> bytes:
        size = int((await reader.readuntil(b"\r\n"))[1:])
        return (await reader.readexactly(size + 2))[:-2]

    async def _answer(self, command: list[bytes]) -> bytes:
        if self.manner == "babbling":
            return b"HTTP/1.1 400 Bad Request\r\n\r\n"
        name = command[0].upper()
        if name == b"MGET":
            self.held.set()
            await (asyncio.sleep(SLOW_S) if self.manner == "slow" else self._may_go.wait())
            values = [self.kept.get(key) for key in command[1:]]
            return b"*%d\r\n" % len(values) + b"".join(map(_bulk, values))
        if name == b"SET":
            self.kept[command[1]] = command[2]
        return b"+PONG\r\n" if name == b"PING" else b"+OK\r\n"


def _bulk(value: bytes | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)


@asynccontextmanager
async def fake_redis(manner: Manner) -> AsyncIterator[FakeRedis]:
    """A server in this event loop."""
    fake = FakeRedis(manner)
    handlers: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.create_task(fake.serve(reader, writer))
        handlers.add(handler)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    fake.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    try:
        yield fake
    finally:
        server.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the next round
