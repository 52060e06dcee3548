"""What is known of a provider before anything is sent to it: plain data, its key well hidden."""

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from fledge.errors import SettingsError
from fledge.names import as_endpoint
from fledge.providers.parts import PartLimits
from fledge.providers.shapes import Shape
from fledge.types import LOCAL

_KEY = re.compile(r"[\x21-\x7e]+")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One service, as the settings describe it.

    Attributes:
        name: what requests, logs and metrics call it.
        shape: how it is spoken to.
        base_url: what its paths are appended to.
        key: sent to it, and shown to nobody else; None: it wants none.
        limits: most of one request.
        max_concurrent_requests: most requests that are on their way to it at once.
        timeout_s: most seconds for one request, from connecting to the last byte.
        connect_timeout_s: of these, most for connecting to one of its addresses.
        says_400_while_loading: whether it answers 400 for a model that it has yet to load.
        ca_file: certificates to trust in place of the system's.
        price_nanos_per_million_tokens: billionths; None: nobody said.
    """

    name: str
    shape: Shape
    base_url: str
    key: SecretStr | None = None
    limits: PartLimits
    max_concurrent_requests: int = 8
    timeout_s: float = 60.0
    connect_timeout_s: float = 5.0
    says_400_while_loading: bool = False
    ca_file: Path | None = None
    price_nanos_per_million_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.name == LOCAL or not _NAME.fullmatch(self.name):
            raise SettingsError(
                f"a provider cannot be called {self.name[:80]!r}: give small letters, digits, "
                f"dots and dashes, at most 64, and not {LOCAL!r}, which is this machine"
            )
        try:
            as_endpoint(self.base_url)
        except ValueError as error:
            raise SettingsError(f"the base_url of the provider {self.name}: {error}") from None
        if self.key is not None and not _KEY.fullmatch(self.key.get_secret_value()):
            raise SettingsError(
                f"the key of the provider {self.name} is empty, or holds a space, a line break or "
                "a character beyond ASCII; no header can carry that"
            )

    @property
    def secret(self) -> str | None:
        """The key itself."""
        return None if self.key is None else self.key.get_secret_value()
