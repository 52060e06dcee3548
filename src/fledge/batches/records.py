"""What is known of a file and of a batch, as it is written down beside them.

Times are Unix seconds. Whose they are is the id of a key; None: made without one.
"""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from fledge.accounts.callers import Caller

Status: TypeAlias = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
Ending: TypeAlias = Literal["completed", "expired", "cancelled"]
Purpose: TypeAlias = Literal["batch", "batch_output"]

ENDED: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})


class Record(BaseModel):
    """Data that is never changed, but written anew."""

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str | None
    created: float

    def is_for(self, caller: Caller) -> bool:
        """Whether a caller may know of it: what is another's does not exist for it."""
        if caller.is_admin:
            return True
        return self.owner == caller.owner


class StoredFile(Record):
    """A file: uploaded, or made by a batch.

    Attributes:
        name: what its owner calls it; never a path here.
        bytes: its size.
        expires: when it goes away by itself.
    """

    name: str
    bytes: int
    purpose: Purpose
    expires: float


class BatchError(BaseModel):
    """Why a batch did not begin; `line` counts from 1."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Batch(Record):
    """A batch, from its creation to its end.

    Attributes:
        bill_to: as its creator sent it.
        output_file_id: the id that the results will have; there is such a file once the batch has
            ended, if `has_output`.
        error_file_id: likewise.
        output_expires_after_s: seconds for which those files are kept.
        expires: when it ends, whatever is left of it.
        moments: when it came to be in each state.
        ending: how it ends, once that is certain.
        model: as the lines name it; None: they name none.
        total: requests, once they were counted.
        tokens: of the requests that were completed.
    """

    bill_to: str = ""
    endpoint: str
    completion_window: str
    metadata: Mapping[str, str] | None = None
    input_file_id: str
    output_file_id: str
    error_file_id: str
    output_expires_after_s: float
    expires: float
    status: Status = "validating"
    moments: Mapping[Status, float] = {}
    ending: Ending | None = None
    errors: tuple[BatchError, ...] = ()
    model: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    tokens: int = 0
    has_output: bool = False
    has_errors: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in ENDED

    def entered(self, status: Status, now: float, **changes: object) -> "Batch":
        """The batch in another state; a state that it was in before keeps its moment."""
        moments = {status: now, **self.moments}
        return self.model_copy(update={"status": status, "moments": moments, **changes})
