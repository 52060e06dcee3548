"""Admin routes about providers: how each does, and one text sent to find out."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from fledge.accounts.usage import UsageRecord
from fledge.api.admins import check_admin
from fledge.api.listing import known
from fledge.api.middleware.authenticate import caller_of
from fledge.api.queries import Query, Text, parse_query
from fledge.api.rendering import JsonResponse, dump
from fledge.catalog.listed import Listed
from fledge.errors import FledgeError, UnknownModel
from fledge.money import money_of
from fledge.names import quoted
from fledge.routing.router import PlaceState
from fledge.routing.switchboard import Switchboard
from fledge.service import Service
from fledge.settings import Settings
from fledge.types import LOCAL, ModelEntry

NONE_ENABLED = (
    "no provider is enabled here: every model is answered on this machine; the setting "
    "providers.enabled names those that may be asked"
)


class ProvidersQuery(Query):
    """`GET /admin/providers` has no parameters."""


class TestQuery(Query):
    """The parameters of `POST /admin/providers/{name}/test`."""

    __test__ = False  # no test of ours, whatever its name

    model: Text = Field(
        None,
        description="Any name of the model to ask for. Absent: one that is warm here, if there is "
        "one, so that the vectors can be compared; else the first that the provider has.",
    )


class Providers:
    """What is known of the enabled providers. Who may see it is for `check_admin` to say."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._settings = settings

    async def list_providers(self, request: Request) -> Response:
        """Every enabled provider, in the order of the settings."""
        check_admin(request, self._settings)
        notes = parse_query(ProvidersQuery, request).notes(self._settings)
        board = self._service.switchboard
        data = [] if board is None else [self._provider(board, name) for name in board.providers]
        return JsonResponse(dump({"object": "list", "data": data}), headers=notes)

    async def test(self, request: Request) -> Response:
        """Send one text to a provider, and say what came of it: a 200 also where it failed."""
        check_admin(request, self._settings)
        query = parse_query(TestQuery, request)
        notes = query.notes(self._settings)
        name, board = request.path_params["name"], self._service.switchboard
        if board is None:
            raise UnknownModel(NONE_ENABLED)
        if name not in board.providers:
            raise UnknownModel(
                f"no provider {quoted(name)} is enabled here; there are "
                f"{', '.join(board.providers)}"
            )
        one = self._to_ask(board, name, query.model)
        tested = await self._tested(request, board, name, one)
        return JsonResponse(dump(tested), headers=notes)

    def _provider(self, board: Switchboard, name: str) -> dict[str, Any]:
        left = board.spending.left(name)
        found = list(self._models_at(board, name))
        is_live = any(_error(state) is None for _, state in found)
        price = found[0][1].price_nanos_per_million_tokens if found else None
        return {
            "provider": name,
            "status": "live" if is_live else "error",
            "spent": money_of(board.spending.spent(name)),
            **known(
                price_per_million_tokens=None if price is None else money_of(price),
                budget_left=None if left is None else money_of(left),
            ),
            "models": [
                {
                    "id": one.id,
                    "provider_id": one.entry.provider_ids[name],
                    **_state(state),
                }
                for one, state in found
            ],
        }

    def _models_at(self, board: Switchboard, name: str) -> Iterator[tuple[Listed, PlaceState]]:
        """The models that may be asked for there; a model's route may leave a provider out."""
        for one in self._service.models():
            if name in one.entry.provider_ids:
                for state in _states(board, one.entry):
                    if state.name == name:
                        yield one, state

    def _to_ask(self, board: Switchboard, name: str, model: str | None) -> Listed:
        if model is not None:
            return self._service.model(f"{model}:{name}")
        there = [one for one, _ in self._models_at(board, name)]
        if not there:
            raise UnknownModel(f"the routes of all models leave {name} out")
        return next((one for one in there if one.status.state == "warm"), there[0])

    async def _tested(
        self, request: Request, board: Switchboard, name: str, one: Listed
    ) -> dict[str, Any]:
        entry = one.entry
        about = {
            "provider": name,
            "model": entry.id,
            "provider_id": entry.provider_ids.get(name, ""),
        }
        reference = next((state.name for state in _states(board, entry)), LOCAL)
        # A model that is cold is not loaded for it: it may be one of many gigabytes.
        compares = reference != LOCAL or one.status.state == "warm"
        try:
            state, nanos = await board.test(entry, name, compares=compares)
        except UnknownModel:
            raise
        except FledgeError as error:
            return about | {"status": "error", "error": str(error)}
        trial = state.trial
        assert trial is not None  # noqa: S101 - of a place that was tested there is one
        caller = caller_of(request.scope)
        self._service.accounts.count(
            UsageRecord(
                caller.key_id,
                entry.id,
                deployment=name,
                texts=trial.texts,
                tokens=trial.tokens,
                cost_nanos=nanos,
            )
        )
        has_price = state.price_nanos_per_million_tokens is not None
        return {
            **about,
            "status": "live",
            "dimension": trial.dimension,
            "latency_ms": round(trial.latency_ms, 1),
            "texts": trial.texts,
            "tokens": trial.tokens,
            **known(cost=money_of(nanos) if has_price else None),
            "compared_with": None if state.relation == "reference" else reference,
            **_space(state),
        }


def _states(board: Switchboard, entry: ModelEntry) -> list[PlaceState]:
    try:
        return board.router.states(entry)
    except UnknownModel:  # its route leads nowhere
        return []


def _state(state: PlaceState) -> dict[str, Any]:
    health, error = state.health, _error(state)
    return {
        "status": "live" if error is None else "error",
        "successes": health.successes,
        "failures": health.failures,
        "running": health.running,
        **known(
            latency_ms=None if health.request_ms is None else round(health.request_ms, 1),
            rest_s=round(health.rest_s, 1) or None,
            error=error,
        ),
        **_space(state),
        **known(
            last_error=health.last_error,
            last_error_ago_s=_rounded(health.last_error_ago_s),
            last_status=health.last_status,
        ),
    }


def _error(state: PlaceState) -> str | None:
    """Why nothing is sent there now; None: it is."""
    left = state.budget_left_nanos
    if left is not None and left <= 0:
        return "what it may cost this month is spent"
    if state.health.state == "resting":
        return "it rests after failures"
    return None


def _space(state: PlaceState) -> dict[str, Any]:
    verdict = state.verdict
    return {
        "space": state.relation,
        **known(
            cosine=None if verdict is None else round(verdict.least_cosine, 5),
            differences=list(state.differences),
        ),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
