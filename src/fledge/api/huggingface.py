"""The Hugging Face dialect: feature extraction and sentence similarity, in every form clients send.

The body decides which of the two it is, whatever the route, but for the routes that name
`sentence-similarity`. Parameters stand at the root or under `parameters`; the root wins. Numbers
are always floats in JSON, since no official client reads base64 here.
"""

from functools import partial
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from fledge.api.bodies import Body, parse_fields, parse_items, wrong_type
from fledge.api.errors import HUGGING_FACE
from fledge.api.fields import (
    ITEMS_SCHEMA,
    Dimensions,
    InputType,
    PromptName,
    PromptText,
    Task,
    TruncationDirection,
    compute_headers,
    count_characters,
    prompt_choice,
    truncation,
)
from fledge.api.rendering import dump, dump_list, header_value
from fledge.api.runner import Call, Operation, Plan
from fledge.errors import InvalidRequest, MalformedBody
from fledge.prompts import PromptChoice
from fledge.service import Answer, CompareRequest, CompareResponse, EmbedRequest, EmbedResponse

SIMILARITY_TASK = "sentence-similarity"
TASKS = ("feature-extraction", SIMILARITY_TASK)

_EMBEDDING_ONLY = ("normalize", "dimensions")


class Parameters(Body):
    """What may stand at the root of a body or under `parameters`."""

    normalize: bool | None = Field(
        None,
        description="true: vectors of length 1. false: the vector before the model's own "
        "normalization. Absent: as the model's own modules decide.",
    )
    prompt_name: PromptName = None
    prompt: PromptText = None
    input_type: InputType = None
    task: Task = None
    truncate: bool | None = Field(
        None, description="false: refuse inputs that are too long. Else they are cut."
    )
    truncation_direction: TruncationDirection = None
    dimensions: Dimensions = None
    encoding_format: Any = Field(None, description="Accepted; the answer is always of floats.")


class SimilarityInputs(Body):
    """One text and the texts to compare it with."""

    source_sentence: str = Field(description="The text to compare with the others.")
    sentences: list[str] = Field(description="The others; each gets a score, in this order.")


Inputs = Annotated[
    Any,
    WithJsonSchema({"anyOf": [*ITEMS_SCHEMA["anyOf"], SimilarityInputs.model_json_schema()]}),
]


class InferenceBody(Parameters):
    """The body of every Hugging Face route."""

    inputs: Inputs = Field(
        None,
        description="What to embed, or a `source_sentence` and the `sentences` to compare it with.",
    )
    parameters: Annotated[Parameters | None, WithJsonSchema(Parameters.model_json_schema())] = (
        Field(None, description="The parameters may stand here too.")
    )
    options: Any = Field(None, description="Accepted, and not used.")


def parse_inference(call: Call) -> Plan:
    """A body of any of the routes as a plan."""
    task = call.path.get("task")
    if task is not None and task not in TASKS:
        raise InvalidRequest(
            f"the task {task[:64]!r} is not served here; served: {', '.join(TASKS)}", field="task"
        )
    data = _as_object(call.data)
    body = parse_fields(InferenceBody, data)
    if isinstance(body.inputs, dict):
        return _similarity(call, body, body.inputs, "inputs.")
    if body.inputs is None and "source_sentence" in data:
        # As huggingface_hub 0.28 to 0.30 sent it, with `"inputs": null`.
        names = SimilarityInputs.model_fields.keys()
        return _similarity(call, body, {name: data[name] for name in names & data.keys()}, "")
    if task == SIMILARITY_TASK:
        raise wrong_type("inputs", "an object with `source_sentence` and `sentences`", body.inputs)
    return _embeddings(call, body)


def _as_object(data: Any) -> dict[str, Any]:
    """The body with its inputs named: old servers took a bare string or list as the inputs."""
    if isinstance(data, dict):
        return data
    if isinstance(data, str | list):
        return {"inputs": data}
    raise MalformedBody("the body must be a JSON object with `inputs`, a string or a list")


