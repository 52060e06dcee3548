"""`[providers]`: who is enabled, what a section says, and how it may be written."""

from pathlib import Path

import pytest

from fledge.settings import Settings, load_settings
from fledge.settings_providers import ProviderSettings
from tests.unit.settings_files import mistakes, written


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `fledge.toml` but the test's own."""
    monkeypatch.chdir(tmp_path)


def names(text: str = "", **variables: str) -> tuple[str, ...]:
    with written(text, **variables):
        return load_settings().providers.names()


# Who is enabled


def test_a_key_in_the_environment_enables_nobody() -> None:
    assert names(NEBIUS_API_KEY="a", HF_TOKEN="b", SCALEWAY_API_KEY="c") == ()
    assert Settings().providers.names() == ()


@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        ("providers.enabled = ['nebius', 'hf-inference']", {}, ("nebius", "hf-inference")),
        ("[providers.nebius]", {}, ("nebius",)),
        ("[providers.b]\n[providers.a]", {}, ("b", "a")),
        ("[providers]\nenabled = ['b']\n[providers.a]\n[providers.b]", {}, ("b", "a")),
        ("providers.enabled = ['a', 'a']", {}, ("a",)),
        ("[providers]\nenabled = ['a', 'b']\n[providers.a]\nenabled = false", {}, ("b",)),
        ("[providers.a]\nenabled = false", {}, ()),
        ("", {"FLEDGE_PROVIDERS__ENABLED": "b, a"}, ("b", "a")),
        ("", {"FLEDGE_PROVIDERS": '{"enabled": ["b"], "a": {}}'}, ("b", "a")),
        ("", {"FLEDGE_PROVIDERS__HF_INFERENCE": "{}"}, ("hf-inference",)),
        ("", {"FLEDGE_PROVIDERS__HF_INFERENCE__TIMEOUT_S": "5"}, ("hf-inference",)),
        ("[providers.a]", {"FLEDGE_PROVIDERS__A__ENABLED": "false"}, ()),
    ],
)
def test_a_list_or_a_section_enables_and_a_section_may_switch_off(
    text: str, variables: dict[str, str], expected: tuple[str, ...]
) -> None:
    assert names(text, **variables) == expected


def test_an_empty_section_leaves_what_another_place_says_of_it() -> None:
    with written("[providers.a]\ntimeout_s = 5", FLEDGE_PROVIDERS__A="{}"):
        assert load_settings().providers.section("a").timeout_s == 5


def test_a_provider_without_a_section_has_an_empty_one() -> None:
    assert Settings().providers.section("nebius") == ProviderSettings()


def test_a_section_s_fields_come_from_the_file_and_from_variables() -> None:
    file = "[providers.hf-inference]\nbase_url = 'https://a.example'\ntimeout_s = 5"
    with written(file, FLEDGE_PROVIDERS__HF_INFERENCE__TIMEOUT_S="6"):
        section = load_settings().providers.section("hf-inference")

    assert (section.base_url, section.timeout_s) == ("https://a.example", 6)


@pytest.mark.parametrize(
    "text",
    [
        "providers.a.models = {'org/a' = 'A'}",
        "[providers.a.models]\n'org/a' = 'A'",
    ],
)
def test_models_may_be_a_table_of_their_own(text: str) -> None:
    with written(text):
        assert load_settings().providers.section("a").models == {"org/a": "A"}


def test_a_model_s_section_has_a_route_and_names_at_providers() -> None:
    text = "[model.'org/a']\nroute = ['cheapest', 'local', 'far']\nproviders = {far = 'A'}"
    with written(text):
        section = load_settings().model["org/a"]

    assert section.route == ("cheapest", "local", "far")
    assert section.providers == {"far": "A"}


# Mistakes


@pytest.mark.parametrize("name", ["api_key", "API-KEY", "key", "token"])
@pytest.mark.parametrize("secret", ["sk-hunter2", ["sk-hunter2"]])
def test_a_key_in_the_file_is_refused_with_advice_and_never_shown(
    name: str, secret: object
) -> None:
    (told,) = mistakes(f"[providers.nebius]\n{name} = {secret!r}")

    assert told.startswith(f"fledge.toml: providers.nebius.{name}: a key does not belong into")
    assert "api_key_env" in told
    assert "api_key_file" in told
    assert "hunter2" not in told


