import json

import pytest

from fledge.settings import DEFAULT_MODEL
from tests.unit.cli.fakes import FakeTools, run


def test_models_are_a_table_with_sizes() -> None:
    output = run("models").stdout

    assert DEFAULT_MODEL in output
    assert "the package" in output
    assert "87.4 MB" in output


def test_models_are_json_when_asked() -> None:
    rows = [json.loads(line) for line in run("models", "--json").stdout.splitlines()]

    assert rows == [
        {"id": DEFAULT_MODEL, "origin": "the package", "bytes": 87_400_000, "served": True},
        {"id": "other/model", "origin": "the cache", "bytes": 0, "served": False},
    ]


def test_a_model_that_is_not_here_yet_is_listed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_MODELS", '["new/model", "."]')
    tools = FakeTools()
    tools.models = [("other/model", "the cache", 5)]
    rows = [json.loads(line) for line in run("models", "--json", tools=tools).stdout.splitlines()]

    assert [(row["id"], row["served"]) for row in rows] == [
        ("new/model", True),
        (".", True),
        ("other/model", False),
    ]
    assert [row["origin"].split(",")[0] for row in rows] == [
        "the hub",
        "its own folder",
        "the cache",
    ]


def test_pull_prints_the_folder_alone() -> None:
    assert run("pull", "org/name").stdout == "/cache/org/name\n"
