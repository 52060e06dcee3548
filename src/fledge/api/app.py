"""The application: routes, layers and documents put together around a service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from fledge.api import documents
from fledge.api.admin import Admin
from fledge.api.errors import HUGGING_FACE, OPENAI
from fledge.api.hub import Hub
from fledge.api.huggingface import INFERENCE
from fledge.api.legacy import Legacy
from fledge.api.middleware.draining import Drain, RefuseWhileDraining
from fledge.api.middleware.failures import AnswerFailures
from fledge.api.middleware.observe import Observe
from fledge.api.middleware.origin import CheckOrigin
from fledge.api.models import Models
from fledge.api.openai import EMBEDDINGS
from fledge.api.rerank import RERANK, RERANK_V1
from fledge.api.routing import add_routes, answer_unrouted, speaking
from fledge.api.runner import Runner
from fledge.api.system import System
from fledge.service import Service
from fledge.settings import Settings
from fledge.telemetry import Metrics, fledge_version

_EXPOSED_HEADERS = (
    "link",
    "openai-processing-ms",
    "retry-after",
    "retry-after-ms",
    "x-compute-characters",
    "x-compute-time",
    "x-compute-tokens",
    "x-compute-type",
    "x-inference-time",
    "x-load-time",
    "x-queue-time",
    "x-tokenization-time",
    "x-total-time",
    "x-error-code",
    "x-error-message",
    "x-fledge-error",
    "x-fledge-ignored",
    "x-fledge-prompt",
    "x-fledge-truncated",
    "x-fledge-warning",
    "x-request-id",
    "x-sha",
)


def create_app(service: Service, settings: Settings, drain: Drain | None = None) -> FastAPI:
    """The application that serves a service; its end closes the service.

    Args:
        drain: how whoever runs it tells it that it is about to be stopped.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await service.aclose()

    metrics = service.metrics
    app = FastAPI(
        title="Fledge",
        version=fledge_version(),
        description="Text to vectors, behind the APIs that embedding clients already speak.",
        # Both come from `System`: FastAPI's own page loads its scripts from another host.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=_layers(settings, metrics, drain or Drain()),
        exception_handlers={HTTPException: answer_unrouted},
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    _add_inference(app, Runner(service, settings, metrics))
    models = Models(service, settings)
    _add_hub(app, Hub(service, settings), Legacy(service))
    _add_models(app, models)
    _add_admin(app, Admin(service, settings, models))
    _add_system(app, System(service, settings, metrics, app.openapi))
    return app


def _layers(settings: Settings, metrics: Metrics, drain: Drain) -> list[Middleware]:
    """What every request passes, from the outside in."""
    layers = [
        Middleware(Observe, metrics=metrics),
        Middleware(RefuseWhileDraining, drain=drain),
        Middleware(CheckOrigin, settings=settings),
    ]
    if settings.cors_allow_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_allow_origins,
                allow_methods=("GET", "HEAD", "POST"),
                allow_headers=("*",),
                allow_private_network=True,
                expose_headers=_EXPOSED_HEADERS,
            )
        )
    return [*layers, Middleware(AnswerFailures)]


def _add_inference(app: FastAPI, runner: Runner) -> None:
    """Routes are tried in order: the busiest first, and `/models/{id}` after what it would hide."""
    add_routes(
        app,
        "POST",
        ["/v1/embeddings", "/embeddings"],
        runner.endpoint(EMBEDDINGS),
        tag="OpenAI",
        openapi=documents.EMBEDDINGS,
    )
    inference = runner.endpoint(INFERENCE)
    # Clients of the hub post to the very address that they are given: often these.
    add_routes(
        app,
        "POST",
        ["/", "/v1", "/v1/"],
        inference,
        tag="Hugging Face",
        openapi=documents.DEFAULT_INFERENCE,
    )
    for path, document in (
        ("/models/{model_id:path}/pipeline/{task}", documents.TASK_INFERENCE),
        ("/models/{model_id:path}", documents.MODEL_INFERENCE),
        ("/pipeline/{task}/{model_id:path}", documents.TASK_INFERENCE),
    ):
        add_routes(
            app,
            "POST",
            [path, f"/hf-inference{path}"],
            inference,
            tag="Hugging Face",
            openapi=document,
        )
    for path, operation in (("/rerank", RERANK), ("/v1/rerank", RERANK_V1)):
        tag = "Rerank" if operation is RERANK else None
        add_routes(
            app, "POST", [path], runner.endpoint(operation), tag=tag, openapi=documents.RERANK
        )


def _add_models(app: FastAPI, models: Models) -> None:
    add_routes(
        app,
        "GET",
        ["/v1/models", "/models"],
        speaking(OPENAI, models.list_models),
        tag="OpenAI",
        openapi=documents.MODELS,
    )
    add_routes(
        app,
        "GET",
        ["/v1/models/{model_id:path}", "/models/{model_id:path}"],
        speaking(OPENAI, models.retrieve_model),
        tag="OpenAI",
        openapi=documents.MODEL,
    )


def _add_hub(app: FastAPI, hub: Hub, legacy: Legacy) -> None:
    """Before the models' own routes, of which `/models/{id}` would hide `/models/{id}/info`."""
    for path, endpoint, document in (
        ("/api/models", hub.list_models, documents.HUB_MODELS),
        ("/api/models/{model_id:path}/revision/{revision:path}", hub.retrieve_model, None),
        ("/api/models/{model_id:path}", hub.retrieve_model, documents.HUB_MODEL),
        ("/api/tasks", hub.tasks, {}),
        ("/status/{model_id:path}", legacy.status, None),
        ("/framework/{framework}", legacy.framework, None),
        ("/models/{model_id:path}/info", legacy.info, documents.MODEL),
    ):
        tag = None if document is None else "Hugging Face"
        add_routes(app, "GET", [path], speaking(HUGGING_FACE, endpoint), tag=tag, openapi=document)


def _add_admin(app: FastAPI, admin: Admin) -> None:
    for name, endpoint, document in (
        ("load", admin.load, documents.LOAD),
        ("unload", admin.unload, documents.ADMIN),
        ("pin", admin.pin, documents.ADMIN),
        ("unpin", admin.unpin, documents.ADMIN),
    ):
        path = f"/admin/models/{{model_id:path}}/{name}"
        add_routes(app, "POST", [path], speaking(OPENAI, endpoint), tag="Admin", openapi=document)


def _add_system(app: FastAPI, system: System) -> None:
    for path, endpoint in (
        ("/health", system.health),
        ("/info", system.info),
        ("/metrics", system.metrics),
    ):
        add_routes(app, "GET", [path], endpoint, tag="System")
    for path, endpoint in (
        ("/", system.root),
        ("/docs", system.docs),
        ("/openapi.json", system.openapi),
    ):
        add_routes(app, "GET", [path], endpoint)
