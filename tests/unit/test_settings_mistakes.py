from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fledge.errors import SettingsError
from fledge.settings import Settings, load_settings, read_settings
from tests.unit.settings_files import SAMPLES, mistakes, place, written


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `fledge.toml` but the test's own."""
    monkeypatch.chdir(tmp_path)


# Unknown names


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("prot = 1", "prot: unknown setting; did you mean port?"),
        ("Port = 1", "Port: unknown setting; did you mean port?"),
        ("max-body-bytes = 1", "max-body-bytes: unknown setting; did you mean max_body_bytes?"),
        ("[hugingface]", "hugingface: unknown setting; did you mean huggingface?"),
        ("single_input = 1", "single_input: unknown setting; did you mean huggingface.single_inpu"),
        (
            "[huggingface]\nsingle_inptu = 1",
            "huggingface.single_inptu: unknown setting; did you mean huggingface.single_input?",
        ),
        (
            "[huggingface]\nport = 1",
            "huggingface.port: unknown setting; did you mean port, outside of any section?",
        ),
        (
            "[model.'org/a.b']\nkeepalive_s = 1",
            'model."org/a.b".keepalive_s: unknown setting; did you mean model."org/a.b".keep_aliv',
        ),
        ("zzzzzz = 1", "zzzzzz: unknown setting; `fledge config` lists those that exist"),
        ('"a\\nb" = 1', '"a\\nb": unknown setting; '),
    ],
)
def test_an_unknown_name_in_the_file_is_refused_with_the_nearest(text: str, mistake: str) -> None:
    (told,) = mistakes(text)

    assert told.startswith(f"fledge.toml: {mistake}")


