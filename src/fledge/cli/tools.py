"""What the commands call: everything that loads a model, looks at the machine or opens a port.

One object in the context of the command line, so that a test can hand in another, and the slow
imports happen only in the command that needs them.
"""

import importlib
import socket
from pathlib import Path

import typer

from fledge import bootstrap
from fledge.cli.origins import describe_origins
from fledge.library import Model, load_from
from fledge.service import Service
from fledge.settings import Settings
from fledge.stores import describe_stores


class Tools:
    """The real ones."""

    def load(self, settings: Settings) -> Model:
        """Load the first model of the settings for use in this process."""
        return load_from(settings)

    def build_service(self, settings: Settings) -> Service:
        """Load every model of the settings, to be served."""
        return bootstrap.build_service(settings)

    def run_server(
        self, service: Service, settings: Settings, listener: socket.socket, greeting: str
    ) -> None:
        """Serve on a bound socket until a signal says to stop; greet once requests are answered."""
        # Imported here: the web framework takes longer to load than most other commands to run.
        importlib.import_module("fledge.cli.server").run(service, settings, listener, greeting)

    def pull(self, model: str, settings: Settings) -> Path:
        """Download a model, unless it is here already, and say where it is."""
        return bootstrap.pull(model, settings)

    def describe_models(self, settings: Settings) -> list[tuple[str, str, int]]:
        """Every model that is known here: its id, where from, its size in bytes."""
        return bootstrap.describe_models(settings)

    def describe_machine(self, settings: Settings) -> list[tuple[str, str]]:
        """What the machine has, and what Fledge makes of it."""
        return bootstrap.describe_machine(settings)

    def describe_origins(self, settings: Settings) -> list[tuple[str, str]]:
        """Where models come from, and where they are kept."""
        return describe_origins(settings)

    def describe_stores(self, settings: Settings) -> list[tuple[str, str]]:
        """Whether the database and Redis answer."""
        return describe_stores(settings)


def tools_of(context: typer.Context) -> Tools:
    """The tools that this run was given, else the real ones."""
    return context.find_object(Tools) or Tools()
