"""API keys: what one is, what it allows, and the secret that opens it.

A secret is `fl-` and 32 random bytes. It is shown once and stored as its SHA-256: slow hashes are
for passwords, which people choose and others guess; nobody guesses 256 random bits.
"""

import hashlib
import math
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

from fledge.errors import Forbidden, InvalidRequest
from fledge.money import NANOS, money_of, nanos_of

Scope: TypeAlias = Literal["inference", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

ANY_MODEL = ("*",)
SECRET_PREFIX = "fl-"  # noqa: S105 - what every secret begins with
ID_PREFIX = "key_"

_SECRET_BYTES = 32
_SHOWN = 4
_LONGEST_NAME = 100
_MOST_PATTERNS = 100
_LONGEST_PATTERN = 256
# The largest count that JSON carries exactly.
_LARGEST = 2**53
_COUNTS = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "monthly_token_budget",
)
_LIMITS = (*_COUNTS, "monthly_budget_nanos")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpec:
    """What is chosen when a key is made. Limits that are None do not limit.

    Attributes:
        name: for people; unique among the keys that are not revoked.
        scopes: `inference` may embed; `admin` may manage models, keys and usage.
        models: patterns of public ids, as a shell's: `*`, `?`, `[seq]`; upper and lower case
            differ.
        expires: when it ends by itself; None: never.
        requests_per_minute: most requests of a minute.
        tokens_per_minute: most tokens of a minute.
        concurrent_requests: most requests at the same time.
        monthly_token_budget: most tokens of a calendar month, UTC.
        monthly_budget_nanos: most money of a calendar month, in billionths.
    """

    name: str
    scopes: frozenset[Scope] = frozenset({"inference"})
    models: tuple[str, ...] = ANY_MODEL
    expires: datetime | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    monthly_token_budget: int | None = None
    monthly_budget_nanos: int | None = None

    def check(self, now: datetime) -> None:
        """Refuse what no key can be.

        Raises:
            InvalidRequest: its `field` names what is wrong.
        """
        check_name(self.name)
        if not self.scopes or not self.scopes <= set(SCOPES):
            raise InvalidRequest(
                f"`scopes` must be some of {', '.join(SCOPES)}, not "
                f"{', '.join(sorted(map(str, self.scopes))) or 'none'}",
                field="scopes",
            )
        _check_models(self.models)
        if self.expires is not None:
            if self.expires.tzinfo is None:
                raise InvalidRequest("`expires` must name its time zone", field="expires")
            if self.expires <= now:
                raise InvalidRequest(
                    f"`expires` must be in the future; {self.expires.isoformat()} is past",
                    field="expires",
                )
        for name in _LIMITS:
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
                raise InvalidRequest(
                    f"`{name}` must be a whole number from 1 to {_LARGEST}, not {value!r}; leave "
                    "it out for no limit",
                    field=name,
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(KeySpec):
    """A key as it is stored: everything but its secret.

    Attributes:
        id: what usage is charged to; it never changes.
        prefix: how its secret begins, to tell keys apart.
        last_four: how its secret ends, likewise.
        created: when it was made.
        revoked: when it was revoked; None: it was not.
    """

    id: str
    prefix: str
    last_four: str
    created: datetime
    revoked: datetime | None = None

    def state(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        """Whether it is accepted at a moment, and if not, why."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    def allows_model(self, model_id: str) -> bool:
        """Whether requests with this key may use the model of that public id."""
        return self.models == ANY_MODEL or _matches(self.models, model_id)

    def check_scope(self, scope: Scope) -> None:
        """Refuse what is beyond the key.

        Raises:
            Forbidden: it lacks the scope.
        """
        if scope not in self.scopes:
            raise Forbidden(
                f"this key may not do that: it has the scope {', '.join(sorted(self.scopes))}, "
                f"and {scope} is needed"
            )

    def check_model(self, model_id: str) -> None:
        """Refuse a model that is not the key's.

        Raises:
            Forbidden: none of its patterns matches.
        """
        if not self.allows_model(model_id):
            raise Forbidden(
                f"this key may not use {model_id}: it is limited to {', '.join(self.models)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key and its secret, on the one occasion on which it is known.

    Attributes:
        key: the key.
        secret: what callers send. Kept out of every `repr`, and so out of logs.
    """

    key: Key
    secret: str = field(repr=False)


def new_secret() -> str:
    """256 random bits behind the prefix by which people and scanners know them."""
    return SECRET_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def new_id() -> str:
    """An id that no key has: 64 random bits."""
    return ID_PREFIX + secrets.token_hex(8)


def digest_of(secret: str) -> bytes:
    """The SHA-256 of a secret, or of anything else that a caller presents as one."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def shown(secret: str) -> tuple[str, str]:
    """The beginning and the end that lists show; 208 of the 256 bits stay secret."""
    return secret[: len(SECRET_PREFIX) + _SHOWN], secret[-_SHOWN:]


def check_name(name: str) -> None:
    """Refuse a name that cannot be told from an id or a secret, or that a spreadsheet would run.

    Raises:
        InvalidRequest: the name will not do.
    """
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise InvalidRequest(
            f"`name` must have 1 to {_LONGEST_NAME} characters, not {len(name)}", field="name"
        )
    if not name.isprintable() or not name[0].isalnum() or name != name.strip():
        raise InvalidRequest(
            "`name` must begin with a letter or a digit, and have no control characters and no "
            "space at its end",
            field="name",
        )
    if name.startswith((SECRET_PREFIX, ID_PREFIX)):
        raise InvalidRequest(
            f"`name` must not begin with {SECRET_PREFIX} or {ID_PREFIX}, as secrets and ids do",
            field="name",
        )


def budget_nanos(money: float | None) -> int | None:
    """A month's budget as people write it, in billionths; None: there is none.

    Raises:
        InvalidRequest: it is no amount that can be spent.
    """
    if money is None:
        return None
    nanos = nanos_of(money) if math.isfinite(money) and money * NANOS <= _LARGEST else 0
    if nanos < 1:
        raise InvalidRequest(
            f"`monthly_budget` must be an amount of money above 0 and up to {_LARGEST // NANOS}, "
            f"not {money:g}; leave it out for no limit",
            field="monthly_budget",
        )
    return nanos


def describe(key: Key, now: datetime) -> dict[str, Any]:
    """A key as plain data, for JSON and for the terminal: never with its secret."""
    budget = key.monthly_budget_nanos
    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(now),
        "hint": f"{key.prefix}...{key.last_four}",
        "scopes": sorted(key.scopes),
        "models": list(key.models),
        "created": _iso(key.created),
        "expires": _iso(key.expires),
        "revoked": _iso(key.revoked),
        **{name: getattr(key, name) for name in _COUNTS},
        "monthly_budget": None if budget is None else money_of(budget),
    }


def _iso(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _check_models(models: tuple[str, ...]) -> None:
    if not 1 <= len(models) <= _MOST_PATTERNS:
        raise InvalidRequest(
            f"`models` must have 1 to {_MOST_PATTERNS} patterns, not {len(models)}; `*` is all",
            field="models",
        )
    for pattern in models:
        if not 1 <= len(pattern) <= _LONGEST_PATTERN or not pattern.isprintable():
            raise InvalidRequest(
                f"`models`: a pattern must have 1 to {_LONGEST_PATTERN} characters, none of them "
                "a control character",
                field="models",
            )


# Bounded, since callers choose the names; large enough that a thousand keys keep their answers.
@lru_cache(maxsize=2**14)
def _matches(patterns: tuple[str, ...], model_id: str) -> bool:
    return any(fnmatchcase(model_id, pattern) for pattern in patterns)
