"""The Hugging Face dialect: feature extraction and sentence similarity, in every form clients send.

The body decides which of the two it is, whatever the route, but for the routes that name
`sentence-similarity`. Parameters stand at the root or under `parameters`; the root wins. Numbers
are always floats in JSON, since no official client reads base64 here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
    Truncate,
    TruncationDirection,
    compute_headers,
    count_characters,
    is_route_name,
    prompt_choice,
    truncation,
)
from fledge.api.rendering import dump, dump_list
from fledge.api.runner import Call, Operation, Plan
from fledge.api.tasks import SIMILARITY_TASK, TASKS
from fledge.api.waiting import (
    CACHE_OPTION,
    WAIT_OPTION,
    patience_s,
    unused_options,
    use_cache,
)
from fledge.errors import InvalidRequest, MalformedBody
from fledge.requests import CompareRequest, CompareResponse, EmbedRequest, EmbedResponse

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
    truncate: Truncate = Field(
        None,
        description='false or "NONE": refuse inputs that are too long. Else they are cut, by '
        '"START" on the left, by "END" on the right.',
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
    options: Any = Field(
        None,
        description="`wait_for_model`: true holds the request until the model is warm, false "
        "never holds it. `use_cache`: false computes anew.",
    )


@dataclass(frozen=True, slots=True)
class Merged:
    """The parameters of both places.

    Attributes:
        values: those that count.
        paths: where each of them stands, as `parameters.dimensions`.
        ignored: the paths of fields that mean nothing on any of these routes.
    """

    values: Parameters
    paths: Mapping[str, str]
    ignored: list[str]


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
    merged = _merged(body)
    parameters = merged.values
    request = EmbedRequest(
        inputs=items,
        model=call.path.get("model_id"),
        prompt_choice=prompt_choice(parameters, merged.paths),
        dimensions=parameters.dimensions,
        normalize="model" if parameters.normalize is None else parameters.normalize,
        truncation=truncation(parameters, default=True, paths=merged.paths),
        use_cache=use_cache(call, body.options),
        caller=call.caller,
        patience_s=patience_s(call, body.options),
        timeout_s=call.settings.request_timeout_s,
        is_single=is_single,
        dimensions_field=merged.paths.get("dimensions", "dimensions"),
    )
    is_flat = is_single and call.settings.huggingface.single_input == "flat"
    return Plan(
        request=request,
        render=partial(_render_vectors, is_flat=is_flat),
        headers=partial(compute_headers, count_characters(items)),
        ignored=merged.ignored,
    )


def _similarity(call: Call, body: InferenceBody, data: dict[str, Any], prefix: str) -> Plan:
    inputs = parse_fields(SimilarityInputs, data, prefix=prefix)
    merged = _merged(body)
    choice = prompt_choice(merged.values, merged.paths)
    request = CompareRequest(
        query=inputs.source_sentence,
        documents=inputs.sentences,
        model=call.path.get("model_id"),
        query_prompt_choice=choice,
        document_prompt_choice=choice,
        truncation=truncation(merged.values, default=True, paths=merged.paths),
        use_cache=use_cache(call, body.options),
        caller=call.caller,
        patience_s=patience_s(call, body.options),
        timeout_s=call.settings.request_timeout_s,
        query_field=f"{prefix}source_sentence",
        documents_field=f"{prefix}sentences",
    )
    ignored = [*merged.ignored, *(f"{prefix}{name}" for name in inputs.unknown_fields())]
    ignored += [merged.paths[name] for name in _EMBEDDING_ONLY if name in merged.paths]
    return Plan(
        request=request,
        render=_render_scores,
        headers=partial(
            compute_headers,
            count_characters([inputs.source_sentence, *inputs.sentences]),
        ),
        ignored=[name for name in ignored if prefix or name not in SimilarityInputs.model_fields],
    )


def _merged(body: InferenceBody) -> Merged:
    """The parameters of both places, without those that say nothing here."""
    places: list[tuple[str, Parameters]] = [("", body)]
    if body.parameters is not None:
        places.append(("parameters.", body.parameters))
    values: dict[str, Any] = {}
    paths: dict[str, str] = {}
    ignored: list[str] = []
    for prefix, place in places:
        ignored += [prefix + name for name in place.unknown_fields()]
        for name in Parameters.model_fields:
            value = getattr(place, name)
            # Left out before merging: at the root they would hide what is nested.
            if name == "task" and is_route_name(value):
                ignored.append(prefix + name)
            elif value is not None and name not in values:
                values[name], paths[name] = value, prefix + name
    ignored += unused_options(body.options, CACHE_OPTION, WAIT_OPTION)
    if values.get("encoding_format") not in (None, "float"):
        ignored.append(paths["encoding_format"])
    return Merged(Parameters.model_construct(**values), paths, ignored)


async def _render_vectors(answer: EmbedResponse, *, is_flat: bool) -> bytes:
    if is_flat:
        return dump(answer.vectors[0])
    return await dump_list(answer.vectors, numbers_each=answer.vectors.shape[1])


async def _render_scores(answer: CompareResponse) -> bytes:
    return dump(answer.scores)


INFERENCE = Operation(HUGGING_FACE, parse_inference)
