"""One page of a list, as the clients of OpenAI go through them: by the id of the last one seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fledge.batches.records import Record
from fledge.errors import InvalidRequest

RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True, slots=True)
class Page(Generic[RecordT]):
    """Some records in order, and whether more follow."""

    records: Sequence[RecordT]
    has_more: bool


def page_of(records: Sequence[RecordT], *, after: str | None, limit: int) -> Page[RecordT]:
    """The next `limit` records behind `after`.

    Raises:
        InvalidRequest: `after` is none of them.
    """
    start = 0
    if after is not None:
        start = next((i + 1 for i, one in enumerate(records) if one.id == after), 0)
        if not start:
            raise InvalidRequest("`after` must be the id of an entry of this list", field="after")
    return Page(records[start : start + limit], len(records) > start + limit)
