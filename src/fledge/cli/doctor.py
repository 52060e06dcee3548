"""`fledge doctor`: this machine, what Fledge makes of it, and the settings in force."""

import os
import platform
import sys
import tomllib
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

import typer

from fledge import __version__
from fledge.cli.tools import tools_of
from fledge.errors import SettingsError
from fledge.settings import ENV_PREFIX, SETTINGS_FILE, Settings, load_settings

PACKAGES = ("openvino", "tokenizers", "huggingface_hub", "numpy", "fastapi", "uvicorn", "pyarrow")


def doctor(context: typer.Context) -> None:
    """Show the machine, versions, and settings in force.

    Tokens and keys are never shown, only whether there is one.
    """
    try:
        settings, problem = load_settings(), None
    except SettingsError as error:
        # The one command that must work when settings do not: it is what shows them.
        settings, problem = Settings.model_construct(), error
    tools = tools_of(context)
    _show("Machine", tools.describe_machine(settings))
    _show("Models", tools.describe_origins(settings))
    _show("Versions", versions())
    _show("Settings", settings_in_force(settings))
    if problem is not None:
        raise problem


def versions() -> list[tuple[str, str]]:
    """Fledge, Python, the system, and the packages that matter."""
    rows = [
        ("fledge", __version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
    ]
    for package in PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    return rows


def settings_in_force(settings: Settings) -> list[tuple[str, str]]:
    """Every setting, its value, and where that came from."""
    in_file = _names_in_file()
    rows = []
    for name in Settings.model_fields:
        variables = [one for one in os.environ if _is_variable_of(one, name)]
        if variables:
            origin = ", ".join(sorted(variables))
        else:
            origin = str(SETTINGS_FILE) if name in in_file else "default"
        rows.append((name, f"{_spelled(getattr(settings, name))}   [{origin}]"))
    return rows


def _is_variable_of(variable: str, name: str) -> bool:
    # As pydantic-settings matches them: whatever the case, and `__` before a field of a section.
    own = variable.upper().removeprefix(ENV_PREFIX).split("__")[0]
    return variable.upper().startswith(ENV_PREFIX) and own == name.upper()


def _names_in_file() -> Iterable[str]:
    try:
        return tomllib.loads(SETTINGS_FILE.read_text("utf-8")).keys()
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return ()


def _spelled(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _show(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Not a table of rich: it would cut or wrap long values where there is no terminal."""
    width = max(len(label) for label, _ in rows)
    typer.echo(title)
    for label, value in rows:
        typer.echo(f"  {label:{width}}  {value}")
    typer.echo()
