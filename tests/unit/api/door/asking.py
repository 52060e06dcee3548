"""Requests to a server that asks for keys, and what comes of them."""

from typing import Any

from starlette.testclient import TestClient

from fledge.accounts.keys import new_secret

OPENAI_PATHS = ("/v1/embeddings", "/embeddings", "/v1/rerank", "/v1/nothing", "/admin/models/a/pin")
HUGGING_FACE_PATHS = (
    "/",
    "/v1",
    "/models/fledge/fake",
    "/hf-inference/models/fledge/fake/pipeline/feature-extraction",
    "/rerank",
    "/nothing",
)
BODY = {"input": "a", "inputs": "a", "query": "a", "documents": ["b"]}
WRONG = new_secret()


def post(client: TestClient, secret: str, path: str = "/v1/embeddings", **headers: str) -> Any:
    """A request that every route takes, with a key."""
    return client.post(path, json=BODY, headers={"authorization": f"Bearer {secret}", **headers})


def code_of(response: Any) -> tuple[int, str | None]:
    """Its status, and the code of its error, if it is one."""
    return response.status_code, response.headers.get("x-fledge-error")


ALLOWED = (200, None)
REFUSED = (401, "invalid_api_key")
WITHOUT = (401, "missing_api_key")
FORBIDDEN = (403, "forbidden")
