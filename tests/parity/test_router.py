"""Models that compute queries and documents apart agree with sentence-transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fledge.errors import CorruptModel, InvalidRequest
from tests.parity import static_models as models
from tests.parity.agreement import assert_vectors_agree
from tests.parity.checkpoints import Recipe
from tests.parity.engine import Engine
from tests.parity.folders import Bundle, make_bundle, pooling
from tests.parity.reference import Reference, cosines
from tests.parity.texts import TEXTS

from sentence_transformers.base.modules import Router  # isort: skip - after the skips of the others

WIDTH = 64
# without the longest one, which torch cannot sum in float32 without an error of 3e-5
KNOWN = [text for text in TEXTS if text.strip() and len(text) < 5_000]


def transformer(forge: Path, family: str = "bert", seed: int = 1) -> list[Any]:
    """Transformer and Pooling, as sentence-transformers has loaded them."""
    made = Bundle(recipe=Recipe(family=family, seed=seed), stages=(pooling("mean"),))
    return list(Reference(make_bundle(made, forge)).model)


def static(folder: Path) -> list[Any]:
    """StaticEmbedding and a Dense that makes its vectors as long as the transformer's."""
    return [models.static_embedding(folder), models.dense(models.WIDTH, WIDTH)]


def assert_agrees(engine: Engine, folder: Path, *, default: str) -> None:
    """Each side is that of its route, and neither is that of the default route."""
    model = Reference(folder)
    got = {side: engine.embed(folder, KNOWN, input_type=side) for side in ("query", "document")}
    for side, vectors in got.items():
        assert_vectors_agree(vectors, model.embed(KNOWN, task=side), KNOWN)
    assert cosines(got["query"], got["document"]).mean() < 0.9
    plain = engine.embed(folder, KNOWN)
    assert_vectors_agree(plain, model.embed(KNOWN), KNOWN)
    assert_vectors_agree(plain, got[default], KNOWN)


@pytest.mark.parametrize("is_old", [False, True])
def test_a_static_route_beside_a_transformer_agrees(
    is_old: bool, engine: Engine, forge: Path, tmp_path: Path
) -> None:
    router = Router.for_query_document(static(tmp_path / "files"), transformer(forge))
    folder = models.save(tmp_path / "saved", router, models.Normalize())
    if is_old:
        models.in_old_spelling(folder)
    assert_agrees(engine, folder, default="document")
    card = engine.load(folder).card
    assert (card.family, card.dimension, card.normalizes) == ("bert+static", WIDTH, True)


def test_two_transformers_agree(engine: Engine, forge: Path, tmp_path: Path) -> None:
    router = Router.for_query_document(
        transformer(forge, "mpnet"), transformer(forge, seed=2), default_route="query"
    )
    folder = models.save(tmp_path / "saved", router)
    assert_agrees(engine, folder, default="query")


def test_two_transformers_of_one_shape_keep_their_own_weights(
    engine: Engine, forge: Path, tmp_path: Path
) -> None:
    router = Router.for_query_document(transformer(forge, seed=3), transformer(forge, seed=4))
    assert_agrees(engine, models.save(tmp_path / "saved", router), default="document")


def test_an_asym_behind_a_shared_transformer_agrees(
    engine: Engine, forge: Path, tmp_path: Path
) -> None:
    query, document = models.dense(WIDTH, 32), models.layer_norm(WIDTH)
    router = Router(
        {"query": [query, models.layer_norm(32)], "document": [document, models.dense(WIDTH, 32)]}
    )
    folder = models.save(tmp_path / "saved", *transformer(forge), router, models.Normalize())
    assert_agrees(engine, folder, default="query")
    assert_agrees(engine, as_asym(folder), default="query")


def as_asym(folder: Path) -> Path:
    """The names and the config file of the class that Router was."""
    path = next(folder.rglob("router_config.json"))
    config = json.loads(path.read_text())
    config["parameters"] = {"allow_empty_key": True}
    config["types"] = {
        name: f"sentence_transformers.models.{kind.rpartition('.')[2]}"
        for name, kind in config["types"].items()
    }
    path.with_name("config.json").write_text(json.dumps(config))
    path.unlink()
    models.in_old_spelling(folder)
    modules = folder / "modules.json"
    modules.write_text(modules.read_text().replace("models.Router", "models.Asym"))
    return folder


def test_a_module_that_routes_share_agrees(engine: Engine, forge: Path, tmp_path: Path) -> None:
    shared = transformer(forge)
    router = Router.for_query_document([*shared, models.dense(WIDTH, WIDTH)], shared)
    assert_agrees(engine, models.save(tmp_path / "saved", router), default="document")


def test_a_normalize_of_one_route_only_agrees(engine: Engine, forge: Path, tmp_path: Path) -> None:
    documents = [*transformer(forge), models.Normalize()]
    router = Router.for_query_document(static(tmp_path / "files"), documents)
    folder = models.save(tmp_path / "saved", router)
    assert_agrees(engine, folder, default="document")
    assert not engine.load(folder).card.normalizes


def test_route_mappings_agree(engine: Engine, forge: Path, tmp_path: Path) -> None:
    router = Router(
        {"small": static(tmp_path / "files"), "large": transformer(forge)},
        route_mappings={("query", "text"): "small", ("document", None): "large"},
    )
    assert_agrees(engine, models.save(tmp_path / "saved", router), default="query")


def test_without_a_default_route_a_text_must_have_a_side(
    engine: Engine, forge: Path, tmp_path: Path
) -> None:
    router = Router.for_query_document(
        static(tmp_path / "files"), transformer(forge), default_route=None, allow_empty_key=False
    )
    folder = models.save(tmp_path / "saved", router)
    with pytest.raises(ValueError, match="Could not determine route"):
        Reference(folder).embed(["a"])
    with pytest.raises(InvalidRequest, match="only query, document: send another `input_type`"):
        engine.embed(folder, ["a"])
    wanted = Reference(folder).embed(KNOWN, task="query")
    assert_vectors_agree(engine.embed(folder, KNOWN, input_type="query"), wanted, KNOWN)


def test_a_query_is_compared_with_documents_by_their_own_routes(
    engine: Engine, forge: Path, tmp_path: Path
) -> None:
    router = Router.for_query_document(static(tmp_path / "files"), transformer(forge))
    folder = models.save(tmp_path / "saved", router)
    model = Reference(folder)
    query, documents = model.embed(KNOWN[:1], task="query"), model.embed(KNOWN, task="document")
    ranked = engine.load(folder).rerank(KNOWN[0], KNOWN)
    found = {one.index: one.score for one in ranked}
    wanted = cosines(np.repeat(query, len(KNOWN), axis=0), documents)
    assert [found[n] for n in range(len(KNOWN))] == pytest.approx(wanted, abs=1e-5)


def test_routes_of_different_lengths_are_refused(
    engine: Engine, forge: Path, tmp_path: Path
) -> None:
    small = [models.static_embedding(tmp_path / "files")]
    router = Router.for_query_document(small, transformer(forge))
    folder = models.save(tmp_path / "saved", router)
    with pytest.raises(CorruptModel, match="vectors of 48, 64 numbers"):
        engine.load(folder)
