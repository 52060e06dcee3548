"""What the OpenAPI document says of files and batches."""

from typing import Any

from fledge.api.batches import BatchBody, BatchesQuery
from fledge.api.files import FilesQuery
from fledge.api.queries import document_query

_COUNT = {"type": "integer"}
_TEXT = {"type": "string"}
_MOMENT = {"type": ["integer", "null"], "description": "Unix seconds"}
_FILE = {
    "type": "object",
    "properties": {
        "id": _TEXT,
        "object": {"const": "file"},
        "bytes": _COUNT,
        "created_at": _MOMENT,
        "expires_at": _MOMENT,
        "filename": _TEXT,
        "purpose": {"enum": ["batch", "batch_output"]},
        "status": {"const": "processed"},
    },
}
_BATCH = {
    "type": "object",
    "properties": {
        "id": _TEXT,
        "object": {"const": "batch"},
        "endpoint": _TEXT,
        "model": {"type": ["string", "null"]},
        "errors": {"type": ["object", "null"]},
        "input_file_id": _TEXT,
        "completion_window": _TEXT,
        "status": _TEXT,
        "output_file_id": {"type": ["string", "null"]},
        "error_file_id": {"type": ["string", "null"]},
        "created_at": _MOMENT,
        "expires_at": _MOMENT,
        "completed_at": _MOMENT,
        "request_counts": {
            "type": "object",
            "properties": {"total": _COUNT, "completed": _COUNT, "failed": _COUNT},
        },
        "metadata": {"type": ["object", "null"]},
    },
}


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT}


def _answers(schema: dict[str, Any], media_type: str = "application/json") -> dict[str, Any]:
    content = {media_type: {"schema": schema}}
    return {"responses": {"200": {"description": "The answer", "content": content}}}


def _page(schema: dict[str, Any]) -> dict[str, Any]:
    properties = {
        "object": {"const": "list"},
        "data": {"type": "array", "items": schema},
        "first_id": {"type": ["string", "null"]},
        "last_id": {"type": ["string", "null"]},
        "has_more": {"type": "boolean"},
    }
    return _answers({"type": "object", "properties": properties})


UPLOAD: dict[str, Any] = {
    "description": "Keep a file of requests for a batch, one a line.",
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"const": "batch"},
                        "expires_after[anchor]": {"const": "created_at"},
                        "expires_after[seconds]": _COUNT,
                    },
                }
            }
        },
    },
    **_answers(_FILE),
}
FILES = document_query(FilesQuery) | _page(_FILE)
FILE = {"parameters": [_path("file_id")]} | _answers(_FILE)
FILE_DELETED = {"parameters": [_path("file_id")]} | _answers(
    {"type": "object", "properties": {"id": _TEXT, "deleted": {"type": "boolean"}}}
)
FILE_CONTENT = {"parameters": [_path("file_id")]} | _answers(
    {"type": "string", "format": "binary"}, "application/octet-stream"
)
CREATE_BATCH: dict[str, Any] = {
    "description": "Answer every request of a file within 24 hours, behind all that somebody "
    "waits for.",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": BatchBody.model_json_schema(),
                "example": {
                    "input_file_id": "file-0123456789abcdef0123456789abcdef",
                    "endpoint": "/v1/embeddings",
                    "completion_window": "24h",
                },
            }
        },
    },
    **_answers(_BATCH),
}
BATCHES = document_query(BatchesQuery) | _page(_BATCH)
BATCH = {"parameters": [_path("batch_id")]} | _answers(_BATCH)
