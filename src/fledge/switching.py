"""Settings -> the switchboard: where every model may run, and what is asked in which order."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack

from fledge.catalog.catalog import Catalog
from fledge.errors import SettingsError, UnknownModel
from fledge.providers.backend import ProviderBackend
from fledge.providers.client import ProviderClient
from fledge.remotes import Remote
from fledge.routing.observing import UNOBSERVED, Observed, ProviderObserver
from fledge.routing.options import RouterOptions
from fledge.routing.places import LocalPlace, Place, RemotePlace
from fledge.routing.router import Router
from fledge.routing.space_book import SpaceBook, SpaceRules
from fledge.routing.switchboard import Spending, Switchboard
from fledge.routing.verdict_file import VerdictFile
from fledge.routing.wishes import Route, route_of
from fledge.settings import Settings
from fledge.telemetry.states import ProviderHealth, ProviderState, Relation
from fledge.types import LOCAL, Deployments, ModelEntry

VERDICTS = "spaces.json"
"""In `data_dir`: which providers answer in the space of which model."""


class Places:
    """Where models run: here, and at every enabled provider that has them.

    Args:
        deployments: here.
        remotes: the enabled providers, in the order in which they are tried.
        allow_private: whether they may be in this machine's own network.
        observer: told of requests to providers.
    """

    def __init__(
        self,
        deployments: Deployments,
        remotes: Mapping[str, Remote],
        *,
        allow_private: bool,
        observer: ProviderObserver,
    ) -> None:
        self._observer = observer
        self._local = LocalPlace(deployments)
        self._clients = {
            name: ProviderClient(one.provider, allow_private=allow_private)
            for name, one in remotes.items()
        }
        self._remote: dict[tuple[str, str], RemotePlace] = {}

    def __call__(self, entry: ModelEntry) -> Sequence[Place]:
        """The places of a model, this machine first."""
        here: list[Place] = [self._local] if entry.runs_locally else []
        there = [self._at(name, entry) for name in self._clients if name in entry.provider_ids]
        return [*here, *there]

    def _at(self, name: str, entry: ModelEntry) -> RemotePlace:
        key = name, entry.id
        if key not in self._remote:
            client = self._clients[name]
            backend = ProviderBackend(entry, client, provider_id=entry.provider_ids[name])
            self._remote[key] = RemotePlace(
                name,
                Observed(backend, name, self._observer),
                client.provider.price_nanos_per_million_tokens,
            )
        return self._remote[key]

    async def aclose(self) -> None:
        """Hang up."""
        async with AsyncExitStack() as stack:
            for client in self._clients.values():
                stack.push_async_callback(client.aclose)


def open_switchboard(
    settings: Settings,
    catalog: Catalog,
    deployments: Deployments,
    remotes: Mapping[str, Remote],
    spent: Mapping[str, int],
    observer: ProviderObserver = UNOBSERVED,
) -> Switchboard:
    """The switchboard of the enabled providers. Nobody is asked anything yet.

    Args:
        spent: what each provider has cost this month, in billionths.
        observer: told of requests to providers, and of what they cost.

    Raises:
        SettingsError: a model's route names what is no deployment here.
    """
    places = Places(
        deployments,
        remotes,
        allow_private=settings.allow_private_providers,
        observer=observer,
    )
    budgets = {
        name: one.monthly_budget_nanos
        for name, one in remotes.items()
        if one.monthly_budget_nanos is not None
    }
    spending = Spending(budgets, spent)
    book = SpaceBook(
        SpaceRules(settings.space_check == "refuse", settings.space_min_cosine),
        VerdictFile(settings.data_dir.expanduser() / VERDICTS),
    )
    router = Router(
        places, router_options(settings, catalog, remotes), book, budget_left=spending.left
    )
    return Switchboard(router, tuple(remotes), spending, places.aclose, observer)


def provider_states(switchboard: Switchboard, entries: Iterable[ModelEntry]) -> list[ProviderState]:
    """How every provider stands with its models, for the metrics."""
    healths: dict[str, list[ProviderHealth]] = {name: [] for name in switchboard.providers}
    relations: dict[str, list[Relation]] = {name: [] for name in switchboard.providers}
    for entry in entries:
        if healths.keys().isdisjoint(entry.provider_ids):
            continue
        try:
            places = switchboard.router.states(entry)
        except UnknownModel:
            continue  # its route names nobody who has it
        for place in places:
            if place.name in healths:
                healths[place.name].append(place.health.state)
                relations[place.name].append(place.relation)
    return [
        ProviderState(
            name=name,
            healths=healths[name],
            relations=relations[name],
            budget_left_nanos=switchboard.spending.left(name),
        )
        for name in switchboard.providers
    ]


def router_options(
    settings: Settings, catalog: Catalog, remotes: Mapping[str, Remote]
) -> RouterOptions:
    """What the settings say about routing.

    Raises:
        SettingsError: a model's route names what is no deployment here.
    """
    deployments = frozenset((LOCAL, *remotes))
    routes: dict[str, Route] = {}
    hedges: dict[str, float | None] = {}
    for name, section in settings.model.items():
        model = catalog.find(name).id
        if section.route:
            try:
                routes[model] = route_of(section.route, deployments)
            except ValueError as error:
                raise SettingsError(f'model."{name}".route: {error}') from None
        if section.hedge_after_ms is not None:
            hedges[model] = section.hedge_after_ms / 1000
    hedge_ms = settings.providers.hedge_after_ms
    return RouterOptions(
        routes=routes,
        hedge_after_s=None if hedge_ms is None else hedge_ms / 1000,
        hedge_after_s_by_model=hedges,
    )
