"""Fields that several dialects share: their types, and what they mean to the service."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any, Literal, Protocol, TypeAlias, cast

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from fledge.api.rendering import header_value
from fledge.errors import InvalidRequest, UnknownField
from fledge.prompts import PromptChoice, plain_name
from fledge.requests import Answer
from fledge.settings import Settings
from fledge.types import Item, Truncation, TruncationSide

Direction: TypeAlias = Literal["left", "right", "Left", "Right"]
"""The side that is cut away. Clients of 2025 and before send it capitalised."""

TRUNCATE_WORDS: Mapping[str, TruncationSide | None] = {
    "NONE": None,
    "START": "left",
    "END": "right",
}
"""What clients of Cohere and NVIDIA say for `truncate`: the side that is cut; None: refuse.

Sources: docs.cohere.com/reference/embed and docs.api.nvidia.com/nim (embeddings)."""

ROUTE_NAMES = frozenset(
    (
        "feature_extraction",
        "sentence_similarity",
        "text_ranking",
        "rerank",
        "embed",
        "embedding",
        "embeddings",
    )
)
"""Values of `task` that say what a model is asked to do, as the route says already; they say
nothing of the prompt. Compared by `plain_name`."""

NO_PATHS: Mapping[str, str] = MappingProxyType({})
"""Every field is spelled by its name."""

ITEMS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
            "minItems": 1,
        },
    ]
}
"""One input or several, each a text or the token ids of one."""

Items: TypeAlias = Annotated[Any, WithJsonSchema(ITEMS_SCHEMA)]
"""Inputs; read with `fledge.api.bodies.parse_items`, whose errors name the entry at fault."""

PromptName: TypeAlias = Annotated[
    str | None,
    Field(
        description="Name of a prompt in the model's card, put before each text. Absent: the "
        'model\'s own default, which few models have; "": none.'
    ),
]
PromptText: TypeAlias = Annotated[
    str | None,
    Field(
        description="A text of your own to put before each text, for models that take "
        "instructions. Not together with the name of a prompt."
    ),
]
InputType: TypeAlias = Annotated[
    str | None,
    Field(
        description="What the texts are, as `query` or `document`: picks the model's own prompt "
        "for it. A model without one computes them as they are."
    ),
]
Task: TypeAlias = Annotated[
    str | None,
    Field(
        description="Another name for `input_type`. The name of a route, as `feature-extraction`, "
        "is accepted and not used."
    ),
]
Dimensions: TypeAlias = Annotated[
    int | None,
    Field(
        description="Length of the vectors: the first so many numbers, normalized again where "
        "the whole vector was."
    ),
]
Options: TypeAlias = Annotated[
    Any,
    Field(
        description="`use_cache`: false computes anew, and reads nothing that was computed before."
    ),
]
TruncationDirection: TypeAlias = Annotated[
    Direction | None, Field(description="The side that is cut away from a text that is too long.")
]


def _check_truncate(value: Any) -> Any:
    # Not as a union of types: each of its members would complain on its own.
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value in TRUNCATE_WORDS:
        return value
    raise PydanticCustomError("truncate_type", 'true, false, "NONE", "START" or "END"')


Truncate: TypeAlias = Annotated[
    Any,
    AfterValidator(_check_truncate),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "boolean"},
                {"type": "string", "enum": list(TRUNCATE_WORDS)},
                {"type": "null"},
            ]
        }
    ),
]
"""true, false, one of `TRUNCATE_WORDS`, or None; read with `truncation`."""


class PromptFields(Protocol):
    """The fields of a body that choose the prompt."""

    prompt: PromptText
    prompt_name: PromptName
    input_type: InputType
    task: Task


class TruncationFields(Protocol):
    """The fields of a body that say what happens to inputs that are too long."""

    truncate: Truncate
    truncation_direction: TruncationDirection


def is_route_name(task: str | None) -> bool:
    """Whether a `task` is one of `ROUTE_NAMES`."""
    return task is not None and plain_name(task) in ROUTE_NAMES


def unused_task(body: PromptFields) -> list[str]:
    """`task` where it is the name of a route, to be told among the ignored fields."""
    return ["task"] if is_route_name(body.task) else []


def prompt_choice(body: PromptFields, paths: Mapping[str, str] = NO_PATHS) -> PromptChoice:
    """What a body says about the prompt; `paths` has the fields that do not stand at its root."""
    return PromptChoice(
        prompt=body.prompt,
        prompt_name=body.prompt_name,
        input_type=body.input_type,
        task=None if is_route_name(body.task) else body.task,
        paths=paths,
    )


def truncation(
    body: TruncationFields, *, default: bool, paths: Mapping[str, str] = NO_PATHS
) -> Truncation:
    """How the service is to treat inputs that are too long.

    Args:
        body: the fields that say so.
        default: whether they are cut where `truncate` says nothing.
        paths: the fields that do not stand at the root of the body.

    Raises:
        InvalidRequest: `truncate` and `truncation_direction` name different sides.
    """
    truncate, direction = body.truncate, body.truncation_direction
    side = cast("TruncationSide", direction.lower()) if direction else None
    if not isinstance(truncate, str):
        return Truncation(side=side, refuse=not (default if truncate is None else truncate))
    cut = TRUNCATE_WORDS[truncate]
    if cut is not None and side not in (None, cut):
        path = paths.get("truncation_direction", "truncation_direction")
        raise InvalidRequest(
            f'`{paths.get("truncate", "truncate")}` is "{truncate}", which cuts the {cut} side, '
            f'and `{path}` is "{direction}": give one of them',
            field=path,
        )
    return Truncation(side=cut or side, refuse=cut is None)


def count_characters(items: Sequence[Item]) -> int:
    """Characters of all texts; token ids have none."""
    return sum(len(item) for item in items if isinstance(item, str))


def refuse_if_strict(ignored: Sequence[str], settings: Settings) -> None:
    """Refuse fields or parameters that have no effect, where the settings say so.

    Raises:
        UnknownField: about the first of them.
    """
    if ignored and settings.strict_fields:
        raise UnknownField(
            f"`{ignored[0][:64]}` has no effect on this route, and the setting strict_fields "
            "refuses such fields",
            field=ignored[0],
        )


# One for each model that runs, in every answer.
_sha = lru_cache(maxsize=256)(header_value)


def compute_headers(character_count: int, answer: Answer, elapsed_s: float) -> dict[str, str]:
    """What every dialect tells of the work, in the words of the hub's own servers.

    The first ones are those of hf-inference, whose time is in seconds; those that end in `-time`
    beside it are text-embeddings-inference's, in whole milliseconds, and `x-load-time`, which it
    lacks, is there when the request had to wait for its model. Where everything was kept from
    before, there was no work: hf-inference leaves out the characters then, too.
    """
    timings = answer.timings
    headers = {
        "x-compute-type": "cache" if answer.is_kept else "cpu",
        "x-compute-time": f"{max(0.0, elapsed_s - timings.load_ms / 1000):.3f}",
        "x-compute-tokens": str(sum(answer.token_counts)),
        "x-sha": _sha(answer.card.revision),
    }
    if timings.load_ms >= 1:
        headers["x-load-time"] = str(round(timings.load_ms))
    if answer.is_kept:
        return headers
    return headers | {
        "x-compute-characters": str(character_count),
        "x-total-time": str(round(elapsed_s * 1000)),
        "x-tokenization-time": str(round(timings.tokenize_ms)),
        "x-queue-time": str(round(timings.queue_ms)),
        "x-inference-time": str(round(timings.compute_ms)),
    }
