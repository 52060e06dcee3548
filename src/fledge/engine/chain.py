"""What a model's folder lists: its modules in order, its routes, and how to speak to it.

Source: `modules.json`, `router_config.json` (of the class that was called Asym: `config.json`) and
`config_sentence_transformers.json` as sentence-transformers 6 and its older releases write them.
Nothing here reads a module's own config.
"""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fledge.engine.folders import inside
from fledge.engine.modules import read_json, refuse_unknown
from fledge.errors import CorruptModel, UnsupportedModel
from fledge.types import Side, Similarity

PACKAGE = "sentence_transformers."
ROUTERS = ("Router", "Asym")
ROUTER_CONFIGS = ("router_config.json", "config.json")
ROUTER_PARAMETERS = ("default_route", "allow_empty_key", "route_mappings")
MODALITY = "text"
MAX_PAIR_CHARS = 200  # deep nesting can crash the interpreter itself
SIMILARITIES: Mapping[str, Similarity] = {name: name for name in get_args(Similarity)}


@dataclass(frozen=True, slots=True)
class Step:
    """One module: the last part of its class's name, and its folder."""

    kind: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Routing:
    """A model that computes queries and documents apart.

    Attributes:
        routes: name -> all steps from the first to the last, those outside the Router included.
        default: the route of inputs that are neither query nor document; None for none.
        mappings: (side, modality) -> name; either may be None, which means any.
    """

    routes: Mapping[str, Sequence[Step]]
    default: str | None
    mappings: Mapping[tuple[Any, Any], str]

    def find(self, side: Side | None) -> str | None:
        """The route of a text; None when there is none. The order is sentence-transformers' own."""
        for key in ((side, MODALITY), (side, None), (None, MODALITY), (None, None)):
            if key in self.mappings:
                return self.mappings[key]
        for name in (side, MODALITY):
            if name in self.routes:
                return name
        return self.default if side is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """How to speak to a model: `config_sentence_transformers.json`."""

    prompts: Mapping[str, str]
    default_prompt_name: str | None
    similarity: Similarity


def read_chain(root: Path) -> Sequence[Step] | Routing | None:
    """The modules in order, or all routes through them; None without `modules.json`.

    Raises:
        UnsupportedModel: a class outside sentence-transformers, which would be code from the
            repository; arguments for a module; a Router within a Router.
        CorruptModel: a file is damaged, or names what does not exist.
    """
    path = root / "modules.json"
    if not path.is_file():
        return None
    try:
        entries = sorted(json.loads(path.read_bytes()), key=lambda entry: entry["idx"])
        steps = [_step(root, entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptModel(f"{path}: malformed: {error!r}") from error
    places = [place for place, step in enumerate(steps) if step.kind in ROUTERS]
    if not places:
        return steps
    return _read_router(steps[: places[0]], steps[places[0]].folder, steps[places[0] + 1 :])


def _step(root: Path, entry: Mapping[str, Any]) -> Step:
    step = Step(_kind(entry["type"]), inside(root, entry["path"]))
    if entry.get("kwargs"):
        raise UnsupportedModel(
            f"modules.json: {step.kind} takes the arguments {entry['kwargs']!r} with each call; "
            "Fledge has none to give"
        )
    return step


def _kind(name: str) -> str:
    """`sentence_transformers.models.Pooling` and its newer paths -> `Pooling`."""
    if not name.startswith(PACKAGE):
        raise UnsupportedModel(f"modules.json names {name!r}, which is code outside Fledge's reach")
    return name.rpartition(".")[2]


def _read_router(before: Sequence[Step], folder: Path, behind: Sequence[Step]) -> Routing:
    config = next((found for name in ROUTER_CONFIGS if (found := read_json(folder / name))), {})
    try:
        kinds = {name: _kind(kind) for name, kind in config["types"].items()}
        routes = {
            str(route): [
                *before,
                *(Step(kinds[name], inside(folder, name)) for name in names),
                *behind,
            ]
            for route, names in config["structure"].items()
        }
        parameters = dict(config.get("parameters") or {})
        refuse_unknown(folder, parameters, *ROUTER_PARAMETERS)
        mappings = dict(_mappings(folder, parameters.get("route_mappings") or {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptModel(f"{folder}/{ROUTER_CONFIGS[0]}: malformed: {error!r}") from error
    default = parameters.get("default_route")
    if default is not None and not isinstance(default, str):
        raise CorruptModel(f"{folder}: default_route {default!r} is no name")
    if default is None and parameters.get("allow_empty_key", True):
        default = next(iter(routes), None)
    unknown = {default, *mappings.values()} - {None, *routes}
    if not routes or unknown:
        raise CorruptModel(
            f"{folder}: there is no route {', '.join(map(repr, unknown)) or 'at all'}; "
            f"routes: {', '.join(routes) or 'none'}"
        )
    if any(step.kind in ROUTERS for steps in routes.values() for step in steps):
        raise UnsupportedModel(f"{folder}: a Router beside or within a Router")
    return Routing(routes, default, mappings)


def _mappings(folder: Path, saved: Mapping[str, str]) -> Iterator[tuple[tuple[Any, Any], str]]:
    """`"('query', 'text')": route`, as Python wrote a pair of texts or None."""
    for spelled, route in saved.items():
        if len(spelled) > MAX_PAIR_CHARS:
            raise CorruptModel(f"{folder}: route_mappings: a pair of {len(spelled)} characters")
        try:
            side, modality = ast.literal_eval(spelled)
            hash((side, modality))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise CorruptModel(f"{folder}: route_mappings: {spelled!r} is no pair") from error
        yield (side, modality), str(route)


def read_speech(root: Path) -> Speech:
    """How to speak to the model.

    Raises:
        UnsupportedModel: a field that would change the model's vectors.
        CorruptModel: prompts that are none, or a default that is not among them.
    """
    path = root / "config_sentence_transformers.json"
    config = read_json(path)
    for name, computed in (("model_type", "SentenceTransformer"), ("truncate_dim", None)):
        if config.get(name) not in (None, computed):
            raise UnsupportedModel(f"{path}: {name} {config[name]!r} is not {computed!r}")
    similarity = str(config.get("similarity_fn_name") or "cosine")
    if similarity not in SIMILARITIES:
        raise UnsupportedModel(
            f"{path}: similarity_fn_name is {similarity!r}; "
            f"Fledge compares by {', '.join(SIMILARITIES)}"
        )
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(
        isinstance(text, str | None) for text in prompts.values()
    ):
        raise CorruptModel(f"{path}: prompts must be texts by name")
    default = config.get("default_prompt_name")
    if default is not None and str(default) not in prompts:
        raise CorruptModel(f"{path}: default_prompt_name {default!r} is no prompt")
    return Speech(
        prompts={str(name): text or "" for name, text in prompts.items()},
        default_prompt_name=None if default is None else str(default),
        similarity=SIMILARITIES[similarity],
    )
