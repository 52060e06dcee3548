import json
import math
import re
from datetime import date
from typing import Any, Literal

import pytest
from hypothesis import assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator

from fledge.errors import SettingsError
from fledge.settings import Settings, load_settings, read_settings
from fledge.settings_fields import ModelSettings
from fledge.settings_providers import ProviderSettings
from fledge.settings_sources import Sources
from tests.unit.settings_files import SAMPLES, table, written

TIMES = [name for name in SAMPLES if name.endswith(("_s", "_ms")) and "." not in name]

ANY_NAME = st.text(st.characters(exclude_characters="\0=", codec="utf-8"))


SECTIONS_ABOVE = ((), ("huggingface",), ("model", "org/name"), ("providers", "nebius"))


@given(name=ANY_NAME, above=st.sampled_from(SECTIONS_ABOVE))
@hypothesis_settings(deadline=None)
def test_any_unknown_name_in_the_file_is_refused(name: str, above: tuple[str, ...]) -> None:
    assume(name not in Settings.model_fields)
    assume(name not in ModelSettings.model_fields)
    assume(name not in ProviderSettings.model_fields)
    assume(name.lower().replace("-", "_") not in ProviderSettings.elsewhere)
    assume(name != "single_input")
    value: Any = {name: 1}
    for section in reversed(above):
        value = {section: value}

    with written(table(value)), pytest.raises(SettingsError, match="unknown setting") as caught:
        load_settings()
    assert str(caught.value).isprintable()


@given(name=ANY_NAME, above=st.sampled_from(["", "HUGGINGFACE__", "huggingface__", "PORT__"]))
@example("MODEL__", "")
@example("_", "")
@hypothesis_settings(deadline=None)
def test_any_unknown_variable_is_refused(name: str, above: str) -> None:
    first, *rest = (above + name).lower().split("__")
    if rest:
        assume((first, *rest) != ("huggingface", "single_input"))
    else:
        assume(first not in Settings.model_fields)

    with (
        written(**{f"FLEDGE_{above}{name}": "{}"}),
        pytest.raises(SettingsError, match="unknown setting") as caught,
    ):
        load_settings()
    assert str(caught.value).isprintable()


# Whatever stands there

