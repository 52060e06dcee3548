"""`fledge serve`: load, listen, answer until told to stop."""

import json
import os
import shlex
import signal
import socket
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from fledge.catalog.listed import Listed
from fledge.cli.options import PrecisionOption, setting
from fledge.cli.tools import tools_of
from fledge.errors import SettingsError
from fledge.settings import Settings, load_settings


def serve(  # noqa: PLR0913 - a parameter is a flag
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help=Settings.model_fields["models"].description,
            show_default=str(Settings.model_fields["models"].default[0]),
        ),
    ] = None,
    *,
    host: Annotated[str | None, setting("host", "--host")] = None,
    port: Annotated[int | None, setting("port", "--port")] = None,
    precision: PrecisionOption = None,
    threads: Annotated[int | None, setting("threads", "--threads")] = None,
    no_auth: Annotated[bool | None, setting("no_auth", "--no-auth")] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, setting("log_level", "--log-level")
    ] = None,
) -> None:
    """Serve models over HTTP.

    Speaks the OpenAI and Hugging Face APIs, and reranking. Ctrl-C lets requests end, then stops.
    For others than this machine: `fledge keys create NAME`, then `fledge serve --host 0.0.0.0`.
    """
    settings = load_settings(
        models=tuple(models) if models else None,
        host=host,
        port=port,
        precision=precision,
        threads=threads,
        no_auth=no_auth,
        log_level=log_level,
    )
    # Nothing was accepted yet, so nothing is lost; as the first process of a container it would
    # otherwise not be ended at all.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    with bind(settings) as listener:
        tools = tools_of(context)
        started = time.monotonic()
        service = tools.build_service(settings)
        load_s = time.monotonic() - started
        url = url_of(listener)
        needs_key = service.accounts.has_keys and not settings.no_auth
        words = greeting(service.models(), url, load_s, needs_key=needs_key)
        tools.run_server(service, settings, listener, words)


def greeting(models: Sequence[Listed], url: str, load_s: float, *, needs_key: bool = False) -> str:
    """What is served and where, and a command to try it with."""
    warm = [one.card for one in models if one.card is not None]
    served = ", ".join(f"{card.id} ({card.precision})" for card in warm)
    more = len(models) - len(warm)
    loaded = f"{served} on {url}, loaded in {load_s:.1f} s" if warm else f"on {url}"
    on_demand = f"; {more} more models load when asked for" if more else ""
    body = json.dumps({"model": models[0].id, "input": "Hello, world"})
    key = ' -H "Authorization: Bearer $KEY"' if needs_key else ""
    return (
        f"Fledge serves {loaded}{on_demand}. Try it{', with a key' if needs_key else ''}:\n"
        f"curl {url}/v1/embeddings -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}"
    )


def bind(settings: Settings) -> socket.socket:
    """Take the port, before the time is spent to load a model. It does not listen yet.

    Raises:
        SettingsError: the address is none or not of this machine, or the port is taken.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind)
        try:
            # Without it, a restart would wait a minute for the last connections to be forgotten.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        # A name that DNS cannot write, as `.foo`, fails before the system is asked.
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise SettingsError(
            f"cannot listen on {settings.host}, port {settings.port}: {reason}; "
            "choose another with --host or --port (--port 0 takes a free one)"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a bound socket will be reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
