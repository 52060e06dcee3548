"""The types of settings, and the sections of `fledge.toml` that are not settings of their own."""

import json
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field

from fledge.names import (
    as_host,
    as_name,
    as_origin,
    as_redis_url,
    as_url,
    listed,
    mapped,
    quoted,
)
from fledge.settings_shapes import HoldsPassword
from fledge.settings_sources import A_SIZE
from fledge.types import Precision

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
Url: TypeAlias = Annotated[str, AfterValidator(as_url), HoldsPassword]
RedisUrl: TypeAlias = Annotated[str, AfterValidator(as_redis_url), HoldsPassword]
Folder: TypeAlias = Annotated[Path, BeforeValidator(as_name)]
Names: TypeAlias = Annotated[tuple[Name, ...], BeforeValidator(listed)]
Hosts: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(as_host)], ...], BeforeValidator(listed)
]
Origins: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(as_origin)], ...], BeforeValidator(listed)
]
ProviderIds: TypeAlias = Annotated[dict[Name, Name], BeforeValidator(mapped)]
"""What is called otherwise elsewhere -> how."""

IsNumber = BeforeValidator(as_number)
Count: TypeAlias = Annotated[int, IsNumber, Field(ge=0, le=EXACT)]
Milliseconds: TypeAlias = Annotated[float, IsNumber]
HedgeAfter: TypeAlias = Annotated[Milliseconds, Field(gt=0, le=3_600_000)]
Seconds: TypeAlias = Annotated[float, IsNumber, Field(le=YEAR_S)]
Size: TypeAlias = Annotated[ByteSize, BeforeValidator(as_size), IsNumber, Field(ge=1024, le=EXACT)]
SizeOrNone: TypeAlias = Annotated[ByteSize, BeforeValidator(as_size), IsNumber, Field(le=EXACT)]
"""Zero is none."""


def default_cache_dir() -> Path:
    """Where the desktop's convention has it; a variable that is set to nothing counts as unset."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fledge"


def default_data_dir() -> Path:
    """Likewise, for what cannot be made again."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "fledge"


class Section(BaseModel):
    """Fields that cannot be changed, and none besides."""

    # A value that is wrong may be an address with a password: errors do not repeat it.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


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
    cache: bool | None = Field(
        None,
        description="`false`: vectors of this model are never kept, in no tier. For texts that "
        "must not leave a trace, or that nobody ever sends twice.",
    )
    route: Names | None = Field(
        None,
        description="Where this model may run, in the order in which it is tried: names of "
        'providers, and `local` for this machine; `["local"]` keeps its texts here. `["fastest"]` '
        'or `["cheapest"]` lets measured time or the price decide, among all or, as `["cheapest", '
        '"local", "nebius"]`, among those named. Unset: here first, then the providers in the '
        "order of the settings.",
    )
    hedge_after_ms: HedgeAfter | None = Field(
        None, description="As `providers.hedge_after_ms`, for this model alone."
    )
    providers: ProviderIds = Field(
        {},
        description='What providers call this model, as `{nebius = "Qwen/Qwen3-Embedding-8B"}`: '
        "besides what the catalogue knows, and before it. An id that the catalogue does not have "
        "becomes a model that runs at these providers alone.",
    )
