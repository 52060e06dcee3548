"""One request on its caller's account: let in by an estimate, settled by what it was."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from fledge.accounts.accounts import Accounts
from fledge.accounts.callers import Caller
from fledge.accounts.limits import Reservation, Unlimited
from fledge.accounts.usage import UsageRecord
from fledge.types import LOCAL, Item, Standing

CHARS_PER_TOKEN = 4
"""Of ordinary English. Other scripts have about one token for each character."""

SPECIAL_TOKENS = 2
"""Of nearly every model, around each text."""


class Charge:
    """An asynchronous context manager around the answering of a request.

    What happens inside is counted when it ends, however it ends: settled, or as an error.

    Args:
        accounts: where it is counted.
        caller: whose account it is on.
        model: the public id, as far as it is known.
        tokens: about how many there will be.

    Attributes:
        model: likewise; what it is at the end is counted.
    """

    __slots__ = ("_accounts", "_caller", "_record", "_reservation", "_tokens", "model")

    def __init__(self, accounts: Accounts, caller: Caller, model: str, tokens: int) -> None:
        self.model = model
        self._accounts = accounts
        self._caller = caller
        self._tokens = tokens
        self._reservation: Reservation = Unlimited()
        self._record: UsageRecord | None = None

    @property
    def standing(self) -> Standing:
        """How the caller stands with its limits, this request included."""
        return self._reservation.standing

    def settle(
        self,
        *,
        texts: int,
        tokens: int,
        cache_hits: int,
        deployment: str = LOCAL,
        compute_s: float = 0.0,
        cost_nanos: int = 0,
    ) -> None:
        """Say what it was. See `UsageRecord`."""
        self._reservation.settle(tokens)
        self._record = UsageRecord(
            self._caller.key_id,
            self.model,
            deployment=deployment,
            texts=texts,
            tokens=tokens,
            cache_hits=cache_hits,
            compute_s=compute_s,
            cost_nanos=cost_nanos,
            bill_to=self._caller.bill_to,
        )

    async def __aenter__(self) -> Self:
        try:
            self._reservation = await self._accounts.reserve(self._caller, self._tokens)
        except BaseException:
            count_failure(self._accounts, self._caller, self.model)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Counted first: the release may wait for a server, and be cancelled meanwhile.
        if self._record is None or exc is not None:
            count_failure(self._accounts, self._caller, self.model)
        else:
            self._accounts.count(self._record)
        await self._reservation.release()


def count_failure(accounts: Accounts, caller: Caller, model: str) -> None:
    """Count a request that was not answered; `model` is empty where it named none that is known."""
    accounts.count(
        UsageRecord(caller.key_id, model, deployment="", errors=1, bill_to=caller.bill_to)
    )


def estimate_tokens(items: Sequence[Item]) -> int:
    """About how many tokens there are: too many rather than too few, and without a tokenizer."""
    return sum(
        SPECIAL_TOKENS + (len(item) // CHARS_PER_TOKEN if item.isascii() else len(item))
        if isinstance(item, str)
        else len(item)
        for item in items
    )
