"""Two requests share an answer if all that its numbers depend on is the same, and only then."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.cache.key import KEY_BYTES, Space
from fledge.testing import fake_card
from fledge.types import EmbedJob, Item, Truncation

# Lone surrogates as well: JSON can carry them, and UTF-8 cannot.
ANY_TEXT = st.text(st.characters() | st.characters(min_codepoint=0xD7FF, max_codepoint=0xE000))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model": ANY_TEXT,
    "revision": ANY_TEXT,
    "dimension": st.integers(1, 4096),
    "max_tokens": st.integers(1, 32768),
    "truncation_side": st.sampled_from([None, "left", "right"]),
    "prompt": st.none() | ANY_TEXT,
    "side": st.sampled_from([None, "query", "document"]),
    "precision": st.sampled_from(["fp32", "bf16", "int8", ""]),
    "arithmetic": ANY_TEXT,
    "deployment": ANY_TEXT,
    "adapter": ANY_TEXT,
}
SPACES = st.builds(Space, **FIELDS)
ITEMS: st.SearchStrategy[Item] = ANY_TEXT | st.lists(st.integers(-(2**63), 2**63 - 1))


def key(space: Space, item: Item) -> bytes:
    (made,) = space.keys([item])
    return made


def test_every_field_of_a_space_is_tried() -> None:
    assert set(FIELDS) == set(Space._fields)


@given(SPACES, ITEMS, SPACES, ITEMS)
def test_keys_are_equal_exactly_if_everything_is(
    space: Space, item: Item, other_space: Space, other_item: Item
) -> None:
    are_equal = (space, item) == (other_space, other_item)
    assert (key(space, item) == key(other_space, other_item)) == are_equal


@given(SPACES, ITEMS, st.sampled_from(sorted(FIELDS)), st.data())
def test_one_different_field_makes_another_key(
    space: Space, item: Item, field: str, data: st.DataObject
) -> None:
    changed = space._replace(**{field: data.draw(FIELDS[field])})
    assert (key(space, item) == key(changed, item)) == (space == changed)


@given(SPACES, ITEMS, ITEMS)
def test_one_different_input_makes_another_key(space: Space, item: Item, other: Item) -> None:
    assert (key(space, item) == key(space, other)) == (item == other)


@given(SPACES, st.lists(ITEMS))
def test_an_input_has_the_key_that_it_has_alone(space: Space, items: list[Item]) -> None:
    assert space.keys(items) == [key(space, item) for item in items]


SPACE = Space("org/name", "abc", dimension=8, max_tokens=512)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 23], [12, 3]),
        ([1, 23], "1,23"),
        ([1, 23], "[1, 23]"),
        ([116], "t"),
        ([1], [1, 0]),
        ([], ""),
        ([256], [1, 0]),
        ("\ud83d\ude00", "\U0001f600"),  # two surrogates and the character they would make
        ("\ud83d", "\\ud83d"),
        ("e\u0301", "\u00e9"),
        ("a", "a "),
        ("a", "a\0"),
        ("A", "a"),
    ],
)
def test_inputs_that_look_alike_have_different_keys(one: Item, other: Item) -> None:
    assert key(SPACE, one) != key(SPACE, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"model": "a", "revision": "bc"}, {"model": "ab", "revision": "c"}),
        ({"model": 'a","b', "revision": "c"}, {"model": "a", "revision": 'b","c'}),
        ({"prompt": None}, {"prompt": "null"}),
        ({"prompt": None}, {"prompt": ""}),
        ({"prompt": "\ud83d\ude00"}, {"prompt": "\U0001f600"}),
        ({"side": None}, {"side": "query"}),
        ({"precision": "fp32", "arithmetic": "1"}, {"precision": "fp321", "arithmetic": ""}),
        ({"deployment": "a"}, {"adapter": "a"}),
    ],
)
def test_fields_do_not_run_into_each_other(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert key(SPACE._replace(**one), "x") != key(SPACE._replace(**other), "x")


def test_a_prompt_is_not_a_part_of_the_text() -> None:
    assert key(SPACE._replace(prompt="query: "), "x") != key(SPACE, "query: x")


def test_token_ids_have_one_key_whatever_holds_them() -> None:
    assert key(SPACE, [1, 2, 3]) == key(SPACE, (1, 2, 3)) == key(SPACE, range(1, 4))


def test_keys_are_short_and_the_same_in_every_process() -> None:
    assert len(key(SPACE, "x" * 10_000)) == KEY_BYTES
    assert key(SPACE, "x").hex().startswith("444d386ecdb7")


def job(**facts: Any) -> EmbedJob:
    return EmbedJob(items=["x"], **facts)


def test_a_space_has_what_the_job_and_the_card_say() -> None:
    card = fake_card(
        id="org/name", dimension=8, max_seq_length=16, precision="bf16", arithmetic="3"
    )
    truncation = Truncation(side="left", max_tokens=9)
    made = Space.of(
        replace(card, deployment="far", provider_id="its/name"),
        job(prompt="q: ", side="query", truncation=truncation),
    )
    assert made == Space(
        "org/name",
        card.revision,
        dimension=8,
        max_tokens=9,
        truncation_side="left",
        prompt="q: ",
        side="query",
        precision="bf16",
        arithmetic="3",
        deployment="far/its/name",
    )


def test_local_compute_has_the_keys_that_it_always_had() -> None:
    assert Space.of(fake_card(), job()).deployment == ""


def test_where_nobody_knows_how_many_tokens_a_model_takes_those_asked_for_count() -> None:
    card = fake_card(max_seq_length=0)
    cut = job(truncation=Truncation(max_tokens=9))
    assert Space.of(card, cut).max_tokens == 9
    assert Space.of(card, job()).max_tokens == 0


@pytest.mark.parametrize("max_tokens", [None, 16, 17, 512])
def test_more_tokens_than_the_model_takes_are_as_many_as_it_takes(max_tokens: int | None) -> None:
    card = fake_card(max_seq_length=16)
    cut = job(truncation=Truncation(max_tokens=max_tokens))
    assert Space.of(card, cut) == Space.of(card, job())
    assert Space.of(card, cut).max_tokens == 16


def test_refusing_and_priority_make_no_other_key() -> None:
    card = fake_card()
    refusing = job(truncation=Truncation(refuse=True), priority=1, deadline=5.0)
    assert Space.of(card, refusing) == Space.of(card, job())
