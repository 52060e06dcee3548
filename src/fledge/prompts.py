"""Which prompt a request gets, and on which side of a search its texts stand.

A caller may name one of the model's prompts, write a text of their own, or say what the texts are
and leave the choice to the model. All three are settled here, from the model's card alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fledge.errors import InvalidRequest, UnknownPrompt
from fledge.names import quoted
from fledge.types import Item, ModelCard, Side

_QUERY = ("query", "search_query", "retrieval_query", "s2p_query", "web_search_query")
_DOCUMENT = (
    "document",
    "passage",
    "corpus",
    "search_document",
    "retrieval_document",
    "retrieval_passage",
)
_SIMILAR = ("text_matching", "semantic_similarity", "sts")

INPUT_TYPES: Mapping[str, tuple[Side | None, Sequence[str]]] = {
    **dict.fromkeys(("query", "search_query", "retrieval_query"), ("query", _QUERY)),
    **dict.fromkeys(("code_query", "code_retrieval_query"), ("query", _QUERY)),
    **dict.fromkeys(("question_answering", "fact_verification"), ("query", _QUERY)),
    **dict.fromkeys((*_DOCUMENT, "code_passage"), ("document", _DOCUMENT)),
    **dict.fromkeys(_SIMILAR, (None, _SIMILAR)),
    **dict.fromkeys(("classification", "clustering", "separation", "text"), (None, ())),
    **dict.fromkeys(("retrieval", "code"), (None, ())),
}
"""The values of `input_type` that clients of Cohere, Voyage, Jina, NVIDIA, Google and Azure send.

For each the side of a search, and the names under which models keep a prompt for it, in the order
in which they are tried after the value itself. Names are compared by `plain_name`. What ends like a
side belongs to it too, as `nl2code.query` and `qa.passage`."""

# An empty value, and the zeroth of Google's enumerations, which is sent where nothing was chosen.
_UNSET = ("", "unspecified", "task_type_unspecified", "embedding_task_type_unspecified")

_SEPARATORS = str.maketrans(".- ", "___")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChoice:
    """What a caller said about the prompt; nothing at all means the model's default.

    Attributes:
        prompt: a text of the caller's own; "" means none.
        prompt_name: a prompt of the card; "" means none.
        input_type: what the texts are: one of `INPUT_TYPES`, or a prompt of the card; "" says
            nothing.
        task: another name for `input_type`; both may be given where they mean the same.
        prefix: what the caller's fields begin with, for error messages.
        paths: fields that the caller spells in another way than prefix and name, likewise.
    """

    prompt: str | None = None
    prompt_name: str | None = None
    input_type: str | None = None
    task: str | None = None
    prefix: str = ""
    paths: Mapping[str, str] = field(default_factory=dict)

    def path(self, name: str) -> str:
        """How the caller spells a field."""
        return self.paths.get(name, self.prefix + name)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What came of it.

    Attributes:
        text: put before each text; None for nothing.
        name: its name in the card; None for nothing, and for a text of the caller's own.
        side: the side of a search that `input_type` speaks of.
    """

    text: str | None = None
    name: str | None = None
    side: Side | None = None


def choose_prompt(card: ModelCard, choice: PromptChoice) -> Prompt:
    """The prompt that the card has for a choice.

    `prompt` goes before `input_type`, so does `prompt_name`; the card's default is for callers who
    said nothing. An `input_type` that the card has no prompt for means none, not the default: the
    default may well be the other side's. That is also what the `encode_query` and
    `encode_document` of sentence-transformers do.

    Raises:
        UnknownPrompt: the card lists no prompt of that name.
        InvalidRequest: an `input_type` that nobody knows, or a `task` that means another; `prompt`
            beside `prompt_name`; or a `prompt` that is not valid Unicode.
    """
    typed = _typed(card, choice)
    side = None if typed is None else typed.side
    if choice.prompt is not None:
        _check_text(choice, choice.prompt)
        return Prompt(text=choice.prompt or None, side=side)
    if choice.prompt_name is None:
        if typed is not None:
            return typed
        name = card.default_prompt_name
    else:
        name = choice.prompt_name
    if not name:
        return Prompt(side=side)
    if name not in card.prompts:
        path = choice.path("prompt_name")
        raise UnknownPrompt(
            f"`{path}`: {card.id} has no prompt {quoted(name)}; its prompts: {_prompts_of(card)}",
            field=path,
        )
    return Prompt(text=card.prompts[name] or None, name=name, side=side)


