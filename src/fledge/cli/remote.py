"""A running server, asked over HTTP: for commands that change or show what it has loaded.

The standard library's client: it takes no proxy from the environment, which would be in the way of
an address on this machine.
"""

import json
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

from fledge.errors import ServerRefused, ServerUnreachable, SettingsError
from fledge.settings import Settings

_CONNECT_TIMEOUT_S = 10.0
_KINDS: Mapping[str, type[HTTPConnection]] = {"http": HTTPConnection, "https": HTTPSConnection}
_ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - read, not bound


class Server:
    """A server at an address; None: where the settings have it.

    Raises:
        SettingsError: the address is none, or the settings' key cannot be one.
    """

    def __init__(self, url: str | None, settings: Settings) -> None:
        self.url = _url_of(settings) if url is None else url.rstrip("/")
        try:
            parts = urlsplit(self.url)
            kind = _KINDS.get(parts.scheme)
            if kind is None or parts.hostname is None or parts.query or parts.fragment:
                raise ValueError
            self._connection = kind(parts.hostname, parts.port, timeout=_CONNECT_TIMEOUT_S)
        except ValueError:
            raise SettingsError(
                f"{self.url!r} is no address of a server; give it as http://127.0.0.1:8080"
            ) from None
        self._prefix = parts.path
        self._headers = _headers(settings)

    def ask(self, method: str, path: str) -> Any:
        """The JSON of an answer, however long that takes. `path` is quoted already.

        Raises:
            ServerUnreachable: nobody answers there.
            ServerRefused: the server refused, in its own words; or it speaks no JSON.
        """
        try:
            self._connection.connect()
            # Loading may take minutes, and how long is for the server to say.
            self._connection.sock.settimeout(None)
            self._connection.request(method, self._prefix + path, headers=self._headers)
            response = self._connection.getresponse()
            status, body = response.status, response.read()
        except (OSError, UnicodeError, HTTPException) as error:  # a host may be no DNS name
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ServerUnreachable(
                f"no answer from {self.url}: {reason}; start a server with `fledge serve`, or say "
                "with --url where it is"
            ) from None
        finally:
            self._connection.close()
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServerRefused(f"{self.url} answered {status}, but not as Fledge does")
        if status >= 400:
            raise ServerRefused(_message(answer) or f"{self.url} answered {status}")
        return answer


def path_of(model: str, action: str) -> str:
    """The path of an admin route; a slash in the model's name stays one."""
    return f"/admin/models/{quote(model, errors='surrogateescape')}/{action}"


def _url_of(settings: Settings) -> str:
    """Where a server of these settings listens."""
    if settings.port == 0:
        raise SettingsError("port is 0, which takes any free one; say with --url where it is")
    host = "127.0.0.1" if settings.host in _ANY_ADDRESS else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _headers(settings: Settings) -> dict[str, str]:
    """What opens a server that asks for keys."""
    key = "" if settings.api_key is None else settings.api_key.get_secret_value()
    if not key.isascii() or not key.isprintable():
        raise SettingsError("api_key has characters that no key has")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _message(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""
