"""`fledge doctor`: this machine, what Fledge makes of it, and the settings in force."""

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import typer

from fledge import __version__
from fledge.cli.config import print_rows, setting_rows
from fledge.cli.tools import tools_of
from fledge.settings import read_settings

PACKAGES = (
    "openvino",
    "tokenizers",
    "huggingface_hub",
    "numpy",
    "fastapi",
    "uvicorn",
    "sqlalchemy",
    "psycopg",
    "redis",
    "pyarrow",
)


def doctor(context: typer.Context) -> None:
    """Show the machine, versions, and settings in force.

    Also whether the database and Redis answer. Tokens, keys and passwords are never shown.
    """
    # The one command that must work when settings do not: it shows what else there is.
    reading = read_settings()
    tools = tools_of(context)
    _show("Machine", tools.describe_machine(reading.settings))
    _show("Models", tools.describe_origins(reading.settings))
    _show("Keys, usage and cache", tools.describe_stores(reading.settings))
    _show("Versions", versions())
    _show("Settings", setting_rows(reading.in_force))
    reading.check()


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


def _show(title: str, rows: Sequence[tuple[str, str]]) -> None:
    typer.echo(title)
    print_rows(rows, indent="  ")
    typer.echo()