def check_prompt_length(
    prompt: Prompt, choice: PromptChoice, items: Sequence[Item], max_chars: int
) -> None:
    """A text of the caller's own counts as if it had been written before each text.

    Raises:
        InvalidRequest: that would be more than `max_chars` characters.
    """
    if prompt.text is None or prompt.name is not None:
        return
    text_count = sum(isinstance(item, str) for item in items)
    if (chars := text_count * len(prompt.text)) > max_chars:
        path = choice.path("prompt")
        raise InvalidRequest(
            f"`{path}` before {text_count} texts makes {chars} characters; one request takes at "
            f"most {max_chars}: shorten it, or send fewer texts at a time",
            field=path,
        )


def respelled_choice(error: InvalidRequest, choice: PromptChoice) -> InvalidRequest:
    """The same error, where it is about `input_type`: by the name of the caller's own field."""
    if error.field != "input_type":
        return error
    path = choice.path("task" if not choice.input_type and choice.task else "input_type")
    return type(error)(str(error).replace("`input_type`", f"`{path}`"), field=path)


def plain_name(name: str) -> str:
    """`Retrieval-query`, `retrieval.query` and `RETRIEVAL_QUERY` are one name."""
    return name.casefold().translate(_SEPARATORS)


def _typed(card: ModelCard, choice: PromptChoice) -> Prompt | None:
    """What `input_type` and `task` say; None where they say nothing."""
    given = [
        (choice.path(name), value)
        for name, value in (("input_type", choice.input_type), ("task", choice.task))
        if value is not None and plain_name(value) not in _UNSET
    ]
    if not given:
        return None
    prompts = [_of_type(card, path, value) for path, value in given]
    first, last = prompts[0], prompts[-1]
    if (first.side, first.text) != (last.side, last.text):
        (path, value), (other_path, other) = given
        raise InvalidRequest(
            f"`{path}` is {quoted(value)} and `{other_path}` is {quoted(other)}; they are two "
            f"names of one field, and mean different things to {card.id}: give one of them",
            field=other_path,
        )
    return first


def _of_type(card: ModelCard, path: str, value: str) -> Prompt:
    """The first prompt with a text: of that very name, of nearly that name, of the same meaning."""
    plain = plain_name(value)
    names: dict[str, str] = {}
    for name, text in card.prompts.items():
        if text:
            names.setdefault(plain_name(name), name)
    meaning = _meaning(plain)
    if meaning is None and plain not in map(plain_name, card.prompts):
        raise InvalidRequest(
            f"`{path}` is {quoted(value)}; known are {', '.join(INPUT_TYPES)}, and the prompts of "
            f"{card.id}: {_prompts_of(card)}",
            field=path,
        )
    side, others = meaning or (None, ())
    if card.prompts.get(value):
        return Prompt(card.prompts[value], value, side)
    found = next((names[name] for name in (plain, *others) if name in names), None)
    return Prompt(side=side) if found is None else Prompt(card.prompts[found], found, side)


def _meaning(plain: str) -> tuple[Side | None, Sequence[str]] | None:
    """As in `INPUT_TYPES`, or by the ending: tasks come in pairs, one name for either side."""
    if plain in INPUT_TYPES:
        return INPUT_TYPES[plain]
    task, _, ending = plain.rpartition("_")
    if ending == "query":
        return "query", _QUERY
    if ending in ("document", "passage"):
        return "document", (f"{task}_document", f"{task}_passage", *_DOCUMENT)
    return None


def _prompts_of(card: ModelCard) -> str:
    return ", ".join(card.prompts) or "none"


def _check_text(choice: PromptChoice, text: str) -> None:
    path = choice.path("prompt")
    if choice.prompt_name:
        raise InvalidRequest(
            f"`{path}` and `{choice.path('prompt_name')}` cannot both apply; give one of them",
            field=path,
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"`{path}` is not valid Unicode: {error.reason} at {error.start}", field=path
        ) from error
