"""Every setting, its default, and how to choose it: `fledge.toml`, then `FLEDGE_*`, then flags.

Later sources win. A name that no setting has is an error, never a setting that does nothing.
The descriptions below are the help texts and the table in `docs/configuration.md`.
"""

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
)

from fledge.errors import SettingsError
from fledge.names import as_host, as_name, as_origin, listed, quoted
from fledge.settings_sources import A_SIZE, Setting, Sources
from fledge.types import Precision

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
ENV_PREFIX = "FLEDGE_"
SETTINGS_FILE = Path("fledge.toml")
YEAR_S = 365 * 24 * 3600
"""The longest time that a setting may name: more is a slip, and some timers cannot hold it."""
EXACT = 2**53
"""The largest count: JSON's numbers are exact up to it."""
SIZE = re.compile(r"\s*[0-9_]{0,20}\.?[0-9]{1,20}\s*([a-z]+)?\s*", re.IGNORECASE)


def as_number(value: Any) -> Any:  # Any: what a variable, a file or a caller holds
    """A number for pydantic, which takes true for 1 as Python does, and would compare NaN.

    Raises:
        ValueError: it is true or false, infinite, or not a number.
    """
    if isinstance(value, bool):
        spelled = json.dumps(value)
        raise ValueError(f"must be a number, not {spelled}")  # noqa: TRY004 - pydantic's wish
    try:
        is_finite = not isinstance(value, float | str) or math.isfinite(float(value))
    except ValueError:
        return value  # no number at all, which pydantic tells
    if not is_finite:
        raise ValueError(f"must be a finite number, not {quoted(str(value))}")
    return value


def as_size(value: Any) -> Any:  # Any: likewise
    """A size for pydantic, which would overlook what stands behind one.

    Raises:
        ValueError: something does.
    """
    if isinstance(value, str) and not SIZE.fullmatch(value):
        raise ValueError(f"must be {A_SIZE}, not {quoted(value)}")
    return value


Name: TypeAlias = Annotated[str, AfterValidator(as_name)]
Folder: TypeAlias = Annotated[Path, BeforeValidator(as_name)]
Names: TypeAlias = Annotated[tuple[Name, ...], BeforeValidator(listed)]
Hosts: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(as_host)], ...], BeforeValidator(listed)
]
Origins: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(as_origin)], ...], BeforeValidator(listed)
]
IsNumber = BeforeValidator(as_number)
Count: TypeAlias = Annotated[int, IsNumber, Field(ge=0, le=EXACT)]
Milliseconds: TypeAlias = Annotated[float, IsNumber]
Seconds: TypeAlias = Annotated[float, IsNumber, Field(le=YEAR_S)]
Size: TypeAlias = Annotated[ByteSize, BeforeValidator(as_size), IsNumber, Field(ge=1024, le=EXACT)]


def default_cache_dir() -> Path:
    """Where the desktop's convention has it; a variable that is set to nothing counts as unset."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fledge"


class Section(BaseModel):
    """Fields that cannot be changed, and none besides."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HuggingFaceSettings(Section):
    """`[huggingface]`: choices of the Hugging Face dialect alone."""

    single_input: Literal["nested", "flat"] = Field(
        "nested",
        description="The answer for one string. `nested` is an array of arrays, as the "
        "documentation says; `flat` is the bare vector that some old servers gave: choose it only "
        "for a client that indexes the answer as one vector.",
    )


class ModelSettings(Section):
    """`[model."org/name"]`: what one model does otherwise than the rest. None: as the rest."""

    keep_alive_s: Seconds | None = Field(
        None,
        description="As `keep_alive_s`, for this model alone. Long for one that is slow to load "
        "and asked for now and then; 0 for one that is needed once a day.",
    )
    pinned: bool | None = Field(
        None,
        description="Whether this model stays once it is loaded. `false` lets one go that `pinned` "
        "names.",
    )
    precision: Precision | None = Field(
        None,
        description="As `precision`, for this model alone: fp32 for one whose numbers must be "
        "those of the reference, int8 for a large one that is too slow.",
    )


