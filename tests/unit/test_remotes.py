"""Settings -> providers: presets and sections, keys, and what models are called where."""

import re
from pathlib import Path
from typing import Any

import pytest

from fledge.catalog.catalog import Catalog
from fledge.catalog.listed import ListedProvider
from fledge.catalog.shipped import shipped_entries
from fledge.errors import SettingsError
from fledge.providers.presets import PRESETS, SHAPES
from fledge.remotes import Remote, enabled_providers, listed_providers, with_providers
from fledge.routing.health import HealthReport
from fledge.routing.router import PlaceState
from fledge.settings import Settings, load_settings
from fledge.types import ModelEntry
from tests.unit.settings_files import written

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"

SECRET = "sk-hunter2"  # noqa: S105 - nobody's
KEYS = {preset.key_variable: SECRET for preset in PRESETS.values() if preset.key_variable}
OWN = {"shape": "openai", "base_url": "https://own.example/v1"}
ONE = ModelEntry(id="org/one", aliases=("first",), provider_ids={"nebius": "shipped-name"})


def settings(*enabled: str, model: dict[str, Any] | None = None, **sections: Any) -> Settings:
    """Settings with these providers; `hf_inference` as a keyword is `hf-inference`."""
    own = {name.replace("_", "-"): section for name, section in sections.items()}
    return Settings.model_validate(
        {"providers": {"enabled": enabled} | own, "model": model or {}, "catalog": "none"}
    )


def remote(name: str, environment: dict[str, str] = KEYS, **section: Any) -> Remote:
    return enabled_providers(settings(name, **{name: section}), environment)[name]


# Providers


def test_nobody_is_asked_for_a_key_of_a_provider_that_is_not_enabled() -> None:
    assert enabled_providers(settings(), KEYS) == {}
    assert enabled_providers(settings(nebius={"enabled": False}), {}) == {}


@pytest.mark.parametrize("name", PRESETS)
def test_a_name_and_one_variable_are_enough_for_every_preset(name: str) -> None:
    preset, variable = PRESETS[name], PRESETS[name].key_variable
    assert variable is not None
    chosen = settings(name)
    chosen = chosen.model_copy(update={"catalog": "shipped"})

    provider = enabled_providers(chosen, {variable: f" {SECRET}\n"})[name].provider
    entries = with_providers(chosen, shipped_entries())

    assert (provider.name, provider.base_url) == (name, preset.base_url)
    assert (provider.shape, provider.secret) == (preset.shape, SECRET)
    assert any(name in entry.provider_ids for entry in entries)


def test_they_come_in_the_order_of_the_settings() -> None:
    chosen = settings("scaleway", "nebius", own=OWN)

    assert list(enabled_providers(chosen, KEYS)) == ["scaleway", "nebius", "own"]


def test_a_section_has_the_last_word_over_the_preset() -> None:
    one = remote(
        "nebius",
        {"OTHER": SECRET},
        base_url="https://other.example/v1",
        api_key_env="OTHER",
        timeout_s=5,
        max_concurrent_requests=3,
        price_per_million_tokens=0.01,
        monthly_budget=20,
        ca_file="~/ca.pem",
        shape="fledge",
    )

    assert one.provider.base_url == "https://other.example/v1"
    assert (one.provider.timeout_s, one.provider.max_concurrent_requests) == (5, 3)
    assert one.provider.price_nanos_per_million_tokens == 10_000_000
    assert one.monthly_budget_nanos == 20_000_000_000
    assert one.provider.ca_file == Path.home() / "ca.pem"
    assert one.provider.shape == SHAPES["fledge"].shape


def test_a_shape_of_its_own_keeps_the_preset_s_address_and_key() -> None:
    provider = remote("nebius", shape="vllm").provider

    assert provider.base_url == PRESETS["nebius"].base_url
    assert provider.secret == SECRET


def test_one_of_your_own_needs_no_key() -> None:
    assert remote("own", {}, **OWN).provider.key is None


def test_no_price_is_no_price_and_nothing_is_nothing() -> None:
    assert remote("nebius").provider.price_nanos_per_million_tokens is None
    free = remote("nebius", price_per_million_tokens=0)
    assert free.provider.price_nanos_per_million_tokens == 0


