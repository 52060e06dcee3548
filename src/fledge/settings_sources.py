"""Where settings are written (a file, variables, flags), and what is wrong with them there.

Knows no setting: all of it is read off a pydantic model, as `fledge.settings_shapes` describes it.
A setting goes by its key: the names on the way to it. Nothing here stops at a mistake: each becomes
a line that names its place, and what is right takes part without it.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fledge.names import quoted
from fledge.settings_shapes import (
    Key,
    contents,
    each_of,
    example,
    fields_of,
    inside,
    is_secret,
    is_value,
    keys_of,
    values_of,
)

Model = TypeVar("Model", bound=BaseModel)

DEFAULT, FLAG = "default", "flag"
NESTED = "__"
LONGEST_NAME = 100
HUGE_BITS = 256

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
SERVICE_LINK = re.compile(r"service_(host|port)(_.*)?|port_\d+_(tcp|udp|sctp)(_.*)?")
SERVICE_LINK_ADVICE = (
    "unknown setting; Kubernetes sets it for a service of this name: write "
    "`enableServiceLinks: false` into the pod's specification"
)

A_SIZE = 'a number of bytes, or a size as "8GB" or "6GiB"'
MUST_BE = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": 'names and what they stand for, as {{"one" = "two"}}',  # doubled: it is a format
    "byte_size": A_SIZE,
    "byte_size_unit": A_SIZE,
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_type": "a whole number",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "path_type": "text",
    "string_type": "text",
    "tuple_type": 'a list, as ["one", "two"]',
}
"""pydantic's type of error -> what the value must be."""


@dataclass(frozen=True, slots=True)
class Written:
    """A value as somebody wrote it.

    Attributes:
        place: what to look for to change it: a variable, or the file and the name in it.
        source: the variable, the file, or `flag`.
    """

    value: Any
    place: str
    source: str


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it is now.

    Attributes:
        name: as the file has it: `port`, `model."org/name".pinned`.
        value: None where nothing was chosen; of a secret only `set`; an address without its
            password.
        source: the variable, the file, `flag`, or `default`, with what is wrong beside it, if
            anything is.
    """

    name: str
    value: Any
    source: str


class Sources(Generic[Model]):
    """Reads one source after the other, the later ones over the earlier.

    sources = Sources(Settings)
    sources.read_file(Path("fledge.toml"))
    sources.read_variables(os.environ, "FLEDGE_")
    settings = sources.settings()

    Attributes:
        mistakes: a line each, in the order in which they were found.
    """

    def __init__(self, model: type[Model]) -> None:
        self.mistakes: list[str] = []
        self._model = model
        self._written: dict[Key, Written] = {}
        self._refused: dict[Key, Written] = {}

    def read_file(self, path: Path) -> None:
        """A TOML file; one that is not there is one without settings."""
        try:
            table = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.mistakes.append(f"{path} cannot be read: {reason}")
            return
        self._take(table, self._model, (), lambda key: (f"{path}: {dotted(key)}", str(path)))

    def read_variables(self, environment: Mapping[str, str], prefix: str) -> None:
        """Variables of the prefix, in any case; two underscores before a field of a section."""
        keys = {
            name: tuple(name[len(prefix) :].lower().split(NESTED))
            for name in environment
            if name[: len(prefix)].upper() == prefix
        }
        # The last has the last word: a field over its section as JSON, upper case over another.
        for name in sorted(keys, key=lambda name: (len(keys[name]), name.isupper(), name)):
            self._read_variable(name, environment[name], keys[name], prefix)

    def read_flags(self, flags: Mapping[str, Any]) -> None:
        """Keywords; None means not given."""
        given = {name: value for name, value in flags.items() if value is not None}
        self._take(given, self._model, (), lambda key: (dotted(key), FLAG))

    def settings(self) -> Model:
        """What was written, over the defaults; what is wrong is noted and leaves the default."""
        while True:
            try:
                return self._model.model_validate(_nested(self._written))
            except ValidationError as error:
                if not self._drop(error.errors(include_url=False)):
                    raise  # it is not about anything that somebody wrote

    def in_force(self, settings: Model) -> list[Setting]:
        """Every setting, in the order of the model, with where it came from."""
        values = values_of(settings)
        return [Setting(dotted(key), value, self._source(key)) for key, value in values]

    def _source(self, key: Key) -> str:
        if key in self._written:
            return self._written[key].source
        if key in self._refused:
            return f"{DEFAULT}; {self._refused[key].source} is wrong"
        return DEFAULT

    def _take(
        self, value: Any, annotation: Any, key: Key, where: Callable[[Key], tuple[str, str]]
    ) -> None:
        """Note what stands at a key, a section field by field; `where` gives place and source."""
        place, source = where(key)
        if is_value(annotation):
            self._written[key] = Written(value, place, source)
            return
        if not isinstance(value, Mapping):
            # The value is not told: it may be a secret that belongs into the section.
            given = "a list" if isinstance(value, list) else "a single value"
            self.mistakes.append(f"{place}: must be {contents(annotation)}, not {given}")
            return
        if not value and key:
            self._written.setdefault(key, Written({}, place, source))  # its being there says enough
        for name, inner in value.items():
            below = (*key, name)
            inner_annotation = inside(annotation, name)
            if inner_annotation is None or _is_slip(annotation, name, inner):
                problem = self._unknown(below, annotation, _from_inside if key else dotted)
                self.mistakes.append(f"{where(below)[0]}: {problem}")
            else:
                self._take(inner, inner_annotation, below, where)

    def _read_variable(self, name: str, text: str, key: Key, prefix: str) -> None:
        place = name if name.isprintable() else quoted(name)
        annotation: Any = self._model
        taken: Key = ()
        for part in key:
            fields = fields_of(annotation)
            if fields is None and each_of(annotation) is not None:
                whole = _variable(taken, prefix)
                problem = f"unknown setting; set {whole} to JSON, {example(annotation)}"
            elif SERVICE_LINK.fullmatch(part):
                problem = SERVICE_LINK_ADVICE
            elif (below := inside(annotation, part)) is None:
                unknown = (*taken, part)
                problem = self._unknown(unknown, annotation, lambda it: _variable(it, prefix))
            else:
                # No shell has variables with hyphens, and sections of any name have no underscores.
                taken = (*taken, part if part in (fields or ()) else part.replace("_", "-"))
                annotation = below
                continue
            self.mistakes.append(f"{place}: {problem}")
            return
        if is_value(annotation):
            self._written[taken] = Written(text, place, place)
        else:
            self._read_json(text, annotation, taken, place)

    def _read_json(self, text: str, annotation: Any, key: Key, variable: str) -> None:
        """A whole section in one variable."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            fields = [f"{variable}{NESTED}{name.upper()}" for name in fields_of(annotation) or ()]
            self.mistakes.append(
                f"{variable} cannot be read: it must be JSON, {example(annotation)}"
                + (f"; or set {', '.join(fields)}" if fields else "")
            )
            return

        def where(below: Key) -> tuple[str, str]:
            inner = below[len(key) :]
            return (f"{variable}: {dotted(inner)}" if inner else variable), variable

        self._take(value, annotation, key, where)

    def _unknown(self, key: Key, annotation: Any, spell: Callable[[Key], str]) -> str:
        """That nothing in the section goes by the key's last name, and what was probably meant."""
        *above, name = key
        name = name[:LONGEST_NAME].lower().replace("-", "_")
        if advice := getattr(annotation, "elsewhere", {}).get(name):
            return str(advice)
        beside = {field: (*above, field) for field in fields_of(annotation) or ()}
        # The shorter keys last, so that a name at the top wins over the same one in a section.
        known = sorted(keys_of(self._model), key=len, reverse=True)
        anywhere = {handle: one for one in known for handle in ("_".join(one), one[-1])}
        if is_value(annotation):
            meant: Key | None = tuple(above)  # somebody names a part of it
        else:
            meant = anywhere.get(name) or _nearest(name, beside) or _nearest(name, anywhere)
        if meant is None:
            return "unknown setting; `fledge config` lists those that exist"
        return f"unknown setting; did you mean {spell(meant)}?"

    def _drop(self, problems: Sequence[ErrorDetails]) -> bool:
        """Take out what pydantic refuses, and say where it stands and what would be right."""
        before = list(self._written)
        for problem in problems:
            for key in _keys_at(problem["loc"], before):
                if key in self._written:  # else its first problem has been told
                    written = self._refused[key] = self._written.pop(key)
                    self.mistakes.append(f"{written.place}: {_told(problem, self._model, key)}")
        return len(self._written) < len(before)


