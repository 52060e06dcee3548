import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

from fledge.files.progress import progress_path
from fledge.testing import fake_card
from tests.unit.cli.fakes import FakeTools, run


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def vector(tools: FakeTools, text: str) -> list[float]:
    """What the fake computes for a text, normalized, as its card says."""
    (row,) = lines(run("embed", "--", text, tools=tools))
    return list(row["embedding"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text("id,body\n1,one\n2,\n3,three\n")
    return path


def test_texts_become_lines_of_json() -> None:
    result = run("embed", "one", "two")

    assert result.exit_code == 0
    assert [line["text"] for line in lines(result)] == ["one", "two"]
    assert [len(line["embedding"]) for line in lines(result)] == [4, 4]
    assert result.stderr == ""


def test_vectors_are_normalized_as_the_model_decides_unless_told() -> None:
    def length(*flags: str) -> float:
        return float(np.linalg.norm(lines(run("embed", "one", *flags))[0]["embedding"]))

    assert length() == pytest.approx(1, abs=1e-6)
    assert length("--no-normalize") != pytest.approx(1, abs=1e-2)


def test_dimensions_cut_and_warn() -> None:
    result = run("embed", "one", "--dimensions", "2")

    assert len(lines(result)[0]["embedding"]) == 2
    assert "warning: fledge/fake declares no shorter dimensions" in result.stderr


def test_a_prompt_goes_before_each_text() -> None:
    tools = FakeTools()
    run("embed", "one", "--prompt-name", "query", tools=tools)

    assert tools.backend.jobs[0].prompt == "query: "


@pytest.mark.parametrize(
    ("flags", "prompt", "side"),
    [
        (("--prompt", "Instruct: search\nQuery: "), "Instruct: search\nQuery: ", None),
        (("--input-type", "query"), "query: ", "query"),
        (("--input-type", "passage"), "document: ", "document"),
        (("--input-type", "passage", "--prompt", "x: "), "x: ", "document"),
    ],
)
def test_a_prompt_may_be_ones_own_or_the_models_choice(
    flags: tuple[str, ...], prompt: str, side: str | None
) -> None:
    tools = FakeTools()
    assert run("embed", "one", *flags, tools=tools).exit_code == 0

    assert (tools.backend.jobs[0].prompt, tools.backend.jobs[0].side) == (prompt, side)


def test_an_unknown_input_type_lists_those_known() -> None:
    result = run("embed", "one", "--input-type", "poem")

    assert result.exit_code == 1
    assert '`input_type` is "poem"; known are query, ' in result.stderr


def test_an_unknown_prompt_lists_the_prompts() -> None:
    result = run("embed", "one", "--prompt-name", "poem")

    assert result.exit_code == 1
    assert "its prompts: query, document" in result.stderr


def test_model_and_precision_are_settings() -> None:
    tools = FakeTools()
    run("embed", "one", "--model", "org/name", "--precision", "int8", tools=tools)

    assert tools.loaded[0].models == ("org/name",)
    assert tools.loaded[0].precision == "int8"


def test_npy_goes_to_stdout_as_one_array() -> None:
    tools = FakeTools()
    result = run("embed", "one", "two", "--format", "npy", tools=tools)

    array = np.load(io.BytesIO(result.stdout_bytes))
    np.testing.assert_allclose(array, [vector(tools, "one"), vector(tools, "two")], rtol=1e-6)


def test_a_text_that_is_cut_is_told_on_stderr() -> None:
    result = run("embed", "word " * 20, "short")

    assert "1 of 2 texts cut to the model's 16 tokens" in result.stderr
    assert len(lines(result)) == 2


def test_an_empty_text_is_an_error() -> None:
    result = run("embed", "one", "")

    assert result.exit_code == 1
    assert result.stderr == "error: `TEXT[1]` is an empty text\n"
    assert result.stdout == ""


def test_stdin_is_read_line_by_line() -> None:
    result = run("embed", "-", stdin="one\n\nthree\n")

    assert [line["text"] for line in lines(result)] == ["one", "", "three"]
    assert lines(result)[1]["embedding"] is None
    assert "3 rows, 2 embedded, 1 empty (null), 0 truncated" in result.stderr


def test_stdin_becomes_an_array_with_zeros_where_a_line_is_empty() -> None:
    result = run("embed", "-", "--format", "npy", stdin="one\n\n")

    array = np.load(io.BytesIO(result.stdout_bytes))
    assert array.shape == (2, 4)
    assert not array[1].any()
    assert "1 empty (rows of zeros)" in result.stderr


def test_stdin_that_is_not_utf8_is_an_error() -> None:
    result = run("embed", "-", stdin=b"ok\n\xff\n")

    assert result.exit_code == 1
    assert "stdin, line 2, byte 1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give texts"),
        (["one", "--output", "out.npy"], "--output and --column go with --input"),
        (["one", "--column", "text"], "--output and --column go with --input"),
        (["one", "--format", "parquet"], "parquet cannot be piped"),
        (["--input", "in.txt"], "--input needs --output"),
        (["one", "--input", "in.txt", "--output", "out.npy"], "not both"),
        (["one", "--precision", "fp8"], "fp8"),
    ],
)
def test_wrong_usage_ends_with_2_before_a_model_is_loaded(
    arguments: list[str], message: str
) -> None:
    tools = FakeTools()
    result = run("embed", *arguments, tools=tools)

    assert result.exit_code == 2
    assert message in result.stderr
    assert tools.loaded == []


