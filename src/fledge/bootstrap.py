"""Settings -> objects: the one place that knows every concrete class.

The engine is looked up by name when it is first needed, because importing OpenVINO takes a third
of a second that `fledge --help` should not cost.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.errors import SettingsError
from fledge.service import Service
from fledge.settings import Settings

if TYPE_CHECKING:
    from fledge.engine.cpu import CpuFeatures
    from fledge.engine.hub import HubState
    from fledge.engine.recipe import Recipe
    from fledge.engine.routes import RunningModel
    from fledge.engine.sources import Available, ModelFolder


def _engine(module: str) -> Any:
    """A module of the engine: the single lazy import of the project."""
    return importlib.import_module(f"fledge.engine.{module}")


def build_service(settings: Settings) -> Service:
    """Load every model of the settings and put the service over them. Blocks while it loads.

    Raises:
        SettingsError: there is no model to load, or two would answer to one id.
        ModelLoadError: a model cannot be found or loaded; those loaded before it are let go.
    """
    if not settings.models:
        raise SettingsError("models is empty; name at least one model to serve")
    sources = _different([_engine("sources").find(model) for model in settings.models])
    lane = _engine("lane").Lane(
        batch_target_ms=settings.batch_target_ms, max_queued_tokens=settings.max_queued_tokens
    )

    def load_transformer(source: "ModelFolder", recipe: "Recipe") -> "RunningModel":
        model: RunningModel = _engine("backend").load_transformer(  # which imports OpenVINO
            source,
            recipe,
            lane=lane,
            precision=settings.precision,
            threads=settings.threads,
            cache_dir=settings.cache_dir,
        )
        return model

    backends: list[RunningModel] = []
    try:
        for source in sources:
            backends.append(  # noqa: PERF401 - what was loaded must be known when the next fails
                _engine("loading").load_backend(
                    source,
                    load_transformer=load_transformer,
                    max_queued_tokens=settings.max_queued_tokens,
                )
            )
    except BaseException:
        _engine("routes").close_all(backends)
        raise
    return Service(backends, settings)


def _different(sources: Sequence["ModelFolder"]) -> list["ModelFolder"]:
    """Each model once, however often and in whatever spelling it was named.

    Raises:
        SettingsError: two folders have the same id, so that requests could not tell them apart.
    """
    by_id: dict[str, ModelFolder] = {}
    for source in sources:
        first = by_id.setdefault(source.id, source)
        if first.path.resolve() != source.path.resolve():
            raise SettingsError(
                f"models: {first.path} and {source.path} would both be served as {source.id}; "
                "rename one of the folders, whose name is the model's id, or leave one out"
            )
    return list(by_id.values())


def pull(model: str, settings: Settings) -> Path:  # noqa: ARG001 - the hub's own variables decide
    """Download a model, unless it is here already, and say where it is.

    Raises:
        ModelLoadError: it cannot be found or fetched.
    """
    path: Path = _engine("sources").pull(model).path
    return path


def describe_models(settings: Settings) -> list[tuple[str, str, int]]:  # noqa: ARG001 - likewise
    """Every model that is on this machine: its id, where it is from, its size in bytes."""
    found: Sequence[Available] = _engine("sources").available()
    return [(one.folder.id, one.folder.origin, one.size_bytes) for one in found]


def hub_state() -> "HubState":
    """Which hub is asked, and whether it may be, for people to see."""
    state: HubState = _engine("hub").state()
    return state


def describe_machine(settings: Settings) -> list[tuple[str, str]]:
    """What the machine has, and what Fledge makes of it: rows of a name and a text."""
    cpu = _engine("cpu")
    features: CpuFeatures = cpu.detect()
    decision = cpu.choose_precision(settings.precision, features)
    return [
        *features.describe(),
        ("device", "CPU, through OpenVINO"),
        ("precision", f"{decision.chosen}: {decision.reason}"),
        ("threads", str(settings.threads or features.usable_cores)),
    ]
