from pathlib import Path

import pytest

from fledge.errors import SettingsError
from fledge.settings import load_settings


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `fledge.toml` but the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("value", "models"),
    [
        ("abc", ("abc",)),
        ("org/one, ./two,", ("org/one", "./two")),
        ('["org/one", "./a,b"]', ("org/one", "./a,b")),
    ],
)
def test_a_list_in_the_environment_may_be_plain(
    value: str, models: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEDGE_MODELS", value)

    assert load_settings().models == models


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FLEDGE_MODELS", '["one"', "models: .*starts like a list of JSON"),
        ("FLEDGE_HUGGINGFACE", "flat", "^FLEDGE_HUGGINGFACE .*set FLEDGE_HUGGINGFACE__SINGLE_INPU"),
        ("FLEDGE_HUGGINGFACE", '"flat"', "huggingface: "),
        ("FLEDGE_PORT", "one", "port: "),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError, match=message) as caught:
        load_settings()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"port = = 1", b'host = "\xff"'])
def test_a_file_that_is_no_toml_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "fledge.toml").write_bytes(content)

    with pytest.raises(SettingsError, match=r"^fledge\.toml cannot be read: "):
        load_settings()


@pytest.mark.parametrize("value", ["", "/caches"])
def test_the_cache_is_where_the_desktop_has_it_now(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)

    assert load_settings().cache_dir == Path(value or "~/.cache") / "fledge"


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("HTTPS://App.Example.org/", "https://app.example.org"),
        ("https://app.example.org:443", "https://app.example.org"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abc", "chrome-extension://abc"),
        ("null", "null"),
        ("*", "*"),
    ],
)
def test_an_origin_is_kept_as_browsers_send_it(written: str, compared: str) -> None:
    assert load_settings(cors_allow_origins=(written,)).cors_allow_origins == (compared,)


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
        "https://",
        "",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"cors_allow_origins\.0: .* is no origin; give scheme"):
        load_settings(cors_allow_origins=(origin,))


@pytest.mark.parametrize(
    ("written", "compared"),
    [("API.Example.org.", "api.example.org"), ("[::1]", "::1"), ("192.0.2.1", "192.0.2.1")],
)
def test_a_host_is_kept_as_it_is_compared(written: str, compared: str) -> None:
    assert load_settings(allowed_hosts=(written,)).allowed_hosts == (compared,)


@pytest.mark.parametrize(
    "host", ["api.example.org:8080", "https://api.example.org", "a.org/v1", "*.example.org", ""]
)
def test_a_host_that_no_request_names_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match=r"allowed_hosts\.0: .* is no host name"):
        load_settings(allowed_hosts=(host,))
