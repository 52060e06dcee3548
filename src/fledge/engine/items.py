"""What is checked of a job's items before they become tokens, and what their errors say."""

from collections.abc import Sequence

from fledge.errors import EmptyInput, InputTooLong, InvalidRequest, TooManyInputs
from fledge.types import Item


def check_unicode(items: Sequence[Item], first: int = 0) -> None:
    """JSON can spell half of a surrogate pair, which is no character and has no UTF-8.

    Args:
        items: a job's, or a part of them.
        first: the number of the first one in the job.

    Raises:
        InvalidRequest: one has such a half.
    """
    for index, item in enumerate(items, start=first):
        try:
            if isinstance(item, str):
                item.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"`items[{index}]` is not valid Unicode: {error.reason} at {error.start}",
                field=f"items[{index}]",
            ) from error


def check_ids(ids: Sequence[int], index: int, vocab_size: int) -> None:
    """Token ids must be in the vocabulary.

    Raises:
        InvalidRequest: one of the item at `index` is not.
    """
    for token in ids:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"`items[{index}]` has the token id {token}; "
                f"this model's ids go from 0 to {vocab_size - 1}",
                field=f"items[{index}]",
            )


def too_long(index: int, limit: int, count: int, *, is_whole: bool) -> InputTooLong:
    """The error of an item that must not be cut.

    Args:
        count: tokens seen of it.
        is_whole: whether that is all of it.
    """
    seen = (
        f"{count} tokens" if is_whole else f"more than {limit} tokens, or far too many characters"
    )
    return InputTooLong(
        f"`items[{index}]` has {seen}; this model takes at most {limit}: "
        "shorten it, or ask for truncation",
        field=f"items[{index}]",
    )


def no_tokens(index: int) -> EmptyInput:
    """The error of an item that gives nothing to compute."""
    return EmptyInput(f"`items[{index}]` has no tokens", field=f"items[{index}]")


def check_total(total: int, limit: int | None, *, is_all: bool = True) -> None:
    """A job's tokens in all must not be more than its caller may send.

    Args:
        is_all: whether that is all of them; else there are at least so many.

    Raises:
        TooManyInputs: they are.
    """
    if limit is not None and total > limit:
        raise TooManyInputs(
            f"the inputs have {'' if is_all else 'at least '}{total} tokens in all; "
            f"at most {limit} may come in one request: send fewer at a time"
        )
