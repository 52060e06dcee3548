"""From a model's folder to a running model: the one place that decides which engine it gets.

What a transformer needs is handed in as a function, so that a static model never wakes the runtime.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fledge.engine.chain import Routing, Step, read_chain
from fledge.engine.recipe import Recipe, read_recipe
from fledge.engine.routes import RoutedBackend, RunningModel, close_all, reachable
from fledge.engine.sources import ModelFolder
from fledge.engine.static import make_static_backend
from fledge.engine.static_recipe import STATIC_KINDS, StaticRecipe, is_bare_model2vec, read_static
from fledge.errors import UnsupportedModel
from fledge.types import Precision


class LoadTransformer(Protocol):
    """Loads a transformer from its recipe in a precision, and imports the runtime for it."""

    def __call__(self, source: ModelFolder, recipe: Recipe, precision: Precision) -> RunningModel:
        """Load it. Raises `ModelLoadError`."""
        ...


def load_backend(
    source: ModelFolder,
    *,
    load_transformer: LoadTransformer,
    precision: Precision,
    max_queued_tokens: int,
) -> RunningModel:
    """Load a model from its folder. Blocks for a second or so.

    Args:
        source: the folder, and what the model is called.
        load_transformer: called for a model that has one, or for each of several.
        precision: what is asked for, of transformers.
        max_queued_tokens: most tokens that may wait for a static model.

    Raises:
        ModelLoadError: the files are damaged, or ask for what Fledge does not compute.
    """

    def load(recipe: Recipe | StaticRecipe) -> RunningModel:
        if isinstance(recipe, StaticRecipe):
            return make_static_backend(source, recipe, max_queued_tokens=max_queued_tokens)
        return load_transformer(source, recipe, precision)

    root = source.path
    chain = read_chain(root)
    if not isinstance(chain, Routing):
        return load(_read(root, chain))
    names = reachable(chain)
    recipes = [_read(root, chain.routes[name], route=name) for name in names]
    if len({recipe.normalizes for recipe in recipes}) > 1:
        # one card speaks for all: what only some of them do at the end is part of what they compute
        recipes = [recipe.with_normalize() for recipe in recipes]
    loaded: list[RunningModel] = []
    try:
        for recipe in recipes:
            loaded.append(load(recipe))  # noqa: PERF401 - what was loaded must be known below
        return RoutedBackend(chain, dict(zip(names, loaded, strict=True)))
    except BaseException:
        close_all(loaded)
        raise


def _read(root: Path, steps: Sequence[Step] | None, *, route: str = "") -> Recipe | StaticRecipe:
    """The recipe of a chain of modules, by the first of them."""
    if steps is None and is_bare_model2vec(root):
        return read_static(root)
    if steps is None:
        return read_recipe(root)
    kind = steps[0].kind if steps else "missing"
    if kind in STATIC_KINDS:
        return read_static(root, steps)
    if kind == "Transformer":
        return read_recipe(root, steps, route=route)
    raise UnsupportedModel(
        f"{root}/modules.json: the first module is {kind!r}; Fledge runs models that begin with "
        f"Transformer, {', '.join(STATIC_KINDS)} or Router"
    )