@pytest.mark.parametrize(
    ("name", "section", "problem"),
    [
        ("nebus", {}, 'no provider "nebus" is known; did you mean nebius? There are cohere, '),
        ("nebus", {}, "one of your own needs a section [providers.nebus] with shape and base_url"),
        ("xyz", {"base_url": "https://a.example"}, 'no provider "xyz" is known; there are cohere'),
        ("xyz", {"shape": "openai"}, "providers.xyz.base_url is missing"),
        ("xyz", {"shape": "opnai"}, 'no shape "opnai" is known; did you mean openai? There are '),
        (
            "xyz",
            OWN | {"base_url": "http://a.example"},
            "over http, anybody on the way reads texts and key",
        ),
        (
            "xyz",
            OWN | {"base_url": "HTTP://a.example"},
            "over http, anybody on the way reads texts and key",
        ),
        ("nebius", {"monthly_budget": 1}, "without price_per_million_tokens nobody knows"),
    ],
)
def test_what_is_wrong_names_the_provider_and_what_to_do(
    name: str, section: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        remote(name, **section)

    assert str(caught.value).startswith(f"providers.{name}")
    assert problem in str(caught.value)


def test_http_will_do_within_a_network_of_one_s_own() -> None:
    section = OWN | {"base_url": "http://10.0.0.1:8080/v1"}
    chosen = settings(own=section).model_copy(update={"allow_private_providers": True})

    assert enabled_providers(chosen, {})["own"].provider.base_url == "http://10.0.0.1:8080/v1"


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        enabled_providers(settings("nebus", "nebius", "scaleway"), {"NEBIUS_API_KEY": "k"})

    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "providers.nebus",
        "providers.scaleway",
    ]


# Keys


@pytest.mark.parametrize("environment", [{}, {"NEBIUS_API_KEY": ""}, {"NEBIUS_API_KEY": " \n"}])
def test_a_missing_key_names_its_variable(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"^providers\.nebius: the variable NEBIUS_API_KEY is"):
        remote("nebius", environment)


def test_a_key_s_file_wins_over_its_variable(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{SECRET}-from-the-file\n")

    assert remote("nebius", api_key_file=path).provider.secret == f"{SECRET}-from-the-file"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "providers.nebius.api_key_file cannot be read: No such file or directory"),
        (b"\n", "the file must hold the key, and nothing else"),
        (b"\xff\xfe", "the file must hold the key, and nothing else"),
        (b"k" * 100_000, "the file must hold the key, and nothing else"),
        (b"two\nkeys", "holds a space, a line break"),
    ],
)
def test_a_file_without_a_key_is_told_without_its_path(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / SECRET
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        remote("nebius", api_key_file=path)

    assert problem in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_key_is_shown_nowhere() -> None:
    assert SECRET not in repr(remote("nebius"))
    with pytest.raises(SettingsError) as caught:
        remote("nebius", {"NEBIUS_API_KEY": f"{SECRET} x"})
    assert SECRET not in str(caught.value)


# What models are called


def called(chosen: Settings, *entries: ModelEntry) -> dict[str, dict[str, str]]:
    return {one.id: dict(one.provider_ids) for one in with_providers(chosen, entries or (ONE,))}


def test_sections_add_to_the_catalogue_and_a_model_s_own_counts_most() -> None:
    chosen = settings(
        "nebius",
        far=OWN | {"models": {"first": "of-far", "org/new": "new"}},
        own=OWN | {"models": {"org/one": "of-own"}},
        model={"ORG/one": {"providers": {"own": "of-the-model"}}},
    )

    assert called(chosen) == {
        "org/one": {"nebius": "shipped-name", "far": "of-far", "own": "of-the-model"},
        "org/new": {"far": "new"},
    }


def test_what_a_section_says_replaces_the_catalogue_s_name() -> None:
    chosen = settings(nebius={"models": {"org/one": "renamed"}})

    assert called(chosen)["org/one"] == {"nebius": "renamed"}


def test_a_provider_that_is_switched_off_adds_nothing() -> None:
    models = {"org/one": "a", "org/new": "b"}
    chosen = settings(
        far=OWN | {"enabled": False, "models": models}, model={"org/x": {"providers": {"far": "c"}}}
    )

    assert called(chosen) == {"org/one": {"nebius": "shipped-name"}}


def test_a_model_that_only_providers_have_runs_here_where_its_route_says_so() -> None:
    chosen = settings(
        far=OWN | {"models": {"org/there": "a", "org/both": "b"}},
        model={"org/both": {"route": ["far", "local"]}},
    )
    local = {entry.id: entry.runs_locally for entry in with_providers(chosen, [ONE])}

    assert local == {"org/one": True, "org/there": False, "org/both": True}


def test_models_of_providers_alone_are_in_the_catalogue_while_those_are_enabled() -> None:
    def ids(*enabled: str) -> set[str]:
        chosen = settings(*enabled).model_copy(update={"catalog": "shipped"})
        return {entry.id for entry in with_providers(chosen, [ONE])}

    assert ids() == {"org/one"}
    assert "openai/text-embedding-3-small" in ids("openai")
    assert "cohere/embed-v4.0" not in ids("openai")


def test_a_name_at_an_enabled_provider_leads_to_its_model() -> None:
    chosen = settings(far=OWN | {"models": {"org/one": "One-At-Far"}})
    catalog = Catalog(with_providers(chosen, [ONE]))

    assert catalog.find("one-at-far").id == catalog.find("One-At-Far:far").id == "org/one"


def test_a_provider_without_any_model_is_a_mistake() -> None:
    with pytest.raises(SettingsError) as caught:
        with_providers(settings("nebius", "deepinfra", own=OWN), [ONE])

    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "providers.deepinfra",
        "providers.own",
    ]


