import json
from pathlib import Path

import pytest

from tests.unit.cli.fakes import FakeTools, run


def test_the_first_text_is_compared_with_the_others() -> None:
    result = run("similarity", "a", "a", "b", "--json")

    scores = json.loads(result.stdout)["scores"]
    assert [score["text"] for score in scores] == ["a", "b"]
    assert scores[0]["score"] == pytest.approx(1, abs=1e-5)
    assert scores[1]["score"] < 0.999


def test_the_matrix_compares_each_with_each() -> None:
    answer = json.loads(run("similarity", "a", "b", "c", "--matrix", "--json").stdout)

    assert answer["texts"] == ["a", "b", "c"]
    assert [answer["matrix"][i][i] for i in range(3)] == pytest.approx([1, 1, 1], abs=1e-5)
    assert answer["matrix"][0][1] == answer["matrix"][1][0]


def test_scores_are_a_table_of_four_digits() -> None:
    result = run("similarity", "[red]a[/red]", "[red]a[/red]")

    assert "1.0000" in result.stdout
    assert result.stdout.count("[red]a[/red]") == 2


def test_the_matrix_is_a_table_with_numbered_columns() -> None:
    output = run("similarity", "a", "b", "--matrix").stdout

    assert output.count("1.0000") == 2


def test_one_text_is_not_enough() -> None:
    result = run("similarity", "a")

    assert result.exit_code == 2
    assert "at least two texts" in result.stderr


def test_documents_are_ranked_best_first() -> None:
    result = run("rerank", "b", "a", "b", "c", "--json")

    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert (rows[0]["index"], rows[0]["document"]) == (1, "b")
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


def test_the_best_are_a_table() -> None:
    output = run("rerank", "b", "a", "b", "c", "--top-n", "1").stdout

    assert "1.0000" in output
    assert " a " not in output


def test_documents_of_a_file_keep_the_numbers_of_their_rows(tmp_path: Path) -> None:
    (tmp_path / "docs.txt").write_text("a\n\nb\n")
    result = run("rerank", "b", "--input", str(tmp_path / "docs.txt"), "--json")

    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["index"] for row in rows] == [2, 0]


def test_a_file_without_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs.txt").write_text("\n")
    result = run("rerank", "b", "--input", str(tmp_path / "docs.txt"))

    assert result.exit_code == 1
    assert "has no text" in result.stderr


@pytest.mark.parametrize("arguments", [["q"], ["q", "a", "--input", "docs.txt"]])
def test_documents_come_from_one_place(arguments: list[str]) -> None:
    tools = FakeTools()

    assert run("rerank", *arguments, tools=tools).exit_code == 2
    assert tools.loaded == []
