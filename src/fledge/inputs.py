"""What is settled about the inputs of a request before anything is computed.

Pure functions of a request's values and the model's card: names, ranges, ids, and how an
error about the job's `items[3]` is told about the field that the caller wrote.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from fledge.errors import EmptyInput, InvalidRequest, TooManyInputs
from fledge.types import Item, ModelCard

Path: TypeAlias = Callable[[int], str]
"""How the caller spells the input of an index, for error messages."""


def item_path(field_name: str, *, is_single: bool = False) -> Path:
    """`input[3]` for a list, `input` for one bare input."""
    return (lambda _: field_name) if is_single else (lambda index: f"{field_name}[{index}]")


def check_lengths(
    inputs: Sequence[object], field_name: str, *, max_inputs: int, max_ids: int
) -> None:
    """Refuse by length alone, so that far too much costs no look at what it is.

    Raises:
        TooManyInputs: more inputs, or more token ids in all, than one request may carry.
    """
    _check_count(inputs, field_name, max_inputs)
    id_count = sum(len(item) for item in inputs if isinstance(item, list))
    if id_count > max_ids:
        raise TooManyInputs(
            f"`{field_name}` has {id_count} token ids; one request takes at most {max_ids}",
            field=field_name,
        )


def check_inputs(inputs: Sequence[Item], path: Path, field_name: str, max_inputs: int) -> None:
    """Refuse what no model need be loaded for.

    Raises:
        EmptyInput: there is no input, or one of them is empty.
        TooManyInputs: there are more than one request may carry.
    """
    if not inputs:
        raise EmptyInput(f"`{field_name}` is an empty list: give at least one", field=field_name)
    _check_count(inputs, field_name, max_inputs)
    for index, item in enumerate(inputs):
        if not item:
            kind = "text" if isinstance(item, str) else "list of token ids"
            raise EmptyInput(f"`{path(index)}` is an empty {kind}", field=path(index))


def check_token_ids(inputs: Sequence[Item], path: Path, card: ModelCard) -> None:
    """Refuse what the model has no vector for.

    Raises:
        InvalidRequest: a token id is outside the vocabulary.
    """
    if not card.vocab_size:
        return  # a provider's, who knows it
    for index, item in enumerate(inputs):
        if not isinstance(item, str):
            _check_ids(item, path(index), card)


def check_dimensions(
    card: ModelCard, dimensions: int | None, field_name: str = "dimensions"
) -> tuple[str, ...]:
    """The warnings that a shorter vector deserves.

    Raises:
        InvalidRequest: not between 1 and the model's own dimension.
    """
    if dimensions is None:
        return ()
    if dimensions >= 1 and not card.dimension:
        return ()  # a provider's, before its first answer
    if not 1 <= dimensions <= card.dimension:
        raise InvalidRequest(
            f"`{field_name}` is {dimensions}; {card.id} takes 1 to {card.dimension}",
            field=field_name,
        )
    if dimensions == card.dimension or card.matryoshka_dimensions:
        return ()
    warning = (
        f"{card.id} declares no shorter dimensions: the first {dimensions} of {card.dimension} "
        "may compare worse than the whole vector"
    )
    return (warning,)


def respelled(
    error: InvalidRequest, indices: Sequence[int], path: Path, field_name: str
) -> InvalidRequest:
    """The same error, about the caller's field in place of the job's `items[INDEX]`.

    One about no field is about the inputs as a whole; one about another field stays as it is.

    Args:
        indices: of the caller's inputs, those that the job has, in its order.
    """
    message = str(error)
    job_field = error.field or ""
    if job_field and not job_field.startswith("items["):
        return error
    number, _, rest = job_field.removeprefix("items[").partition("]")
    if not number.isdecimal():
        return type(error)(f"`{field_name}`: {message}", field=field_name)
    spelled = path(indices[int(number)]) + rest
    if job_field in message:
        message = message.replace(job_field, spelled)
    else:
        message = f"`{spelled}`: {message}"
    return type(error)(message, field=spelled)


def _check_count(inputs: Sequence[object], field_name: str, max_inputs: int) -> None:
    if len(inputs) > max_inputs:
        raise TooManyInputs(
            f"`{field_name}` has {len(inputs)} entries; one request takes at most {max_inputs}",
            field=field_name,
        )


def _check_ids(ids: Sequence[int], path: str, card: ModelCard) -> None:
    if min(ids) >= 0 and max(ids) < card.vocab_size:
        return
    index, token = next(
        (index, token) for index, token in enumerate(ids) if not 0 <= token < card.vocab_size
    )
    raise InvalidRequest(
        f"`{path}[{index}]` is {token}; the token ids of {card.id} are 0 to {card.vocab_size - 1}",
        field=f"{path}[{index}]",
    )
