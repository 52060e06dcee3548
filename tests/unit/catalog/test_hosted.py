"""Models that only their providers have: facts in the form that readers rely on."""

from fledge.catalog.shipped import hosted_entries, shipped_entries
from fledge.providers.presets import PRESETS

ENTRIES = hosted_entries()


def test_none_of_them_runs_here_and_all_others_do() -> None:
    assert not any(entry.runs_locally for entry in ENTRIES)
    assert all(entry.runs_locally for entry in shipped_entries())


def test_each_is_at_a_provider_that_is_known() -> None:
    assert all(entry.provider_ids for entry in ENTRIES)
    assert {name for entry in ENTRIES for name in entry.provider_ids} <= PRESETS.keys()


def test_no_name_is_that_of_another_model() -> None:
    names = [
        name.lower()
        for entry in (*ENTRIES, *shipped_entries())
        for name in {entry.id, *entry.aliases, *entry.provider_ids.values()}
    ]
    assert len(set(names)) == len(names)


def test_facts_are_possible() -> None:
    for entry in ENTRIES:
        assert 32 <= (entry.dimension or 0) <= 8192, entry.id
        assert all(size < (entry.dimension or 0) for size in entry.matryoshka_dimensions), entry.id
        assert 32 <= (entry.max_seq_length or 0) <= 2**17, entry.id
        assert entry.languages, entry.id
        assert entry.summary.endswith("."), entry.id
