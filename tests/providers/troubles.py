"""Ways in which a provider's answer goes wrong: each sends what is left of it over a connection.

A trouble ends the connection by itself where that is part of it, and returns whether it may be used
again.
"""

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from tests.providers.wire import Answer

Trouble: TypeAlias = Callable[[asyncio.StreamWriter, Answer], Awaitable[bool]]

_REASONS = {200: "OK", 307: "Temporary Redirect", 429: "Too Many Requests"}


def head(answer: Answer, **others: str) -> bytes:
    """The status line and the header; `others` by their names with underscores."""
    headers = {"content-length": str(len(answer.body))} | answer.headers
    headers |= {name.replace("_", "-"): text for name, text in others.items()}
    lines = [f"{name}: {text}\r\n" for name, text in headers.items() if text]
    first = f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Other')}\r\n"
    return f"{first}{''.join(lines)}\r\n".encode()


async def well(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """No trouble at all."""
    writer.write(head(answer) + answer.body)
    await writer.drain()
    return True


async def half_sent(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """Half of the body, and the end."""
    writer.write(head(answer) + answer.body[: len(answer.body) // 2])
    await writer.drain()
    return False


async def silent(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """The end, before a word."""
    return False


async def reset(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """The beginning of the body, and a reset in place of the end."""
    writer.write(head(answer) + answer.body[:10])
    await writer.drain()
    abort(writer)
    return False


def abort(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def drip(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """A byte now and then, and never the last one."""
    writer.write(head(answer, content_length="", transfer_encoding="chunked"))
    while not writer.is_closing():
        writer.write(b"1\r\n \r\n")
        await writer.drain()
        await asyncio.sleep(0.005)
    return False


async def endless(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """As many bytes as the reader takes."""
    writer.write(head(answer, content_length="", transfer_encoding="chunked"))
    while not writer.is_closing():
        writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        await writer.drain()
    return False


async def announced_huge(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """A terabyte, it says."""
    writer.write(head(answer, content_length=str(2**40)))
    await writer.drain()
    return False


async def bomb(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """64 megabytes of white space, packed into 65 kB."""
    packed = gzip.compress(b" " * 2**26)
    return await well(writer, Answer(200, packed, answer.headers | {"content-encoding": "gzip"}))


async def packed(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """The right answer, packed without having been asked to."""
    body = gzip.compress(answer.body)
    headers = answer.headers | {"content-encoding": "gzip"}
    return await well(writer, Answer(answer.status, body, headers))


async def brotli(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """Packed in a way that is not understood."""
    headers = answer.headers | {"content-encoding": "br"}
    return await well(writer, Answer(answer.status, answer.body, headers))


def says(status: int, body: bytes | str, **headers: str) -> Trouble:
    """Something else altogether."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    content = body.encode() if isinstance(body, str) else body

    async def trouble(writer: asyncio.StreamWriter, _: Answer) -> bool:
        return await well(writer, Answer(status, content, {"content-type": "text/plain"} | named))

    return trouble


def says_json(status: int, value: Any, **headers: str) -> Trouble:
    return says(status, json.dumps(value), content_type="application/json", **headers)


html = says(
    502, "<html><head><title>502 Bad Gateway</title></head></html>", content_type="text/html"
)
html_200 = says(200, "<!doctype html><title>Sign in</title>", content_type="text/html")
busy = says_json(
    429,
    {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}},
    retry_after="7",
)


def mislabelled(content_type: str) -> Trouble:
    """The right answer under another type."""

    async def trouble(writer: asyncio.StreamWriter, answer: Answer) -> bool:
        headers = answer.headers | {"content-type": content_type}
        return await well(writer, Answer(answer.status, answer.body, headers))

    return trouble


def altered(change: Callable[[Any], Any]) -> Trouble:
    """The right answer with something changed; `change` may also give bytes."""

    async def trouble(writer: asyncio.StreamWriter, answer: Answer) -> bool:
        made = change(json.loads(answer.body))
        body = made if isinstance(made, bytes) else json.dumps(made).encode()
        return await well(writer, Answer(answer.status, body, answer.headers))

    return trouble
