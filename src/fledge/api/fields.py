"""Fields that several dialects share: their types, and what they mean to the service."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import Field, WithJsonSchema

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
