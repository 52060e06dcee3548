"""Names: which model each leads to, and what is said of one that leads nowhere."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.catalog.catalog import DISCOVER_EVERY_S, Catalog
from fledge.errors import UnknownModel
from fledge.types import ModelEntry

MINI = ModelEntry(id="org/Mini-LM", aliases=("mini",), provider_ids={"scaleway": "MiniLM-Scaled"})
LARGE = ModelEntry(id="org/large")
OTHER_LARGE = ModelEntry(id="other/large", aliases=("org/LARGE", "big"))


@pytest.mark.parametrize(
    "name",
    [
        "org/Mini-LM",
        "ORG/mini-lm",
        "Mini-LM",
        "mini-lm",
        "MINI",
        "minilm-scaled",
        "org/Mini-LM:fastest",
        "mini:scaleway",
        None,
    ],
)
def test_a_model_answers_to_id_bare_name_alias_and_provider_id_in_any_case(
    name: str | None,
) -> None:
    assert Catalog([MINI, LARGE]).find(name) is MINI


def test_a_full_id_wins_over_an_alias_and_an_earlier_model_over_a_later_one() -> None:
    catalog = Catalog([LARGE, OTHER_LARGE])
    assert catalog.find("org/large") is LARGE
    assert catalog.find("ORG/LARGE") is LARGE
    assert catalog.find("large") is LARGE
    assert catalog.find("other/large") is OTHER_LARGE
    assert catalog.find("BIG") is OTHER_LARGE


def test_of_two_entries_with_one_id_the_first_counts() -> None:
    known = ModelEntry(id="org/large", dimension=1024)
    catalog = Catalog([known, LARGE])
    assert catalog.find("org/large") is known
    assert catalog.entries() == [known]


def test_an_unknown_name_among_few_is_told_all_of_them() -> None:
    with pytest.raises(UnknownModel, match='the model "huge" is not served here; served: org/Mini'):
        Catalog([MINI, LARGE]).find("huge")


def test_an_unknown_name_among_many_is_told_the_nearest() -> None:
    catalog = Catalog([MINI, LARGE, *(ModelEntry(id=f"org/model-{n}") for n in range(100))])
    with pytest.raises(UnknownModel, match=r"did you mean org/Mini-LM\?; GET /v1/models lists"):
        catalog.find("mini-lmm")
    with pytest.raises(UnknownModel, match='"zzzz" is not served here; GET /v1/models lists'):
        catalog.find("zzzz")


def test_an_endless_name_is_told_by_its_beginning() -> None:
    with pytest.raises(UnknownModel) as caught:
        Catalog([MINI]).find("x" * 100_000)
    assert len(str(caught.value)) < 400


def test_a_model_that_appears_meanwhile_is_found_and_listed_a_second_later() -> None:
    appeared: list[ModelEntry] = []
    looks: list[float] = []
    now = 0.0

    def discover() -> list[ModelEntry]:
        looks.append(now)
        return appeared

    catalog = Catalog([MINI], discover=discover, clock=lambda: now)
    for _ in range(100):
        with pytest.raises(UnknownModel):
            catalog.find("new")
    appeared.append(ModelEntry(id="new"))
    assert looks == [0.0], "not at every unknown name"
    now = DISCOVER_EVERY_S
    assert catalog.find("NEW") is appeared[0]
    assert catalog.entries() == [MINI, appeared[0]]


def test_a_model_that_was_added_joins_once() -> None:
    catalog = Catalog([MINI])
    new = ModelEntry(id="org/new")
    catalog.add(new)
    catalog.add(ModelEntry(id="org/new"))
    assert catalog.entries() == [MINI, new]
    assert catalog.find("new") is new


@pytest.mark.parametrize("name", ["some/model", "some/model:fastest", "a-b.c/D_e-f.1"])
def test_any_id_of_the_hub_is_a_model_where_that_is_allowed(name: str) -> None:
    with pytest.raises(UnknownModel):
        Catalog([MINI]).find(name)
    catalog = Catalog([MINI], allows_any=True)
    assert catalog.find(name) == ModelEntry(id=name.partition(":")[0])
    assert catalog.entries() == [MINI], "it has not joined before it was loaded"
    with pytest.raises(UnknownModel):
        catalog.find(name, may_join=False)
    catalog.add(ModelEntry(id=name.partition(":")[0]))
    assert catalog.find(name, may_join=False).id == name.partition(":")[0]


@pytest.mark.parametrize(
    "name",
    [
        "text-embedding-3-small",
        "/etc/passwd",
        "../model",
        "./model",
        "~/model",
        "org/../model",
        "org/model/more",
        "org\\model",
        "org/mo del",
        "org/.hidden",
        "-x/y",
        "org/",
        "/model",
        "org/" + "x" * 200,
        "orgé/model",
        "org/model\n",
        "",
    ],
)
def test_what_is_no_id_of_the_hub_never_becomes_a_model(name: str) -> None:
    with pytest.raises(UnknownModel):
        Catalog([MINI], allows_any=True).find(name)


NAMES = st.text(string.ascii_letters + "/:-._", max_size=8)


@given(entries=st.lists(NAMES.map(lambda id: ModelEntry(id=id)), min_size=1), name=NAMES)
def test_every_name_leads_to_an_entry_or_is_refused(entries: list[ModelEntry], name: str) -> None:
    catalog = Catalog(entries)
    for entry in entries:
        assert catalog.find(entry.id).id == entry.id
    try:
        assert catalog.find(name) in entries
    except UnknownModel:
        assert name not in {entry.id for entry in entries}


NEAR = ModelEntry(id="org/near", provider_ids={"one": "embed", "two": "shared"})
FAR = ModelEntry(id="org/far", provider_ids={"two": "Embed", "three": "shared-too"})


@pytest.mark.parametrize("name", ["embed", "EMBED", "embed:fastest"])
def test_a_name_that_two_providers_give_to_two_models_leads_to_neither(name: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        Catalog([NEAR, FAR]).find(name)

    assert str(caught.value) == (
        f'"{name}" is the name of org/near at one and org/far at two: give the model\'s id, or one '
        "of these providers behind a colon"
    )


@pytest.mark.parametrize(
    ("name", "provider", "entry"),
    [
        ("embed:one", None, NEAR),
        ("Embed:TWO", None, FAR),
        ("embed", "one", NEAR),
        ("embed", "Two", FAR),
        ("shared", None, NEAR),
        ("shared", "three", NEAR),
        ("org/far", "one", FAR),
        ("org/far:one", None, FAR),
    ],
)
def test_a_provider_that_is_named_says_whose_name_it_is(
    name: str, provider: str | None, entry: ModelEntry
) -> None:
    assert Catalog([NEAR, FAR]).find(name, provider=provider) is entry


def test_a_provider_s_name_is_nobody_else_s_id() -> None:
    taken = ModelEntry(id="org/taken", provider_ids={"one": "org/near", "two": "near"})
    catalog = Catalog([taken, NEAR])
    assert catalog.find("org/near") is catalog.find("near") is NEAR
    assert catalog.find("org/near:one") is catalog.find("near", provider="two") is taken


def test_two_providers_may_call_one_model_the_same() -> None:
    both = ModelEntry(id="org/both", provider_ids={"one": "both-there", "two": "Both-There"})
    assert Catalog([both]).find("both-there") is both
