"""The one way to Redis: what the URL may be, and what is never said twice."""

import asyncio

import pytest
from redis.exceptions import ConnectionError as Disconnected

from fledge.errors import SettingsError
from fledge.redis_client import client_of


@pytest.mark.parametrize(
    "url",
    ["http://secret@host", "secret", "redis://host:secret", "redis://h/?db=secret"],
)
def test_a_url_that_is_none_of_redis_is_told_without_its_words(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^redis_url must be redis://HOST:PORT") as raised:
        client_of(url, name="a", give_up_s=1.0)
    assert "secret" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_client_connects_when_it_is_used_and_asks_once() -> None:
    async def scenario() -> list[bytes]:
        asked: list[bytes] = []

        async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while (words := await reader.read(1000)) and b"GET" not in words:
                writer.write(b"+OK\r\n" * words.count(b"*"))
            asked.append(words)
            writer.close()

        async with await asyncio.start_server(leave, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            client = client_of(f"redis://127.0.0.1:{port}", name="a", give_up_s=10.0)
            with pytest.raises(Disconnected):
                await client.get("key")
            await client.aclose()
        return asked

    assert len(asyncio.run(scenario())) == 1
