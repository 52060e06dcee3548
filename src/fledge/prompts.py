"""Which prompt a request gets, and on which side of a search its texts stand.

A caller may name one of the model's prompts, write a text of their own, or say what the texts are
and leave the choice to the model. All three are settled here, from the model's card alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fledge.errors import InvalidRequest, UnknownPrompt
from fledge.inputs import quoted
from fledge.types import Item, ModelCard, Side

_QUERY = ("query", "search_query", "retrieval_query", "s2p_query")
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
}
"""The values of `input_type` that clients of Cohere, Voyage, Jina, NVIDIA, Google and Azure send.

For each the side of a search, and the names under which models keep a prompt for it, in the order
in which they are tried after the value itself. Names are compared by `_plain`."""

_SEPARATORS = str.maketrans(".- ", "___")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChoice:
    """What a caller said about the prompt; nothing at all means the model's default.

    Attributes:
        prompt: a text of the caller's own; "" means none.
        prompt_name: a prompt of the card; "" means none.
        input_type: what the texts are: one of `INPUT_TYPES`, or a prompt of the card.
        prefix: what the caller's fields begin with, for error messages.
        input_type_field: how the caller spells `input_type` behind the prefix.
    """

    prompt: str | None = None
    prompt_name: str | None = None
    input_type: str | None = None
    prefix: str = ""
    input_type_field: str = "input_type"


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
        InvalidRequest: an `input_type` that nobody knows, `prompt` beside `prompt_name`, or a
            `prompt` that is not valid Unicode.
    """
    side = None if choice.input_type is None else _side(card, choice, choice.input_type)
    if choice.prompt is not None:
        _check_text(choice, choice.prompt)
        return Prompt(text=choice.prompt or None, side=side)
    if choice.prompt_name is not None:
        name: str | None = choice.prompt_name
    elif choice.input_type is not None:
        name = _name_for(card, choice.input_type)
    else:
        name = card.default_prompt_name
    if not name:
        return Prompt(side=side)
    if name not in card.prompts:
        field = f"{choice.prefix}prompt_name"
        raise UnknownPrompt(
            f"`{field}`: {card.id} has no prompt {quoted(name)}; its prompts: {_prompts_of(card)}",
            field=field,
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
        field = f"{choice.prefix}prompt"
        raise InvalidRequest(
            f"`{field}` before {text_count} texts makes {chars} characters; one request takes at "
            f"most {max_chars}: shorten it, or send fewer texts at a time",
            field=field,
        )


def _side(card: ModelCard, choice: PromptChoice, value: str) -> Side | None:
    plain = _plain(value)
    if plain in INPUT_TYPES:
        return INPUT_TYPES[plain][0]
    if value in card.prompts or plain in map(_plain, card.prompts):
        return None
    field = choice.prefix + choice.input_type_field
    raise InvalidRequest(
        f"`{field}` is {quoted(value)}; known are {', '.join(INPUT_TYPES)}, and the prompts of "
        f"{card.id}: {_prompts_of(card)}",
        field=field,
    )


def _name_for(card: ModelCard, input_type: str) -> str | None:
    """The first prompt with a text: of that very name, of nearly that name, of the same meaning."""
    if card.prompts.get(input_type):
        return input_type
    names: dict[str, str] = {}
    for name, text in card.prompts.items():
        if text:
            names.setdefault(_plain(name), name)
    plain = _plain(input_type)
    _, others = INPUT_TYPES.get(plain, (None, ()))
    return next((names[name] for name in (plain, *others) if name in names), None)


def _plain(name: str) -> str:
    """`Retrieval-query`, `retrieval.query` and `RETRIEVAL_QUERY` are one name."""
    return name.casefold().translate(_SEPARATORS)


def _prompts_of(card: ModelCard) -> str:
    return ", ".join(card.prompts) or "none"


def _check_text(choice: PromptChoice, text: str) -> None:
    field = f"{choice.prefix}prompt"
    if choice.prompt_name is not None:
        raise InvalidRequest(
            f"`{field}` and `{field}_name` cannot both apply; give one of them", field=field
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"`{field}` is not valid Unicode: {error.reason} at {error.start}", field=field
        ) from error
