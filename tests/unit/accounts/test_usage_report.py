"""Reports: what they are broken down by, what they leave out, and their two forms."""

import csv
import io
import json
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from fledge.accounts.database import Database
from fledge.accounts.key_store import KeyStore
from fledge.accounts.keys import KeySpec
from fledge.accounts.meter import Meter
from fledge.accounts.usage import KEYLESS, UsageRecord
from fledge.accounts.usage_query import UsageQuery, as_csv, columns
from fledge.accounts.usage_report import usage_report
from fledge.errors import InvalidRequest
from tests.unit.accounts.conftest import Clock

SUMS = ["requests", "texts", "tokens", "cache_hits", "errors", "compute_seconds"]
SUMS += ["cost_nanos", "cost"]
NOVEMBER = UsageQuery(since=date(2026, 11, 1), until=date(2026, 11, 30))


@pytest.fixture
def key_id(store: KeyStore) -> str:
    return store.create(KeySpec(name="search")).key.id


@pytest.fixture
def used(database: Database, clock: Clock, key_id: str) -> Database:
    """A database in which two keys have used two models on three days."""
    meter = Meter(database, now=clock)
    for day in ("2026-11-29", "2026-11-30", "2026-12-01"):
        clock.set(day)
        meter.count(UsageRecord(key_id, "org/a", texts=1, tokens=10, compute_s=0.5))
        meter.count(UsageRecord(key_id, "org/b", tokens=100, bill_to="acme", cache_hits=1))
        far = UsageRecord(KEYLESS, "org/a", "remote", tokens=1000, errors=1)
        meter.count(far._replace(cost_nanos=1_500_000_000))
    meter.close()
    return database


def report(database: Database, *group_by: Any, **query: Any) -> list[list[Any]]:
    """Each row's values up to its tokens."""
    found = usage_report(database, replace(NOVEMBER, group_by=group_by, **query))
    return [
        [value for name, value in row.items() if name not in SUMS] + [row["tokens"]]
        for row in found
    ]


def test_by_day_key_and_model(used: Database, key_id: str) -> None:
    found = usage_report(used, NOVEMBER)
    assert list(found[0]) == ["day", "key_id", "key_name", "model", *SUMS]
    assert {(row["day"], row["key_name"], row["model"], row["tokens"]) for row in found} == {
        (day, *rest)
        for day in ("2026-11-29", "2026-11-30")
        for rest in (("search", "org/a", 10), ("search", "org/b", 100), ("", "org/a", 1000))
    }
    assert [row["day"] for row in found] == sorted(row["day"] for row in found)


def test_by_one_thing(used: Database, key_id: str) -> None:
    assert report(used) == [[2220]]
    assert report(used, "day") == [["2026-11-29", 1110], ["2026-11-30", 1110]]
    assert report(used, "model") == [["org/a", 2020], ["org/b", 200]]
    assert report(used, "deployment") == [["local", 220], ["remote", 2000]]
    assert report(used, "bill_to") == [["", 2020], ["acme", 200]]
    assert report(used, "key") == [[key_id, "search", 220], [KEYLESS, "", 2000]]


def test_columns_come_in_one_order_whatever_is_asked(used: Database) -> None:
    query = replace(NOVEMBER, group_by=("model", "key", "day"))
    assert columns(query) == ("day", "key_id", "key_name", "model", *SUMS)
    assert {tuple(row) for row in usage_report(used, query)} == {columns(query)}


def test_of_one_thing_alone(used: Database, key_id: str) -> None:
    assert report(used, key_id=key_id) == [[220]]
    assert report(used, model="org/b") == [[200]]
    assert report(used, deployment="remote") == [[2000]]
    assert report(used, bill_to="acme") == [[200]]
    assert report(used, bill_to="") == [[2020]]
    assert report(used, key_id=key_id, model="org/a") == [[20]]
    assert report(used, since=date(2026, 11, 30), until=date(2026, 12, 1)) == [[2220]]


def test_where_nothing_was_used(used: Database) -> None:
    assert report(used, key_id="key_0123") == [[0]]
    assert report(used, "model", key_id="key_0123") == []


def test_every_sum(used: Database, key_id: str) -> None:
    (row,) = usage_report(used, replace(NOVEMBER, group_by=()))
    assert row == {
        "requests": 6,
        "texts": 2,
        "tokens": 2220,
        "cache_hits": 2,
        "errors": 2,
        "compute_seconds": 1.0,
        "cost_nanos": 3_000_000_000,
        "cost": 3.0,
    }


def test_a_revoked_key_keeps_its_name(used: Database, store: KeyStore, key_id: str) -> None:
    store.revoke(key_id)
    assert report(used, "key")[0] == [key_id, "search", 220]


def test_a_limit_cuts_the_rows(used: Database) -> None:
    assert len(usage_report(used, replace(NOVEMBER, limit=2))) == 2


def test_as_json_and_as_csv(used: Database) -> None:
    query = replace(NOVEMBER, group_by=("day", "model"))
    rows = usage_report(used, query)
    assert json.loads(json.dumps(rows)) == rows
    text = as_csv(rows, columns(query))
    assert text.splitlines()[0] == ",".join(columns(query))
    assert [row["tokens"] for row in csv.DictReader(io.StringIO(text))] == [
        str(row["tokens"]) for row in rows
    ]
    assert as_csv([], columns(query)) == ",".join(columns(query)) + "\n"


@pytest.mark.parametrize(
    ("field", "query"),
    [
        ("until", {"until": date(2026, 10, 31)}),
        ("group_by", {"group_by": ("day", "moon")}),
        ("limit", {"limit": 0}),
        ("model", {"model": "a\0b"}),
        ("key_id", {"key_id": "\udcff"}),
    ],
)
def test_what_is_no_report_is_refused(
    database: Database, field: str, query: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        usage_report(database, replace(NOVEMBER, **query))
    assert caught.value.field == field
