"""Names in settings, and lists of them: how they may be written, and what no client ever sends.

A host or an origin is compared as a whole with a header. One that is written as no header can be
would be a setting that does nothing, so it is refused where it is written.
"""

import json
import re
from ipaddress import ip_address
from typing import Any
from unicodedata import category
from urllib.parse import urlsplit

ANY = "*"
UNWRITABLE = {"Cc", "Cs"}
"""Unicode's categories of control characters and of halves of a pair."""
LONGEST_QUOTED = 80
DEFAULT_PORTS = {"http": 80, "https": 443}
REDIS_PATH = re.compile(r"/?|/[0-9]{1,9}")
HIDDEN = "***"
SECRET_PARAMETER = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=)[^&#]*", re.I)


def quoted(text: str) -> str:
    """A text as a message quotes it: on one line whatever is in it, and not long."""
    cut = text if len(text) <= LONGEST_QUOTED else f"{text[:LONGEST_QUOTED]}..."
    return json.dumps(cut, ensure_ascii=not cut.isprintable())


def format_bytes(size: float) -> str:
    """A size for people: `87.4 MB`."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def listed(value: Any) -> Any:  # Any: what a variable, a file or a caller holds
    """A list as JSON, or names with commas between, as a variable can hold them.

    Raises:
        ValueError: it starts like a list of JSON and is none.
    """
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        return [name.strip() for name in value.split(",") if name.strip()]
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        reason = error if isinstance(error, json.JSONDecodeError) else "out of all measure"
        raise ValueError(
            f"{quoted(value)} starts like a list of JSON and is none ({reason}); "
            'write ["one", "two"], or one,two'
        ) from None


def mapped(value: Any) -> Any:  # Any: likewise
    """Names and what they stand for, which a variable holds as JSON.

    Raises:
        ValueError: a text is none.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(f'{quoted(value)} must be JSON, {{"one": "two"}}') from None


def as_name(value: Any) -> Any:  # Any: what a variable, a file or a caller holds
    """A name or a path, if it is text at all: not empty, and such as files and answers can hold.

    Raises:
        ValueError: no name can be this.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise ValueError(f"{quoted(value)} is empty; write a name, or leave the setting out")
    if any(category(character) in UNWRITABLE for character in value):
        raise ValueError(f"{quoted(value)} holds a control or half a character; leave that out")
    return value


def as_url(value: Any) -> Any:  # Any: likewise
    """An address that may hold a password: as `as_name`, in words that do not repeat it.

    Raises:
        ValueError: no address can be this.
    """
    if isinstance(value, str) and not value.strip():
        raise ValueError("it is empty; write a URL, or leave the setting out")
    if isinstance(value, str) and any(category(character) in UNWRITABLE for character in value):
        raise ValueError("it holds a control or half a character; leave that out")
    return value


def as_redis_url(value: Any) -> Any:  # Any: likewise
    """The address of a Redis: as `as_url`, and of a form in which nothing is overlooked.

    Raises:
        ValueError: no Redis can be there.
    """
    if not isinstance(as_url(value), str):
        return value
    if not _is_redis_url(value):
        raise ValueError(
            "must be redis://user:password@host:6379/0, rediss://... or unix://path, with %2F for "
            "a / in the password and likewise for other marks"
        )
    return value


def _is_redis_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        return False
    # A mark of a password that is not escaped ends the host too early.
    if parts.fragment or "@" in parts.query:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    is_redis = parts.scheme in ("redis", "rediss")
    return is_redis and bool(host) and REDIS_PATH.fullmatch(parts.path) is not None


def without_password(url: str) -> str:
    """An address for people to see: rather with less than it might show."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return HIDDEN if any(character in url for character in "@:= ") else url
    # To the last @: nobody escapes every character of a password that should be.
    user, at, host = "", "", rest
    if scheme != "sqlite":  # a file, whose name may have anything
        user, at, host = rest.rpartition("@")
        name, colon, _ = user.partition(":")
        user = f"{name}:{HIDDEN}" if colon else name
    return SECRET_PARAMETER.sub(rf"\g<1>{HIDDEN}", f"{scheme}://{user}{at}{host}")


def as_endpoint(text: str) -> str:
    """Where something is sent over HTTP: scheme, host, and a port and a path if need be.

    Raises:
        ValueError: nothing can be sent there, or it holds what is said in a header.
    """
    endpoint = text.strip()
    scheme, netloc, host, _ = _split(endpoint)
    is_plain = netloc.isprintable() and not any(character in endpoint for character in "@?# ")
    if scheme not in DEFAULT_PORTS or not host or not is_plain:
        raise ValueError(
            'it is no address to send to; give scheme, host and port, as "http://127.0.0.1:4318", '
            "without user, password or query"
        )
    return endpoint


def as_host(text: str) -> str:
    """A host name or an address, as the Host header is compared: lower case, without its port.

    Raises:
        ValueError: no Host header can be this.
    """
    host = text.strip().lower().removesuffix("/").rstrip(".")
    if host == ANY:
        return host
    host = host.removeprefix("[").removesuffix("]")
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if not host.isprintable() or not host or any(character in host for character in ":/@?#*[] "):
        raise ValueError(
            f"{quoted(text)} is no host name; give it without scheme, port or path, as "
            f'"api.example.org", or "{ANY}" alone for any'
        )
    return host


def as_origin(text: str) -> str:
    """An origin as browsers send it: lower case, no slash at the end, no port that goes unsaid.

    Raises:
        ValueError: no Origin header can be this.
    """
    origin = text.strip().lower().removesuffix("/")
    if origin in {ANY, "null"}:  # null: a page from a file, or in a sandbox
        return origin
    scheme, netloc, host, port = _split(origin)
    is_whole = origin == f"{scheme}://{netloc}"
    is_plain = netloc.isprintable() and not any(character in netloc for character in "@* ")
    if not (scheme and host and is_whole and is_plain):
        raise ValueError(
            f"{quoted(text)} is no origin; give scheme, host and, where it is not the scheme's "
            f'own, port, without a path, as "https://app.example.org", or "{ANY}" alone for any'
        )
    if port is not None and port == DEFAULT_PORTS.get(scheme):
        return origin.removesuffix(f":{port}")
    return origin


def _split(url: str) -> tuple[str, str, str | None, int | None]:
    """Scheme, the part between it and the path, host and port; nothing where there is no sense."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "", "", None, None
    return parts.scheme, parts.netloc, parts.hostname, port


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the name or address.

    `localhost` and names below it are this machine's by RFC 6761, whatever a DNS says.
    """
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