@pytest.mark.parametrize(
    ("variable", "value", "meant"),
    [
        ("FLEDGE_PROT", "1", "FLEDGE_PORT"),
        ("FLEDGE_PORT__", "1", "FLEDGE_PORT"),
        ("FLEDGE_PORT__X", "1", "FLEDGE_PORT"),
        ("FLEDGE__PORT", "1", "FLEDGE_PORT"),
        ("FLEDGE_SINGLE_INPUT", "flat", "FLEDGE_HUGGINGFACE__SINGLE_INPUT"),
        ("FLEDGE_HUGGINGFACE_SINGLE_INPUT", "flat", "FLEDGE_HUGGINGFACE__SINGLE_INPUT"),
        ("FLEDGE_HUGGINGFACE__SINGLE_INPTU", "flat", "FLEDGE_HUGGINGFACE__SINGLE_INPUT"),
        ("FLEDGE_HUGGINGFACE__SINGLE_INPUT__X", "flat", "FLEDGE_HUGGINGFACE__SINGLE_INPUT"),
        ("FLEDGE_HUGGINGFACE__PORT", "1", "FLEDGE_PORT"),
        ("FLEDGE_HUGGINGFACE", '{"single_inptu": 1}', "huggingface.single_input"),
        ("FLEDGE_MODEL", '{"a/b": {"pined": true}}', 'model."a/b".pinned'),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest(
    variable: str, value: str, meant: str
) -> None:
    (told,) = mistakes(**{variable: value})

    assert told.startswith(f"{variable}: ")
    assert told.endswith(f"unknown setting; did you mean {meant}?")


@pytest.mark.parametrize("variable", ["FLEDGE_MODEL__X", "FLEDGE_MODEL__ORG/NAME__PINNED"])
def test_a_model_s_section_as_a_variable_must_be_json(variable: str) -> None:
    (told,) = mistakes(**{variable: "true"})

    assert told == (
        f'{variable}: unknown setting; set FLEDGE_MODEL to JSON, {{"org/name": {{"keep_alive_s": '
        "...}}"
    )


@pytest.mark.parametrize("variable", ["FLEDGE_SERVICE_HOST", "FLEDGE_PORT_8080_TCP_ADDR"])
def test_variables_that_kubernetes_sets_say_so(variable: str) -> None:
    (told,) = mistakes(**{variable: "10.0.0.1"})

    assert "`enableServiceLinks: false`" in told


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^prot: unknown setting; did you mean port\?$"):
        load_settings(prot=1)


# Values


@pytest.mark.parametrize(
    ("name", "spelled", "problem"),
    [
        ("port", "one", 'must be a whole number, not "one"'),
        ("port", "65536", 'must be at most 65535, not "65536"'),
        ("port", "-1", 'must be at least 0, not "-1"'),
        ("port", "1.5", 'must be a whole number, not "1.5"'),
        ("port", "", 'must be a whole number, not ""'),
        ("preload", "maybe", 'must be true or false, not "maybe"'),
        ("precision", "int4", "must be 'auto', 'fp32', 'bf16' or 'int8', not \"int4\""),
        ("catalog", "all", "must be 'shipped' or 'none', not \"all\""),
        ("load_timeout_s", "-1", 'must be at least 0, not "-1"'),
        ("request_timeout_s", "0", 'must be more than 0, not "0"'),
        ("keep_alive_s", "1e9", 'must be at most 31536000, not "1e9"'),
        ("keep_alive_s", "long", 'must be a number, not "long"'),
        ("memory_budget_bytes", "8", 'must be at least 1024, not "8"'),
        ("memory_budget_bytes", "-8GB", "must be a number of bytes, or a size as "),
        ("memory_budget_bytes", "8 giants", "must be a number of bytes, or a size as "),
        ("memory_budget_bytes", "8GB or so", "must be a number of bytes, or a size as "),
        ("memory_budget_bytes", "9999999 EB", "must be at most 9007199254740992, not "),
        ("max_body_bytes", "9" * 500, "must be a finite number, not "),
        ("models_dir", "", '"" is empty; write a name, or leave the setting out'),
        ("cache_dir", " ", '" " is empty'),
        ("host", "", '"" is empty'),
        ("models", '["one"', '"[\\"one\\"" starts like a list of JSON and is none'),
        ("models", f"[{'9' * 5000}]", "starts like a list of JSON and is none"),
        ("models", "[" * 100_000, "starts like a list of JSON and is none"),
        ("models", '[""]', '"" is empty'),
        ("models", "[1]", "must be text, not 1"),
        ("pinned", '["a\\u0000"]', '"a\\u0000" holds a control'),
        ("pinned", '["\\ud800"]', '"\\ud800" holds a control or half a character'),
        ('model."org/name".pinned', "maybe", 'must be true or false, not "maybe"'),
        ('model."org/name".keep_alive_s', "x" * 1000, "must be a number, not "),
    ],
)
def test_a_wrong_value_is_told_with_its_place_and_the_limit(
    name: str, spelled: str, problem: str
) -> None:
    variable, text = place(name, spelled)
    (told,) = mistakes(**{variable: text})

    inner = ': "org/name".' + name.rpartition(".")[2] if name.startswith("model.") else ""
    assert told.startswith(f"{variable}{inner}: ")
    assert problem in told
    assert len(told) < 300


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("port = 99999", "port: must be at most 65535, not 99999"),
        ("port = 0x" + "f" * 5000, "port: must be at most 65535, not a number that long"),
        ("port = [1]", "port: must be a whole number, not a list"),
        ("port = {}", "port: must be a whole number, not a section"),
        ("host = 1", "host: must be text, not 1"),
        ("cache_dir = 1", "cache_dir: must be text, not 1"),
        ("models_dir = 'a\\u0000b'".replace("'", '"'), 'models_dir: "a\\u0000b" holds a control'),
        ("batch_target_ms = 1979-05-27", "batch_target_ms: must be a number, not 1979-05-27"),
        ("models = 1", 'models: must be a list, as ["one", "two"], not 1'),
        ("huggingface = 1", "huggingface: must be a section with single_input, not a single val"),
        ("[[huggingface]]", "huggingface: must be a section with single_input, not a list"),
        ("model = 1", "model: must be sections by name, each a section with keep_alive_s, pinn"),
        ("[model]\npinned = true", "model.pinned: must be a section with keep_alive_s, pinned, "),
        ("[model.'']\npinned = true", 'model."".pinned: "" is empty'),
        ("[model.x]\nprecision = 8", "model.x.precision: must be 'auto', 'fp32', 'bf16' or 'in"),
    ],
)
def test_a_wrong_value_in_the_file_is_told_likewise(text: str, problem: str) -> None:
    (told,) = mistakes(text)

    assert told.startswith(f"fledge.toml: {problem}")


NUMBERS = [
    name for name, (_, value) in SAMPLES.items() if type(value) in {int, float} and "." not in name
]
TIMES = [name for name in SAMPLES if name.endswith(("_s", "_ms"))]


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", TIMES)
def test_no_time_is_infinite_or_not_a_number(name: str, number: str) -> None:
    variable, text = place(name, number)
    problem = f'must be a finite number, not "{number}"'

    assert mistakes(f"{name} = {number}") == (f"fledge.toml: {name}: {problem}",)
    (told,) = mistakes(**{variable: text})
    assert told.endswith(problem)


