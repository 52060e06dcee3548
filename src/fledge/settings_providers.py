"""`[providers]`: which providers may be asked, and `[providers.NAME]` for what each is told."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from fledge.names import as_endpoint, as_name, listed, quoted
from fledge.settings_fields import (
    Count,
    HedgeAfter,
    IsNumber,
    Name,
    ProviderIds,
    Seconds,
    Section,
)
from fledge.types import LOCAL

MOST_MONEY = 9_000_000
"""In billionths, JSON's numbers are exact up to it."""

KEY_ADVICE = (
    "a key does not belong into the settings, which end up in repositories and backups: set "
    "api_key_env to the name of the variable that holds it, or api_key_file to a file"
)

_PROVIDER = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,62}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
# What a request's model or path could not tell from a provider.
_TAKEN = {LOCAL, "fastest", "cheapest", "preferred", "auto", "all", "api", "models", "pipeline"}


def as_provider(name: str) -> str:
    """A provider's name, as requests, variables and metrics can have it.

    Raises:
        ValueError: none can be called so.
    """
    if not _PROVIDER.fullmatch(name):
        raise ValueError(
            f"{quoted(name)} is no name for a provider; write small letters, digits, dots and "
            "hyphens, at most 64"
        )
    if name in _TAKEN:
        raise ValueError(f"no provider can be called {quoted(name)}, which means something else")
    return name


def as_variable(name: str) -> str:
    """The name of a variable, in words that do not repeat it: it may be the key itself.

    Raises:
        ValueError: it is none.
    """
    if not _VARIABLE.fullmatch(name):
        raise ValueError(
            "must be the name of a variable, in capitals, as NEBIUS_API_KEY; if it is the key "
            "itself, put that into a variable"
        )
    return name


ProviderName: TypeAlias = Annotated[str, AfterValidator(as_provider)]
ProviderNames: TypeAlias = Annotated[tuple[ProviderName, ...], BeforeValidator(listed)]
Money: TypeAlias = Annotated[float, IsNumber, Field(ge=0, le=MOST_MONEY)]


class ProviderSettings(Section):
    """`[providers.NAME]`: what is left out is as the preset of that name has it."""

    elsewhere: ClassVar = dict.fromkeys(("api_key", "key", "token", "secret"), KEY_ADVICE)
    """Names that are no settings on purpose, with what is said of them."""

    enabled: bool = Field(
        default=True,
        description="`false` switches the provider off and keeps its section. Having a section "
        "switches it on.",
    )
    shape: Name | None = Field(
        None,
        description="How it is spoken to. `openai` for nearly everybody; see docs/providers.md for "
        "the others. Only for providers without a preset, and for servers of your own.",
    )
    base_url: Annotated[str, AfterValidator(as_endpoint)] | None = Field(
        None,
        description="Where it is, up to what the shape appends: "
        "`https://api.example.org/v1` for `openai`, which appends `/embeddings`.",
    )
    api_key_env: Annotated[str, AfterValidator(as_variable)] | None = Field(
        None,
        description="The variable that holds the key. Presets have one each: `NEBIUS_API_KEY` and "
        "so on. The variable alone switches no provider on.",
    )
    api_key_file: Annotated[Path, BeforeValidator(as_name)] | None = Field(
        None,
        description="A file that holds the key and nothing else, as Docker and Kubernetes mount "
        "secrets; wins over the variable.",
    )
    ca_file: Annotated[Path, BeforeValidator(as_name)] | None = Field(
        None,
        description="Certificates, in PEM, of those who may sign the provider's, in place of the "
        "system's: for servers of your own with a private authority.",
    )
    timeout_s: Annotated[Seconds, Field(gt=0)] | None = Field(
        None,
        description="Most seconds for one call. Shorter lets another deployment answer in time; "
        "longer than its slowest honest answer, or work is paid for and thrown away.",
    )
    max_concurrent_requests: Annotated[Count, Field(ge=1)] | None = Field(
        None,
        description="Most calls to it at the same time; the rest wait here. As many as your plan "
        "there allows.",
    )
    price_per_million_tokens: Money | None = Field(
        None,
        description="What a million tokens cost there, as `0.01`, in the currency in which you "
        "give all prices. For `cheapest`, `monthly_budget` and usage. Unset: unknown, which "
        "`cheapest` takes for dearest.",
    )
    monthly_budget: Money | None = Field(
        None,
        description="Most money for it in a calendar month, UTC, in the same currency; then it is "
        "passed over. Needs `price_per_million_tokens`, and a database.",
    )
    models: ProviderIds = Field(
        {},
        description="What it calls models, public id -> its id, as "
        '`{"intfloat/e5-mistral-7b-instruct" = "E5-Mistral-7B-Instruct"}`; besides what the '
        "catalogue knows, and before it. An id that the catalogue does not have becomes a model "
        "that runs at providers alone.",
    )


class ProvidersSettings(Section):
    """`[providers]`: those that are enabled, and a section for each that needs one."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[ProviderName, ProviderSettings] = Field(init=False)

    enabled: ProviderNames = Field(
        (),
        description='Providers that may be asked, as `["nebius", "hf-inference"]`, in the order in '
        "which they are tried after this machine. Texts go to nobody else. Empty: to nobody, "
        "whatever keys there are in the environment.",
    )
    hedge_after_ms: HedgeAfter | None = Field(
        None,
        description="Milliseconds without an answer after which a model's next deployment is asked "
        "as well, and the first answer counts. Both may cost. About the 95th percentile of what "
        "requests take, where slow answers hurt more than paying twice for some. Unset: never.",
    )

    def section(self, name: str) -> ProviderSettings:
        """What the settings say of a provider; nothing, without a section."""
        section: ProviderSettings = (self.model_extra or {}).get(name, ProviderSettings())
        return section

    def names(self) -> tuple[str, ...]:
        """Those that may be asked: as `enabled` has them, then those with a section of their own.

        One whose section says `enabled = false` is not among them.
        """
        extra: dict[str, Any] = self.model_extra or {}
        return tuple(
            name for name in dict.fromkeys((*self.enabled, *extra)) if self.section(name).enabled
        )
