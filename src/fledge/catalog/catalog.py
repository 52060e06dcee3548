"""The models that requests may name, and every name that each of them answers to."""

import difflib
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from fledge.errors import UnknownModel
from fledge.names import quoted
from fledge.types import ModelEntry

DISCOVER_EVERY_S = 1.0
"""Looking at a folder of a thousand models takes milliseconds, and unknown names cost nothing to
send."""

# A repository of the hub with its owner: nothing that could be a path of this machine.
_HUB_ID = re.compile(r"(?=.{3,96}\Z)[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LONGEST_NAME = 200
_SUGGESTIONS = 3
_FEW = 5


def nothing_more() -> Sequence[ModelEntry]:
    """What `discover` finds where nothing can join."""
    return ()


class Catalog:
    """Entries by name. The first one answers requests that name no model.

    A name is an id, whatever its case, one of the entry's aliases, the part of an id after the
    slash, or a provider's own name for the model. In this order, and of two models with the same
    name the earlier one has it; but a name that two providers give to two models leads to neither,
    unless the provider is named too.

    Args:
        entries: in the order in which they are listed; of two with one id, the first counts.
        discover: looks for models that have appeared meanwhile; called when a name is unknown or
            all are listed, but not more often than every `DISCOVER_EVERY_S`.
        allows_any: whether any id of the hub may be named.
        clock: seconds.
    """

    def __init__(
        self,
        entries: Iterable[ModelEntry],
        *,
        discover: Callable[[], Sequence[ModelEntry]] = nothing_more,
        allows_any: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._discover = discover
        self._clock = clock
        self._discovered_s = -math.inf
        self._allows_any = allows_any
        self._entries: dict[str, ModelEntry] = {}
        self._names: dict[str, ModelEntry] = {}
        self._at_providers: dict[tuple[str, str], ModelEntry] = {}
        self._take(entries)

    def __contains__(self, entry: ModelEntry) -> bool:
        """Whether an entry is here, rather than one that `find` made of an id of the hub."""
        return entry.id in self._entries

    def entries(self) -> list[ModelEntry]:
        """All of them, with those that have appeared meanwhile."""
        self._look_around()
        return list(self._entries.values())

    def add(self, entry: ModelEntry) -> None:
        """Let one join that was named and found; nothing changes for one that is here already."""
        if entry.id not in self._entries:
            self._take([entry])

    def find(
        self, name: str | None, *, provider: str | None = None, may_join: bool = True
    ) -> ModelEntry:
        """The model of a name; a router's suffix, as in `org/name:fastest`, is dropped.

        Args:
            name: any of its names; None: the first model.
            provider: whose own names come before all others; `org/name:nebius` says so too.
            may_join: whether an id of the hub that is not here yet will do, where any is allowed.

        Raises:
            UnknownModel: there is none of that name, or two providers give it to two models.
        """
        if name is None:
            if not self._entries:
                raise UnknownModel("no model is served here")
            return next(iter(self._entries.values()))
        if (entry := self._look_up(name, provider)) is not None:
            return entry
        self._look_around()
        if (entry := self._look_up(name, provider)) is not None:
            return entry
        if claims := self._claims(name) or self._claims(name.rpartition(":")[0]):
            raise UnknownModel(_ambiguous(name, claims))
        hub_id = name.partition(":")[0]
        if may_join and self._allows_any and _HUB_ID.fullmatch(hub_id):
            return ModelEntry(id=hub_id)
        raise UnknownModel(self._unknown(name))

    def _look_around(self) -> None:
        now = self._clock()
        if now - self._discovered_s >= DISCOVER_EVERY_S:
            self._discovered_s = now
            self._take(self._discover())

    def _look_up(self, name: str, provider: str | None) -> ModelEntry | None:
        bare, _, suffix = name.rpartition(":")
        for who, called in ((provider or "", name), (suffix, bare)):
            if entry := self._at_providers.get((who.lower(), called.lower())):
                return entry
        for spelling in (name, name.lower(), bare.lower()):
            if spelling in self._names:
                return self._names[spelling]
        return None

    def _claims(self, name: str) -> Mapping[str, ModelEntry]:
        """Who calls a model so, and which."""
        return {
            provider: entry
            for (provider, called), entry in self._at_providers.items()
            if called == name.lower()
        }

    def _take(self, entries: Iterable[ModelEntry]) -> None:
        count = len(self._entries)
        for entry in entries:
            self._entries.setdefault(entry.id, entry)
        if len(self._entries) > count:
            all_of_them = list(self._entries.values())
            self._at_providers = _names_at_providers(all_of_them)
            self._names = _names(all_of_them, self._at_providers)

    def _unknown(self, name: str) -> str:
        message = f"the model {quoted(name)} is not served here"
        if len(self._entries) <= _FEW:
            return f"{message}; served: {', '.join(self._entries) or 'none'}"
        near = difflib.get_close_matches(name[:_LONGEST_NAME].lower(), self._names, n=_SUGGESTIONS)
        ids = list(dict.fromkeys(self._names[one].id for one in near))
        if ids:
            message += f"; did you mean {' or '.join(ids)}?"
        return f"{message}; GET /v1/models lists those that are"


def _names(
    entries: Sequence[ModelEntry], at_providers: Mapping[tuple[str, str], ModelEntry]
) -> dict[str, ModelEntry]:
    names: dict[str, ModelEntry] = {}
    for spellings in (_id, _lower_id, _aliases, _bare_name):
        for entry in entries:
            for name in spellings(entry):
                names.setdefault(name, entry)
    meant: dict[str, set[str]] = {}
    for (_, name), entry in at_providers.items():
        meant.setdefault(name, set()).add(entry.id)
    for (_, name), entry in at_providers.items():
        if len(meant[name]) == 1:
            names.setdefault(name, entry)
    return names


def _names_at_providers(entries: Sequence[ModelEntry]) -> dict[tuple[str, str], ModelEntry]:
    names: dict[tuple[str, str], ModelEntry] = {}
    for entry in entries:
        for provider, name in entry.provider_ids.items():
            names.setdefault((provider.lower(), name.lower()), entry)
    return names


def _ambiguous(name: str, claims: Mapping[str, ModelEntry]) -> str:
    meanings = " and ".join(f"{entry.id} at {who}" for who, entry in claims.items())
    return (
        f"{quoted(name)} is the name of {meanings}: give the model's id, or one of these providers "
        "behind a colon"
    )


def _id(entry: ModelEntry) -> Iterator[str]:
    yield entry.id


def _lower_id(entry: ModelEntry) -> Iterator[str]:
    yield entry.id.lower()


def _aliases(entry: ModelEntry) -> Iterator[str]:
    return (name.lower() for name in entry.aliases)


def _bare_name(entry: ModelEntry) -> Iterator[str]:
    yield entry.id.rpartition("/")[2].lower()