def dotted(key: Key) -> str:
    """A key as TOML has it, on one line: `model."org/name".pinned`."""
    return ".".join(
        name if BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=not name.isprintable())
        for name in key
    )


def _from_inside(key: Key) -> str:
    """Likewise, as seen from a section: a name alone would be taken for one of the section."""
    return dotted(key) if len(key) > 1 else f"{dotted(key)}, outside of any section"


def _variable(key: Key, prefix: str) -> str:
    return prefix + NESTED.join(key).upper()


def _keys_at(path: Sequence[int | str], keys: Sequence[Key]) -> list[Key]:
    """The settings that a path of pydantic's is in, or that are in it."""
    for length in range(len(path), 0, -1):
        found = [key for key in keys if key[:length] == tuple(path[:length])]
        if found:
            return found
    return []


def _nested(written: Mapping[Key, Written]) -> dict[str, Any]:
    """The values by key as the model takes them."""
    tree: dict[str, Any] = {}
    for (*above, name), one in written.items():
        section = tree
        for part in above:
            section = section.setdefault(part, {})
        if one.value == {}:
            section.setdefault(name, {})  # others may have written into it
        else:
            section[name] = one.value
    return tree


def _is_slip(annotation: Any, name: str, value: object) -> bool:
    """Whether what would be a section of any name is rather a field whose name is misspelled."""
    fields = fields_of(annotation) or {}
    is_section = name in fields or isinstance(value, Mapping)
    return not is_section and bool(get_close_matches(name[:LONGEST_NAME].lower(), fields))


def _nearest(name: str, known: Mapping[str, Key]) -> Key | None:
    near = get_close_matches(name, known, n=1)
    return known[near[0]] if near else None


def _told(problem: ErrorDetails, model: type[BaseModel], key: Key) -> str:
    """What a value must be, and what it is unless that is secret."""
    annotation: Any = model
    for name in key:
        annotation = inside(annotation, name)
    is_hidden = is_secret(annotation)
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in MUST_BE:
        limits = {
            name: f"{limit:.15g}" if isinstance(limit, float) else limit
            for name, limit in context.items()
        }
        wanted = f"must be {MUST_BE[kind].format_map(limits)}"
        return wanted if is_hidden else f"{wanted}, not {_shown(problem['input'])}"
    if is_hidden:
        return "is not allowed, whatever it is: it is secret"
    return str(context["error"]) if kind == "value_error" else problem["msg"]


def _shown(value: object) -> str:
    """A value as a message quotes it: on one line, and not long."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "a section"
    if isinstance(value, Sequence):
        return "a list"
    if isinstance(value, int) and value.bit_length() > HUGE_BITS:
        return "a number that long"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