class Settings(Section):
    """What an operator can choose. Frozen: built once by `load_settings`, passed down by hand."""

    models: Names = Field(
        (DEFAULT_MODEL,),
        description="Models to serve: hub ids or local folders. The first one answers requests "
        "that name no model.",
    )
    models_dir: Folder | None = Field(
        None,
        description="A folder whose sub-folders are models; a folder's name is its id. It is "
        "looked through again while serving, so a new folder joins without a restart. For models "
        "of your own; the hub's need none.",
    )
    catalog: Literal["shipped", "none"] = Field(
        "shipped",
        description="Which models load when a request names them. shipped: the ones that Fledge "
        "lists, besides `models` and `models_dir`. none: only `models`, `models_dir` and what "
        "`allow_any_model` allows; choose it where nobody but you should decide what is "
        "downloaded.",
    )
    allow_any_model: bool | None = Field(
        None,
        description="Load any hub id, `org/name`, that a request names. Unset: yes for a keyless "
        "instance on a loopback address, else no, since whoever may ask could fill the disk.",
    )
    preload: bool = Field(
        default=True,
        description="Load `models` before listening. `false` listens at once, and each model "
        "loads at its first request, which waits for it: for a quick start while developing.",
    )
    pinned: Names = Field(
        (),
        description="Models that do not leave by themselves once they are loaded, neither idle "
        "nor for memory. Pin what must always answer at once; the rest shares what is left of "
        "`memory_budget_bytes`.",
    )
    keep_alive_s: Seconds = Field(
        900.0,
        description="Seconds without a request after which a model leaves memory; negative: "
        "never, 0: at once. Longer where a model is slow to load, shorter where other programs "
        "need the memory. Those in `models` stay until memory is needed, unless their section "
        "says otherwise.",
    )
    memory_budget_bytes: Size | None = Field(
        None,
        description='What loaded models may take together, as "8GB" or "6GiB"; the one idle '
        "longest leaves to make room. Unset: a share of the memory that the machine or the "
        "container has. Set it lower where other programs run, to the models you want warm "
        "together plus the largest one that loads beside them.",
    )
    load_timeout_s: Annotated[Seconds, Field(ge=0)] = Field(
        300.0,
        description="Seconds that a request waits for a model that is loading, before it gets a "
        "503; the load goes on. As long as the callers' own timeout is sensible, and long enough "
        "to download the largest model at a first request.",
    )
    cold_start_hold_s: Annotated[Seconds, Field(ge=0)] = Field(
        2.0,
        description="Seconds that a Hugging Face request is held that says nothing about waiting "
        "for a model that is loading, before it gets a 503. Not 0 for callers that try again "
        "without a pause, as one of the official clients does; long enough for small models to "
        "load within it.",
    )
    drain_timeout_s: Annotated[Seconds, Field(ge=0)] = Field(
        30.0,
        description="Seconds that running requests may take to end after SIGTERM; then they are "
        "given up. Less than the time after which whoever sent it kills the process: 30 s in "
        "Kubernetes, 10 s in Docker, unless told otherwise.",
    )
    precision: Precision = Field(
        "auto",
        description="auto: bf16 where the CPU computes it natively, else fp32. fp32: the "
        "reference numbers, about half as fast. int8: fastest, cosine about 0.998 to fp32.",
    )
    threads: Count = Field(
        0,
        le=4096,
        description="Threads for the computation; 0 takes every core this process may use. Set it "
        "lower only to leave cores to other programs.",
    )
    host: Name = Field(
        "127.0.0.1",
        description="Address to listen on. Anything but loopback needs --no-auth, since anybody "
        "who reaches it may use it.",
    )
    port: Count = Field(8080, le=65535, description="Port to listen on; 0 picks a free one.")
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
    admin_routes: bool | None = Field(
        None,
        description="Whether `/admin/...` answers, which loads and unloads models. Unset: to this "
        "machine, on a loopback address. `false` where a proxy on the same machine lets others in: "
        "without keys nobody can tell them apart. `true` has no effect elsewhere.",
    )
    strict_fields: bool = Field(
        default=False,
        description="Refuse a body with a field that Fledge does not know, instead of naming it "
        "in the header x-fledge-ignored. For finding typos while developing a client.",
    )
    max_inputs_per_request: Count = Field(
        2048, ge=1, description="Most inputs of one request. 2,048 is what OpenAI allows."
    )
    max_tokens_per_request: Count = Field(
        300_000,
        ge=1,
        description="Most tokens of one request, all inputs together. 300,000 is what OpenAI "
        "allows.",
    )
    max_body_bytes: Size = Field(
        ByteSize(32 * 2**20),
        description='Most bytes of one request\'s body, as a number or as "32MiB"; larger ones '
        "get a 413.",
    )
    max_queued_tokens: Count = Field(
        1_000_000,
        ge=1,
        description="Tokens that may wait for computation, all requests together; more gets a 429. "
        "Choose what the machine computes in the longest time a caller should wait.",
    )
    request_timeout_s: Annotated[Seconds, Field(gt=0)] = Field(
        120.0,
        description="Seconds after which a request is given up, wherever it is. Waiting for its "
        "model to load does not count; that has its own, `load_timeout_s`. As long as callers "
        "wait: what is computed later is thrown away.",
    )
    batch_target_ms: Milliseconds = Field(
        35.0,
        ge=1,
        le=1000,
        description="Time that one batch should take; a request that waits alone may have one "
        "of up to 200 ms where that pays. Smaller answers single queries sooner beside "
        "bulk work; larger gains a few percent of throughput. 20 to 50 is sensible on a CPU.",
    )
    cache_dir: Folder = Field(
        default_factory=default_cache_dir,
        description="Where converted weights are kept: up to the size of each model, once per "
        "precision. Safe to delete while no Fledge runs.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="How much to log. Texts and keys are never logged at any level."
    )
    huggingface: HuggingFaceSettings = Field(default=HuggingFaceSettings())
    model: dict[Name, ModelSettings] = Field(
        default={},
        description='Sections for single models, `[model."org/name"]`; as a variable, JSON: '
        '{"org/name": {"keep_alive_s": 60}}.',
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """The settings as they are written now, right or wrong.

    Attributes:
        settings: what is in force; where something is wrong, the default.
        mistakes: a line each; a server does not start over any.
        in_force: every setting, and where it came from.
    """

    settings: Settings
    mistakes: tuple[str, ...]
    in_force: tuple[Setting, ...]

    def check(self) -> None:
        """Refuse mistakes.

        Raises:
            SettingsError: there are some; the message has them all, one a line.
        """
        if len(self.mistakes) > 1:
            lines = "".join(f"\n  {mistake}" for mistake in self.mistakes)
            raise SettingsError(f"{len(self.mistakes)} mistakes in the settings:{lines}")
        if self.mistakes:
            raise SettingsError(self.mistakes[0])


def read_settings(**flags: Any) -> Reading:
    """Everything that is written: flags given as keywords (None means not given) over the rest."""
    sources = Sources(Settings)
    sources.read_file(SETTINGS_FILE)
    sources.read_variables(os.environ, ENV_PREFIX)
    sources.read_flags(flags)
    settings = sources.settings()
    return Reading(settings, tuple(sources.mistakes), tuple(sources.in_force(settings)))


def load_settings(**flags: Any) -> Settings:
    """The settings in force: flags given as keywords (None means not given) over everything else.

    Raises:
        SettingsError: the file or a variable cannot be read, a name is unknown, a value is
            malformed or out of range: all that there is of it, in one message.
    """
    reading = read_settings(**flags)
    reading.check()
    return reading.settings
