"""What the OpenAPI document says of each operation: bodies, queries, examples, answers, errors.

Schemas of bodies come from the models that parse them; the rest is prose.
"""

from typing import Any

from fledge.api.admin import LoadQuery
from fledge.api.bodies import Body
from fledge.api.hub import HubModelQuery, HubQuery
from fledge.api.huggingface import InferenceBody
from fledge.api.models import ModelsQuery
from fledge.api.openai import EmbeddingsBody
from fledge.api.queries import document_query
from fledge.api.rerank import RerankBody

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
MODELS = document_query(ModelsQuery)
MODEL = {"parameters": [_MODEL_ID]}
HUB_MODELS = document_query(HubQuery)
HUB_MODEL = document_query(HubModelQuery, [_MODEL_ID])
LOAD = document_query(LoadQuery, [_MODEL_ID])
ADMIN = {"parameters": [_MODEL_ID]}
