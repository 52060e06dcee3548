"""What a folder lists: its modules, and the routes through them."""

import json
from pathlib import Path
from typing import Any

import pytest

from fledge.engine.chain import Routing, Step, read_chain
from fledge.errors import CorruptModel, UnsupportedModel
from tests.static_folders import PACKAGE, save_modules, write

NEW = "sentence_transformers.base.modules.router."
TYPES = {
    "query_0_StaticEmbedding": PACKAGE + "StaticEmbedding",
    "document_0_Transformer": NEW + "Transformer",
    "document_1_Pooling": PACKAGE + "Pooling",
}
STRUCTURE = {
    "query": ["query_0_StaticEmbedding"],
    "document": ["document_0_Transformer", "document_1_Pooling"],
}


def save_router(folder: Path, *, name: str = "router_config.json", **config: Any) -> Path:
    """A Router at the root, and a Normalize behind it."""
    save_modules(folder, "Router", "Normalize", package=NEW)
    saved = {"types": TYPES, "structure": STRUCTURE, "parameters": {}, **config}
    write(folder / name, saved)
    return folder


def read(folder: Path) -> Routing:
    routing = read_chain(folder)
    assert isinstance(routing, Routing)
    return routing


def test_a_folder_without_modules_has_no_chain(tmp_path: Path) -> None:
    assert read_chain(tmp_path) is None


def test_modules_are_steps_in_order(tmp_path: Path) -> None:
    save_modules(tmp_path, "StaticEmbedding", "Normalize")
    assert read_chain(tmp_path) == [
        Step("StaticEmbedding", tmp_path),
        Step("Normalize", tmp_path / "1_Normalize"),
    ]


def test_arguments_that_every_call_must_give_are_refused(tmp_path: Path) -> None:
    save_modules(tmp_path, "Transformer", "Pooling")
    entries = json.loads((tmp_path / "modules.json").read_text())
    for kwargs, is_known in (([], True), (["task"], False)):
        entries[0]["kwargs"] = kwargs
        write(tmp_path / "modules.json", entries)
        if is_known:
            assert read_chain(tmp_path)
        else:
            with pytest.raises(UnsupportedModel, match=r"Transformer takes the arguments \['task'"):
                read_chain(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"), [("router_config.json", "Router"), ("config.json", "Asym")]
)
def test_each_route_is_a_chain_of_its_own(name: str, kind: str, tmp_path: Path) -> None:
    folder = save_router(tmp_path, name=name)
    save_modules(folder, kind, "Normalize")
    routing = read(folder)
    last = Step("Normalize", tmp_path / "1_Normalize")
    assert routing.routes == {
        "query": [Step("StaticEmbedding", tmp_path / "query_0_StaticEmbedding"), last],
        "document": [
            Step("Transformer", tmp_path / "document_0_Transformer"),
            Step("Pooling", tmp_path / "document_1_Pooling"),
            last,
        ],
    }


def test_a_router_may_stand_behind_what_its_routes_share(tmp_path: Path) -> None:
    save_modules(tmp_path, "Transformer", "Pooling", "Asym")
    types = {"query_0_Dense": PACKAGE + "Dense", "document_0_Dense": PACKAGE + "Dense"}
    structure = {"query": ["query_0_Dense"], "document": ["document_0_Dense"]}
    write(tmp_path / "2_Asym" / "config.json", {"types": types, "structure": structure})
    routing = read(tmp_path)
    for route, steps in routing.routes.items():
        assert [step.kind for step in steps] == ["Transformer", "Pooling", "Dense"]
        assert steps[2].folder == tmp_path / "2_Asym" / f"{route}_0_Dense"
    assert routing.default == "query"


@pytest.mark.parametrize(
    ("parameters", "default"),
    [
        ({}, "query"),
        ({"allow_empty_key": True}, "query"),
        ({"allow_empty_key": False}, None),
        ({"default_route": "document"}, "document"),
        ({"default_route": "document", "allow_empty_key": False}, "document"),
        ({"default_route": None, "allow_empty_key": True, "route_mappings": {}}, "query"),
    ],
)
def test_the_default_route_is_the_one_named_or_else_the_first(
    parameters: dict[str, Any], default: str | None, tmp_path: Path
) -> None:
    routing = read(save_router(tmp_path, parameters=parameters))
    assert routing.find(None) == routing.default == default
    assert (routing.find("query"), routing.find("document")) == ("query", "document")


