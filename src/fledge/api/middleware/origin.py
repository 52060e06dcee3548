"""Who may call this instance from a browser: nobody, but pages that are meant to.

A page of any site can send requests to 127.0.0.1 or to a machine of the local network. Two
checks keep it out. The Origin header, which pages cannot forge, must be this server's own or a
listed one. The Host header must be a name of this server: a page that had its own name resolved
to this machine's address (DNS rebinding) would pass for same-origin otherwise.

Where requests need a key, such a page has none, and whatever name the server is reached under will
do. Pages of other origins must still be listed, also those that have a key.
"""

from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from fledge.accounts.accounts import Accounts
from fledge.api.middleware.authenticate import needs_keys
from fledge.api.middleware.refusing import refuse
from fledge.errors import NotAllowed
from fledge.names import is_loopback
from fledge.settings import Settings

_PORTS = {"http": 80, "https": 443}
# Callers repeat a few values; whatever else comes is checked anew and does not pile up.
_REMEMBERED = 256


class CheckOrigin:
    """Refuses requests from a foreign Origin, and without keys those under a foreign Host."""

    def __init__(self, app: ASGIApp, accounts: Accounts, settings: Settings) -> None:
        self.app = app
        self._accounts = accounts
        self._settings = settings
        self._host = settings.host.lower()
        self._hosts = frozenset(name.lower() for name in settings.allowed_hosts)
        self._origins = frozenset(name.lower() for name in settings.cors_allow_origins)
        self._is_wildcard = self._host in {"0.0.0.0", "::", ""}  # noqa: S104 - read, not bound
        self._is_known_host = lru_cache(_REMEMBERED)(self._check_host)
        self._is_known_origin = lru_cache(_REMEMBERED)(self._check_origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI asks."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        host = origin = None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        error = None
        # Only a client of HTTP/1.0 sends no Host, and no browser is one.
        if host is not None and not (self._is_known_host(host) or self._needs_keys()):
            error = NotAllowed(
                f"requests may not be addressed to {_shown(host)}; the setting allowed_hosts "
                "lists the names that are"
            )
        elif origin is not None and not self._is_known_origin(origin, host):
            error = NotAllowed(
                f"pages of the origin {_shown(origin)} may not call this server; the setting "
                "cors_allow_origins lists those that may"
            )
        if error is None:
            await self.app(scope, receive, send)
            return
        await refuse(error, scope, receive, send)

    def _needs_keys(self) -> bool:
        return needs_keys(self._accounts, self._settings)

    def _check_host(self, header: bytes) -> bool:
        if "*" in self._hosts:
            return True
        name = _split(f"//{header.decode('latin-1')}")[1]
        if name is None:
            return False
        if name in self._hosts or name == self._host or is_loopback(name):
            return True
        # Rebinding needs a name. Where every address is listened on, no address is foreign.
        return self._is_wildcard and _is_address(name)

    def _check_origin(self, header: bytes, host: bytes | None) -> bool:
        origin = header.decode("latin-1").lower()
        if "*" in self._origins or origin in self._origins:
            return True
        scheme, name, port = _split(origin)
        if name is None or host is None or scheme not in _PORTS:
            return False
        # The scheme is not compared: behind a proxy that ends TLS, this server cannot know it.
        _, own_name, own_port = _split(f"{scheme}://{host.decode('latin-1')}")
        return (name, port or _PORTS[scheme]) == (own_name, own_port or _PORTS[scheme])


def _split(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, lower-case host and port; no host where the text is no plain `//host:port`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "", None, None
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return parts.scheme, None, None
    return parts.scheme, (parts.hostname or "").rstrip(".") or None, port


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _shown(header: bytes) -> str:
    return repr(header[:100].decode("latin-1"))
