"""What only a bare connection shows: early refusals, and many requests on one connection."""

import json
import socket
from urllib.parse import urlsplit

from tests.clients.conftest import Live


def connect(live: Live) -> socket.socket:
    address = urlsplit(live.url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=5)


def head(length: int) -> bytes:
    return (
        b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length
    )


def test_a_body_that_will_be_too_large_is_refused_before_it_is_sent(live: Live) -> None:
    with connect(live) as connection:
        connection.sendall(head(10**9))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_connection_takes_one_request_after_the_other(live: Live) -> None:
    body = json.dumps({"input": "a"}).encode()
    with connect(live) as connection:
        for _ in range(3):
            connection.sendall(head(len(body)) + body)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\ncontent-type: application/json\r\n" in answer


def test_a_client_that_hangs_up_half_way_disturbs_nobody(live: Live) -> None:
    with connect(live) as connection:
        connection.sendall(head(1000) + b'{"input": ')
    with connect(live) as connection:
        body = b'{"input": "a"}'
        connection.sendall(head(len(body)) + body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
