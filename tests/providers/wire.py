"""What each provider answers, byte for byte: bodies of success, and of its own kinds of refusal.

Vectors are a function of the text, so that an answer in the wrong order is a wrong answer. A text
has as many tokens as words, and two more.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from fledge.types import Vectors

Flavour: TypeAlias = Literal[
    "openai", "sambanova", "featherless", "vllm", "infinity", "fledge", "tei", "toolkit",
    "hf-inference", "cohere",
]  # fmt: skip

SPECIAL_TOKENS = 2
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that may yet be spoilt."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, status: int, value: Any, **headers: str) -> "Answer":
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value).encode(), {"content-type": JSON} | named)


@dataclass(slots=True)
class Model:
    """What a fake serves.

    Attributes:
        names: its ids for it; empty: any.
        max_tokens: of one text.
        max_inputs: of one request.
        default_prompt: put before every text by services that do.
        vector: from a text and the dimension to its vector.
    """

    flavour: Flavour
    dimension: int = 8
    max_tokens: int = 512
    max_inputs: int = 2048
    names: Sequence[str] = ()
    default_prompt: str = ""
    vector: Callable[[Any, int], Vectors] = field(default_factory=lambda: vector_of)


def vector_of(item: str | Sequence[int], dimension: int = 8) -> Vectors:
    """The vector of a text, or of token ids, `[dim]`, of length 1."""
    spelled = item if isinstance(item, str) else json.dumps(list(item))
    digest = hashlib.sha256(spelled.encode()).digest()
    numbers = np.random.default_rng(int.from_bytes(digest[:8], "big")).normal(size=dimension)
    return (numbers / np.linalg.norm(numbers)).astype(np.float32)


def tokens_of(item: str | Sequence[int]) -> int:
    return len(item.split()) + SPECIAL_TOKENS if isinstance(item, str) else len(item)


def answer_to(request: Received, model: Model) -> Answer:
    """What the real one would say."""
    if request.method != "POST":
        return Answer(405, b"")
    if request.path.endswith("/v2/embed"):
        return _cohere(request.json, model)
    if request.path.endswith("/embeddings"):
        return _openai(request.json, model)
    return _hugging_face(request, model)


def bad_key(flavour: Flavour) -> Answer:
    """Of a key that is wrong, or no longer right."""
    if flavour in ("tei",):
        return Answer(401, b"")
    if flavour in ("hf-inference", "toolkit"):
        return Answer.of(401, {"error": "Invalid credentials in Authorization header"})
    if flavour == "cohere":
        return Answer.of(401, {"id": "e-1", "message": "invalid api token"})
    error = {
        "message": "Incorrect API key provided: sk-ab***********wxyz. You can find your API key "
        "at https://platform.openai.com/account/api-keys.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
    return Answer.of(401, {"error": error}, x_request_id="req_1")


def too_long(flavour: Flavour, index: int, tokens: int, most: int) -> Answer:
    """Of a text with more tokens than the model takes."""
    if flavour in ("tei", "toolkit", "hf-inference"):
        message = f"Input validation error: `inputs` must have less than {most} tokens. "
        return Answer.of(422, {"error": f"{message}Given: {tokens}", "error_type": "Validation"})
    if flavour == "cohere":
        message = f"too many tokens: max tokens per text cannot exceed {most}, received {tokens}."
        return Answer.of(400, {"id": "e-1", "message": message})
    if flavour == "fledge":
        message = (
            f"`input[{index}]` has {tokens} tokens; this model takes at most {most}: shorten it, "
            "or ask for truncation"
        )
        return _openai_error(400, message, "input_too_long", f"input[{index}]")
    message = (
        f"This model's maximum context length is {most} tokens, however you requested {tokens} "
        f"tokens ({tokens} in your prompt; 0 for the completion). Please reduce your prompt."
    )
    if flavour == "vllm":
        error = {"object": "error", "message": message, "type": "BadRequestError", "param": None}
        return Answer.of(400, error | {"code": 400})
    return _openai_error(400, message, None, None)


def _openai_error(status: int, message: str, code: str | None, param: str | None) -> Answer:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Answer.of(status, {"error": error})


def _openai(body: dict[str, Any], model: Model) -> Answer:
    if model.names and body["model"] not in model.names:
        message = f"The model `{body['model']}` does not exist or you do not have access to it."
        return _openai_error(404, message, "model_not_found", None)
    items = body["input"]
    if len(items) > model.max_inputs:
        message = f"'input' array is too large: at most {model.max_inputs} inputs per request"
        return _openai_error(400, message, None, "input")
    cuts = model.flavour == "infinity" or body.get("truncate") is True
    if not cuts:
        for index, item in enumerate(items):
            if tokens_of(item) > model.max_tokens:
                return too_long(model.flavour, index, tokens_of(item), model.max_tokens)
    side = body.get("truncation_direction", "right")
    whole = [_cut(item, model, side) for item in items]
    is_base64 = body.get("encoding_format") == "base64" and model.flavour != "sambanova"
    data = [
        {
            "embedding": _base64(row) if is_base64 else [float(number) for number in row],
            "index": index,
            "object": "embedding",
        }
        for index, row in enumerate(model.vector(item, model.dimension) for item in whole)
    ]
    count = sum(map(tokens_of, whole))
    if model.flavour == "infinity":
        count = sum(map(len, whole))
    usage = {"prompt_tokens": count, "total_tokens": count}
    cut_count = sum(cut != item for cut, item in zip(whole, items, strict=True))
    is_told = model.flavour == "fledge" and cut_count
    headers = {"x_fledge_truncated": str(cut_count)} if is_told else {}
    answer = {"data": data, "model": body["model"], "object": "list", "usage": usage}
    return Answer.of(200, answer, x_request_id="req_1", **headers)


def _hugging_face(request: Received, model: Model) -> Answer:
    body = request.json
    items = body["inputs"]
    if model.flavour == "hf-inference":
        *_, name = request.path.removesuffix("/pipeline/feature-extraction").split("/models/")
        if model.names and name not in model.names:
            return Answer.of(400, {"error": "Model not supported by provider hf-inference"})
    if len(items) > model.max_inputs:
        message = f"batch size {len(items)} > maximum allowed batch size {model.max_inputs}"
        return Answer.of(422, {"error": message, "error_type": "Validation"})
    if model.flavour == "hf-inference":
        whole = [_cut(model.default_prompt + item, model, "right") for item in items]
        return Answer.of(200, _rows(whole, model), x_compute_type="cpu", x_compute_time="0.042")
    if not body.get("truncate", True):
        for index, item in enumerate(items):
            if tokens_of(item) > model.max_tokens:
                return too_long(model.flavour, index, tokens_of(item), model.max_tokens)
    side = body.get("truncation_direction", "right").lower()
    whole = [_cut(item, model, side) for item in items]
    # TEI normalizes unless it is told not to; that shows in the length alone.
    scale = 1.0 if body.get("normalize", True) else 3.0
    rows = [[scale * number for number in row] for row in _rows(whole, model)]
    if model.flavour == "toolkit":
        return Answer.of(200, {"embeddings": rows})
    tokens = str(sum(map(tokens_of, whole)))
    return Answer.of(
        200, rows, x_compute_type="gpu+optimized", x_compute_time="7", x_compute_tokens=tokens
    )


def _cohere(body: dict[str, Any], model: Model) -> Answer:
    items = body["texts"]
    if len(items) > 96:
        message = "invalid request: total number of texts must be at most 96 per request"
        return Answer.of(400, {"id": "e-1", "message": message})
    if "input_type" not in body:
        return Answer.of(400, {"id": "e-1", "message": "invalid request: input_type is required"})
    if body["truncate"] == "NONE":
        for index, item in enumerate(items):
            if tokens_of(item) > model.max_tokens:
                return too_long("cohere", index, tokens_of(item), model.max_tokens)
    side = "left" if body["truncate"] == "START" else "right"
    whole = [_cut(item, model, side) for item in items]
    answer = {
        "id": "e-1",
        "embeddings": {"float": _rows(whole, model)},
        "texts": items,
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"input_tokens": sum(map(tokens_of, whole))},
        },
        "response_type": "embeddings_by_type",
    }
    return Answer.of(200, answer)


def _rows(items: Sequence[Any], model: Model) -> list[list[float]]:
    return [model.vector(item, model.dimension).tolist() for item in items]


def _cut(item: Any, model: Model, side: str) -> Any:
    most = model.max_tokens - SPECIAL_TOKENS
    if not isinstance(item, str) or len(words := item.split()) <= most:
        return item
    return " ".join(words[-most:] if side == "left" else words[:most])


def _base64(row: Vectors) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