@pytest.mark.parametrize("name", NUMBERS)
def test_true_is_no_number(name: str) -> None:
    (told,) = mistakes(f"{name} = true")

    assert told == f"fledge.toml: {name}: must be a number, not true"


@pytest.mark.parametrize(
    ("variable", "text", "advice"),
    [
        ("FLEDGE_HUGGINGFACE", "flat", "; or set FLEDGE_HUGGINGFACE__SINGLE_INPUT"),
        ("FLEDGE_HUGGINGFACE", "", ', {"single_input": ...}'),
        ("FLEDGE_HUGGINGFACE", "[" * 100_000, ', {"single_input": ...}'),
        ("FLEDGE_MODEL", "{'a': 1}", ', {"org/name": {"keep_alive_s": ...}}'),
        ("FLEDGE_MODEL", "9" * 5000, ', {"org/name": {"keep_alive_s": ...}}'),
    ],
)
def test_a_section_that_is_no_json_is_told(variable: str, text: str, advice: str) -> None:
    (told,) = mistakes(**{variable: text})

    assert told.startswith(f"{variable} cannot be read: it must be JSON, ")
    assert advice in told


@pytest.mark.parametrize(
    "content",
    [
        b"port = = 1",
        b'host = "\xff"',
        b"port = 1\nport = 2",
        b"port = " + b"9" * 5000,
        b"a = " + b"[" * 100_000,
        b"\0",
    ],
)
def test_a_file_that_is_no_toml_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "fledge.toml").write_bytes(content)

    with pytest.raises(SettingsError, match=r"^fledge\.toml cannot be read: "):
        load_settings()


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "fledge.toml").mkdir()

    with pytest.raises(SettingsError, match=r"^fledge\.toml cannot be read: Is a directory$"):
        load_settings()


def test_all_mistakes_are_told_at_once() -> None:
    file = "prot = 1\nthreads = -1\nport = 1e9\n[huggingface]\nsingle_input = 'x'\nx = 1"
    with (
        written(file, FLEDGE_HOTS="a", FLEDGE_MODEL="{", FLEDGE_PRELOAD="x"),
        pytest.raises(SettingsError) as caught,
    ):
        load_settings(batch_target_ms=0, log_level="loud")
    first, *rest = str(caught.value).splitlines()

    assert first == "10 mistakes in the settings:"
    assert [line.split(": ")[:2] for line in rest if "fledge.toml" in line] == [
        ["  fledge.toml", "prot"],
        ["  fledge.toml", "huggingface.x"],
        ["  fledge.toml", "threads"],
        ["  fledge.toml", "port"],
        ["  fledge.toml", "huggingface.single_input"],
    ]
    places = [
        "FLEDGE_HOTS: ",
        "FLEDGE_MODEL cannot",
        "FLEDGE_PRELOAD: ",
        "batch_target_ms: ",
        "log",
    ]
    assert all(any(line.startswith(f"  {one}") for line in rest) for one in places)


def test_one_mistake_is_one_line() -> None:
    with written(FLEDGE_PORT="one"), pytest.raises(SettingsError) as caught:
        load_settings()

    assert str(caught.value) == 'FLEDGE_PORT: must be a whole number, not "one"'


def test_many_wrong_names_in_one_list_are_one_mistake() -> None:
    assert len(mistakes("pinned = [1, 2, 3]\n[model.x]\npinned = 3")) == 2


def test_a_value_that_a_flag_replaces_may_be_wrong() -> None:
    with written("port = 'one'", FLEDGE_PORT="two"):
        assert load_settings(port=1).port == 1


def test_what_is_right_is_in_force_beside_mistakes() -> None:
    with written("threads = 2\nport = 9000", FLEDGE_PORT="one", FLEDGE_PROT="1"):
        reading = read_settings()
    sources = {one.name: one.source for one in reading.in_force}

    assert (reading.settings.threads, reading.settings.port) == (2, 8080)
    assert sources["threads"] == "fledge.toml"
    assert sources["port"] == "default; FLEDGE_PORT is wrong"


@pytest.mark.parametrize(
    "wrong",
    [
        {"redis_url": "redis//:geheim@host"},
        {"database_url": "postgresql://user:geheim@host/name\n"},
        {"api_key": ["geheim"]},
    ],
)
def test_a_program_that_gives_a_wrong_address_is_not_shown_its_password(
    wrong: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(**wrong)
    assert "geheim" not in f"{raised.value} {raised.value!r}"
