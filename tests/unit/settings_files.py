"""Settings as an operator writes them: a file, variables, and every setting there is.

with written("port = 9000", FLEDGE_THREADS="2"):
    assert load_settings().port == 9000
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from fledge.settings import read_settings

SAMPLES: Mapping[str, tuple[str, Any]] = {
    "models": ("a/one,b/two", ("a/one", "b/two")),
    "models_dir": ("./models", Path("models")),
    "catalog": ("none", "none"),
    "allow_any_model": ("true", True),
    "admin_routes": ("false", False),
    "preload": ("false", False),
    "pinned": ("a/one", ("a/one",)),
    "keep_alive_s": ("-1", -1.0),
    "memory_budget_bytes": ("8GB", 8_000_000_000),
    "load_timeout_s": ("10", 10.0),
    "cold_start_hold_s": ("0", 0.0),
    "drain_timeout_s": ("5.5", 5.5),
    "precision": ("fp32", "fp32"),
    "threads": ("3", 3),
    "host": ("::1", "::1"),
    "port": ("9000", 9000),
    "no_auth": ("true", True),
    "allowed_hosts": ("a.example,b.example", ("a.example", "b.example")),
    "cors_allow_origins": ("https://a.example", ("https://a.example",)),
    "strict_fields": ("true", True),
    "max_inputs_per_request": ("7", 7),
    "max_tokens_per_request": ("8", 8),
    "max_body_bytes": ("1MiB", 2**20),
    "max_queued_tokens": ("9", 9),
    "request_timeout_s": ("60", 60.0),
    "batch_target_ms": ("20", 20.0),
    "cache_memory_bytes": ("0", 0),
    "cache_answers_bytes": ("0", 0),
    "cache_files_bytes": ("2GiB", 2**31),
    "redis_url": ("redis://r", "redis://r"),
    "cache_redis_ttl_s": ("60", 60.0),
    "limits_without_redis": ("refuse", "refuse"),
    "data_dir": ("/data", Path("/data")),
    "max_file_bytes": ("1GiB", 2**30),
    "max_stored_bytes": ("10GiB", 10 * 2**30),
    "database_url": ("none", "none"),
    "keys_max_stale_s": ("60", 60.0),
    "open_routes": ("health,metrics", ("health", "metrics")),
    "cache_dir": ("/caches", Path("/caches")),
    "api_key": ("set", "set"),  # all that is shown of any
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
    "otlp_endpoint": ("http://collector:4318", "http://collector:4318"),
    "allow_private_providers": ("true", True),
    "space_check": ("off", "off"),
    "space_min_cosine": ("0.999", 0.999),
    "huggingface.single_input": ("flat", "flat"),
    "providers.enabled": ("nebius,hf-inference", ("nebius", "hf-inference")),
    "providers.hedge_after_ms": ("250", 250.0),
    "providers.hf-inference.enabled": ("false", False),
    "providers.hf-inference.shape": ("openai", "openai"),
    "providers.hf-inference.base_url": ("https://a.example/v1", "https://a.example/v1"),
    "providers.hf-inference.api_key_env": ("A_KEY", "A_KEY"),
    "providers.hf-inference.api_key_file": ("/run/key", Path("/run/key")),
    "providers.hf-inference.ca_file": ("/run/ca.pem", Path("/run/ca.pem")),
    "providers.hf-inference.timeout_s": ("5", 5.0),
    "providers.hf-inference.max_concurrent_requests": ("3", 3),
    "providers.hf-inference.price_per_million_tokens": ("0.01", 0.01),
    "providers.hf-inference.monthly_budget": ("20", 20.0),
    "providers.hf-inference.models": ('{"a/one": "one"}', {"a/one": "one"}),
    'model."org/name".keep_alive_s': ("60", 60.0),
    'model."org/name".pinned': ("true", True),
    'model."org/name".precision': ("bf16", "bf16"),
    'model."org/name".cache': ("false", False),
    'model."org/name".route': ("nebius,local", ("nebius", "local")),
    'model."org/name".hedge_after_ms': ("250", 250.0),
    'model."org/name".providers': ('{"nebius": "one"}', {"nebius": "one"}),
}
"""Every setting by its name in the file: as a text may have it, and what becomes of that."""


@contextmanager
def written(text: str = "", **variables: str) -> Iterator[None]:
    """A file and variables of one example's own; what an operator may have written."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if text:
            Path("fledge.toml").write_text(text, "utf-8")
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def mistakes(text: str = "", **variables: str) -> tuple[str, ...]:
    with written(text, **variables):
        return read_settings().mistakes


def toml(value: Any) -> str:
    """A value as TOML spells it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return f"{value:#x}" if value > 2**64 else str(value)
    return str(value)  # numbers and dates


def table(settings: Mapping[str, Any]) -> str:
    return "\n".join(f"{toml(name)} = {toml(value)}" for name, value in settings.items())


def place(setting: str, spelled: Any) -> tuple[str, str]:
    """The variable that gives one setting, and its text."""
    if not setting.startswith("model."):
        return f"FLEDGE_{setting.replace('.', '__').replace('-', '_').upper()}", str(spelled)
    return "FLEDGE_MODEL", json.dumps({"org/name": {setting.rpartition(".")[2]: spelled}})
