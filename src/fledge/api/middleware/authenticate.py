"""Who asks: the key of a request, found before anything else is done for it.

A key comes as `Authorization: Bearer KEY`, in the spelling of some documentation too
(`Authorization: Bearer: KEY`), or in `x-api-key` or `api-key`, as clients of gateways and of Azure
send it. Where several are sent, any that opens will do: a gateway's own may stand beside the
caller's.
"""

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from fledge.accounts.accounts import Accounts
from fledge.accounts.callers import NOBODY, Caller
from fledge.accounts.keys import Key
from fledge.accounts.keys import Scope as KeyScope
from fledge.api.middleware.refusing import refuse
from fledge.errors import FledgeError, KeyMissing, Unauthorized
from fledge.settings import Settings
from fledge.telemetry.notes import request_notes

CALLER = "fledge.caller"
"""The key of the caller in an ASGI scope."""

_NAMES = frozenset({b"authorization", b"x-api-key", b"api-key"})
_BEARER = re.compile(rb"\s*bearer(?:\s*:|\s)(.*)", re.IGNORECASE | re.DOTALL)
_OPEN_PATHS = {
    "health": ("/health", "/health/live", "/health/ready"),
    "metrics": ("/metrics",),
    "page": ("/", "/docs", "/openapi.json"),
}
_READING = ("GET", "HEAD")
_ADMIN = "/admin/"
# What is read there was sent to be computed, or is what came of it.
_OF_INFERENCE = ("/v1/files", "/v1/batches")


def caller_of(scope: Scope) -> Caller:
    """Whose account a request is on."""
    caller: Caller = scope.get(CALLER, NOBODY)
    return caller


def needs_keys(accounts: Accounts, settings: Settings) -> bool:
    """Whether requests need a key now: from the first that is made, unless the settings say no."""
    return accounts.has_keys and not settings.no_auth


class Authenticate:
    """Gives each request its `Caller`, or refuses it."""

    def __init__(self, app: ASGIApp, accounts: Accounts, settings: Settings) -> None:
        self.app = app
        self._accounts = accounts
        self._settings = settings
        self._open_paths = frozenset(
            path for name in settings.open_routes for path in _OPEN_PATHS[name]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI asks."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            scope[CALLER] = self._caller(scope)
        except FledgeError as error:
            await refuse(error, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        """Who asks.

        Raises:
            Unauthorized: no key that is valid, where one is needed.
            Forbidden: the key is not one for this route.
            DatabaseUnavailable: nobody can say any more which keys are valid.
        """
        bill_to = ""
        presented: list[tuple[bytes, bytes]] = []
        for header in scope["headers"]:
            if header[0] in _NAMES:
                presented.append(header)
            elif header[0] == b"x-hf-bill-to":
                bill_to = header[1].decode("latin-1").strip()
        key = None
        if needs_keys(self._accounts, self._settings) and not self._is_open(scope):
            key = self._key(presented)
            request_notes().key_id = key.id
            if (needed := _scope_needed(scope["method"], scope["path"])) is not None:
                key.check_scope(needed)
        return Caller(key, bill_to) if key or bill_to else NOBODY

    def _is_open(self, scope: Scope) -> bool:
        return scope["path"] in self._open_paths and scope["method"] in _READING

    def _key(self, presented: Sequence[tuple[bytes, bytes]]) -> Key:
        """The key that the first of several headers opens.

        Raises:
            Unauthorized, DatabaseUnavailable: as `_caller`.
        """
        secrets = [secret for header in presented if (secret := _secret(*header))]
        for secret in secrets:
            if (key := self._accounts.find(secret)) is not None:
                return key
        if not secrets:
            raise KeyMissing("this server needs a key: send it as `Authorization: Bearer KEY`")
        raise Unauthorized("this server has no such key, or it was revoked, or has expired")


def _secret(name: bytes, value: bytes) -> str:
    """The secret in a header; "" for none."""
    if name == b"authorization":
        match = _BEARER.match(value)
        value = b"" if match is None else match[1]
    return value.strip().decode("latin-1")


def _scope_needed(method: str, path: str) -> KeyScope | None:
    """What a key must be for; None: any key will do, as for listings and a caller's own usage."""
    if path.startswith(_ADMIN):
        return "admin"
    if method in _READING and not path.startswith(_OF_INFERENCE):
        return None
    return "inference"
