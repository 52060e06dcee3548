"""`fledge`: the commands put together, and the one place where an error becomes a line and a code.

Exit codes: 0 done; 1 it could not be done; 2 the command or a setting is wrong; 130 interrupted;
141 the reader of a pipe went away, as the shell counts it.
"""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fledge import __version__
from fledge.cli import (
    config,
    console,
    doctor,
    embed,
    keys,
    models,
    providers,
    serve,
    similarity,
    usage,
)
from fledge.errors import FledgeError, SettingsError

INTERRUPTED = 130
BROKEN_PIPE = 141


class Edge(TyperGroup):
    """The process edge: what a command raises ends here, as one line on stderr."""

    def invoke(self, ctx: Any) -> Any:  # Any: typer does not export its base context
        """Run the command, and flush what it printed while a closed pipe can still be handled."""
        if ctx.params.get("debug"):
            return super().invoke(ctx)
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            _discard_stdout()
            raise typer.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            console.note("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except FledgeError as error:
            console.fail(str(error))
            raise typer.Exit(2 if isinstance(error, SettingsError) else 1) from None
        except OSError as error:
            console.fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            raise typer.Exit(1) from None
        return result


def _discard_stdout() -> None:
    """Point stdout at nothing, or the interpreter would complain once more while it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    cls=Edge,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: in the boxed one, flags leave the words a column a third of the width.
    rich_markup_mode=None,
    help="Text to vectors, on the machine at hand. Settings: flags, then FLEDGE_* variables, then "
    "fledge.toml in the working directory; `fledge config` shows the ones in force.",
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the flag's value
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options of every command, given before its name."""


app.command("serve")(serve.serve)
app.command("embed")(embed.embed)
app.command("similarity")(similarity.similarity)
app.command("rerank")(similarity.rerank)
app.add_typer(models.app, name="models")
app.command("pull")(models.pull)
app.add_typer(providers.app, name="providers")
app.add_typer(keys.app, name="keys")
app.command("usage")(usage.usage)
app.command("config")(config.config)
app.command("doctor")(doctor.doctor)
