"""Settings -> objects: the one place that knows every concrete class.

The engine is looked up by name when it is first needed, because importing OpenVINO takes a third
of a second that `fledge --help` should not cost.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.accounts.accounts import Accounts
from fledge.catalog.catalog import Catalog, nothing_more
from fledge.catalog.models_dir import ModelsDir
from fledge.catalog.shipped import shipped_entries
from fledge.errors import SettingsError, UnknownModel
from fledge.names import format_bytes, is_loopback
from fledge.remotes import enabled_providers, listed_providers, with_providers
from fledge.service import Service
from fledge.settings import Settings
from fledge.settings_fields import ModelSettings
from fledge.stores import NO_DATABASE, open_accounts, open_cache
from fledge.switching import open_switchboard, provider_states, router_options
from fledge.telemetry.metrics import Metrics
from fledge.telemetry.traces import check_tracing
from fledge.types import ModelEntry, Precision

if TYPE_CHECKING:
    from fledge.engine.cpu import CpuFeatures
    from fledge.engine.hub import HubState
    from fledge.engine.lifecycle.lifecycle import Lifecycle
    from fledge.engine.lifecycle.ports import LifecycleOptions
    from fledge.engine.loader import LocalLoader
    from fledge.engine.recipe import Recipe
    from fledge.engine.routes import RunningModel
    from fledge.engine.sources import Available, ModelFolder


FOR_EVER = -1.0


def _engine(module: str) -> Any:
    """A module of the engine: the single lazy import of the project."""
    return importlib.import_module(f"fledge.engine.{module}")


def load_model(settings: Settings) -> "RunningModel":
    """Load the first model of the settings, for a program that wants no other. Blocks meanwhile.

    Raises:
        SettingsError: there is no model to load.
        ModelLoadError: it cannot be found or loaded.
    """
    entry = _served(settings)[0]
    catalog = Catalog([entry, *_models_in(settings.models_dir), *shipped_entries()])
    own = {name: one for name, one in settings.model.items() if _leads_to(entry, name, catalog)}
    sections = _sections(settings.model_copy(update={"model": own}), catalog)
    loader = _loader(settings, sections, Metrics())
    model: RunningModel = loader.load(loader.find(entry, _any_size))
    return model


def _leads_to(entry: ModelEntry, name: str, catalog: Catalog) -> bool:
    try:
        return catalog.find(name) is entry
    except UnknownModel:
        return False


def _any_size(_: int) -> None:
    """A program that loads one model may give it whatever there is."""


def build_service(settings: Settings) -> Service:
    """Put the service over the catalogue, with the models of the settings loaded, as they say.

    Raises:
        SettingsError: there is no model to serve, two would answer to one id, or strangers would
            reach a server that asks nobody for a key.
        DatabaseUnavailable: the accounts cannot be reached.
        ModelLoadError: one that is to be loaded cannot be; those loaded before it are let go.
    """
    check_tracing(settings.otlp_endpoint)
    if settings.models_dir and not settings.models_dir.expanduser().is_dir():
        raise SettingsError(f"models_dir: there is no folder {settings.models_dir}")
    # Before the catalogue, which could only say of an unknown one that it has no models.
    remotes = enabled_providers(settings)
    served = _served(settings)
    catalog = _catalog(settings, served)
    check_names(settings, catalog)
    router_options(settings, catalog, remotes)  # refused before anything is loaded
    metrics = Metrics()
    lifecycle = _lifecycle(settings, catalog, served, metrics)
    with ThreadPoolExecutor(1, "fledge-accounts") as pool:
        # Beside the models: SQLAlchemy takes as long to import as a small one to load.
        opening = pool.submit(open_accounts, settings)
        try:
            if not settings.no_auth and not is_loopback(settings.host):
                check_exposure(settings, opening.result())
            for entry in served if settings.preload else ():
                if entry.runs_locally:
                    lifecycle.load_now(entry)
            accounts, cache = opening.result(), open_cache(settings)
        except BaseException:
            lifecycle.close_now()
            if opening.exception() is None:
                opening.result().close()
            raise
    service = Service(catalog, lifecycle, settings, metrics=metrics, cache=cache, accounts=accounts)
    if remotes:
        spent = accounts.spent_this_month()
        switchboard = open_switchboard(
            settings, catalog, lifecycle, remotes, spent, metrics.providers
        )
        accounts.follow_spending(switchboard.spending.learn)
        metrics.providers.show(lambda: provider_states(switchboard, catalog.entries()))
        service.switch_through(switchboard)
        service.providers_of = lambda entry: listed_providers(
            entry, switchboard.router.states(entry)
        )
    return service


def check_exposure(settings: Settings, accounts: Accounts) -> None:
    """Refuse to listen where strangers can reach a server that asks nobody for a key.

    Raises:
        SettingsError: there is no key, and the address is not loopback.
    """
    if not accounts.has_keys:
        missing = (
            "since database_url is none, and so there are no keys: set it"
            if settings.database_url == NO_DATABASE
            else "since there is no key yet: make one with `fledge keys create NAME`"
        )
        raise SettingsError(
            f"listening on {settings.host} would let anybody who reaches it use this server, "
            f"{missing}, keep to 127.0.0.1, or pass --no-auth if something in front of it checks "
            "callers"
        )


def _catalog(settings: Settings, served: Sequence[ModelEntry]) -> Catalog:
    shipped = shipped_entries() if settings.catalog == "shipped" else ()
    look = partial(_models_in, settings.models_dir)
    return Catalog(
        with_providers(settings, [*served, *look(), *shipped]),
        discover=ModelsDir(look) if settings.models_dir else nothing_more,
        # Unset, the service decides for each caller.
        allows_any=settings.allow_any_model is not False,
    )


def _lifecycle(
    settings: Settings, catalog: Catalog, served: Sequence[ModelEntry], metrics: Metrics
) -> "Lifecycle":
    sections = _sections(settings, catalog)
    pinned = {catalog.find(name).id for name in settings.pinned}
    loader = _loader(settings, sections, metrics)
    memory = _engine("memory")
    lifecycle: Lifecycle = _engine("lifecycle.lifecycle").Lifecycle(
        loader,
        _lifecycle_options(
            settings,
            keep_alive_s={
                # What was named at the start stays until its memory is needed.
                **{entry.id: FOR_EVER for entry in served},
                **{
                    m: one.keep_alive_s
                    for m, one in sections.items()
                    if one.keep_alive_s is not None
                },
            },
            pinned={*pinned, *(m for m, one in sections.items() if one.pinned)}
            - {m for m, one in sections.items() if one.pinned is False},
            bytes_per_s=loader.bytes_per_s,
        ),
        memory=_engine("lifecycle.ports").Memory(memory.anonymous_bytes, memory.trim),
        observer=metrics.models,
    )
    return lifecycle


def _served(settings: Settings) -> list[ModelEntry]:
    """What the settings name: each model once, however often and in whatever spelling.

    Raises:
        SettingsError: nothing is named, or two folders have the same id, so that requests could
            not tell them apart.
        ModelNotFound: a name is neither a folder's nor a possible id.
    """
    if not settings.models:
        raise SettingsError("models is empty; name at least one model to serve")
    known = Catalog([*_models_in(settings.models_dir), *shipped_entries()])
    by_id: dict[str, ModelEntry] = {}
    for name in settings.models:
        entry = _entry(name, known)
        first = by_id.setdefault(entry.id, entry)
        if first.folder != entry.folder:
            raise SettingsError(
                f"models: {first.folder or first.id} and {entry.folder or entry.id} would both be "
                f"served as {entry.id}; rename the folder, whose name is the model's id, or leave "
                "one out"
            )
    return list(by_id.values())


def _entry(name: str, known: Catalog) -> ModelEntry:
    sources = _engine("sources")
    if folder := sources.local(name):
        return ModelEntry(id=folder.id, folder=folder.path.resolve())
    try:
        return known.find(name)
    except UnknownModel:
        _engine("hub").check_id(name)
        return ModelEntry(id=name)


def _models_in(folder: Path | None) -> list[ModelEntry]:
    if folder is None:
        return []
    found: list[Path] = _engine("sources").models_in(folder.expanduser())
    return [ModelEntry(id=path.name, folder=path) for path in found]


def memory_budget_bytes(settings: Settings) -> int:
    """What loaded models may take together: as the settings say, or a share of what there is."""
    budget: int = settings.memory_budget_bytes or _engine("memory").default_budget_bytes()
    return budget


def _lifecycle_options(
    settings: Settings,
    *,
    keep_alive_s: Mapping[str, float],
    pinned: Set[str],
    bytes_per_s: Callable[[], float],
) -> "LifecycleOptions":
    options: LifecycleOptions = _engine("lifecycle.ports").LifecycleOptions(
        budget_bytes=memory_budget_bytes(settings),
        keep_alive_s=settings.keep_alive_s,
        keep_alive_by_model=keep_alive_s,
        pinned=frozenset(pinned),
        words_by_folder={
            settings.cache_dir.expanduser(): "cache_dir",
            hub_state().cache: "the Hugging Face cache",
            Path.home(): "~",
        },
        bytes_per_s=bytes_per_s,
    )
    return options


def check_names(settings: Settings, catalog: Catalog) -> None:
    """Refuse settings about models that there are none of.

    Raises:
        SettingsError: about all of them, a line each.
    """
    names = [("pinned", name) for name in settings.pinned]
    names += [("model", name) for name in settings.model]
    mistakes = []
    for setting, name in names:
        try:
            catalog.find(name)
        except UnknownModel as error:
            mistakes.append(f"{setting}: {error}")
    if mistakes:
        raise SettingsError("\n".join(mistakes))


def _sections(settings: Settings, catalog: Catalog) -> dict[str, ModelSettings]:
    """The sections of single models by id.

    Raises:
        SettingsError: two are about one model.
    """
    sections: dict[str, ModelSettings] = {}
    names: dict[str, str] = {}
    for name, section in settings.model.items():
        model = catalog.find(name).id
        if model in names:
            raise SettingsError(f"model: {names[model]!r} and {name!r} are both {model}; keep one")
        sections[model], names[model] = section, name
    return sections


def _loader(
    settings: Settings, sections: Mapping[str, ModelSettings], metrics: Metrics
) -> "LocalLoader":
    """Finds and loads models, all of them into one lane."""
    own = {model: one.precision for model, one in sections.items() if one.precision}
    lane = _engine("lane").Lane(
        batch_target_ms=settings.batch_target_ms,
        max_queued_tokens=settings.max_queued_tokens,
        observer=metrics.engine,
    )
    metrics.engine.show(lane)

    def load_transformer(
        source: "ModelFolder", recipe: "Recipe", precision: Precision
    ) -> "RunningModel":
        model: RunningModel = _engine("backend").load_transformer(  # which imports OpenVINO
            source,
            recipe,
            lane=lane,
            precision=precision,
            threads=settings.threads,
            cache_dir=settings.cache_dir,
        )
        return model

    loader: LocalLoader = _engine("loader").LocalLoader(
        load_transformer=load_transformer,
        precision_of=lambda model: own.get(model, settings.precision),
        max_queued_tokens=settings.max_queued_tokens,
    )
    return loader


def pull(model: str, settings: Settings) -> Path:  # noqa: ARG001 - the hub's own variables decide
    """Download a model, unless it is here already, and say where it is.

    Raises:
        ModelLoadError: it cannot be found or fetched.
    """
    entry = _entry(model, Catalog(shipped_entries()))
    path: Path = entry.folder or _engine("sources").pull(entry.id).path
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
        ("memory for models", format_bytes(memory_budget_bytes(settings))),
    ]
