"""What the documentation says that the code knows better: settings, commands, families.

`cog` runs these functions from the Markdown files and writes what they return between its marks;
`make lint` fails when a file is behind, `make docs` brings it up to date.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import typer
from pydantic import BaseModel
from typer.core import TyperGroup
from typer.testing import CliRunner

from fledge.catalog.shipped import hosted_entries, shipped_entries
from fledge.cli.main import app
from fledge.engine.architectures.registry import FAMILIES
from fledge.engine.chain import ROUTERS
from fledge.engine.lane import Lane
from fledge.engine.modules import DENSE_ACTIVATIONS, POOLING_MODES, READERS
from fledge.engine.static_recipe import STATIC_KINDS
from fledge.prompts import INPUT_TYPES
from fledge.providers.presets import PRESETS
from fledge.service import Service
from fledge.settings import ENV_PREFIX, Settings
from fledge.settings_shapes import each_of
from fledge.testing import FakeBackend
from fledge.types import ModelEntry

WIDTH = 88


def settings() -> str:
    """Every setting with its variable, its default, and how to choose it."""
    rows = ["| setting | variable | default | what it is, and how to choose |", "|---|---|---|---|"]
    rows += _rows(Settings, "", ENV_PREFIX)
    return "\n".join(rows)


def _rows(model: type[BaseModel], prefix: str, variable: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel):
            yield from _rows(type(default), f"{prefix}{name}.", f"{variable}{name.upper()}__")
            continue
        shown = _shown(name, default)
        yield f"| `{prefix}{name}` | `{variable}{name.upper()}` | {shown} | {field.description} |"
        if section := each_of(field.annotation):
            yield from (
                f'| `{name}."org/name".{inner}` | in `{variable}{name.upper()}` '
                f"| {_shown(inner, below.default)} | {below.description} |"
                for inner, below in section.model_fields.items()
            )
    if section := each_of(model):
        yield from _rows(section, f"{prefix}NAME.", f"{variable}NAME__")


def _shown(name: str, default: Any) -> str:
    if name == "cache_dir":
        return "`~/.cache/fledge`"  # not this machine's
    if default is None:
        return "not set"
    if isinstance(default, tuple | dict):
        return ", ".join(f"`{one}`" for one in default) or "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def command_help(*words: str) -> str:
    """The help text of a command, as a terminal of fixed width shows it."""
    result = CliRunner().invoke(
        app,
        [*words, "--help"],
        prog_name="fledge",
        env={"COLUMNS": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1"},
    )
    lines = [line.rstrip() for line in result.output.strip().splitlines()]
    return "\n".join(["```", *lines, "```"])


def commands() -> str:
    """All commands' help texts, a group's own before those of its commands."""
    names = _names_of(typer.main.get_group(app))
    return "\n\n".join(f"## fledge {' '.join(words)}\n\n{command_help(*words)}" for words in names)


def _names_of(group: TyperGroup, *words: str) -> Iterator[tuple[str, ...]]:
    for name, command in sorted(group.commands.items()):
        yield (*words, name)
        if isinstance(command, TyperGroup):
            yield from _names_of(command, *words, name)


def input_types() -> str:
    """The values of `input_type`, those of one meaning together."""
    values: dict[tuple[str | None, Sequence[str]], list[str]] = {}
    for value, (side, names) in INPUT_TYPES.items():
        values.setdefault((side, names), []).append(value)
    rows = ["| values | other names that are tried | side |", "|---|---|---|"]
    rows += [
        f"| {_joined(group)} | {_joined(names) or 'none'} | {side or 'none'} |"
        for (side, names), group in values.items()
    ]
    return "\n".join(rows)


def metrics() -> str:
    """Everything that `GET /metrics` shows of Fledge's own."""
    numbers = Service.over([FakeBackend()], Settings()).metrics
    numbers.engine.show(Lane(batch_target_ms=1, max_queued_tokens=1))
    numbers.providers.show(list)
    rows = ["| metric | kind | labels | what it is |", "|---|---|---|---|"]
    rows += [
        f"| `{one.name}` | {one.kind} | {_joined(one.labels)} | {one.help} |"
        for one in sorted(numbers.families, key=lambda family: family.name)
    ]
    return "\n".join(rows)


def families() -> str:
    """The model types that run."""
    return ", ".join(f"`{name}`" for name in sorted(FAMILIES))


def modules() -> str:
    """The sentence-transformers modules that are read, and their choices."""
    return "\n".join(
        [
            f"- first modules: `Transformer`, {_joined(STATIC_KINDS)}; {_joined(ROUTERS)} anywhere",
            (
                f"- behind them: {_joined(READERS)}, `Dropout` (which does nothing here), and "
                "`WordWeights` behind `WordEmbeddings`"
            ),
            f"- pooling: {_joined(POOLING_MODES)}, and concatenations",
            f"- activations of `Dense`: {_joined(DENSE_ACTIVATIONS)}",
        ]
    )


def catalogue() -> str:
    """The models of the shipped catalogue, in its order."""
    rows = [
        "| model | family | parameters | dimension | max tokens | languages | licence |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {f'**{one.id}**' if one.is_recommended else one.id} | {one.family} "
        f"| {_count(one.parameters)} | {_known(one.dimension)} | {_known(one.max_seq_length)} "
        f"| {', '.join(one.languages[:4])}{' ...' if len(one.languages) > 4 else ''} "
        f"| {_known(one.license)} |"
        for one in shipped_entries()
    ]
    return "\n".join(rows)


def presets() -> str:
    """The providers that Fledge knows by name, and what they call models of the catalogue."""
    rows = [
        "| name | variable of its key | where | models that the catalogue knows there |",
        "|---|---|---|---|",
    ]
    entries = [*shipped_entries(), *hosted_entries()]
    for name, preset in PRESETS.items():
        models = [_at(name, one) for one in entries if name in one.provider_ids]
        rows.append(
            f"| `{name}` | `{preset.key_variable}` | `{preset.base_url}` | {', '.join(models)} |"
        )
    return "\n".join(rows)


def _at(provider: str, entry: ModelEntry) -> str:
    called = entry.provider_ids[provider]
    return f"`{entry.id}`" + ("" if called == entry.id else f" as `{called}`")


def _known(value: object) -> object:
    return "" if value is None else value


def _count(parameters: int | None) -> str:
    if parameters is None:
        return ""
    millions = parameters / 1e6
    return f"{millions / 1000:.1f} B" if millions >= 1000 else f"{millions:.0f} M"


def _joined(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