TEXTS = st.text() | st.sampled_from(
    ["", "nan", "-inf", "1e999", "8GB", "[", "{}", "true", "*", "https://[", "\0", "9" * 5000]
)
VALUES = st.recursive(
    TEXTS | st.integers() | st.floats() | st.booleans() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(sorted(Settings.model_fields)) | TEXTS
INNER_KEYS = (
    st.sampled_from(
        ["single_input", *ModelSettings.model_fields, *ProviderSettings.model_fields, "api_key"]
    )
    | TEXTS
)
PROVIDERS = st.sampled_from(["nebius", "enabled", "hedge_after_ms", "local", "NEBIUS"]) | TEXTS
SECTIONS = st.dictionaries(INNER_KEYS, VALUES, max_size=3)
TABLES = st.dictionaries(KEYS, VALUES, max_size=6) | st.fixed_dictionaries(
    {},
    optional={
        "huggingface": VALUES | SECTIONS,
        "providers": VALUES | st.dictionaries(PROVIDERS, VALUES | SECTIONS, max_size=3),
        "model": VALUES | st.dictionaries(TEXTS, VALUES | SECTIONS, max_size=3),
    },
)


def check_reading() -> None:
    """Settings, or lines that say what is wrong; nothing else."""
    reading = read_settings()
    try:
        settings = load_settings()
    except SettingsError:
        settings = reading.settings
        assert reading.mistakes
    else:
        assert not reading.mistakes
    assert all(one.isprintable() for one in reading.mistakes)
    assert all(one.source and one.name.isprintable() for one in reading.in_force)
    for value in (getattr(settings, name) for name in TIMES):
        assert math.isfinite(value)


@given(values=TABLES)
@example({"model": {"a": {"pinned": date(1979, 5, 27)}}})
@hypothesis_settings(deadline=None)
def test_whatever_stands_in_the_file_gives_settings_or_mistakes(values: dict[str, Any]) -> None:
    with written(table(values)):
        check_reading()


UNNAMEABLE = re.compile("[=\0]")
VARIABLE_TEXTS = TEXTS.filter(lambda text: "\0" not in text)


@given(
    plain=st.dictionaries(KEYS, VARIABLE_TEXTS, max_size=4),
    section=VALUES | SECTIONS,
    sections=VALUES | st.dictionaries(TEXTS, VALUES | SECTIONS | st.none(), max_size=3),
)
@hypothesis_settings(deadline=None)
def test_whatever_stands_in_variables_gives_settings_or_mistakes(
    plain: dict[str, str], section: Any, sections: Any
) -> None:
    names = {f"FLEDGE_{UNNAMEABLE.sub('', name)}": text for name, text in plain.items()}
    json_texts = {
        "FLEDGE_HUGGINGFACE": json.dumps(section, default=str),
        "FLEDGE_MODEL": json.dumps(sections, default=str),
        "FLEDGE_PROVIDERS": json.dumps(sections, default=str),
        "FLEDGE_PROVIDERS__NEBIUS": json.dumps(section, default=str),
    }
    with written(**{**json_texts, **names}):
        check_reading()


# Secrets, and settings of another program


class Keys(BaseModel, extra="forbid"):
    key: SecretStr | None = None
    keys: tuple[SecretStr, ...] = ()
    level: Literal["low", "high"] = "low"


class Program(BaseModel, extra="forbid"):
    token: SecretStr | None = Field(None, min_length=20)
    auth: Keys = Keys()
    team: dict[str, Keys] = {}


def read(**variables: str) -> tuple[Sources[Program], Program]:
    sources = Sources(Program)
    sources.read_variables(variables, "P_")
    return sources, sources.settings()


def test_of_a_secret_only_its_being_there_is_told() -> None:
    sources, program = read(
        P_TOKEN="hunter2" * 3,
        P_AUTH='{"key": "hunter2", "level": "high"}',
        P_TEAM='{"red": {"keys": ["hunter2"]}}',
    )
    rows = {one.name: (one.value, one.source) for one in sources.in_force(program)}

    assert sources.mistakes == []
    assert rows == {
        "token": ("set", "P_TOKEN"),
        "auth.key": ("set", "P_AUTH"),
        "auth.keys": (None, "default"),
        "auth.level": ("high", "P_AUTH"),
        "team.red.key": (None, "default"),
        "team.red.keys": ("set", "P_TEAM"),
        "team.red.level": ("low", "default"),
    }


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("P_TOKEN", "hunter2"),
        ("P_TOKN", "hunter2"),
        ("P_AUTH", "hunter2"),
        ("P_AUTH", '"hunter2"'),
        ("P_AUTH", '["hunter2"]'),
        ("P_AUTH", '{"keys": "hunter2"}'),
        ("P_AUTH", '{"key": ["hunter2"]}'),
        ("P_AUTH", '{"kye": "hunter2"}'),
        ("P_AUTH__KEYS", "hunter2"),
        ("P_AUTH__KEY__X", "hunter2"),
        ("P_TEAM", '{"red": "hunter2"}'),
        ("P_TEAM", '{"red": {"keys": [["hunter2"]]}}'),
        ("P_TEAM__RED__KEY", "hunter2"),
    ],
)
def test_no_mistake_tells_a_secret(variable: str, text: str) -> None:
    (mistake,) = read(**{variable: text})[0].mistakes

    assert mistake.startswith(variable)
    assert "hunter2" not in mistake


def test_what_is_wrong_with_nothing_written_is_no_mistake_of_the_operator() -> None:
    class Broken(Program):
        @model_validator(mode="after")
        def _never(self) -> "Broken":
            raise ValueError("never right")

    with pytest.raises(ValidationError, match="never right"):
        Sources(Broken).settings()
