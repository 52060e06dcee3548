"""Every setting, its default, and how to choose it: `fledge.toml`, then `FLEDGE_*`, then flags.

Later sources win. A name that no setting has is an error, never a setting that does nothing.
The descriptions below are the help texts and the table in `docs/configuration.md`.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as SourceError

from fledge.errors import SettingsError
from fledge.names import as_host, as_origin, listed
from fledge.types import Precision

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
ENV_PREFIX = "FLEDGE_"
SETTINGS_FILE = Path("fledge.toml")

Names: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)]
Hosts: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(as_host)], ...], NoDecode, BeforeValidator(listed)
]
Origins: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(as_origin)], ...], NoDecode, BeforeValidator(listed)
]


def default_cache_dir() -> Path:
    """Where the desktop's convention has it; a variable that is set to nothing counts as unset."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fledge"


class HuggingFaceSettings(BaseModel):
    """`[huggingface]`: choices of the Hugging Face dialect alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    single_input: Literal["nested", "flat"] = Field(
        "nested",
        description="The answer for one string. `nested` is an array of arrays, as the "
        "documentation says; `flat` is the bare vector that some old servers gave: choose it only "
        "for a client that indexes the answer as one vector.",
    )


class Settings(BaseSettings):
    """What an operator can choose. Frozen: built once by `load_settings`, passed down by hand."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        toml_file=SETTINGS_FILE,
    )

    models: Names = Field(
        (DEFAULT_MODEL,),
        description="Models to serve: hub ids or local folders. The first one answers requests "
        "that name no model.",
    )
    precision: Precision = Field(
        "auto",
        description="auto: bf16 where the CPU computes it natively, else fp32. fp32: the "
        "reference numbers, about half as fast. int8: fastest, cosine about 0.998 to fp32.",
    )
    threads: int = Field(
        0,
        ge=0,
        description="Threads for the computation; 0 takes every core this process may use. Set it "
        "lower only to leave cores to other programs.",
    )
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Anything but loopback needs --no-auth, since anybody "
        "who reaches it may use it.",
    )
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    no_auth: bool = Field(
        default=False,
        description="Serve without keys on an address that is not loopback. Only behind something "
        "that checks callers itself.",
    )
    allowed_hosts: Hosts = Field(
        (),
        description="Host names, besides loopback ones and `host`, that requests may be addressed "
        'to; "*" allows any. A page in a browser cannot reach a keyless instance under a name '
        "that is not listed.",
    )
    cors_allow_origins: Origins = Field(
        (),
        description="Origins whose pages may call this server from a browser, as "
        '"https://app.example.org"; "*" allows any. Empty: only pages of this server itself.',
    )
    strict_fields: bool = Field(
        default=False,
        description="Refuse a body with a field that Fledge does not know, instead of naming it "
        "in the header x-fledge-ignored. For finding typos while developing a client.",
    )
    max_inputs_per_request: int = Field(
        2048, ge=1, description="Most inputs of one request. 2,048 is what OpenAI allows."
    )
    max_tokens_per_request: int = Field(
        300_000,
        ge=1,
        description="Most tokens of one request, all inputs together. 300,000 is what OpenAI "
        "allows.",
    )
    max_body_bytes: int = Field(
        32 * 2**20, ge=1024, description="Most bytes of one request's body; larger ones get a 413."
    )
    max_queued_tokens: int = Field(
        1_000_000,
        ge=1,
        description="Tokens that may wait for computation, all requests together; more gets a 429. "
        "Choose what the machine computes in the longest time a caller should wait.",
    )
    request_timeout_s: float = Field(
        120.0, gt=0, description="Seconds after which a request is given up, wherever it is."
    )
    batch_target_ms: float = Field(
        35.0,
        ge=1,
        le=1000,
        description="Time that one batch should take; a request that waits alone may have one "
        "of up to 200 ms where that pays. Smaller answers single queries sooner beside "
        "bulk work; larger gains a few percent of throughput. 20 to 50 is sensible on a CPU.",
    )
    cache_dir: Path = Field(
        default_factory=default_cache_dir,
        description="Where converted weights are kept: up to the size of each model, once per "
        "precision. Safe to delete while no Fledge runs.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="How much to log. Texts and keys are never logged at any level."
    )
    huggingface: HuggingFaceSettings = Field(default=HuggingFaceSettings())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then `fledge.toml` of the working directory."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(**flags: Any) -> Settings:
    """The settings in force: flags given as keywords (None means not given) over everything else.

    Raises:
        SettingsError: a value is malformed or out of range, or a name is unknown, all of them in
            one message; or the file or a variable cannot be read at all.
    """
    known = {name.upper() for name in Settings.model_fields}
    unknown = [
        name
        for name in os.environ
        if name.startswith(ENV_PREFIX) and name.removeprefix(ENV_PREFIX).split("__")[0] not in known
    ]
    if unknown:
        raise SettingsError(
            f"unknown settings in the environment: {', '.join(sorted(unknown))}; "
            "`fledge doctor` lists the ones that exist"
        )
    try:
        settings = Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise SettingsError(f"settings: {problems}") from None
    except SourceError as error:
        raise SettingsError(_unread_variable(str(error))) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{SETTINGS_FILE} cannot be read: {reason}") from None
    return settings


def _unread_variable(message: str) -> str:
    """The variable in the place of the source's class and field, of which no user knows."""
    field = re.search(r'field "(\w+)"', message)
    if field is None:
        return f"settings: {message}"
    name = field[1]
    section = Settings.model_fields[name].annotation if name in Settings.model_fields else None
    message = f"{ENV_PREFIX}{name.upper()} cannot be read: it must be JSON"
    if not (isinstance(section, type) and issubclass(section, BaseModel)):
        return message
    choices = ", ".join(f"{ENV_PREFIX}{name}__{choice}".upper() for choice in section.model_fields)
    return f"{message}; or set {choices}"
