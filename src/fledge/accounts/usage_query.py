"""What can be asked of the usage that was counted, and its answer as CSV. Knows no database."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, TypeAlias, get_args

from fledge.errors import InvalidRequest

Group: TypeAlias = Literal["day", "key", "model", "deployment", "bill_to"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""What a report can be broken down by, in the order of its columns."""

SUMS = ("requests", "texts", "tokens", "cache_hits", "errors", "compute_us", "cost_nanos")
"""What is added up, as the database names it."""

FILTERS = ("key_id", "model", "deployment", "bill_to")
"""What a report can be limited to."""

_SHOWN_SUMS = (
    *({"compute_us": "compute_seconds"}.get(name, name) for name in SUMS),
    "cost",
)
_RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """What a report is about.

    Attributes:
        since: the first day, UTC.
        until: the last day, UTC.
        group_by: one row for each combination of these; empty: one row in all.
        key_id: of this key alone.
        model: of this public id alone.
        deployment: of this deployment alone.
        bill_to: of what was asked to be billed to this name alone.
        limit: most rows; None: all.
    """

    since: date
    until: date
    group_by: tuple[Group, ...] = ("day", "key", "model")
    key_id: str | None = None
    model: str | None = None
    deployment: str | None = None
    bill_to: str | None = None
    limit: int | None = None

    def check(self) -> None:
        """Refuse what is no report.

        Raises:
            InvalidRequest: its `field` names what is wrong.
        """
        if self.until < self.since:
            raise InvalidRequest(
                f"`until` must not be before `since`; {self.until} is before {self.since}",
                field="until",
            )
        if unknown := [name for name in self.group_by if name not in GROUPS]:
            raise InvalidRequest(
                f"`group_by` knows {', '.join(GROUPS)}, not {', '.join(unknown)}",
                field="group_by",
            )
        for name in FILTERS:
            if not (getattr(self, name) or "").isprintable():
                raise InvalidRequest(f"`{name}` has a control character", field=name)
        if self.limit is not None and self.limit < 1:
            raise InvalidRequest(f"`limit` must be 1 or more, not {self.limit}", field="limit")


def columns(query: UsageQuery) -> tuple[str, ...]:
    """The names of a report's columns: what it is broken down by, then the sums."""
    groups = [name for name in GROUPS if name in query.group_by]
    named = [
        column
        for name in groups
        for column in (("key_id", "key_name") if name == "key" else (name,))
    ]
    return (*named, *_SHOWN_SUMS)


def as_csv(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Rows as CSV with a heading; `names` are those of `columns`, in case there are no rows.

    Others chose some of the names: one that a spreadsheet would take for a formula gets an
    apostrophe before it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_harmless(row[name]) for name in names] for row in rows)
    return out.getvalue()


def _harmless(value: Any) -> Any:  # Any: whatever stands in a cell
    is_formula = isinstance(value, str) and value.startswith(_RUN_BY_SPREADSHEETS)
    return f"'{value}" if is_formula else value
