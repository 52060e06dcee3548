"""`fledge usage`, on real databases."""

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fledge.accounts.keys import KeySpec
from fledge.accounts.meter import Meter
from fledge.accounts.usage import UsageRecord
from fledge.settings import Settings
from fledge.stores import open_database, opened_keys
from tests.unit.cli.fakes import run

NOVEMBER = ("--since", "2026-11-01", "--until", "2026-11-30")


@pytest.fixture(autouse=True)
def key_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key, and what it and others used on two days of November 2026."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLEDGE_DATA_DIR", str(tmp_path))
    settings = Settings(data_dir=tmp_path)
    with opened_keys(settings) as store:
        key = store.create(KeySpec(name="search")).key
    database = open_database(settings)
    for day in (20, 21):
        at = datetime(2026, 11, day, tzinfo=UTC).timestamp()
        meter = Meter(database, now=lambda at=at: at)  # type: ignore[misc] # mypy sees no default
        meter.count(UsageRecord(key.id, "org/a", texts=2, tokens=1000, compute_s=0.25))
        meter.count(UsageRecord(key.id, "=cmd|x", texts=1, tokens=10))
        meter.count(UsageRecord("keyless", "org/a", texts=1, tokens=1, bill_to="acme"))
        meter.flush()
    database.close()
    return key.id


def rows(*arguments: str) -> list[dict[str, Any]]:
    result = run("usage", *NOVEMBER, "--format", "json", *arguments)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_usage_is_a_table_by_key_and_model_without_money() -> None:
    result = run("usage", *NOVEMBER)

    assert result.exit_code == 0
    assert "2,000" in result.stdout
    assert "0.500" in result.stdout
    assert all(word in result.stdout for word in ("search", "keyless", "org/a", "cache hits"))
    assert "cost" not in result.stdout


def test_for_programs_each_row_is_an_object(key_id: str) -> None:
    assert rows("--by", "key", "--key", "search") == [
        {
            "key_id": key_id,
            "key_name": "search",
            "requests": 4,
            "texts": 6,
            "tokens": 2020,
            "cache_hits": 0,
            "errors": 0,
            "compute_seconds": 0.5,
            "cost_nanos": 0,
            "cost": 0.0,
        }
    ]


def test_it_is_broken_down_by_what_is_asked(key_id: str) -> None:
    def tokens(*arguments: str) -> list[int]:
        return [row["tokens"] for row in rows(*arguments)]

    assert tokens("--by", "") == [2022]
    assert tokens("--by", "day") == [1011, 1011]
    assert tokens("--by", "model, key") == [20, 2000, 2]
    assert tokens("--by", "bill_to") == [2020, 2]
    assert tokens("--by", "", "--key", key_id) == [2020]
    assert tokens("--by", "", "--key", "keyless") == [2]
    assert tokens("--by", "", "--model", "org/a") == [2002]
    assert tokens("--by", "", "--since", "2026-11-21") == [1011]


def test_csv_is_safe_for_spreadsheets() -> None:
    result = run("usage", *NOVEMBER, "--format", "csv", "--by", "model")
    found = list(csv.DictReader(io.StringIO(result.stdout)))

    assert [row["model"] for row in found] == ["'=cmd|x", "org/a"]
    assert [row["tokens"] for row in found] == ["20", "2002"]


def test_until_alone_means_its_month() -> None:
    result = run("usage", "--until", "2026-11-20", "--by", "", "--format", "json")
    assert json.loads(result.stdout)["tokens"] == 1011


def test_where_nothing_was_used_the_table_says_so() -> None:
    result = run("usage", "--since", "2020-01-01", "--until", "2020-01-31")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "nothing was used from 2020-01-01 to 2020-01-31\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--since", "yesterday"], 1, "error: `since` must be a day, as 2026-11-21"),
        (["--since", "2026-11-02", "--until", "2026-11-01"], 1, "error: `until` must not be"),
        (["--key", "nobody"], 1, "error: there is no key of that id or name"),
        (["--by", "moon"], 2, "moon; it knows day, key, model, deployment, bill_to"),
    ],
)
def test_what_is_no_report_is_refused(arguments: list[str], code: int, message: str) -> None:
    result = run("usage", *arguments)

    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_money_is_shown_as_money_where_there_is_any(tmp_path: Path) -> None:
    database = open_database(Settings(data_dir=tmp_path))
    meter = Meter(database, now=datetime(2026, 11, 20, tzinfo=UTC).timestamp)
    meter.count(UsageRecord("keyless", "org/a", "nebius", tokens=1, cost_nanos=1_250_000_000))
    meter.count(UsageRecord("keyless", "org/a", "nebius", tokens=1, cost_nanos=12_000))
    meter.flush()
    database.close()

    table = run("usage", *NOVEMBER, "--by", "deployment").stdout
    (row,) = [one for one in rows("--by", "deployment") if one["deployment"] == "nebius"]
    assert "1.250012" in table
    assert "0.00" in table
    assert "cost nanos" not in table
    assert (row["cost"], row["cost_nanos"]) == (1.250012, 1_250_012_000)
