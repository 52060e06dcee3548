"""Fields that several dialects share: their types, and what they mean to the service."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, TypeAlias, cast

from pydantic import Field, WithJsonSchema

from fledge.api.bodies import described
from fledge.errors import InvalidRequest
from fledge.prompts import PromptChoice
from fledge.service import Answer
from fledge.types import Item, Truncation, TruncationSide

Direction: TypeAlias = Literal["left", "right", "Left", "Right"]
"""The side that is cut away. Clients of 2025 and before send it capitalised."""

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
Task: TypeAlias = Annotated[str | None, Field(description="Another name for `input_type`.")]
Dimensions: TypeAlias = Annotated[
    int | None,
    Field(
        description="Length of the vectors: the first so many numbers, normalized again where "
        "the whole vector was."
    ),
]
TruncationDirection: TypeAlias = Annotated[
    Direction | None, Field(description="The side that is cut away from a text that is too long.")
]


class PromptFields(Protocol):
    """The fields of a body that choose the prompt."""

    prompt: PromptText
    prompt_name: PromptName
    input_type: InputType
    task: Task


def prompt_choice(body: PromptFields) -> PromptChoice:
    """What a body says about the prompt.

    Raises:
        InvalidRequest: `input_type` and `task` differ.
    """
    input_type, task = body.input_type, body.task
    if input_type is not None and task is not None and input_type != task:
        raise InvalidRequest(
            f"`input_type` is {described(input_type)} and `task` {described(task)}; they are two "
            "names of one field: give one of them",
            field="task",
        )
    return PromptChoice(
        prompt=body.prompt,
        prompt_name=body.prompt_name,
        input_type=task if input_type is None else input_type,
        input_type_field="task" if input_type is None else "input_type",
    )


def truncation(*, truncate: bool, direction: Direction | None) -> Truncation:
    """How the service is to treat inputs that are too long."""
    side = cast("TruncationSide", direction.lower()) if direction else None
    return Truncation(side=side, refuse=not truncate)


def count_characters(items: Sequence[Item]) -> int:
    """Characters of all texts; token ids have none."""
    return sum(len(item) for item in items if isinstance(item, str))


def compute_headers(character_count: int, answer: Answer) -> dict[str, str]:
    """What every dialect tells of the work, in the words of the hub's own servers."""
    return {
        "x-compute-type": "cpu",
        "x-compute-characters": str(character_count),
        "x-compute-tokens": str(sum(answer.token_counts)),
    }
