"""`fledge config`: every setting in force, and where it comes from."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from fledge.cli import console
from fledge.cli.options import JsonOption
from fledge.settings import read_settings
from fledge.settings_sources import Setting


def config(*, as_json: JsonOption = False) -> None:
    """Show every setting in force and where it comes from.

    That is a FLEDGE_* variable, fledge.toml in the working directory, or the default. Every mistake
    in them is named, and then there is no JSON. Secrets are never shown, only whether they are set,
    and addresses without their passwords.
    """
    reading = read_settings()
    if not as_json:
        print_rows(setting_rows(reading.in_force))
    reading.check()
    if as_json:
        for one in reading.in_force:
            console.print_json(
                {"setting": one.name, "value": _for_json(one.value), "source": one.source}
            )


def setting_rows(settings: Iterable[Setting]) -> list[tuple[str, str]]:
    """A name and a text each: the value, and where it came from."""
    return [(one.name, f"{_spelled(one.value)}   [{one.source}]") for one in settings]


def print_rows(rows: Sequence[tuple[str, str]], *, indent: str = "") -> None:
    """Not a table of rich: it would cut or wrap long values where there is no terminal."""
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        typer.echo(f"{indent}{label:{width}}  {value}")


def _for_json(value: Any) -> Any:
    # A path may hold bytes that are no UTF-8, which JSON cannot.
    return _utf8(str(value)) if isinstance(value, Path) else value


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _spelled(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict):
        value = tuple(f"{name} = {one}" for name, one in value.items())
    is_many = isinstance(value, tuple)
    text = (", ".join(map(str, value)) or "none") if is_many else str(value)
    return text if text.isprintable() else json.dumps(text)
