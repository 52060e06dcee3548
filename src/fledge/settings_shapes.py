"""What a pydantic model says of the settings it holds: which are values, and which sections.

A field is a value, a section (`[name]`), or sections of any name (`[name."org/name"]`). A section
may hold sections of any name beside its fields (`[name.other]`): one that allows extra ones, and
says what they are as pydantic wants it, in `__pydantic_extra__`.
"""

from collections.abc import Iterator, Mapping
from inspect import get_annotations
from typing import Any, TypeAlias, get_args, get_origin

from pydantic import BaseModel, SecretStr

from fledge.names import without_password

Key: TypeAlias = tuple[str, ...]
"""The names on the way to a setting."""

SET = "set"
"""All that is ever shown of a secret."""
ANY_NAME = "org/name"


class HoldsPassword:
    """Marks the annotation of a text, an address, in which a password may stand."""


def fields_of(annotation: Any) -> Mapping[str, Any] | None:
    """Name -> annotation of a section's fields; None: no section."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    return None


def each_of(annotation: Any) -> Any:
    """What each of the sections of any name is; None: there are none."""
    if fields_of(annotation) is not None:
        annotation = get_annotations(annotation).get("__pydantic_extra__")
    if get_origin(annotation) is not dict:
        return None
    each = get_args(annotation)[1]
    return each if fields_of(each) is not None else None


def inside(annotation: Any, name: str) -> Any:
    """The annotation of a name in a section or in sections of any name; None: no such name."""
    return (fields_of(annotation) or {}).get(name) or each_of(annotation)


def is_value(annotation: Any) -> bool:
    """Whether nothing in it is a setting of its own."""
    return fields_of(annotation) is None and each_of(annotation) is None


def is_secret(annotation: Any) -> bool:
    """Whether a value is never shown."""
    return _mentions(annotation, SecretStr)


def keys_of(annotation: Any, above: Key = ()) -> Iterator[Key]:
    """Every key that exists; of sections of any name none below."""
    for name, inner in (fields_of(annotation) or {}).items():
        yield (*above, name)
        yield from keys_of(inner, (*above, name))


def values_of(section: BaseModel, above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every value, of secrets whether there is one; sections of any name as {} without any."""
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), (*above, name)
        if isinstance(value, BaseModel):
            yield from values_of(value, key)
        elif value and each_of(field.annotation) is not None:
            for each, inner in value.items():
                yield from values_of(inner, (*key, each))
        elif is_secret(field.annotation):
            yield key, SET if value else None
        elif isinstance(value, str) and _mentions(field.annotation, HoldsPassword):
            yield key, without_password(value)
        else:
            yield key, value
    for name, inner in (section.model_extra or {}).items():
        yield from values_of(inner, (*above, name))


def contents(annotation: Any) -> str:
    """What must stand where there are settings inside."""
    fields, each = fields_of(annotation), each_of(annotation)
    if fields is None:
        return f"sections by name, each {contents(each)}"
    return f"a section with {', '.join(fields)}" + (" and sections by name" if each else "")


def example(annotation: Any) -> str:
    """How that begins in JSON."""
    fields = fields_of(annotation)
    if fields is None:
        return f'{{"{ANY_NAME}": {example(each_of(annotation))}}}'
    return f'{{"{next(iter(fields))}": ...}}'


def _mentions(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(_mentions(inner, kind) for inner in get_args(annotation))