@pytest.mark.parametrize(
    ("mappings", "found"),
    [
        ({"('query', 'text')": "b"}, ["a", "b", None]),
        ({"('query', None)": "b"}, ["a", "b", None]),
        ({"(None, 'text')": "b"}, ["b", "b", "b"]),
        ({"(None, None)": "b"}, ["b", "b", "b"]),
        ({"(None, None)": "a", "('document', None)": "b"}, ["a", "a", "b"]),
        ({"('query', None)": "a", "('query', 'text')": "b"}, ["a", "b", None]),
        ({"(None, 'image')": "b", "('query', ('image', 'text'))": "b"}, ["a", None, None]),
        ({}, ["a", None, None]),
    ],
)
def test_mappings_are_looked_up_from_the_most_to_the_least_particular(
    mappings: dict[str, str], found: list[str | None], tmp_path: Path
) -> None:
    structure = {"a": ["query_0_StaticEmbedding"], "b": ["document_0_Transformer"]}
    parameters = {"route_mappings": mappings}
    routing = read(save_router(tmp_path, structure=structure, parameters=parameters))
    assert [routing.find(side) for side in (None, "query", "document")] == found


def test_a_route_for_texts_takes_every_text(tmp_path: Path) -> None:
    structure = {"image": ["query_0_StaticEmbedding"], "text": ["document_0_Transformer"]}
    routing = read(save_router(tmp_path, structure=structure))
    assert [routing.find(side) for side in (None, "query", "document")] == ["text"] * 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"types": None}, "malformed"),
        ({"structure": {"query": ["absent"]}}, "malformed: KeyError"),
        ({"structure": []}, "malformed"),
        ({"structure": {"query": 7}}, "malformed"),
        ({"structure": {}}, "no route at all"),
        ({"parameters": {"default_route": "other"}}, "no route 'other'; routes: query, document"),
        ({"parameters": {"route_mappings": {"(None, None)": "other"}}}, "no route 'other'"),
        ({"parameters": {"route_mappings": {"query": "query"}}}, "'query' is no pair"),
        ({"parameters": {"route_mappings": {"()": "query"}}}, "no pair"),
        ({"parameters": {"route_mappings": {"([], {})": "query"}}}, "no pair"),
        ({"parameters": {"route_mappings": {"exit()": "query"}}}, "no pair"),
        ({"parameters": {"route_mappings": {"(" * 150: "query"}}}, "no pair"),
        ({"parameters": ["default_route"]}, "malformed"),
    ],
)
def test_a_router_that_contradicts_itself_is_a_corrupt_model(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CorruptModel, match=message):
        read(save_router(tmp_path, **config))


def test_a_module_of_a_route_must_lie_within_the_folder(tmp_path: Path) -> None:
    types, structure = {"../a": PACKAGE + "StaticEmbedding"}, {"query": ["../a"]}
    with pytest.raises(CorruptModel, match="lies outside"):
        read(save_router(tmp_path, types=types, structure=structure))


def test_code_in_a_route_is_refused_by_name(tmp_path: Path) -> None:
    types = {**TYPES, "query_0_StaticEmbedding": "custom.Thing"}
    with pytest.raises(UnsupportedModel, match=r"'custom\.Thing', which is code"):
        read(save_router(tmp_path, types=types))


def test_a_router_within_a_router_is_refused(tmp_path: Path) -> None:
    types = {**TYPES, "query_0_StaticEmbedding": NEW + "Router"}
    with pytest.raises(UnsupportedModel, match="Router beside or within"):
        read(save_router(tmp_path, types=types))


def test_a_parameter_that_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="new_rule"):
        read(save_router(tmp_path, parameters={"new_rule": 1}))


@pytest.mark.parametrize("route", [["query"], {"a": 1}, 7])
def test_a_default_route_that_is_no_name_is_a_corrupt_model(route: object, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="default_route"):
        read(save_router(tmp_path, parameters={"default_route": route}))


def test_a_mapping_that_nests_deeply_never_reaches_the_parser(tmp_path: Path) -> None:
    mappings = {"(" * 100_000: "query"}
    with pytest.raises(CorruptModel, match="100000 characters"):
        read(save_router(tmp_path, parameters={"route_mappings": mappings}))