def _embeddings(call: Call, body: InferenceBody) -> Plan:
    if body.inputs is None:
        raise InvalidRequest("`inputs` is required", field="inputs")
    items, is_single = parse_items(body.inputs, "inputs", call.settings)
    parameters = _merged(body)
    request = EmbedRequest(
        inputs=items,
        model=call.path.get("model_id"),
        prompt_choice=_prompt_choice(parameters),
        dimensions=parameters.dimensions,
        normalize="model" if parameters.normalize is None else parameters.normalize,
        truncation=truncation(
            truncate=parameters.truncate is not False, direction=parameters.truncation_direction
        ),
        deadline=call.deadline,
        is_single=is_single,
    )
    is_flat = is_single and call.settings.huggingface.single_input == "flat"
    return Plan(
        request=request,
        render=partial(_render_vectors, is_flat=is_flat),
        headers=partial(compute_and_time_headers, count_characters(items)),
        ignored=_ignored(body, parameters, []),
    )


def _similarity(call: Call, body: InferenceBody, data: dict[str, Any], prefix: str) -> Plan:
    inputs = parse_fields(SimilarityInputs, data, prefix=prefix)
    parameters = _merged(body)
    choice = _prompt_choice(parameters)
    request = CompareRequest(
        query=inputs.source_sentence,
        documents=inputs.sentences,
        model=call.path.get("model_id"),
        query_prompt_choice=choice,
        document_prompt_choice=choice,
        truncation=truncation(
            truncate=parameters.truncate is not False, direction=parameters.truncation_direction
        ),
        deadline=call.deadline,
        query_field=f"{prefix}source_sentence",
        documents_field=f"{prefix}sentences",
    )
    unused = [name for name in _EMBEDDING_ONLY if getattr(parameters, name) is not None]
    unused += [f"inputs.{name}" for name in inputs.unknown_fields()]
    ignored = _ignored(body, parameters, unused)
    return Plan(
        request=request,
        render=_render_scores,
        headers=partial(
            compute_and_time_headers,
            count_characters([inputs.source_sentence, *inputs.sentences]),
        ),
        ignored=[name for name in ignored if prefix or name not in data],
    )


def _merged(body: InferenceBody) -> Parameters:
    """The parameters of both places."""
    if body.parameters is None:
        return body
    both = {
        name: getattr(body.parameters, name) if getattr(body, name) is None else getattr(body, name)
        for name in Parameters.model_fields
    }
    return Parameters.model_construct(**both)


def _prompt_choice(parameters: Parameters) -> PromptChoice:
    """The prompt, where `task` is not the name of this very route, which says nothing of it."""
    if parameters.task in TASKS:
        parameters = parameters.model_copy(update={"task": None})
    return prompt_choice(parameters)


def _ignored(body: InferenceBody, parameters: Parameters, unused: list[str]) -> list[str]:
    """Every field that had no effect, unknown ones by their path."""
    nested = body.parameters.unknown_fields() if body.parameters is not None else []
    ignored = [*body.unknown_fields(), *(f"parameters.{name}" for name in nested), *unused]
    if parameters.encoding_format not in (None, "float"):
        ignored.append("encoding_format")
    if parameters.task in TASKS:
        ignored.append("task")
    return ignored


async def _render_vectors(answer: EmbedResponse, *, is_flat: bool) -> bytes:
    if is_flat:
        return dump(answer.vectors[0])
    return await dump_list(answer.vectors, numbers_each=answer.vectors.shape[1])


async def _render_scores(answer: CompareResponse) -> bytes:
    return dump(answer.scores)


def compute_and_time_headers(
    character_count: int, answer: Answer, elapsed_s: float
) -> dict[str, str]:
    """As `compute_headers`, with the time, in seconds here, and the model's commit."""
    return compute_headers(character_count, answer) | {
        "x-compute-time": f"{elapsed_s:.3f}",
        "x-sha": header_value(answer.card.revision),
    }


INFERENCE = Operation(HUGGING_FACE, parse_inference)