def test_a_file_becomes_a_file(file: Path, tmp_path: Path) -> None:
    tools = FakeTools()
    output = tmp_path / "out.jsonl"
    result = run(
        "embed", "--input", str(file), "--column", "body", "--output", str(output), tools=tools
    )

    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "3 rows, 2 embedded, 1 empty (null), 0 truncated" in result.stderr
    assert f"written to {output}" in result.stderr
    assert [row["text"] for row in rows] == ["one", "", "three"]
    assert [row["embedding"] for row in rows] == [
        vector(tools, "one"),
        None,
        vector(tools, "three"),
    ]


def test_the_format_may_be_named_where_the_ending_does_not_tell(file: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.part"
    run("embed", "-i", str(file), "--column", "body", "-o", str(output), "--format", "parquet")

    assert pq.read_table(output).column("text").to_pylist() == ["one", "", "three"]


def test_truncated_rows_of_a_file_are_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("short\n" + "word " * 20)
    result = run("embed", "-i", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"))

    assert "2 rows, 2 embedded, 0 empty, 1 truncated" in result.stderr


def test_dimensions_are_the_width_of_an_array(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    output = tmp_path / "out.npy"
    run("embed", "-i", str(tmp_path / "in.txt"), "-o", str(output), "--dimensions", "3")

    assert np.load(output).shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "in.csv", "-o", "out.npy"], "--column. Its columns: id, body"),
        (["-i", "in.csv", "-o", "out.npy", "--column", "text"], "no column 'text'"),
        (["-i", "no.csv", "-o", "out.npy"], "no such file"),
        (["-i", "in.csv", "-o", "out.xml", "--column", "body"], "writable: .jsonl"),
        (
            ["-i", "in.csv", "-o", "out.jsonl", "--format", "npy", "--column", "body"],
            "'.jsonl' means jsonl, but npy was asked for",
        ),
        (["-i", "in.csv", "-o", "no/out.npy", "--column", "body"], "does not exist"),
        (["-i", "in.csv", "-o", "old.npy", "--column", "body"], "pass --overwrite"),
        (["-i", "in.csv", "-o", "in.csv", "--column", "body"], "is the input"),
    ],
)
def test_what_is_wrong_with_files_is_found_before_a_model_is_loaded(
    arguments: list[str],
    message: str,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.npy").write_bytes(b"")
    tools = FakeTools()
    result = run("embed", *arguments, tools=tools)

    assert result.exit_code == 1
    assert message in result.stderr
    assert tools.loaded == []


def test_a_failed_run_goes_on_when_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fledge.files.ordered.CHUNK_ITEMS", 2)
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    # The byte that is no text comes when there are rows on the disk already.
    source.write_bytes(b"one\ntwo\nthree\nfour\nfive\nsix\nseven\neig\xffht\n")
    failed = run("embed", "-i", str(source), "-o", str(output))
    times = source.stat()
    source.write_bytes(b"one\ntwo\nthree\nfour\nfive\nsix\nseven\neig!ht\n")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    result = run("embed", "-i", str(source), "-o", str(output))

    assert failed.exit_code == 1
    assert result.exit_code == 0
    assert "8 rows (4 of them by an interrupted run)" in result.stderr
    assert not progress_path(output).exists()


def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    tools = FakeTools()
    tools.backend.error = KeyboardInterrupt()
    output = tmp_path / "out.jsonl"
    result = run("embed", "-i", str(tmp_path / "in.txt"), "-o", str(output), tools=tools)

    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr


def test_another_precision_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fledge.files.ordered.CHUNK_ITEMS", 1)
    # The fourth row is no text: the rows before it are on the disk when the run fails.
    (tmp_path / "in.txt").write_bytes(b"one\ntwo\nthree\n\xff\n")
    arguments = ["embed", "-i", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy")]
    run(*arguments)
    result = run(*arguments, tools=FakeTools(fake_card(dimension=4, precision="bf16")))

    assert result.exit_code == 1
    assert "precision was 'fp32', now 'bf16'" in result.stderr
    assert "--overwrite" in result.stderr


@pytest.mark.parametrize(
    "flags", [("--prompt", "x: "), ("--prompt-name", "query"), ("--input-type", "query")]
)
def test_another_prompt_does_not_go_on(
    flags: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fledge.files.ordered.CHUNK_ITEMS", 1)
    (tmp_path / "in.txt").write_bytes(b"one\ntwo\nthree\n\xff\n")
    arguments = ["embed", "-i", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy")]
    run(*arguments)
    result = run(*arguments, *flags)

    assert result.exit_code == 1
    option = flags[0].removeprefix("--").replace("-", "_")
    assert f"{option} was None, now {flags[1]!r}" in result.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ("--dimensions", "9999"),
        ("--prompt-name", "poem"),
        ("--input-type", "poem"),
        ("--prompt", "a", "--prompt-name", "query"),
    ],
)
def test_a_request_that_the_model_refuses_leaves_no_files(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    result = run("embed", "-i", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"), *flags)

    assert result.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_the_help_says_which_rows_are_empty() -> None:
    assert "empty or only white space" in " ".join(run("embed", "--help").stdout.split())
