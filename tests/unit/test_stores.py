"""Where keys, usage and vectors live, by the settings; what is told of it where it fails."""

import threading
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.accounts.accounts import Accounts
from fledge.accounts.keys import KeySpec
from fledge.accounts.usage import UsageRecord
from fledge.accounts.usage_query import UsageQuery
from fledge.errors import DatabaseUnavailable, KeyNotFound, SettingsError
from fledge.names import without_password
from fledge.settings import Settings
from fledge.stores import (
    describe_stores,
    open_accounts,
    open_database,
    opened_keys,
    report_usage,
    warn_without_redis,
)

ALWAYS = UsageQuery(since=date(2000, 1, 1), until=date(2100, 1, 1), group_by=())


def described(**settings: Any) -> dict[str, str]:
    return dict(describe_stores(Settings(**settings)))


def test_by_default_keys_are_in_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    with opened_keys(Settings(data_dir=folder)) as store:
        store.create(KeySpec(name="a"))

    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "accounts.db").stat().st_mode & 0o777 == 0o600
    with opened_keys(Settings(data_dir=folder)) as store:
        assert [key.name for key in store.listed()] == ["a"]


def test_usage_is_reported_of_all_and_of_one_key_by_name_or_id(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with opened_keys(settings) as store:
        key = store.create(KeySpec(name="a")).key
    accounts = open_accounts(settings)
    accounts.count(UsageRecord(key.id, "org/a", tokens=5))
    accounts.count(UsageRecord("keyless", "org/a", tokens=7))
    accounts.close()

    def tokens(name: str | None) -> int:
        (row,) = report_usage(settings, ALWAYS, key=name)
        found: int = row["tokens"]
        return found

    assert [tokens(name) for name in (None, "a", key.id, "keyless")] == [12, 5, 5, 7]
    with pytest.raises(KeyNotFound):
        report_usage(settings, ALWAYS, key="b")


def test_without_a_database_there_are_no_accounts() -> None:
    settings = Settings(database_url="none")
    assert type(open_accounts(settings)) is Accounts
    with pytest.raises(SettingsError, match="database_url is none"):
        open_database(settings)


def test_accounts_that_cannot_be_opened_leave_no_thread_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with pytest.raises(SettingsError, match="redis_url must be redis://"):
        open_accounts(
            Settings(data_dir=tmp_path).model_copy(update={"redis_url": "ftp://127.0.0.1"})
        )
    assert set(threading.enumerate()) <= before


def test_a_folder_that_cannot_be_made_is_a_setting_that_is_wrong() -> None:
    with pytest.raises(SettingsError, match="/dev/null/x cannot be made: Not a directory"):
        open_accounts(Settings(data_dir=Path("/dev/null/x")))


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "accounts.db").mkdir()
    with pytest.raises(DatabaseUnavailable, match=r"accounts\.db: Is a directory"):
        open_accounts(Settings(data_dir=tmp_path))


def test_what_answers_is_told_and_nothing_is_made_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shown = f"sqlite:///{folder}/accounts.db"
    before = described(data_dir=folder)
    assert before["database"].startswith(f"{shown}: not there yet")
    assert before["redis server"] == "not set"
    assert not folder.exists()

    open_database(Settings(data_dir=folder)).close()
    assert described(data_dir=folder)["database"] == f"{shown}: answers"
    assert described(database_url="none")["database"].startswith("none: no keys")


@pytest.mark.parametrize(
    ("setting", "url", "words"),
    [
        ("database_url", "postgresql://me:geheim@127.0.0.1:1/x", "me:***@127.0.0.1:1/x: the acc"),
        ("database_url", "mysql://me:geheim@db/x", "knows sqlite and postgresql"),
        ("database_url", "me:geheim@db", "***: database_url is malformed"),
        ("database_url", "postgresql://me:x@geheim#@127.0.0.1/x", "database_url is malformed"),
        ("database_url", "postgresql://me:x@geheim/x@127.0.0.1/x", "database_url is malformed"),
        ("redis_url", "redis://:geheim@127.0.0.1:1/0", "***@127.0.0.1:1/0: does not answer: Error"),
    ],
)
def test_what_does_not_answer_says_why_without_a_password(
    setting: str, url: str, words: str
) -> None:
    told = described(**{setting: url})["database" if "database" in setting else "redis server"]
    assert words in told
    assert "geheim" not in told
    assert len(told.splitlines()) == 1


def test_a_redis_that_does_not_answer_is_told_of_when_a_server_starts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn_without_redis(Settings())
    assert not caplog.messages
    warn_without_redis(Settings(redis_url="redis://:geheim@127.0.0.1:1/0"))
    (told,) = caplog.messages
    assert "redis_url: redis://:***@127.0.0.1:1/0 does not answer" in told


def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "accounts.db").write_bytes(b"x" * 5000)
    assert "file is not a database" in described(data_dir=tmp_path)["database"]


WORDS = st.text("abcxyz0189:/?#%&=+._-~ ", max_size=8)


@given(
    st.sampled_from(["postgresql", "redis", "rediss", "postgresql+psycopg", "unix"]),
    WORDS,
    st.text("GEHIM:/?#%&=+@._-~ ", min_size=1, max_size=12).map(lambda text: f"GEHEIM{text}"),
    WORDS,
)
def test_no_part_of_a_password_is_shown_however_it_is_written(
    scheme: str, user: str, password: str, host: str
) -> None:
    url = f"{scheme}://{user}:{password}@{host}"
    assert "GEHEIM" not in without_password(url)
    assert without_password(url).startswith(f"{scheme}://")
    assert "GEHEIM" not in without_password(url.replace("://", ":"))


@pytest.mark.parametrize(
    "url", ["none", "sqlite:////data/me:you@here/a.db", "redis://r:6379/0", "postgresql://me@db/x"]
)
def test_what_holds_no_password_is_shown_as_it_is(url: str) -> None:
    assert without_password(url) == url
