import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from fledge.errors import SettingsError
from fledge.settings import Settings, load_settings, read_settings
from fledge.settings_fields import ModelSettings
from fledge.settings_providers import ProviderSettings, ProvidersSettings
from tests.unit.settings_files import SAMPLES, place, toml, written

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `fledge.toml` but the test's own."""
    monkeypatch.chdir(tmp_path)


def test_every_setting_is_documented_and_has_a_sample_here() -> None:
    with written("[model.'org/name']\n[providers.hf-inference]"):
        names = {one.name for one in read_settings().in_force}
    fields = [
        field
        for section in (Settings, ModelSettings, ProvidersSettings, ProviderSettings)
        for field in section.model_fields.values()
        if not isinstance(field.default, BaseModel)
    ]

    assert names == set(SAMPLES)
    assert all(field.description for field in fields)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_setting_may_be_a_variable(name: str) -> None:
    spelled, value = SAMPLES[name]
    variable, text = place(name, spelled)

    with written(**{variable: text}):
        (one,) = [one for one in read_settings().in_force if one.name == name]
        load_settings()
    assert (one.value, one.source) == (value, variable)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_setting_may_stand_in_the_file(name: str) -> None:
    _, value = SAMPLES[name]

    with written(f"{name} = {toml(str(value) if isinstance(value, Path) else value)}"):
        (one,) = [one for one in read_settings().in_force if one.name == name]
        load_settings()
    assert (one.value, one.source) == (value, "fledge.toml")


def test_the_first_place_of_the_three_wins() -> None:
    with written("port = 1\nthreads = 1\nhost = 'a'", FLEDGE_PORT="2", FLEDGE_THREADS="2"):
        settings = load_settings(port=3, threads=None)

    assert (settings.port, settings.threads, settings.host) == (3, 2, "a")


def test_a_section_s_fields_may_come_from_several_places() -> None:
    file = "[model.'org/name']\nkeep_alive_s = 1\npinned = true\n[model.other]\npinned = true"
    variable = '{"org/name": {"keep_alive_s": 2}}'
    with written(file, FLEDGE_MODEL=variable):
        sections = load_settings().model

    assert sections == {
        "org/name": ModelSettings(keep_alive_s=2, pinned=True),
        "other": ModelSettings(pinned=True),
    }


def test_a_field_s_own_variable_wins_over_its_section_as_json() -> None:
    with written(
        FLEDGE_HUGGINGFACE__SINGLE_INPUT="flat", FLEDGE_HUGGINGFACE='{"single_input": "nested"}'
    ):
        assert load_settings().huggingface.single_input == "flat"


def test_a_variable_in_small_letters_counts_and_capitals_win_over_it() -> None:
    with written(fledge_port="1", Fledge_Threads="2", FLEDGE_PORT="3"):
        settings = load_settings()

    assert (settings.port, settings.threads) == (3, 2)


def test_null_in_json_takes_back_what_the_file_says() -> None:
    with written(
        "[model.x]\npinned = true\nkeep_alive_s = 1", FLEDGE_MODEL='{"x": {"pinned": null}}'
    ):
        assert load_settings().model["x"] == ModelSettings(keep_alive_s=1)


@pytest.mark.parametrize(
    ("value", "models"),
    [
        ("abc", ("abc",)),
        ("org/one, ./two,", ("org/one", "./two")),
        ('["org/one", "./a,b"]', ("org/one", "./a,b")),
    ],
)
def test_a_list_in_the_environment_may_be_plain(value: str, models: tuple[str, ...]) -> None:
    with written(FLEDGE_MODELS=value):
        assert load_settings().models == models


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [("8GB", 8 * 10**9), ("6 GiB", 6 * 2**30), ("1.5mb", 1_500_000), ("8_000", 8000)],
)
def test_a_size_has_units(size: str, n_bytes: int) -> None:
    with written(FLEDGE_MEMORY_BUDGET_BYTES=size, FLEDGE_MAX_BODY_BYTES=size):
        settings = load_settings()

    assert settings.memory_budget_bytes == settings.max_body_bytes == n_bytes


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "fledge.toml").write_bytes(b"\xef\xbb\xbfport = 1")

    assert load_settings().port == 1


@pytest.mark.parametrize("value", ["", "/caches"])
def test_the_cache_is_where_the_desktop_has_it_now(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)

    assert load_settings().cache_dir == Path(value or "~/.cache") / "fledge"


def test_settings_made_by_hand_read_neither_file_nor_variables() -> None:
    with written("port = 1", FLEDGE_THREADS="2"):
        assert Settings() == Settings.model_construct()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc] # what the test is about


# Names that browsers and clients send


@pytest.mark.parametrize(
    ("written_so", "compared"),
    [
        ("HTTPS://App.Example.org/", "https://app.example.org"),
        ("https://app.example.org:443", "https://app.example.org"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abc", "chrome-extension://abc"),
        ("null", "null"),
        ("*", "*"),
    ],
)
def test_an_origin_is_kept_as_browsers_send_it(written_so: str, compared: str) -> None:
    assert load_settings(cors_allow_origins=(written_so,)).cors_allow_origins == (compared,)


@pytest.mark.parametrize(
    "origin",
    [
        "app.example.org",
        "app.example.org:443",
        "https://app.example.org/app",
        "https://app.example.org?a",
        "https://*.example.org",
        "https://me@app.example.org",
        "https://app.example.org:http",
        "https://app\0.example.org",
        "https://",
        "",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"^cors_allow_origins: .* is no origin; give scheme"):
        load_settings(cors_allow_origins=(origin,))


@pytest.mark.parametrize(
    ("written_so", "compared"),
    [("API.Example.org.", "api.example.org"), ("[::1]", "::1"), ("192.0.2.1", "192.0.2.1")],
)
def test_a_host_is_kept_as_it_is_compared(written_so: str, compared: str) -> None:
    assert load_settings(allowed_hosts=(written_so,)).allowed_hosts == (compared,)


@pytest.mark.parametrize(
    "host",
    ["api.example.org:8080", "https://api.example.org", "a.org/v1", "*.example.org", "", "a\0b"],
)
def test_a_host_that_no_request_names_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match=r"^allowed_hosts: .* is no host name"):
        load_settings(allowed_hosts=(host,))


# The page


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)


def test_the_file_on_the_page_loads_as_it_is_printed() -> None:
    (text,) = blocks("toml")
    with written(text):
        settings = load_settings()

    assert settings.memory_budget_bytes == 6 * 2**30
    assert settings.huggingface.single_input == "flat"
    assert settings.model["BAAI/bge-base-en-v1.5"] == ModelSettings(
        precision="fp32", keep_alive_s=3600
    )


def test_the_variable_on_the_page_loads_as_it_is_printed() -> None:
    (line,) = blocks("sh")
    variable, _, text = line.strip().partition("=")
    with written(**{variable: text.strip("'")}):
        assert load_settings().model["BAAI/bge-base-en-v1.5"].keep_alive_s == 3600


def test_the_mistakes_on_the_page_read_as_they_are_printed() -> None:
    (message,) = blocks("text")
    with (
        written("[huggingface]\nsingle_inptu = 1", FLEDGE_PROT="1", FLEDGE_THREADS="-1"),
        pytest.raises(SettingsError) as caught,
    ):
        load_settings()

    assert message == f"error: {caught.value}\n"
