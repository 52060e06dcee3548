"""Reranking by similarity: `POST /rerank`, `POST /v1/rerank`.

The answer is a list of `{"index", "score"}`, best first. Documents are given as `documents`
(strings or `{"text": ...}`), or as `texts`; the answer can return them under `document` or `text`.
"""

from functools import partial
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from fledge.api.bodies import Body, parse_fields, wrong_type
from fledge.api.errors import HUGGING_FACE, OPENAI
from fledge.api.fields import (
    InputType,
    Options,
    PromptName,
    PromptText,
    Task,
    Truncate,
    TruncationDirection,
    compute_headers,
    count_characters,
    prompt_choice,
    truncation,
    unused_task,
)
from fledge.api.rendering import dump
from fledge.api.runner import Call, Operation, Plan
from fledge.api.waiting import CACHE_OPTION, unused_options, use_cache
from fledge.errors import InvalidRequest
from fledge.prompts import PromptChoice
from fledge.requests import CompareRequest, CompareResponse

_DOCUMENTS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "anyOf": [
            {"type": "string"},
            {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        ]
    },
}


class RerankBody(Body):
    """The body of `POST /rerank`."""

    query: str = Field(description="The text to compare the documents with.")
    documents: Annotated[Any, WithJsonSchema(_DOCUMENTS_SCHEMA)] = Field(
        None, description="What to rank."
    )
    texts: list[str] | None = Field(None, description="Another name for `documents`.")
    model: str | None = Field(
        None, description="The model. Absent: the first one that this server serves."
    )
    top_n: int | None = Field(None, ge=1, description="How many to return. Absent: all.")
    return_documents: bool | None = Field(None, description="true: return the documents too.")
    return_text: bool | None = Field(None, description="Another name for `return_documents`.")
    prompt_name: PromptName = None
    prompt: PromptText = None
    input_type: InputType = None
    task: Task = None
    document_prompt_name: PromptName = None
    document_prompt: PromptText = None
    document_input_type: InputType = None
    truncate: Truncate = Field(
        None,
        description='false or "NONE": refuse texts that are too long. Else they are cut, by '
        '"START" on the left, by "END" on the right.',
    )
    truncation_direction: TruncationDirection = None
    options: Options = None


def parse_rerank(call: Call) -> Plan:
    """A body of `POST /rerank` as a plan."""
    body = parse_fields(RerankBody, call.data)
    ignored = body.unknown_fields() + unused_task(body)
    ignored += unused_options(body.options, CACHE_OPTION)
    if body.documents is not None:
        field, returned_as, originals = "documents", "document", body.documents
        if body.texts is not None:
            ignored.append("texts")
    elif body.texts is not None:
        field, returned_as, originals = "texts", "text", body.texts
    else:
        raise InvalidRequest("`documents` is required", field="documents")
    texts = _texts(originals, field)
    request = CompareRequest(
        query=body.query,
        documents=texts,
        model=body.model,
        query_prompt_choice=prompt_choice(body),
        document_prompt_choice=PromptChoice(
            prompt=body.document_prompt,
            prompt_name=body.document_prompt_name,
            input_type=body.document_input_type,
            prefix="document_",
        ),
        truncation=truncation(body, default=True),
        use_cache=use_cache(call, body.options),
        caller=call.caller,
        timeout_s=call.settings.request_timeout_s,
        documents_field=field,
    )
    is_returning = body.return_documents or body.return_text
    return Plan(
        request=request,
        render=partial(_render, body.top_n, returned_as, originals if is_returning else None),
        headers=partial(compute_headers, count_characters([body.query, *texts])),
        ignored=ignored,
    )


def _texts(documents: Any, field: str) -> list[str]:
    if not isinstance(documents, list):
        raise wrong_type(field, "a list of strings", documents)
    return [_text(document, f"{field}[{index}]") for index, document in enumerate(documents)]


def _text(document: Any, path: str) -> str:
    if isinstance(document, str):
        return document
    if isinstance(document, dict) and isinstance(document.get("text"), str):
        text: str = document["text"]
        return text
    raise wrong_type(path, "a string or an object with a string `text`", document)


async def _render(
    top_n: int | None, returned_as: str, originals: list[Any] | None, answer: CompareResponse
) -> bytes:
    rows: list[dict[str, Any]] = []
    for index, _ in answer.ranking(top_n):
        # From the array, whose float32 is written with no more digits than it has.
        row: dict[str, Any] = {"index": index, "score": answer.scores[index]}
        if originals is not None:
            row[returned_as] = originals[index]
        rows.append(row)
    return dump(rows)


RERANK = Operation(HUGGING_FACE, parse_rerank)
RERANK_V1 = Operation(OPENAI, parse_rerank)
