"""The least that the web server can do: `python -m benchmarks.echo PORT FILE HEADERS DELAY_S`.

It reads a request's body and answers with the bytes of a file, whatever it was asked, after a
while. The server is uvicorn with the settings of `fledge serve`; there is no framework.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def app_of(
    content: bytes, more: Mapping[str, str], delay_s: float = 0.0
) -> Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]:
    """An application that answers everything with the same bytes."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *((name.encode(), value.encode()) for name, value in more.items()),
    ]

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        if delay_s:
            await asyncio.sleep(delay_s)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


if __name__ == "__main__":
    uvicorn.run(
        app_of(Path(sys.argv[2]).read_bytes(), json.loads(sys.argv[3]), float(sys.argv[4])),
        port=int(sys.argv[1]),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
    )
