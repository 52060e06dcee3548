"""What providers call the models of a catalogue, as far as somebody says so besides."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from fledge.catalog.catalog import Catalog
from fledge.errors import UnknownModel
from fledge.types import ModelEntry


def with_provider_ids(
    entries: Sequence[ModelEntry],
    called: Mapping[str, Mapping[str, str]],
    *,
    runs_locally: Collection[str] = (),
) -> list[ModelEntry]:
    """The entries, and behind them those that only providers have.

    Args:
        entries: in the order in which they are listed.
        called: by any name of a model, provider -> what that calls it. Where both know, this
            counts rather than the entry.
        runs_locally: of the names without an entry, those that this machine may load as well.
    """
    known = Catalog(entries)
    added: dict[str, dict[str, str]] = {}
    new: dict[str, ModelEntry] = {}
    for name, ids in called.items():
        try:
            id = known.find(name).id
        except UnknownModel:
            id = name
            new[id] = ModelEntry(id=id, runs_locally=id in runs_locally)
        added.setdefault(id, {}).update(ids)
    return [
        replace(entry, provider_ids={**entry.provider_ids, **added[entry.id]})
        if entry.id in added
        else entry
        for entry in (*entries, *new.values())
    ]