def test_a_model_s_section_names_only_providers_that_there_are() -> None:
    chosen = settings("nebius", model={"org/one": {"providers": {"nebus": "x", "scaleway": "y"}}})
    with pytest.raises(SettingsError) as caught:
        with_providers(chosen, [ONE])

    assert str(caught.value).startswith(
        'model."org/one".providers: no provider "nebus" is known; did you mean nebius?'
    )
    assert len(str(caught.value).splitlines()) == 1


# How they do


def state(**facts: Any) -> PlaceState:
    rests = facts.pop("health", "well")
    health = HealthReport(state=rests, for_s=1, request_ms=20, last_error="no")
    known: dict[str, Any] = {"name": "nebius", "is_remote": True, "relation": "reference"} | facts
    return PlaceState(price_nanos_per_million_tokens=5, health=health, **known)


def test_a_listing_shows_providers_and_not_this_machine() -> None:
    local = state(name="local", is_remote=False)

    assert listed_providers(ONE, [local, state()]) == [
        ListedProvider(
            name="nebius",
            provider_id="shipped-name",
            latency_ms=20,
            price_nanos_per_million_tokens=5,
            space="same",
        )
    ]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, ""),
        ({"health": "trying"}, ""),
        ({"health": "resting"}, "no"),
        ({"budget_left_nanos": 1}, ""),
        ({"budget_left_nanos": 0}, "what it may cost this month is spent"),
        ({"relation": "differs"}, ""),
    ],
)
def test_a_provider_is_live_unless_it_rests_or_its_budget_is_spent(
    facts: dict[str, Any], reason: str
) -> None:
    (one,) = listed_providers(ONE, [state(**facts)])

    assert (one.is_live, one.reason) == (not reason, reason)
    assert one.space == facts.get("relation", "same")


# The page


def test_the_sections_on_the_page_load_as_they_are_printed(tmp_path: Path) -> None:
    """All blocks together, apart from the files of other machines; the last is a file alone."""
    *blocks, other_fledge = re.findall(
        r"^```toml\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S
    )
    key = tmp_path / "key"
    key.write_text(SECRET)
    text = "\n".join(blocks).replace("/run/secrets/embed", str(key))
    with written(text):
        chosen = load_settings()
        remotes = enabled_providers(chosen, KEYS)
        entries = {one.id: one for one in with_providers(chosen, shipped_entries())}

    assert list(remotes) == ["nebius", "hf-inference", "gpu-box", "deepinfra"]
    assert entries["BAAI/bge-m3"].provider_ids["gpu-box"] == "BAAI/bge-m3"
    assert entries["BAAI/bge-large-en-v1.5"].provider_ids["gpu-box"] == "bge-large"
    assert not entries["acme/support-v2"].runs_locally
    with written(other_fledge):
        assert list(enabled_providers(load_settings(), {})) == ["other"]


def test_every_shape_is_on_the_page() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ", PAGE.read_text("utf-8"), re.M)

    assert set(SHAPES) | set(PRESETS) == set(rows)
