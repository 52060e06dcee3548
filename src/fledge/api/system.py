"""Routes about the server itself: health, `/info`, `/metrics`, `/docs`, `/openapi.json`, `/`."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fledge.api.docs import POLICY, docs_page
from fledge.api.middleware.authenticate import needs_keys
from fledge.api.rendering import JsonResponse, dump
from fledge.errors import DatabaseUnavailable
from fledge.service import Service
from fledge.settings import Settings
from fledge.telemetry.metrics import METRICS_CONTENT_TYPE, Metrics
from fledge.telemetry.notes import fledge_version
from fledge.types import ModelCard


class System:
    """What the server tells of itself.

    `openapi` makes the OpenAPI document: it is asked for late, once every route is there.
    """

    def __init__(
        self,
        service: Service,
        settings: Settings,
        metrics: Metrics,
        openapi: Callable[[], dict[str, Any]],
    ) -> None:
        self._service = service
        self._settings = settings
        self._metrics = metrics
        self._openapi = openapi

    async def root(self, _: Request) -> Response:
        """What answers here, and where to read on."""
        about: dict[str, Any] = {"name": "fledge", "version": fledge_version()}
        # Where keys are asked for, this may be read without one, and names nothing of their models.
        if not needs_keys(self._service.accounts, self._settings):
            listed = self._service.models()
            about["models"] = [one.id for one in listed if one.status.state == "warm"]
        return JsonResponse(dump(about | {"docs": "/docs", "health": "/health"}))

    async def health(self, _: Request) -> Response:
        """200 when this instance can take work, else 503 and why not.

        A cold model, or one that failed to load, keeps nobody from using the others.
        """
        return _health(self._service.problems())

    async def live(self, _: Request) -> Response:
        """200 as long as the process answers at all: one that does not must be restarted."""
        return _health({})

    async def ready(self, _: Request) -> Response:
        """200 when requests may be sent here, else 503 and why not.

        Not while the compute lane is dead or stuck, while the keys of callers cannot be checked,
        or once the server is being stopped.
        """
        return _health(self._service.problems() | self._key_problems())

    def _key_problems(self) -> dict[str, str]:
        """Whether keys are needed and none can be checked: found by asking, as a request would."""
        accounts = self._service.accounts
        try:
            if needs_keys(accounts, self._settings):
                accounts.find("")
        except DatabaseUnavailable as error:
            return {"keys": str(error)}
        return {}

    async def info(self, _: Request) -> Response:
        """The server's version, its running models and its limits."""
        settings = self._settings
        return JsonResponse(
            dump(
                {
                    "name": "fledge",
                    "version": fledge_version(),
                    "models": [
                        _facts(one.status.card) | {"state": one.status.state}
                        for one in self._service.models()
                        if one.status.card is not None and one.status.state != "cold"
                    ],
                    "limits": {
                        "max_inputs_per_request": settings.max_inputs_per_request,
                        "max_tokens_per_request": settings.max_tokens_per_request,
                        "max_body_bytes": settings.max_body_bytes,
                        "max_queued_tokens": settings.max_queued_tokens,
                        "request_timeout_s": settings.request_timeout_s,
                    },
                }
            )
        )

    async def metrics(self, _: Request) -> Response:
        """Counters and histograms, in the Prometheus text format."""
        return Response(self._metrics.render(), headers={"content-type": METRICS_CONTENT_TYPE})

    async def openapi(self, _: Request) -> Response:
        """The OpenAPI document of this server."""
        return JsonResponse(dump(self._openapi()))

    async def docs(self, _: Request) -> Response:
        """The same for people: one page that loads nothing else."""
        return Response(
            self._docs_page,
            media_type="text/html",
            headers={"content-security-policy": POLICY, "x-content-type-options": "nosniff"},
        )

    @cached_property
    def _docs_page(self) -> str:
        return docs_page(self._openapi())


def _health(reasons: Mapping[str, str]) -> Response:
    if reasons:
        body = {"status": "unavailable", "reasons": reasons}
        return JsonResponse(dump(body), status_code=503)
    return JsonResponse(dump({"status": "ok"}))


def _facts(card: ModelCard) -> dict[str, Any]:
    """A card for the public. Where its files lie is for the log of the server alone."""
    return {
        "id": card.id,
        "revision": card.revision,
        "family": card.family,
        "precision": card.precision,
        "dimension": card.dimension,
        "max_seq_length": card.max_seq_length,
        "vocab_size": card.vocab_size,
        "pooling": list(card.pooling),
        "prompts": dict(card.prompts),
        "default_prompt_name": card.default_prompt_name,
        "similarity": card.similarity,
        "normalizes": card.normalizes,
        "matryoshka_dimensions": list(card.matryoshka_dimensions),
    }