def test_a_key_in_a_setting_s_variable_is_refused_as_well() -> None:
    (told,) = mistakes(FLEDGE_PROVIDERS__NEBIUS__API_KEY="sk-hunter2")

    assert told.startswith("FLEDGE_PROVIDERS__NEBIUS__API_KEY: a key does not belong into")
    assert "hunter2" not in told


@pytest.mark.parametrize("key", ["sk-hunter2", "hf_hunter2", "0c1f-hunter2", ""])
def test_a_key_in_the_place_of_its_variable_s_name_is_never_shown(key: str) -> None:
    (told,) = mistakes(f"[providers.nebius]\napi_key_env = '{key}'")

    assert told == (
        "fledge.toml: providers.nebius.api_key_env: must be the name of a variable, in capitals, "
        "as NEBIUS_API_KEY; if it is the key itself, put that into a variable"
    )


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[providers]\nenabeld = ['a']", "providers.enabeld: unknown setting; did you mean provid"),
        ("enabled = ['a']", "enabled: unknown setting; did you mean providers.enabled?"),
        ("[provider.nebius]", "provider: unknown setting; did you mean providers?"),
        (
            "providers = ['nebius']",
            "providers: must be a section with enabled, hedge_after_ms and ",
        ),
        ("[providers]\nnebius = 'k'", "providers.nebius: must be a section with enabled, shape, "),
        (
            "[providers.a]\nbase_ulr = 1",
            "providers.a.base_ulr: unknown setting; did you mean provi",
        ),
        ("[providers.A]", 'providers.A: "A" is no name for a provider; write small letters'),
        ("[providers.a_b]", 'providers.a_b: "a_b" is no name for a provider'),
        ("[providers.local]", 'providers.local: no provider can be called "local"'),
        ("providers.enabled = ['fastest']", 'providers.enabled: no provider can be called "fast'),
        ("[providers.a]\nbase_url = 'ftp://a'", "providers.a.base_url: it is no address to send"),
        ("[providers.a]\nbase_url = 'https://k@a'", "providers.a.base_url: it is no address to s"),
        ("[providers.a]\ntimeout_s = 0", "providers.a.timeout_s: must be more than 0, not 0"),
        ("[providers.a]\nmax_concurrent_requests = 0", "providers.a.max_concurrent_requests: must"),
        ("[providers.a]\nmonthly_budget = -1", "providers.a.monthly_budget: must be at least 0"),
        (
            "[providers.a]\nmodels = 5",
            'providers.a.models: must be names and what they stand for, as {"one" = "two"}, not 5',
        ),
        ("[providers.a.models]\n'org/a' = 5", "providers.a.models: must be text, not 5"),
        ("[providers.a.models]\n'org/a' = ''", 'providers.a.models: "" is empty'),
        ("space_min_cosine = 1.1", "space_min_cosine: must be at most 1, not 1.1"),
        ("[model.a]\nroute = 5", "model.a.route: must be a list, as "),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, mistake: str) -> None:
    (told,) = mistakes(text)

    assert told.startswith(f"fledge.toml: {mistake}")


@pytest.mark.parametrize(
    ("variable", "value", "mistake"),
    [
        ("FLEDGE_PROVIDERS", "nebius", " cannot be read: it must be JSON, "),
        ("FLEDGE_PROVIDERS__", "{}", ': "" is no name for a provider'),
        ("FLEDGE_PROVIDERS__NEBIUS__MODELS", "x", ': "x" must be JSON, {"one": "two"}'),
        ("FLEDGE_PROVIDERS__NEBIUS__MODELS", "[]", ": must be names and what they stand for, as "),
        (
            "FLEDGE_PROVIDERS__NEBIUS__BASE_ULR",
            "x",
            ": unknown setting; did you mean FLEDGE_PROVIDERS__NEBIUS__BASE_URL?",
        ),
        (
            "FLEDGE_PROVIDERS__NEBIUS__MODELS__X",
            "x",
            ": unknown setting; did you mean FLEDGE_PROVIDERS__NEBIUS__MODELS?",
        ),
    ],
)
def test_a_mistake_in_a_variable_likewise(variable: str, value: str, mistake: str) -> None:
    (told,) = mistakes(**{variable: value})

    assert told.startswith(f"{variable}{mistake}")
