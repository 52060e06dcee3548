"""The OpenAI dialect: `POST /v1/embeddings`.

With the extensions `prompt`, `prompt_name`, `input_type` (or `task`), `truncate`,
`truncation_direction` and `normalize`. Vectors are normalized unless the model compares by the dot
product; text that is too long is refused unless `truncate` says to cut it.
"""

from functools import partial
from typing import Literal

from pydantic import Field

from fledge.api.bodies import Body, parse_fields, parse_items
from fledge.api.errors import OPENAI
from fledge.api.fields import (
    Dimensions,
    InputType,
    Items,
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
from fledge.api.rendering import dump, dump_list
from fledge.api.runner import Call, Operation, Plan
from fledge.api.waiting import CACHE_OPTION, unused_options, use_cache
from fledge.errors import InvalidRequest
from fledge.requests import Answer, EmbedRequest, EmbedResponse
from fledge.routing.wishes import USUAL, Route
from fledge.vectors import to_base64


class EmbeddingsBody(Body):
    """The body of `POST /v1/embeddings`."""

    input: Items = Field(None, description="What to embed: texts, or token ids as they are.")
    model: str | None = Field(
        None, description="The model. Absent: the first one that this server serves."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="`base64`: the little-endian float32 bytes of each vector."
    )
    dimensions: Dimensions = None
    user: str | None = Field(None, description="Accepted, and not used.")
    prompt_name: PromptName = None
    prompt: PromptText = None
    input_type: InputType = None
    task: Task = None
    truncate: Truncate = Field(
        None,
        description='true: cut inputs that are too long; "START" and "END" also say where. Else '
        "they are refused.",
    )
    truncation_direction: TruncationDirection = None
    normalize: bool | None = Field(
        None,
        description="Absent: normalized, unless the model compares by the dot product. false: "
        "the vector before the model's own normalization.",
    )
    inputs: Items = Field(None, description="Another name for `input`.")
    options: Options = None


def parse_embeddings(call: Call) -> Plan:
    """A body of `POST /v1/embeddings` as a plan."""
    body = parse_fields(EmbeddingsBody, call.data)
    ignored = body.unknown_fields() + unused_task(body)
    ignored += unused_options(body.options, CACHE_OPTION)
    if body.input is not None:
        items, is_single = parse_items(body.input, field := "input", call.settings)
        if body.inputs is not None:
            ignored.append("inputs")
    elif body.inputs is not None:
        items, is_single = parse_items(body.inputs, field := "inputs", call.settings)
    else:
        raise InvalidRequest("`input` is required", field="input")
    request = EmbedRequest(
        inputs=items,
        model=body.model,
        prompt_choice=prompt_choice(body),
        dimensions=body.dimensions,
        normalize="similarity" if body.normalize is None else body.normalize,
        truncation=truncation(body, default=False),
        use_cache=use_cache(call, body.options),
        caller=call.caller,
        route=Route.alone(provider) if (provider := call.path.get("provider")) else USUAL,
        timeout_s=call.settings.request_timeout_s,
        field=field,
        is_single=is_single,
    )
    return Plan(
        request=request,
        render=partial(_render, body.model, body.encoding_format),
        headers=partial(_headers, count_characters(items)),
        ignored=ignored,
    )


async def _render(model: str | None, encoding_format: str | None, answer: EmbedResponse) -> bytes:
    vectors = answer.vectors
    embeddings = to_base64(vectors) if encoding_format == "base64" else vectors
    data = await dump_list(
        [
            {"object": "embedding", "index": index, "embedding": embedding}
            for index, embedding in enumerate(embeddings)
        ],
        numbers_each=vectors.shape[1],
    )
    tokens = sum(answer.token_counts)
    return b'{"object":"list","data":%b,"model":%b,"usage":%b}' % (
        data,
        dump(answer.card.id if model is None else model),
        dump({"prompt_tokens": tokens, "total_tokens": tokens}),
    )


def _headers(character_count: int, answer: Answer, elapsed_s: float) -> dict[str, str]:
    return compute_headers(character_count, answer, elapsed_s) | {
        "openai-processing-ms": str(round(elapsed_s * 1000))
    }


EMBEDDINGS = Operation(OPENAI, parse_embeddings)
