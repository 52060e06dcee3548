"""The application: routes, layers and documents put together around a service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from fledge.api import batch_documents, documents
from fledge.api.admin import Admin
from fledge.api.batches import Batches
from fledge.api.errors import HUGGING_FACE, OPENAI
from fledge.api.files import Files
from fledge.api.hub import Hub
from fledge.api.huggingface import INFERENCE
from fledge.api.keys import Keys
from fledge.api.legacy import Legacy
from fledge.api.middleware.authenticate import Authenticate
from fledge.api.middleware.draining import Drain, RefuseWhileDraining
from fledge.api.middleware.failures import AnswerFailures
from fledge.api.middleware.observe import Observe
from fledge.api.middleware.origin import CheckOrigin
from fledge.api.models import Models
from fledge.api.openai import EMBEDDINGS
from fledge.api.providers import Providers
from fledge.api.rerank import RERANK, RERANK_V1
from fledge.api.routing import LeanApp, add_routes, speaking, unless_client_leaves
from fledge.api.runner import Runner
from fledge.api.system import System
from fledge.api.usage import Usage
from fledge.batches.store import BatchStore
from fledge.service import Service
from fledge.settings import Settings
from fledge.telemetry.notes import fledge_version
from fledge.telemetry.traces import Tracing

_EXPOSED_HEADERS = (
    "link",
    "openai-processing-ms",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "retry-after-ms",
    "www-authenticate",
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
    "x-fledge-cache-hits",
    "x-fledge-cost",
    "x-fledge-error",
    "x-fledge-ignored",
    "x-fledge-prompt",
    "x-fledge-provider",
    "x-fledge-truncated",
    "x-fledge-warning",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
    "x-sha",
    "x-should-retry",
)

# `Observe` does it. FastAPI's own would send what it finds in the environment's variables.
_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}


def create_app(
    service: Service,
    settings: Settings,
    drain: Drain | None = None,
    tracing: Tracing | None = None,
    batches: BatchStore | None = None,
) -> FastAPI:
    """The application that serves a service; its end closes the service, and the tracing.

    Args:
        drain: how whoever runs it tells it that it is about to be stopped.
        tracing: where traces go; None: nowhere.
        batches: files and batches, which run beside what is served; None: there are none.
    """
    drain = drain or Drain()
    runs = None
    if batches is not None:
        runs = Batches(batches, service, settings, is_draining=lambda: drain.has_begun)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            async with runs.running() if runs is not None else nullcontext():
                yield
        finally:
            try:
                await service.aclose()
            finally:
                if tracing is not None:
                    await tracing.aclose()

    metrics = service.metrics
    app = LeanApp(
        title="Fledge",
        version=fledge_version(),
        description="Text to vectors, behind the APIs that embedding clients already speak.",
        # Both come from `System`: FastAPI's own page loads its scripts from another host.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=_layers(service, settings, drain, tracing),
        telemetry=_NO_TELEMETRY,
    )
    _add_inference(app, Runner(service, settings, metrics))
    models = Models(service, settings)
    _add_hub(app, Hub(service, settings), Legacy(service))
    _add_models(app, models)
    _add_admin(app, Admin(service, settings, models))
    _add_providers(app, Providers(service, settings))
    if batches is not None and runs is not None:
        _add_batches(app, Files(batches, settings), runs)
    _add_accounts(app, Keys(service, settings), Usage(service, settings))
    _add_system(app, System(service, settings, metrics, app.openapi))
    return app


def _layers(
    service: Service, settings: Settings, drain: Drain, tracing: Tracing | None
) -> list[Middleware]:
    """What every request passes, from the outside in."""
    accounts = service.accounts
    layers = [
        Middleware(Observe, metrics=service.metrics, tracing=tracing),
        Middleware(RefuseWhileDraining, drain=drain),
        Middleware(CheckOrigin, accounts=accounts, settings=settings),
    ]
    if settings.cors_allow_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_allow_origins,
                allow_methods=("GET", "HEAD", "POST", "DELETE"),
                allow_headers=("*",),
                allow_private_network=True,
                expose_headers=_EXPOSED_HEADERS,
            )
        )
    # Inside CORS: a page may ask without a key whether it may ask, and read why it was refused.
    return [
        *layers,
        Middleware(AnswerFailures),
        Middleware(Authenticate, accounts=accounts, settings=settings),
    ]


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
    # As the hub's router has them: its clients name the provider in the path.
    for path in ("/{provider}/v1/embeddings", "/{provider}/v1/openai/embeddings"):
        add_routes(app, "POST", [path], runner.endpoint(EMBEDDINGS))
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


def _add_providers(app: FastAPI, providers: Providers) -> None:
    for method, path, endpoint, document in (
        ("GET", "/admin/providers", providers.list_providers, documents.PROVIDERS),
        ("POST", "/admin/providers/{name}/test", providers.test, documents.TEST_PROVIDER),
    ):
        answer = speaking(OPENAI, endpoint)
        add_routes(app, method, [path], answer, tag="Admin", openapi=document)


def _add_accounts(app: FastAPI, keys: Keys, usage: Usage) -> None:
    """In this order: the path of one key would hide that of its rotation."""
    for method, path, endpoint, document in (
        ("POST", "/admin/keys/{key:path}/rotate", keys.rotate, documents.ROTATE_KEY),
        ("POST", "/admin/keys", keys.create, documents.CREATE_KEY),
        ("GET", "/admin/keys", keys.list_keys, documents.KEYS),
        ("GET", "/admin/keys/{key:path}", keys.show, documents.KEY),
        ("DELETE", "/admin/keys/{key:path}", keys.revoke, documents.KEY),
        ("GET", "/admin/usage", usage.of_all, documents.USAGE_OF_ALL),
        ("GET", "/v1/usage", usage.of_caller, documents.OWN_USAGE),
    ):
        answer = speaking(OPENAI, unless_client_leaves(endpoint))
        add_routes(app, method, [path], answer, tag="Keys and usage", openapi=document)


def _add_batches(app: FastAPI, files: Files, batches: Batches) -> None:
    for method, path, endpoint, document in (
        ("POST", "/v1/files", files.upload, batch_documents.UPLOAD),
        ("GET", "/v1/files", files.list_files, batch_documents.FILES),
        ("GET", "/v1/files/{file_id}", files.retrieve, batch_documents.FILE),
        ("DELETE", "/v1/files/{file_id}", files.delete, batch_documents.FILE_DELETED),
        ("GET", "/v1/files/{file_id}/content", files.content, batch_documents.FILE_CONTENT),
        ("POST", "/v1/batches", batches.create, batch_documents.CREATE_BATCH),
        ("GET", "/v1/batches", batches.list_batches, batch_documents.BATCHES),
        ("GET", "/v1/batches/{batch_id}", batches.retrieve, batch_documents.BATCH),
        ("POST", "/v1/batches/{batch_id}/cancel", batches.cancel, batch_documents.BATCH),
    ):
        answer = speaking(OPENAI, unless_client_leaves(endpoint))
        add_routes(app, method, [path], answer, tag="Files and batches", openapi=document)


def _add_system(app: FastAPI, system: System) -> None:
    for path, endpoint, document in (
        ("/health", system.health, documents.HEALTH),
        ("/health/live", system.live, None),
        ("/health/ready", system.ready, documents.HEALTH),
        ("/info", system.info, None),
        ("/metrics", system.metrics, None),
    ):
        add_routes(app, "GET", [path], endpoint, tag="System", openapi=document)
    for path, endpoint in (
        ("/", system.root),
        ("/docs", system.docs),
        ("/openapi.json", system.openapi),
    ):
        add_routes(app, "GET", [path], endpoint)
