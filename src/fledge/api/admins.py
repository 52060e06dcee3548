"""Who may call admin routes: a key with the scope `admin`, or, without keys, this machine.

Where no key tells an admin from anybody else, these routes are for callers on this machine, as far
as that can be seen. Where a proxy on it hides what it is, it cannot: there the setting
`admin_routes` switches them off.
"""

from urllib.parse import urlsplit

from starlette.requests import Request

from fledge.api.middleware.authenticate import caller_of
from fledge.errors import NotAllowed
from fledge.names import is_loopback, quoted
from fledge.settings import Settings

# What proxies add of their own accord, or where they are told to by the usual recipes.
_ADDED_BY_PROXIES = ("forwarded", "via", "x-real-ip")
_PREFIX_OF_PROXIES = "x-forwarded-"


def check_admin(request: Request, settings: Settings) -> None:
    """Refuse whoever is no admin.

    Raises:
        NotAllowed: the settings say so, or the caller has no key and is not on this machine, as
            far as can be seen.
        Forbidden: the caller's key is not one for this.
    """
    if settings.admin_routes is False:
        raise NotAllowed("admin routes are switched off here (admin_routes)")
    key = caller_of(request.scope).key
    if key is not None:
        key.check_scope("admin")
        return
    if not is_loopback(settings.host):
        raise NotAllowed(
            "admin routes need an admin key, and this server has none; bind it to 127.0.0.1 "
            "and call them there"
        )
    # A proxy on this machine makes everybody a caller on it. Most give themselves away by the
    # name that they were asked for, or by a header; one that rewrites Host and adds nothing,
    # as nginx does with a bare `proxy_pass`, looks like any caller here.
    host = request.headers.get("host", settings.host)
    if not is_loopback(_name_of(host)) or _is_forwarded(request):
        raise NotAllowed(
            "admin routes without a key are for callers on this machine; call them at "
            "127.0.0.1, not through a proxy"
        )
    # Where the settings let any page in, that was not meant for these.
    origin = request.headers.get("origin", "").lower()
    named = settings.cors_allow_origins
    is_known = origin in ("", *named) or origin.partition("://")[2] == host.lower()
    if "*" in named and not is_known:
        raise NotAllowed(
            f"pages of the origin {quoted(origin)} may not call admin routes; the setting "
            "cors_allow_origins must name it for that"
        )


def _is_forwarded(request: Request) -> bool:
    return any(
        name in _ADDED_BY_PROXIES or name.startswith(_PREFIX_OF_PROXIES) for name in request.headers
    )


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
