"""`fledge keys`, on real databases."""

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from fledge.accounts.keys import Key
from fledge.settings import Settings
from fledge.stores import opened_keys
from tests.unit.cli.fakes import run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The database of one test, and no `fledge.toml`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLEDGE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def keys(*arguments: str) -> Result:
    return run("keys", *arguments)


def stored(folder: Path, name: str) -> Key:
    with opened_keys(Settings(data_dir=folder)) as store:
        return store.show(name)


def objects(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_create_prints_the_secret_alone_and_the_rest_for_people(folder: Path) -> None:
    result = keys("create", "team")

    assert result.exit_code == 0
    (secret,) = result.stdout.splitlines()
    assert secret.startswith("fl-")
    assert secret not in result.stderr
    assert "cannot be shown again" in result.stderr
    assert "Authorization: Bearer" in result.stderr
    key = stored(folder, "team")
    assert key.scopes == {"inference"}
    assert (key.models, key.expires) == (("*",), None)


def test_the_first_key_says_that_requests_need_one_from_now_on(folder: Path) -> None:
    first, second = keys("create", "one"), keys("create", "two")

    assert f"the first key of sqlite:///{folder}/accounts.db" in first.stderr
    assert "within two seconds" in first.stderr
    assert "first key" not in second.stderr


def test_every_choice_is_stored(folder: Path) -> None:
    result = keys(
        *("create", "team", "--scope", "inference", "--scope", "admin"),
        *("--model", "BAAI/*", "--model", "org/a", "--expires", "2999-01-01"),
        *("--requests-per-minute", "60", "--tokens-per-minute", "1000"),
        *("--concurrent-requests", "4", "--monthly-token-budget", "1000000"),
        *("--monthly-budget", "2.5"),
    )

    assert result.exit_code == 0
    key = stored(folder, "team")
    assert key.scopes == {"inference", "admin"}
    assert key.models == ("BAAI/*", "org/a")
    assert key.expires == datetime(2999, 1, 1, tzinfo=UTC)
    assert (key.requests_per_minute, key.tokens_per_minute) == (60, 1000)
    assert (key.concurrent_requests, key.monthly_token_budget) == (4, 1_000_000)
    assert key.monthly_budget_nanos == 2_500_000_000
    assert "2.50" in keys("show", "team").stdout
    (shown,) = objects(keys("show", "team", "--json"))
    assert shown["monthly_budget"] == 2.5
    assert "2.50 money/month" in " ".join(keys("list").stdout.split())


def test_a_key_may_expire_after_a_time(folder: Path) -> None:
    before = datetime.now(UTC)
    keys("create", "team", "--expires", "30d")
    expires = stored(folder, "team").expires

    assert expires is not None
    assert timedelta(0) <= expires - before - timedelta(days=30) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["team", "--expires", "soon"], "`expires` must be a duration as 30d"),
        (["team", "--expires", "2020-01-01"], "`expires` must be in the future"),
        (["team", "--scope", "root"], "`scopes` must be some of inference, admin, not root"),
        (["team", "--requests-per-minute", "0"], "`requests_per_minute` must be a whole number"),
        (["fl-mine"], "`name` must not begin with fl-"),
        (["=cmd()"], "`name` must begin with a letter or a digit"),
    ],
)
def test_what_no_key_can_be_is_one_line(arguments: list[str], message: str) -> None:
    result = keys("create", *arguments)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {message}")
    assert len(result.stderr.splitlines()) == 1


def test_a_name_is_given_once() -> None:
    keys("create", "team")
    result = keys("create", "team")

    assert result.exit_code == 1
    assert result.stderr.startswith("error: there is a key named team already")


def test_for_programs_everything_is_one_object() -> None:
    (made,) = objects(keys("create", "team", "--json"))
    assert made["secret"].startswith("fl-")
    (rotated,) = objects(keys("rotate", "team", "--json"))
    assert rotated["secret"] != made["secret"]
    assert rotated["id"] == made["id"]
    (listed,) = objects(keys("list", "--json"))
    (shown,) = objects(keys("show", made["id"], "--json"))
    assert listed == shown == {name: rotated[name] for name in rotated if name != "secret"}
    (revoked,) = objects(keys("revoke", "team", "--json"))
    assert revoked["state"] == "revoked"


def test_the_list_has_those_that_are_accepted() -> None:
    keys("create", "old")
    keys("create", "new", "--requests-per-minute", "1200")
    keys("revoke", "old")

    listed, every = keys("list").stdout, keys("list", "--all").stdout
    assert "new" in listed
    assert "1,200 requests/min" in listed
    assert "old" not in listed
    assert "revoked" in every


def test_without_keys_the_list_says_how_to_make_one() -> None:
    result = keys("list")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "fledge keys create NAME" in result.stderr


def test_a_key_is_shown_by_name_and_by_id(folder: Path) -> None:
    keys("create", "team", "--tokens-per-minute", "5000")
    by_name, by_id = keys("show", "team"), keys("show", stored(folder, "team").id)

    assert by_name.stdout == by_id.stdout
    assert "tokens_per_minute     5,000\n" in by_name.stdout
    assert "requests_per_minute   no limit\n" in by_name.stdout


def test_the_last_key_that_is_revoked_says_so() -> None:
    keys("create", "one")
    keys("create", "two")

    assert keys("revoke", "one").stderr == ""
    assert "No key is left" in keys("revoke", "two").stderr
    assert "first key" not in keys("create", "three").stderr


def test_rotating_gives_another_secret_and_says_how_long_the_old_one_lasts() -> None:
    old = keys("create", "team").stdout
    at_once, later = keys("rotate", "team"), keys("rotate", "team", "--grace", "1h")

    assert len({old, at_once.stdout, later.stdout}) == 3
    assert "before is refused" in at_once.stderr
    assert "accepted for 1h more" in later.stderr


@pytest.mark.parametrize("command", ["show", "revoke", "rotate"])
def test_a_key_that_is_not_there_is_one_line_that_does_not_repeat_it(command: str) -> None:
    result = keys(command, "fl-a-secret-by-mistake")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: there is no key of that id or name\n"


def test_secrets_are_in_no_list_and_in_no_log(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        secrets = [keys("create", "team").stdout.strip(), keys("rotate", "team").stdout.strip()]
        shown = [keys(*words).output for words in (["list", "--all", "--json"], ["show", "team"])]

    for secret in secrets:
        assert all(secret not in text for text in [*shown, caplog.text])
    assert all(
        secret.encode() not in path.read_bytes() for secret in secrets for path in folder.iterdir()
    )


def test_without_a_database_there_are_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_DATABASE_URL", "none")
    result = keys("create", "team")

    assert result.exit_code == 2
    assert result.stderr == "error: database_url is none: there are no keys here, and no usage\n"


def test_a_database_that_does_not_answer_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLEDGE_DATABASE_URL", "postgresql://fledge:geheim@127.0.0.1:1/fledge")
    result = keys("list")

    assert result.exit_code == 1
    assert result.stderr.startswith("error: the accounts' database does not answer")
    assert len(result.stderr.splitlines()) == 1
    assert "geheim" not in result.output


def test_a_folder_that_cannot_be_made_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_DATA_DIR", "/dev/null/data")
    result = keys("list")

    assert result.exit_code == 2
    assert "/dev/null/data cannot be made: Not a directory; set data_dir" in result.stderr
