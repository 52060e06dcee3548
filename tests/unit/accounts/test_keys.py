"""What a key may be, what it allows, and that nobody reads its secret by accident."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fledge.accounts.keys import (
    Key,
    KeySpec,
    NewKey,
    budget_nanos,
    describe,
    digest_of,
    new_secret,
    shown,
)
from fledge.errors import Forbidden, InvalidRequest
from fledge.money import NANOS

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def a_key(**fields: Any) -> Key:
    defaults: dict[str, Any] = {
        "id": "key_0123",
        "name": "search",
        "prefix": "fl-abcd",
        "last_four": "wxyz",
        "created": NOW,
    }
    return Key(**defaults | fields)


def test_secrets_have_256_random_bits_and_never_repeat() -> None:
    secrets = {new_secret() for _ in range(1000)}
    assert len(secrets) == 1000
    assert all(secret.startswith("fl-") and len(secret) == 3 + 43 for secret in secrets)


def test_a_digest_is_sha_256() -> None:
    assert digest_of("abc").hex().startswith("ba7816bf8f01cfea")


def test_whatever_a_caller_presents_has_a_digest() -> None:
    assert len({digest_of(one) for one in ("", "\udcff", "\0", "ü" * 10_000)}) == 4


def test_lists_show_eight_characters_of_a_secret() -> None:
    assert shown("fl-abcdefghijklmnop") == ("fl-abcd", "mnop")


def test_a_new_key_keeps_its_secret_out_of_texts_about_it() -> None:
    secret = new_secret()
    new = NewKey(key=a_key(), secret=secret)
    assert new.secret == secret
    for text in (repr(new), str(new), f"{new}", f"{[new]!r}", repr(describe(new.key, NOW))):
        assert secret not in text


@pytest.mark.parametrize(
    "name", ["a", "Search team 2", "größe", "a" * 100, "7", "a.b/c@d", "flat", "key"]
)
def test_names_that_people_give(name: str) -> None:
    KeySpec(name=name).check(NOW)


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", " a", "a ", "a\nb", "a\x7f", "a" * 101),
        *("=1+1", "+1", "-1", "@a"),  # which spreadsheets take for a formula
        *("fl-abc", "key_abc"),
    ],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="`name` must") as caught:
        KeySpec(name=name).check(NOW)
    assert caught.value.field == "name"


LIMITS = [
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "monthly_token_budget",
    "monthly_budget_nanos",
]


@pytest.mark.parametrize("field", LIMITS)
@pytest.mark.parametrize("value", [1, 2**53])
def test_limits_are_whole_numbers(field: str, value: int) -> None:
    limits: dict[str, Any] = {field: value}
    KeySpec(name="a", **limits).check(NOW)


@pytest.mark.parametrize("field", LIMITS)
@pytest.mark.parametrize("value", [0, -1, 2**53 + 1, 1.5, True, "1"])
def test_limits_that_are_none_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"`{field}` must be a whole number") as caught:
        KeySpec(name="a", **{field: value}).check(NOW)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("scopes", frozenset(), "some of inference, admin, not none"),
        ("scopes", frozenset({"inference", "root"}), "not inference, root"),
        ("models", (), "1 to 100 patterns, not 0"),
        ("models", ("a",) * 101, "not 101"),
        ("models", ("",), "a pattern must have 1"),
        ("models", ("a\n",), "control character"),
        ("models", ("a" * 257,), "1 to 256"),
        ("expires", NOW, "must be in the future; 2026-11-21T12:00:00"),
        ("expires", datetime(2030, 1, 1), "time zone"),  # noqa: DTZ001 - which is what is refused
    ],
)
def test_what_no_key_can_be_is_refused(field: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        KeySpec(name="a", **{field: value}).check(NOW)
    assert caught.value.field == field


def test_a_key_without_patterns_of_its_own_allows_every_model() -> None:
    assert a_key().allows_model("BAAI/bge-small-en-v1.5")


@pytest.mark.parametrize(
    ("pattern", "model", "is_allowed"),
    [
        ("BAAI/*", "BAAI/bge-m3", True),
        ("BAAI/*", "baai/bge-m3", False),
        ("BAAI/*", "intfloat/e5-small", False),
        ("*bge*", "BAAI/bge-m3", True),
        ("BAAI/bge-m3", "BAAI/bge-m3", True),
        ("BAAI/bge-m3", "BAAI/bge-m3-retromae", False),
        ("*/e5-[sb]*", "intfloat/e5-base", True),
        ("*/e5-[sb]*", "intfloat/e5-large", False),
        ("local", "a/local", False),
        ("BAAI/bge?m3", "BAAI/bge-m3", True),
    ],
)
def test_patterns_say_which_models_a_key_may_use(
    pattern: str, model: str, is_allowed: bool
) -> None:
    key = a_key(models=("none/at-all", pattern))
    assert key.allows_model(model) is is_allowed
    if is_allowed:
        key.check_model(model)
    else:
        with pytest.raises(Forbidden, match=f"may not use {model}: it is limited to none/at-all"):
            key.check_model(model)


def test_scopes_do_not_include_each_other() -> None:
    a_key().check_scope("inference")
    a_key(scopes=frozenset({"admin"})).check_scope("admin")
    with pytest.raises(Forbidden, match="has the scope inference, and admin is needed"):
        a_key().check_scope("admin")
    with pytest.raises(Forbidden, match="has the scope admin, and inference is needed"):
        a_key(scopes=frozenset({"admin"})).check_scope("inference")


def test_a_key_ends_at_the_moment_that_it_names() -> None:
    key = a_key(expires=NOW + timedelta(seconds=1))
    assert key.state(NOW) == "active"
    assert key.state(NOW + timedelta(seconds=1)) == "expired"
    assert replace(key, revoked=NOW).state(NOW) == "revoked"


def test_a_key_as_plain_data() -> None:
    berlin = datetime.fromisoformat("2027-01-01T00:00:00+01:00")
    key = a_key(expires=berlin, scopes=frozenset({"inference", "admin"}), tokens_per_minute=9)
    assert describe(key, NOW) == {
        "id": "key_0123",
        "name": "search",
        "state": "active",
        "hint": "fl-abcd...wxyz",
        "scopes": ["admin", "inference"],
        "models": ["*"],
        "created": "2026-11-21T12:00:00Z",
        "expires": "2026-12-31T23:00:00Z",
        "revoked": None,
        "requests_per_minute": None,
        "tokens_per_minute": 9,
        "concurrent_requests": None,
        "monthly_token_budget": None,
        "monthly_budget": None,
    }


@pytest.mark.parametrize(
    ("money", "nanos"), [(None, None), (20, 20 * NANOS), (0.1, NANOS // 10), (1e-9, 1)]
)
def test_a_budget_is_money_for_people_and_billionths_inside(
    money: float | None, nanos: int | None
) -> None:
    assert budget_nanos(money) == nanos
    key = a_key(monthly_budget_nanos=nanos)
    assert describe(key, NOW)["monthly_budget"] == money
    assert "monthly_budget_nanos" not in describe(key, NOW)


@pytest.mark.parametrize("money", [0, -1, 1e-10, 1e7, float("inf"), float("nan")])
def test_a_budget_that_is_no_amount_is_refused(money: float) -> None:
    with pytest.raises(InvalidRequest, match="`monthly_budget` must be an amount") as caught:
        budget_nanos(money)
    assert caught.value.field == "monthly_budget"
