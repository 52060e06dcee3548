"""Query strings: text to typed parameters, each failure naming the parameter and what was there.

A route declares its parameters as a `Query`, from which the OpenAPI document is made too. Any
parameter may be repeated, and be spelled with `[]` behind its name, as PHP and Ruby clients do.
"""

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import Request

from fledge.api.fields import refuse_if_strict
from fledge.api.rendering import header_names
from fledge.errors import InvalidRequest
from fledge.names import quoted
from fledge.settings import Settings

MOST_PER_PAGE = 1000
"""As at the hub and at Featherless."""

# Far more than any listing has; larger numbers cannot be repeated in the JSON of an answer.
_MOST = 2**31 - 1
# What a parameter should have been, by the type of pydantic's complaint.
_EXPECTED = {
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "bool_parsing": "true or false",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}


class Query(BaseModel):
    """The parameters of one kind of query. Unknown ones are kept aside."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def notes(self, settings: Settings) -> dict[str, str]:
        """The header that names the parameters without effect, if there are any.

        Raises:
            UnknownField: there are, and the settings refuse them.
        """
        unknown = list(self.model_extra or ())
        refuse_if_strict(unknown, settings)
        return {"x-fledge-ignored": header_names(unknown)} if unknown else {}


QueryT = TypeVar("QueryT", bound=Query)


def last(values: list[str]) -> str:
    """What counts of a parameter that was repeated."""
    return values[-1]


def _split(values: list[str]) -> list[str]:
    return [word for value in values for part in value.split(",") if (word := part.strip())]


Text: TypeAlias = Annotated[str | None, BeforeValidator(last)]
Flag: TypeAlias = Annotated[bool | None, BeforeValidator(last)]
Count: TypeAlias = Annotated[Annotated[int, Field(ge=1, le=_MOST)] | None, BeforeValidator(last)]
CountPerPage: TypeAlias = Annotated[
    Annotated[int, Field(ge=1, le=MOST_PER_PAGE)] | None, BeforeValidator(last)
]
Words: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Several words: repeated, or with commas between."""


def parse_query(kind: type[QueryT], request: Request) -> QueryT:
    """The typed parameters of a request; one without a value counts as absent.

    Raises:
        InvalidRequest: a parameter has a value of the wrong kind, or out of range.
    """
    values: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        if value:
            values.setdefault(name.removesuffix("[]"), []).append(value)
    try:
        return kind.model_validate(values)
    except ValidationError as errors:
        error = errors.errors(include_url=False)[0]
    name = str(error["loc"][0])
    expected = _EXPECTED.get(error["type"], error["msg"]).format_map(error.get("ctx", {}))
    raise bad_value(name, expected, values[name][-1])


def bad_value(name: str, expected: str, value: str) -> InvalidRequest:
    """The error for a parameter with a value of the wrong kind."""
    return InvalidRequest(f"`{name}` must be {expected}, not {quoted(value)}", field=name)


def document_query(kind: type[Query], path: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """What the OpenAPI document says of an operation with these parameters, and those in `path`."""
    parameters = [
        {
            "name": name,
            "in": "query",
            "description": field["description"],
            # The first of several is the type, the other one null, which no query can say.
            "schema": field["anyOf"][0] if "anyOf" in field else _type(field),
        }
        for name, field in kind.model_json_schema()["properties"].items()
    ]
    return {"parameters": [*path, *parameters]}


def _type(field: dict[str, Any]) -> dict[str, Any]:
    return {key: field[key] for key in ("type", "items")}
