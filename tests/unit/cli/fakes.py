"""Tools without a model or a machine, and a way to run a command with them.

tools = FakeTools()
result = run("embed", "a text", tools=tools)
assert result.exit_code == 0
assert tools.loaded[0].precision == "auto"
"""

import socket
from pathlib import Path

from typer.testing import CliRunner, Result

from fledge.cli.main import app
from fledge.cli.tools import Tools
from fledge.library import Model, without_limits
from fledge.service import Service
from fledge.settings import DEFAULT_MODEL, Settings
from fledge.testing import FakeBackend, fake_card
from fledge.types import ModelCard


class FakeTools(Tools):
    """Serves a `FakeBackend`, and remembers what it was asked.

    Attributes:
        backend: computes.
        loaded: the settings of every load.
        served: host, port and greeting of the server that was run.
        error: raised by the next load.
        models: what is on the machine.
    """

    def __init__(self, card: ModelCard | None = None) -> None:
        self.backend = FakeBackend(card or fake_card(dimension=4))
        self.loaded: list[Settings] = []
        self.served: tuple[str, int, str] | None = None
        self.error: BaseException | None = None
        self.models = [(DEFAULT_MODEL, "the package", 87_400_000), ("other/model", "the cache", 0)]

    def load(self, settings: Settings) -> Model:
        settings = without_limits(settings)
        self._note(settings)
        return Model(self.backend, settings)

    def build_service(self, settings: Settings) -> Service:
        self._note(settings)
        return Service.over([self.backend], settings)

    def _note(self, settings: Settings) -> None:
        if self.error is not None:
            raise self.error
        self.loaded.append(settings)

    def run_server(
        self, service: Service, settings: Settings, listener: socket.socket, greeting: str
    ) -> None:
        host, port = listener.getsockname()[:2]
        self.served = (host, port, greeting)

    def pull(self, model: str, settings: Settings) -> Path:
        return Path("/cache") / model

    def describe_models(self, settings: Settings) -> list[tuple[str, str, int]]:
        return self.models

    def describe_machine(self, settings: Settings) -> list[tuple[str, str]]:
        return [("cpu", "a fast one"), ("precision", "bf16, computed natively")]

    def describe_origins(self, settings: Settings) -> list[tuple[str, str]]:
        return [("hub", "https://hub.example")]

    def describe_stores(self, settings: Settings) -> list[tuple[str, str]]:
        return [("database", "answers"), ("redis server", "not set")]


def run(*arguments: str, tools: Tools | None = None, stdin: bytes | str | None = None) -> Result:
    """Run a command as a shell would, with wide terminals and without colours."""
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(
        app, list(arguments), input=stdin, obj=tools or FakeTools()
    )
