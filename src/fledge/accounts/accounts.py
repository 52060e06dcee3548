"""What a server knows of those who ask: their keys, their limits and what they used."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from fledge.accounts.callers import Caller
from fledge.accounts.keys import Key
from fledge.accounts.limits import Reservation, Unlimited
from fledge.accounts.usage import UsageRecord
from fledge.errors import InvalidRequest
from fledge.telemetry.states import AccountsState

if TYPE_CHECKING:
    from fledge.accounts.key_store import KeyStore
    from fledge.accounts.usage_query import UsageQuery

T = TypeVar("T")

SPENDING_EVERY_S = 60.0
"""For so long a provider may be asked that other instances have spent the money of."""

Spent: TypeAlias = Callable[[], Mapping[str, int]]
"""What each deployment has cost this calendar month, UTC, in billionths. Blocks."""


class Accounts:
    """Nothing: no key is asked for, and nothing is counted. `StoredAccounts` is the other kind.

    For use from one event loop.
    """

    @property
    def has_keys(self) -> bool:
        """Whether a key was ever made: from then on, requests need one."""
        return False

    def find(self, secret: str) -> Key | None:  # noqa: ARG002 - there are none
        """The key that a secret opens; None: none, or one that is revoked or has expired.

        Raises:
            DatabaseUnavailable: nobody can say any more which keys are valid.
        """
        return None

    def key_of(self, key_id: str) -> Key | None:  # noqa: ARG002 - likewise
        """The living key of an id, for work that goes on after its request has ended.

        Raises:
            DatabaseUnavailable: nobody can say any more which keys are valid.
        """
        return None

    async def reserve(self, caller: Caller, tokens: int) -> Reservation:  # noqa: ARG002 - likewise
        """Let a request of about so many tokens in.

        Raises:
            LimitExceeded, LimitsUnavailable: as `Limits.reserve`.
        """
        return Unlimited()

    def count(self, record: UsageRecord) -> None:
        """Count what one request used. Takes microseconds and never fails."""

    async def with_keys(self, do: "Callable[[KeyStore], T]") -> T:  # noqa: ARG002 - likewise
        """Look at the keys, or change them, without holding up the loop; it counts at once.

        Raises:
            InvalidRequest: there are none here.
            DatabaseUnavailable: the database does not answer.
        """
        raise InvalidRequest("this server keeps no keys (database_url is none)")

    async def usage(self, query: "UsageQuery") -> list[dict[str, Any]]:  # noqa: ARG002 - likewise
        """What was used: rows with the keys of `usage_query.columns`.

        Raises:
            InvalidRequest: nothing is counted here, or the query is no report.
            DatabaseUnavailable: the database does not answer.
        """
        raise InvalidRequest("this server counts no usage (database_url is none)")

    def state(self) -> AccountsState | None:
        """How keys, usage and limits are kept up with, without waiting; None: there are none."""
        return None

    def spent_this_month(self) -> dict[str, int]:
        """What each deployment has cost this calendar month, UTC, in billionths. Blocks."""
        return {}

    def follow_spending(
        self, learn: Callable[[Spent], None], *, every_s: float = SPENDING_EVERY_S
    ) -> None:
        """Have `learn` called again and again, in a thread of its own, until these are closed.

        Args:
            learn: is given what to read to know what all instances have spent.
            every_s: seconds between two calls.
        """

    async def aclose(self) -> None:
        """Write what was counted, and let go of the database. Safe to call twice."""

    def close(self) -> None:
        """The same where no loop runs yet."""
