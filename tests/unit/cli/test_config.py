import json
import os
from pathlib import Path

import pytest

from fledge.settings import Settings, read_settings
from tests.unit.cli.fakes import run
from tests.unit.settings_files import SAMPLES, place

FILE = """port = 9000
threads = 2
[providers.hf-inference]
[model."org/name"]
keep_alive_s = 60
"""


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `fledge.toml` but the test's own."""
    monkeypatch.chdir(tmp_path)


def rows(output: str) -> dict[str, str]:
    return {name: rest.strip() for name, _, rest in (line.partition(" ") for line in lines(output))}


def lines(output: str) -> list[str]:
    return output.rstrip("\n").split("\n")


def test_every_setting_has_a_line_with_its_value_and_where_that_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fledge.toml").write_text(FILE)
    monkeypatch.setenv("FLEDGE_PORT", "9001")
    monkeypatch.setenv("FLEDGE_HUGGINGFACE__SINGLE_INPUT", "flat")
    monkeypatch.setenv("FLEDGE_MODEL", '{"org/name": {"pinned": true}}')
    result = run("config")
    shown = rows(result.stdout)

    assert result.exit_code == 0
    assert set(shown) == set(SAMPLES)
    assert shown["port"] == "9001   [FLEDGE_PORT]"
    assert shown["threads"] == "2   [fledge.toml]"
    assert shown["preload"] == "true   [default]"
    assert shown["allowed_hosts"] == "none   [default]"
    assert shown["memory_budget_bytes"] == "not set   [default]"
    assert shown["huggingface.single_input"] == "flat   [FLEDGE_HUGGINGFACE__SINGLE_INPUT]"
    assert shown['model."org/name".keep_alive_s'] == "60.0   [fledge.toml]"
    assert shown['model."org/name".pinned'] == "true   [FLEDGE_MODEL]"
    assert shown['model."org/name".precision'] == "not set   [default]"
    assert shown["providers.hf-inference.base_url"] == "not set   [default]"


def test_what_stands_for_what_is_shown_in_pairs(tmp_path: Path) -> None:
    (tmp_path / "fledge.toml").write_text('[providers.far.models]\n"org/a" = "A"\n"org/b" = "B"\n')
    shown = rows(run("config").stdout)

    assert shown["providers.far.models"] == "org/a = A, org/b = B   [fledge.toml]"


def test_without_sections_for_models_there_is_a_line_that_says_so() -> None:
    assert rows(run("config").stdout)["model"] == "none   [default]"


def test_for_programs_each_line_is_an_object(tmp_path: Path) -> None:
    (tmp_path / "fledge.toml").write_text(FILE + "pinned = false\n")
    result = run("config", "--json")
    shown = {one["setting"]: one for one in map(json.loads, lines(result.stdout))}

    assert result.exit_code == 0
    assert set(shown) == set(SAMPLES)
    assert shown["port"] == {"setting": "port", "value": 9000, "source": "fledge.toml"}
    assert shown["pinned"]["value"] == []
    assert shown["memory_budget_bytes"]["value"] is None
    assert shown["cache_dir"]["value"] == str(Settings().cache_dir)
    assert shown['model."org/name".pinned']["value"] is False


def test_every_value_can_be_written_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.fsdecode(b"/caches\xff\n"))
    for name, (text, _) in SAMPLES.items():
        if not name.startswith("model."):
            monkeypatch.setenv(place(name, text)[0], text)
    monkeypatch.delenv("FLEDGE_CACHE_DIR")
    objects = [json.loads(line) for line in lines(run("config", "--json").stdout)]

    assert {
        "value": "/caches\\udcff\n/fledge",
        "setting": "cache_dir",
        "source": "default",
    } in objects
    assert len(objects) == len(read_settings().in_force)
    assert rows(run("config").stdout)["cache_dir"].startswith('"/caches')


@pytest.mark.parametrize(
    ("name", "url", "shown"),
    [
        ("database_url", "postgresql://me:geheim@db/x", "postgresql://me:***@db/x"),
        (
            "database_url",
            "postgresql://db/x?user=me&password=geheim",
            "postgresql://db/x?user=me&password=***",
        ),
        ("redis_url", "redis://:geheim@r:6379/0", "redis://:***@r:6379/0"),
        ("redis_url", "rediss://r/1?password=geheim", "rediss://r/1?password=***"),
        ("redis_url", "unix://:geheim@/run/redis.sock", "unix://:***@/run/redis.sock"),
    ],
)
def test_addresses_are_shown_without_their_passwords(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, shown: str
) -> None:
    monkeypatch.setenv(f"FLEDGE_{name}".upper(), url)
    table, as_json = run("config"), run("config", "--json")

    assert rows(table.stdout)[name].startswith(f"{shown}   [")
    values = {one["setting"]: one["value"] for one in map(json.loads, lines(as_json.stdout))}
    assert values[name] == shown
    assert "geheim" not in table.output + as_json.output + repr(read_settings().settings)


@pytest.mark.parametrize("url", ["postgresql://me:geheim\x7f@db/x", "  "])
def test_a_mistake_in_an_address_does_not_repeat_it(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("FLEDGE_DATABASE_URL", url)
    result = run("config")

    assert result.exit_code == 2
    assert result.stderr.startswith("error: FLEDGE_DATABASE_URL: it ")
    assert "geheim" not in result.output


def test_all_mistakes_are_named_and_the_exit_code_is_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fledge.toml").write_text("[model.x]\npined = true\n")
    monkeypatch.setenv("FLEDGE_PORT", "one")
    monkeypatch.setenv("FLEDGE_PROT", "1")
    result = run("config")

    assert result.exit_code == 2
    assert lines(result.stderr) == [
        "error: 3 mistakes in the settings:",
        "  fledge.toml: model.x.pined: unknown setting; did you mean model.x.pinned?",
        "  FLEDGE_PROT: unknown setting; did you mean FLEDGE_PORT?",
        '  FLEDGE_PORT: must be a whole number, not "one"',
    ]
    assert rows(result.stdout)["port"] == "8080   [default; FLEDGE_PORT is wrong]"


def test_a_program_gets_no_settings_that_no_server_would_run_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLEDGE_PORT", "one")
    result = run("config", "--json")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == 'error: FLEDGE_PORT: must be a whole number, not "one"\n'


def test_help_says_where_settings_come_from() -> None:
    result = run("config", "--help")

    assert result.exit_code == 0
    assert "fledge.toml in the working directory" in " ".join(result.stdout.split())
