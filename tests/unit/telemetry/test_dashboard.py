"""The dashboard: that Grafana can import it, and that it asks for what there is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.telemetry.numbers import full_metrics, shown

FILE = Path(__file__).parents[3] / "deploy/grafana/fledge.json"
_METRIC = re.compile(r"\b((?:fledge|process)_[a-z_]+)")
_SELECTOR = re.compile(r"\b((?:fledge|process)_[a-z_]+)\{([^}]*)\}")
_GROUPING = re.compile(r"\bby \(([a-z, ]+)\)")
_OF_THE_SCRAPE = {"instance", "le"}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return value


@pytest.fixture(scope="module")
def samples() -> dict[str, set[str]]:
    """Every sample's name, and its labels."""
    found: dict[str, set[str]] = {}
    for name in shown(full_metrics()):
        base, labels = name.rstrip("}").split("{")
        found.setdefault(base, set()).update(one.split(":")[0] for one in labels.split(", ") if one)
    return found


def queries(dashboard: dict[str, Any]) -> list[str]:
    found = [one["expr"] for panel in dashboard["panels"] for one in panel.get("targets", ())]
    return found + [one.get("definition", "") for one in dashboard["templating"]["list"]]


def test_every_metric_that_is_asked_for_exists(
    dashboard: dict[str, Any], samples: dict[str, set[str]]
) -> None:
    asked = {name for query in queries(dashboard) for name in _METRIC.findall(query)}
    assert len(asked) > 30
    assert asked - set(samples) == set()


def test_every_label_that_is_asked_for_exists(
    dashboard: dict[str, Any], samples: dict[str, set[str]]
) -> None:
    for query in queries(dashboard):
        known = set(_OF_THE_SCRAPE)
        for name, selector in _SELECTOR.findall(query):
            labels = set(re.findall(r"([a-z_]+)(?:=~|!~|!=|=)\"", selector))
            assert labels <= samples[name] | _OF_THE_SCRAPE, query
            known |= samples[name]
        for group in _GROUPING.findall(query):
            assert set(group.split(", ")) <= known, query


def test_every_metric_is_on_the_dashboard(dashboard: dict[str, Any]) -> None:
    text = " ".join(queries(dashboard))
    assert [one.name for one in full_metrics().families if one.name not in text] == []


def test_grafana_can_import_it(dashboard: dict[str, Any]) -> None:
    assert dashboard["uid"] == "fledge"
    assert dashboard["title"] == "Fledge"
    assert dashboard["id"] is None  # else it would take the place of another
    assert dashboard["schemaVersion"] >= 39  # Grafana 11's
    assert "__inputs" not in dashboard
    source, *variables = dashboard["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    for one in [*variables, *dashboard["panels"]]:
        if one["type"] != "row":
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_stand_beside_each_other_and_say_what_they_show(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for one in panels:
        place = one["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, one["title"]
        taken |= cells
        assert one["title"]
        if one["type"] != "row":
            assert one["description"]
            assert one["fieldConfig"]["defaults"]["unit"]
            letters = [target["refId"] for target in one["targets"]]
            assert letters == sorted(set(letters))
