"""`fledge providers list` and `test`, against real servers on loopback, and without one."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fledge.errors import ProviderUnavailable
from tests.clients.serving import serving
from tests.unit.api.catalogue import Catalogue
from tests.unit.cli.fakes import run
from tests.unit.routing.fakes import FakePlace, noise
from tests.unit.switched import Switched, place_of

SECRET = "sk-hunter2"  # noqa: S105 - nobody's
SETTINGS = """
[providers]
enabled = ["nebius"]

[providers.nebius]
price_per_million_tokens = 0.01
monthly_budget = 20

[providers.gpu-box]
shape = "tei"
base_url = "https://embed.example.org"
models = {"BAAI/bge-m3" = "bge-m3"}
"""


@pytest.fixture
def far() -> FakePlace:
    return place_of("far", price=10_000_000)


@pytest.fixture
def url(far: FakePlace) -> Iterator[str]:
    place = Switched(place_of(), far, place_of("near"), budgets={"far": 2 * 10**9})
    with serving(place.app) as address:
        yield address


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Settings of a server that does not run, which has a provider with a key and one without."""
    (tmp_path / "fledge.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = str(closed.getsockname()[1])
    monkeypatch.setenv("FLEDGE_PORT", port)
    monkeypatch.setenv("NEBIUS_API_KEY", SECRET)
    return port


def rows(text: str) -> list[list[str]]:
    """The rows of a table, without its borders."""
    found = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row.strip("│").split("│")] for row in found]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_list_has_state_price_budget_and_what_is_known_of_the_vectors(url: str) -> None:
    result = run("providers", "list", "--url", url)

    assert result.exit_code == 0, result.stderr
    assert rows(result.stdout) == [
        ["far", "live", "org/name", "-", "0.01", "2.00", "unknown", ""],
        ["near", "live", "org/name", "-", "-", "-", "unknown", ""],
    ]


def test_after_a_test_a_list_has_latency_and_the_verdict(url: str) -> None:
    assert run("providers", "test", "far", "--url", url).exit_code == 0
    (row, _) = rows(run("providers", "list", "--url", url).stdout)

    assert float(row[3]) >= 0
    assert float(row[5]) < 2
    assert row[6] == "same, cosine 1.00000"


def test_a_test_prints_dimension_tokens_cost_and_the_likeness(url: str) -> None:
    result = run("providers", "test", "far", "--model", "name", "--url", url)
    ((provider, state, model, dimension, ms, tokens, cost, vectors, error),) = rows(result.stdout)

    assert (result.exit_code, provider, state, model) == (0, "far", "live", "org/name")
    assert (dimension, error) == ("8", "")
    assert vectors == "same, cosine 1.00000, next to local"
    assert float(ms) >= 0
    assert float(cost) == pytest.approx(int(tokens) * 1e-8)


def test_without_a_name_all_are_tested(url: str) -> None:
    for more in ((), ("--model", "org/name")):
        result = run("providers", "test", "--json", "--url", url, *more)
        assert [one["provider"] for one in lines(result.stdout)] == ["far", "near"]
        assert result.exit_code == 0


def test_one_that_does_not_answer_is_told_and_fails_the_command(url: str, far: FakePlace) -> None:
    far.error = ProviderUnavailable("far answered 503: try later", provider="far", status=503)
    result = run("providers", "test", "--url", url)

    assert result.exit_code == 1
    assert [(row[1], row[-1]) for row in rows(result.stdout)] == [
        ("error", "far answered 503: try later"),
        ("live", ""),
    ]
    (row, _) = rows(run("providers", "list", "--url", url).stdout)
    assert row[-1].startswith("far answered 503: try later, ")


def test_other_vectors_fail_the_command(url: str, far: FakePlace) -> None:
    far.twist = noise(1.0)
    result = run("providers", "test", "far", "--url", url)

    assert result.exit_code == 1
    assert "differ: cosine " in rows(result.stdout)[0][7]


def test_a_provider_that_is_not_enabled_is_one_line(url: str) -> None:
    result = run("providers", "test", "nebius", "--url", url)

    assert result.exit_code == 1
    assert result.stderr == 'error: no provider "nebius" is enabled here; there are far, near\n'


def test_a_server_without_providers_says_so() -> None:
    with serving(Catalogue().app) as url:
        listed, tested = (
            run("providers", "list", "--url", url),
            run("providers", "test", "--url", url),
        )

    assert (listed.exit_code, listed.stdout) == (0, "")
    assert "providers.enabled" in listed.stderr
    assert (tested.exit_code, tested.stdout) == (1, "")
    assert "providers.enabled" in tested.stderr


def test_without_a_server_a_list_says_what_the_settings_say(silent: str) -> None:
    result = run("providers", "list")

    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith(f"no server answers (no answer from http://127.0.0.1:{silent}")
    assert [row[:3] for row in rows(result.stdout)] == [
        ["nebius", "not asked", "Qwen/Qwen3-Embedding-8B"],
        ["gpu-box", "not asked", "BAAI/bge-m3"],
    ]
    assert rows(result.stdout)[0][4:6] == ["0.01", "20.00"]
    assert lines(run("providers", "list", "--json").stdout)[1]["models"] == [
        {"id": "BAAI/bge-m3", "provider_id": "bge-m3", "status": "unknown"}
    ]


def test_a_key_is_never_shown_and_a_missing_one_is_named_by_its_variable(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shown in (run("providers", "list"), run("providers", "list", "--json")):
        assert SECRET not in shown.stdout + shown.stderr
    monkeypatch.delenv("NEBIUS_API_KEY")
    result = run("providers", "list")

    assert result.exit_code == 0
    (nebius, box) = rows(result.stdout)
    assert (nebius[1], box[1]) == ("error", "not asked")
    assert "the variable NEBIUS_API_KEY is not set" in nebius[-1]


def test_without_a_server_nothing_can_be_tested(silent: str) -> None:
    for arguments in (("test",), ("list", "--url", f"http://127.0.0.1:{silent}")):
        result = run("providers", *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: no answer from ")


def test_nothing_is_enabled_by_itself(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("fledge.toml").write_text("")
    result = run("providers", "list")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "no provider is enabled" in result.stderr
