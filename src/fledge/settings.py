"""Every setting, its default, and how to choose it: `fledge.toml`, then `FLEDGE_*`, then flags.

Later sources win. A name that no setting has is an error, never a setting that does nothing.
The descriptions below are the help texts and the table in `docs/configuration.md`.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr

from fledge.errors import SettingsError
from fledge.names import as_endpoint, listed
from fledge.settings_fields import (
    Count,
    Folder,
    Hosts,
    HuggingFaceSettings,
    IsNumber,
    Milliseconds,
    ModelSettings,
    Name,
    Names,
    Origins,
    RedisUrl,
    Seconds,
    Section,
    Size,
    SizeOrNone,
    Url,
    default_cache_dir,
    default_data_dir,
)
from fledge.settings_providers import ProvidersSettings
from fledge.settings_sources import Setting, Sources
from fledge.types import LogFormat, Precision

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
ENV_PREFIX = "FLEDGE_"
SETTINGS_FILE = Path("fledge.toml")


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
        description="Address to listen on. 127.0.0.1 is for this machine alone. 0.0.0.0 lets "
        "others in, and needs a key first: `fledge keys create NAME`.",
    )
    port: Count = Field(8080, le=65535, description="Port to listen on; 0 picks a free one.")
    no_auth: bool = Field(
        default=False,
        description="Ask nobody for a key, on whatever address, also where there are keys. Only "
        "behind something that checks callers itself.",
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
        description="Whether `/admin/...` answers, which manages models, keys and usage. Unset or "
        "`true`: to keys with the scope `admin`, from anywhere; while there are no keys, to "
        "callers on this machine, if `host` is loopback. `false`: to nobody; choose it where a "
        "proxy on this machine lets others in without keys, since nobody can tell them apart.",
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
    cache_memory_bytes: SizeOrNone = Field(
        ByteSize(256 * 2**20),
        description="Memory for vectors that were computed before; 0: none. A vector of 384 "
        "numbers takes 1.8 KiB, one of 1,024 takes 4.3 KiB. Large enough for the texts that come "
        "again within minutes.",
    )
    cache_answers_bytes: SizeOrNone = Field(
        ByteSize(32 * 2**20),
        description="Memory for whole answers to requests that came again in every byte, which "
        "saves reading and writing JSON; 0: none. One vector of 384 numbers takes 6 KiB as base64 "
        "and 12 KiB as a list of numbers, with what is kept beside it.",
    )
    cache_files_bytes: SizeOrNone = Field(
        ByteSize(2**30),
        description="Room for vectors in a file under `cache_dir`, which outlives restarts; 0: no "
        "file. Vectors tell something about their texts: choose 0 where nothing of those may be "
        "written down.",
    )
    redis_url: RedisUrl | None = Field(
        None,
        repr=False,
        description="Redis for instances that belong together, "
        "`redis://user:password@host:6379/0`: they share the limits of keys, and the vectors that "
        "each has computed. One instance needs none. Needs the extra `redis`.",
    )
    cache_redis_ttl_s: Seconds = Field(
        7 * 24 * 3600.0,
        description="Seconds for which vectors stay in Redis; 0 keeps none there. Redis itself has "
        "to be told how much memory they may take (`maxmemory`, `allkeys-lru`).",
    )
    limits_without_redis: Literal["instance", "refuse"] = Field(
        "instance",
        description="What holds while `redis_url` does not answer. instance: each instance holds "
        "keys to their limits by itself, so that together they let through a multiple. refuse: "
        "keys with limits get a 503; choose it where a limit is money.",
    )
    data_dir: Folder = Field(
        default_factory=default_data_dir,
        description="Where keys, usage and uploaded files are kept, unless `database_url` says "
        "otherwise of the first two. To be backed up.",
    )
    max_file_bytes: Size = Field(
        ByteSize(200 * 2**20),
        description="Most bytes of one file that is uploaded for a batch; larger ones get a 413. "
        "200 MiB is what OpenAI allows. Files are kept under `data_dir`, for 30 days unless their "
        "owner says otherwise; results may be ten times as large as what they were made from.",
    )
    max_stored_bytes: Size = Field(
        ByteSize(2 * 2**30),
        description="Most bytes of files that one key keeps, results included; those made without "
        "a key count together. Beyond it, uploads and new batches get a 400 until some are "
        "deleted; no result of a batch that runs is lost for it. The room under `data_dir`, "
        "divided by the keys that use batches; a vector of 1,024 numbers takes 6 KiB as base64 "
        "and 13 KiB as a list of numbers.",
    )
    database_url: Url | None = Field(
        None,
        repr=False,
        description="Where keys and usage are. Unset: in SQLite, `accounts.db` under `data_dir`. "
        "`postgresql://user:password@host/name` for several instances, with the extra `postgres`. "
        "`none`: nowhere; then there are no keys, and no usage is counted.",
    )
    keys_max_stale_s: Annotated[Seconds, Field(ge=5)] = Field(
        3600.0,
        description="Seconds for which keys stay valid while their database does not answer; then "
        "every request gets a 503. A key that is revoked meanwhile stays valid for as long.",
    )
    open_routes: Annotated[
        tuple[Literal["health", "metrics", "page"], ...], BeforeValidator(listed)
    ] = Field(
        ("health", "page"),
        description="Routes that answer without a key where others need one. health: `/health`, "
        "`/health/live`, `/health/ready`. metrics: `/metrics`; list it where the network already "
        "keeps strangers away from it. page: `/docs` and the page's own files.",
    )
    api_key: SecretStr | None = Field(
        None,
        description="What `fledge models load`, `unload`, `pin`, `unpin` and `status` send to a "
        "running server that asks for keys: one with the scope `admin`. Better as a variable than "
        "in a file.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="How much to log. debug: a line for every request. info: for those that "
        "failed. Texts and keys are never logged at any level.",
    )
    log_format: LogFormat = Field(
        "text",
        description="text: lines for people. json: an object a line, for programs that collect "
        "logs. It is not guessed from where the log goes, so that a log looks the same on a "
        "terminal, in a file and in a container.",
    )
    otlp_endpoint: Annotated[str, AfterValidator(as_endpoint)] | None = Field(
        None,
        description="Collector of OpenTelemetry that gets a trace of every request, "
        "`http://127.0.0.1:4318`: OTLP over HTTP. Unset: nobody. Needs the extra `otlp`. What the "
        "collector wants to know of its callers goes into `OTEL_EXPORTER_OTLP_HEADERS`.",
    )
    allow_private_providers: bool = Field(
        default=False,
        description="Let providers be on this machine or in its network, as another Fledge, vLLM "
        "or text-embeddings-inference of your own. Otherwise addresses that are not public are not "
        "called, whatever name leads there.",
    )
    space_check: Literal["refuse", "off"] = Field(
        "refuse",
        description="Whether a deployment may stand in for another that embeds the same texts "
        "otherwise. refuse: a few fixed texts are embedded at both first, and it may not. off: "
        "nothing is compared; only where all run the same software with the same files.",
    )
    space_min_cosine: Annotated[float, IsNumber, Field(ge=0, le=1)] = Field(
        0.99,
        description="The least cosine between vectors of a text at two deployments that counts as "
        "the same. 0.99 lets numbers of 8 bits pass; 0.999 asks for 16 bits at both.",
    )
    huggingface: HuggingFaceSettings = Field(default=HuggingFaceSettings())
    providers: ProvidersSettings = Field(default=ProvidersSettings())
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
