"""What the OpenAPI document says of each operation: bodies, queries, examples, answers, errors.

Schemas of bodies come from the models that parse them; the rest is prose.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fledge.api.admin import LoadQuery
from fledge.api.bodies import Body
from fledge.api.hub import HubModelQuery, HubQuery
from fledge.api.huggingface import InferenceBody
from fledge.api.keys import KeyBody, KeysQuery, RotateBody
from fledge.api.models import ModelsQuery
from fledge.api.openai import EmbeddingsBody
from fledge.api.providers import TestQuery
from fledge.api.queries import document_query
from fledge.api.rerank import RerankBody
from fledge.api.usage import OwnUsageQuery, UsageOfAllQuery

_MODEL_ID: dict[str, Any] = {
    "name": "model_id",
    "in": "path",
    "required": True,
    "description": "A model's id, `org/name`.",
    "schema": {"type": "string"},
}
_TASK: dict[str, Any] = {
    "name": "task",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "enum": ["feature-extraction", "sentence-similarity"]},
}
_VECTOR = {"type": "array", "items": {"type": "number"}}
_HUGGING_FACE_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "error_type": {"type": "string"}},
}
_OPENAI_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def _document(
    description: str,
    body: type[Body],
    example: dict[str, Any],
    answer: dict[str, Any],
    error: dict[str, Any],
) -> dict[str, Any]:
    return {
        "description": description,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": body.model_json_schema(), "example": example}
            },
        },
        "responses": {
            "200": {
                "description": "The answer",
                "content": {"application/json": {"schema": answer}},
            },
            "default": {
                "description": "An error",
                "content": {"application/json": {"schema": error}},
            },
        },
    }


def _answers(
    answer: dict[str, Any], *, other: Mapping[str, dict[str, Any]] = MappingProxyType({})
) -> dict[str, Any]:
    """What comes of a request without a body, also in other forms than JSON."""
    content = {"application/json": {"schema": answer}} | dict(other)
    error = {"application/json": {"schema": _OPENAI_ERROR}}
    return {
        "responses": {
            "200": {"description": "The answer", "content": content},
            "default": {"description": "An error", "content": error},
        }
    }


EMBEDDINGS = _document(
    "Embeddings, as OpenAI's API gives them. Text that is too long for the model is refused "
    "unless `truncate` says to cut it.",
    EmbeddingsBody,
    {"input": ["Today is a sunny day", "It is raining"]},
    {
        "type": "object",
        "properties": {
            "object": {"const": "list"},
            "data": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "object": {"const": "embedding"},
                        "index": {"type": "integer"},
                        "embedding": {"anyOf": [_VECTOR, {"type": "string"}]},
                    },
                },
            },
            "model": {"type": "string"},
            "usage": {
                "type": "object",
                "properties": {
                    "prompt_tokens": {"type": "integer"},
                    "total_tokens": {"type": "integer"},
                },
            },
        },
    },
    _OPENAI_ERROR,
)
_INFERENCE = _document(
    "Embeddings as an array of arrays, or similarity scores, as Hugging Face's API gives them: "
    "the body decides. Text that is too long for the model is cut unless `truncate` is false "
    'or "NONE".',
    InferenceBody,
    {"inputs": ["Today is a sunny day", "It is raining"]},
    {"anyOf": [{"type": "array", "items": _VECTOR}, _VECTOR]},
    _HUGGING_FACE_ERROR,
)
DEFAULT_INFERENCE = _INFERENCE
MODEL_INFERENCE = _INFERENCE | {"parameters": [_MODEL_ID]}
TASK_INFERENCE = _INFERENCE | {"parameters": [_MODEL_ID, _TASK]}
RERANK = _document(
    "Documents ordered by their similarity to a query, best first.",
    RerankBody,
    {"query": "What is the weather like?", "documents": ["It is raining", "I like tea"]},
    {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"index": {"type": "integer"}, "score": {"type": "number"}},
        },
    },
    _HUGGING_FACE_ERROR,
)
HEALTH = {
    "responses": {
        str(status): {
            "description": meaning,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "status": {"enum": words},
                            "reasons": {
                                "type": "object",
                                "additionalProperties": {"type": "string"},
                            },
                        },
                    }
                }
            },
        }
        for status, meaning, words in (
            (200, "It is well", ["ok"]),
            (503, "It is not, and why", ["unavailable", "draining"]),
        )
    }
}
MODELS = document_query(ModelsQuery)
MODEL = {"parameters": [_MODEL_ID]}
HUB_MODELS = document_query(HubQuery)
HUB_MODEL = document_query(HubModelQuery, [_MODEL_ID])
LOAD = document_query(LoadQuery, [_MODEL_ID])
ADMIN = {"parameters": [_MODEL_ID]}
_PROVIDER_STATE: dict[str, Any] = {
    "status": {"enum": ["live", "error"]},
    "latency_ms": {"type": "number"},
    "space": {
        "enum": ["same", "differs", "unknown", "reference"],
        "description": "Whether its vectors are those of the model's first deployment.",
    },
    "cosine": {"type": "number"},
    "differences": {"type": "array", "items": {"type": "string"}},
    "error": {"type": "string"},
}
_MONEY: dict[str, Any] = {
    "type": "number",
    "description": "In the currency in which the settings give prices.",
}
PROVIDERS = _answers(
    {
        "type": "object",
        "properties": {
            "object": {"const": "list"},
            "data": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "provider": {"type": "string"},
                        "status": {"enum": ["live", "error"]},
                        "spent": _MONEY,
                        "budget_left": _MONEY,
                        "price_per_million_tokens": _MONEY,
                        "models": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "id": {"type": "string"},
                                    "provider_id": {"type": "string"},
                                    **_PROVIDER_STATE,
                                    "successes": {"type": "integer"},
                                    "failures": {"type": "integer"},
                                    "running": {"type": "integer"},
                                    "rest_s": {"type": "number"},
                                    "last_error": {"type": "string"},
                                    "last_error_ago_s": {"type": "number"},
                                    "last_status": {"type": "integer"},
                                },
                            },
                        },
                    },
                },
            },
        },
    }
)
_PROVIDER: dict[str, Any] = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "The provider's name, as the settings have it.",
    "schema": {"type": "string"},
}
TEST_PROVIDER = document_query(TestQuery, [_PROVIDER]) | _answers(
    {
        "type": "object",
        "properties": {
            "provider": {"type": "string"},
            "model": {"type": "string"},
            "provider_id": {"type": "string"},
            **_PROVIDER_STATE,
            "dimension": {"type": "integer"},
            "texts": {"type": "integer"},
            "tokens": {"type": "integer"},
            "cost": _MONEY,
            "compared_with": {"type": ["string", "null"]},
        },
    }
)
_KEY: dict[str, Any] = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "A key's name or its id.",
    "schema": {"type": "string"},
}
_KEY_FIELDS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "name": {"type": "string"},
        "state": {"type": "string", "enum": ["active", "expired", "revoked"]},
        "hint": {"type": "string", "description": "How its secret begins and ends."},
        "scopes": {"type": "array", "items": {"type": "string"}},
        "models": {"type": "array", "items": {"type": "string"}},
        "created": {"type": "string", "format": "date-time"},
        "expires": {"type": ["string", "null"], "format": "date-time"},
        "revoked": {"type": ["string", "null"], "format": "date-time"},
        "requests_per_minute": {"type": ["integer", "null"]},
        "tokens_per_minute": {"type": ["integer", "null"]},
        "concurrent_requests": {"type": ["integer", "null"]},
        "monthly_token_budget": {"type": ["integer", "null"]},
        "monthly_budget": {"type": ["number", "null"], "description": "Money."},
    },
}
_KEY_WITH_SECRET: dict[str, Any] = {
    "type": "object",
    "properties": _KEY_FIELDS["properties"]
    | {"secret": {"type": "string", "description": "What callers send. It is told this once."}},
}
_USAGE_NAMES = ("day", "key_id", "key_name", "model", "deployment", "bill_to")
_USAGE_SUMS = ("requests", "texts", "tokens", "cache_hits", "errors", "cost_nanos")
_USAGE_ROW: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in _USAGE_NAMES}
    | {name: {"type": "integer"} for name in _USAGE_SUMS}
    | {
        "compute_seconds": {"type": "number"},
        "cost": {"type": "number", "description": "`cost_nanos` in money."},
    },
}
_CREATED = _document(
    "Make a key. Its secret is in this answer and in no other.",
    KeyBody,
    {"name": "team", "models": ["BAAI/*"], "expires": "30d", "requests_per_minute": 600},
    _KEY_WITH_SECRET,
    _OPENAI_ERROR,
)
CREATE_KEY = _CREATED | {
    "responses": {
        "201": _CREATED["responses"]["200"],
        "default": _CREATED["responses"]["default"],
    }
}
ROTATE_KEY = _document(
    "Give a key a new secret. Id, name, limits and usage stay; the body may be left out.",
    RotateBody,
    {"grace_s": 3600},
    _KEY_WITH_SECRET,
    _OPENAI_ERROR,
) | {"parameters": [_KEY]}
KEYS = document_query(KeysQuery) | _answers(
    {
        "type": "object",
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": _KEY_FIELDS},
        },
    }
)
KEY = {"parameters": [_KEY]} | _answers(_KEY_FIELDS)
_USAGE = _answers(
    {
        "type": "object",
        "properties": {
            "object": {"const": "list"},
            "since": {"type": "string", "format": "date"},
            "until": {"type": "string", "format": "date"},
            "group_by": {"type": "array", "items": {"type": "string"}},
            "data": {"type": "array", "items": _USAGE_ROW},
            "has_more": {"type": "boolean"},
        },
    },
    other={"text/csv": {"schema": {"type": "string"}}},
)
USAGE_OF_ALL = document_query(UsageOfAllQuery) | _USAGE
OWN_USAGE = document_query(OwnUsageQuery) | _USAGE
