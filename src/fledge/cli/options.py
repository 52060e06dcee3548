"""Flags that several commands share. A flag that is a setting has the setting's own words."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import typer

from fledge.settings import Settings
from fledge.types import Precision


def setting(name: str, *flags: str) -> Any:  # Any: typer types its own options so
    """An option for one of the settings: its description and its default, in one place only.

    The parameter's own default is None, for "not given": then `fledge.toml` and the environment
    have their say.
    """
    field = Settings.model_fields[name]
    return typer.Option(*flags, help=field.description, show_default=str(field.default))


ModelOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A hub id or a local folder; by default the first of the setting `models`.",
        show_default=str(Settings.model_fields["models"].default[0]),
    ),
]
PrecisionOption: TypeAlias = Annotated[Precision | None, setting("precision", "--precision")]
PromptNameOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--prompt-name",
        metavar="NAME",
        help="The model's prompt to put before each text, as `query` or `document`; an unknown "
        "name lists them. By default the model's default prompt, if it has one; '' for none.",
    ),
]
ColumnOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME",
        help="The input's column of texts; by default `text`, or the only column of strings.",
    ),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")]


def given(**flags: Any) -> Mapping[str, Any]:  # Any: whatever the settings take
    """The flags as `load_settings` takes them: a `model` becomes the only one of `models`."""
    model = flags.pop("model", None)
    return flags if model is None else {**flags, "models": (model,)}
