"""Which engine a folder gets, with a transformer that is not computed."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fledge.engine.loading import load_backend
from fledge.engine.modules import Normalize
from fledge.engine.recipe import Recipe
from fledge.engine.routes import RoutedBackend, RunningModel
from fledge.engine.sources import ModelFolder
from fledge.engine.static import StaticBackend
from fledge.errors import CorruptModel, UnsupportedModel
from fledge.testing import fake_card
from fledge.types import EmbedJob, Precision
from tests.static_folders import PACKAGE, draw, save_modules, save_static, write
from tests.tiny import save_bert
from tests.unit.engine.test_routes import Route

SIZE = 8


class Transformers:
    """Stands in for the graph engine: keeps the recipes that it was given."""

    def __init__(self, *, fails: bool = False) -> None:
        self.recipes: list[Recipe] = []
        self.precisions: set[Precision] = set()
        self.models: list[Route] = []
        self._fails = fails

    def __call__(self, source: ModelFolder, recipe: Recipe, precision: Precision) -> RunningModel:
        if self._fails and self.recipes:
            raise CorruptModel("damaged")
        self.recipes.append(recipe)
        self.precisions.add(precision)
        card = fake_card(id=source.id, dimension=recipe.dimension, normalizes=recipe.normalizes)
        self.models.append(Route(card))
        return self.models[-1]


def load(folder: Path, transformers: Transformers) -> RunningModel:
    source = ModelFolder(folder, "test/any", "abc", "a test")
    return load_backend(
        source, load_transformer=transformers, precision="bf16", max_queued_tokens=1000
    )


def save_routed(root: Path, *, behind: Sequence[str] = ()) -> Path:
    """A static route for queries, a BERT for documents, each with a Normalize of its own or not."""
    save_modules(root, "Router", *behind)
    save_static(
        root / "query_0_StaticEmbedding",
        {"embedding.weight": draw(30, SIZE)},
        vocab=30,
        modules=None,
    )
    save_bert(root / "document_0_Transformer", hidden=SIZE, heads=2, layers=1)
    write(root / "document_1_Pooling" / "config.json", {"pooling_mode": "cls"})
    kinds = ["StaticEmbedding", "Transformer", "Pooling", "Normalize"]
    names = [
        "query_0_StaticEmbedding",
        *(f"document_{n}_{kind}" for n, kind in enumerate(kinds[1:])),
    ]
    own = names if not behind else names[:-1]
    config = {
        "types": {name: PACKAGE + kind for name, kind in zip(names, kinds, strict=True)},
        "structure": {"query": own[:1], "document": own[1:]},
        "parameters": {"default_route": "document"},
    }
    write(root / "router_config.json", config)
    return root


def test_a_folder_that_begins_with_a_transformer_gets_one(tmp_path: Path) -> None:
    transformers = Transformers()
    model = load(save_bert(tmp_path), transformers)
    assert [model] == transformers.models
    assert transformers.recipes[0].route == ""


def test_a_bare_folder_is_a_transformers(tmp_path: Path) -> None:
    folder = save_bert(tmp_path)
    (folder / "modules.json").unlink()
    transformers = Transformers()
    load(folder, transformers)
    assert transformers.recipes[0].pooling.modes == ("mean",)


def test_static_folders_get_no_transformer(tmp_path: Path) -> None:
    transformers = Transformers()
    table = draw(30, SIZE)
    save_static(tmp_path / "st", {"embedding.weight": table}, vocab=30)
    config = {"model_type": "model2vec"}
    save_static(tmp_path / "m2v", {"embeddings": table}, vocab=30, config=config, modules=None)
    for name in ("st", "m2v"):
        model = load(tmp_path / name, transformers)
        assert isinstance(model, StaticBackend)
        result = asyncio.run(model.embed(EmbedJob(items=["w5"])))
        assert np.allclose(result.vectors[0], table[5])
        model.close()
    assert not transformers.recipes


@pytest.mark.parametrize("kind", ["CLIPModel", "LSTM", "Pooling", "Dense"])
def test_any_other_beginning_is_refused_with_those_that_exist(kind: str, tmp_path: Path) -> None:
    save_modules(tmp_path, kind, "Pooling")
    with pytest.raises(UnsupportedModel, match=f"'{kind}'.*Transformer, StaticEmbedding, .*Router"):
        load(tmp_path, Transformers())


def test_an_empty_list_of_modules_is_refused(tmp_path: Path) -> None:
    save_modules(tmp_path)
    with pytest.raises(UnsupportedModel, match="missing"):
        load(tmp_path, Transformers())


def test_each_route_gets_the_engine_that_its_first_module_needs(tmp_path: Path) -> None:
    transformers = Transformers()
    model = load(save_routed(tmp_path, behind=["Normalize"]), transformers)
    assert isinstance(model, RoutedBackend)
    (recipe,) = transformers.recipes
    assert (recipe.route, recipe.pooling.modes) == ("document", ("cls",))
    assert recipe.folder == tmp_path / "document_0_Transformer"
    assert model.card.normalizes
    asyncio.run(model.embed(EmbedJob(items=["w5"], side="document")))
    result = asyncio.run(model.embed(EmbedJob(items=["w5"], side="query")))
    assert transformers.models[0].sides == ["document"]
    assert np.allclose(result.vectors[0], draw(30, SIZE)[5])
    model.close()
    assert transformers.models[0].closed == 1


def test_a_normalize_of_some_routes_only_is_computed_by_them(tmp_path: Path) -> None:
    transformers = Transformers()
    model = load(save_routed(tmp_path), transformers)
    (recipe,) = transformers.recipes
    assert not recipe.normalizes
    assert isinstance(recipe.modules[-1][0], Normalize)
    assert not model.card.normalizes
    model.close()


def test_what_was_loaded_is_let_go_when_the_next_route_fails(tmp_path: Path) -> None:
    root = save_routed(tmp_path)
    save_bert(root / "query_0_Transformer", hidden=SIZE, heads=2, layers=1)
    write(root / "query_1_Pooling" / "config.json", {})
    types = {
        f"{route}_{n}_{kind}": PACKAGE + kind
        for route in ("query", "document")
        for n, kind in enumerate(("Transformer", "Pooling"))
    }
    structure = {
        route: [name for name in types if name.startswith(route)] for route in ("query", "document")
    }
    write(root / "router_config.json", {"types": types, "structure": structure})
    transformers = Transformers(fails=True)
    with pytest.raises(CorruptModel, match="damaged"):
        load(root, transformers)
    assert [model.closed for model in transformers.models] == [1]


def test_a_static_model_never_imports_the_runtime(tmp_path: Path) -> None:
    folder = save_static(tmp_path, {"embedding.weight": draw(30, SIZE)}, vocab=30)
    program = f"""
import sys
import fledge
with fledge.load({str(folder)!r}) as model:
    assert model.embed(["w5 w6", "w7 " * 999]).shape == (2, {SIZE})
print("openvino" in sys.modules, "fledge.engine.backend" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", "False"]
