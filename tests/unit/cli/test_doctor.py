from pathlib import Path

import pytest

from fledge.cli.origins import describe_origins
from fledge.settings import load_settings
from tests.unit.cli.fakes import run


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `fledge.toml` but the test's own."""
    monkeypatch.chdir(tmp_path)


def row(output: str, label: str) -> str:
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [label]]
    return " ".join(line.split())


def test_doctor_shows_machine_versions_and_settings() -> None:
    result = run("doctor")

    assert result.exit_code == 0
    assert row(result.stdout, "cpu") == "cpu a fast one"
    assert row(result.stdout, "numpy").startswith("numpy 2.")
    assert row(result.stdout, "port") == "port 8080 [default]"


def test_each_setting_tells_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fledge.toml").write_text("port = 9000\nthreads = 2\n")
    monkeypatch.setenv("FLEDGE_PORT", "9001")
    monkeypatch.setenv("FLEDGE_HUGGINGFACE__SINGLE_INPUT", "flat")
    output = run("doctor").stdout

    assert row(output, "port") == "port 9001 [FLEDGE_PORT]"
    assert row(output, "threads") == "threads 2 [fledge.toml]"
    assert row(output, "huggingface.single_input").endswith("[FLEDGE_HUGGINGFACE__SINGLE_INPUT]")
    assert row(output, "host") == "host 127.0.0.1 [default]"


def test_settings_that_are_wrong_do_not_hide_the_ones_that_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLEDGE_PROT", "1")
    monkeypatch.setenv("FLEDGE_THREADS", "-1")
    monkeypatch.setenv("FLEDGE_HOST", "::1")
    result = run("doctor")

    assert result.exit_code == 2
    assert "FLEDGE_PROT" in result.stderr
    assert "FLEDGE_THREADS" in result.stderr
    assert row(result.stdout, "host") == "host ::1 [FLEDGE_HOST]"
    assert row(result.stdout, "port") == "port 8080 [default]"
    assert row(result.stdout, "threads") == "threads 0 [default; FLEDGE_THREADS is wrong]"


def test_a_token_is_told_and_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    (tmp_path / "weights").write_bytes(b"x" * 2000)
    rows = dict(describe_origins(load_settings(cache_dir=tmp_path)))

    assert rows["token"].startswith("yes ")
    assert "hf_secret" not in str(rows)
    assert f"{tmp_path}, 2.0 kB" in rows["converted"]


def test_a_file_and_a_variable_that_cannot_be_read_end_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fledge.toml").write_bytes(b"\xff")
    broken_file = run("doctor")
    (tmp_path / "fledge.toml").unlink()
    monkeypatch.setenv("FLEDGE_HUGGINGFACE", "flat")
    broken_variable = run("doctor")

    assert (broken_file.exit_code, broken_variable.exit_code) == (2, 2)
    assert broken_file.stderr.startswith("error: fledge.toml cannot be read")
    assert broken_variable.stderr.startswith("error: FLEDGE_HUGGINGFACE cannot be read")
    assert row(broken_file.stdout, "port") == "port 8080 [default]"


def test_doctor_shows_whether_the_database_and_redis_answer() -> None:
    output = run("doctor").stdout

    assert "  database      answers\n  redis server  not set\n" in output
