"""Who asks: a key, or nobody in particular."""

from dataclasses import dataclass
from typing import Final

from fledge.accounts.keys import Key
from fledge.accounts.limits import Holder
from fledge.accounts.usage import KEYLESS


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose account a request is on.

    Attributes:
        key: None where no key is asked for.
        bill_to: the organisation that the caller named, as it was sent.
        is_bulk: whether nobody waits for each of its requests: then only its budget limits it.
    """

    key: Key | None = None
    bill_to: str = ""
    is_bulk: bool = False

    @property
    def key_id(self) -> str:
        """What usage is counted under."""
        return KEYLESS if self.key is None else self.key.id

    @property
    def tenant(self) -> str | None:
        """Who takes turns with others in the queue; all without a key are one."""
        return None if self.key is None else self.key.id

    @property
    def owner(self) -> str | None:
        """Whose its files and batches are; all that is made without a key has one owner."""
        return self.tenant

    @property
    def is_admin(self) -> bool:
        """Whether its key may manage models, keys and usage."""
        return self.key is not None and "admin" in self.key.scopes

    def check_model(self, model_id: str) -> None:
        """Refuse a model that is not the caller's.

        Raises:
            Forbidden: the key is limited to others.
        """
        if self.key is not None:
            self.key.check_model(model_id)

    def holder(self) -> Holder | None:
        """What its limits are held against; None: it has none."""
        key = self.key
        if key is None:
            return None
        if self.is_bulk:
            return Holder(id=key.id, monthly_token_budget=key.monthly_token_budget)
        return Holder(
            id=key.id,
            requests_per_minute=key.requests_per_minute,
            tokens_per_minute=key.tokens_per_minute,
            concurrent_requests=key.concurrent_requests,
            monthly_token_budget=key.monthly_token_budget,
        )


NOBODY: Final = Caller()
"""Whoever asks without a key."""
