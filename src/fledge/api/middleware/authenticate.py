"""Who asks: the key of a request, found before anything else is done for it."""

from starlette.types import Scope

from fledge.accounts.callers import NOBODY, Caller

CALLER = "fledge.caller"
"""The key of the caller in an ASGI scope."""


def caller_of(scope: Scope) -> Caller:
    """Whose account a request is on."""
    caller: Caller = scope.get(CALLER, NOBODY)
    return caller
