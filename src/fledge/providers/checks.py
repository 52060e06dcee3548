"""What is refused before anything is sent: what would come back in another way than was asked.

Pure functions. A provider that cannot be asked for something may be one of several, so that is
another error than what no deployment would do.
"""

from collections.abc import Sequence

from fledge.errors import CannotCarry, InputTooLong, TooManyInputs
from fledge.providers.lengths import Sized, is_shorter_than_the_models
from fledge.providers.shapes import Shape
from fledge.types import Item, ModelCard, Truncation

_FAR_TOO_MANY = 2
"""So many times the limit is too much, however far an estimate is off: it would be billed."""


def check_kinds(items: Sequence[Item], shape: Shape, card: ModelCard) -> None:
    """Token ids go only where they are taken for what they are.

    Raises:
        CannotCarry: there are some, and the provider would make something else of them.
    """
    if shape.takes_token_ids:
        return
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise CannotCarry(
                f"`items[{index}]` is a list of token ids, which {card.deployment} cannot embed "
                "as they are: send the text",
                field=f"items[{index}]",
            )


def prompt_to_put(prompt: str | None, shape: Shape, card: ModelCard) -> str | None:
    """What goes before each text here: the prompt, unless the provider puts it there itself.

    Raises:
        CannotCarry: the provider puts the model's default prompt there, and another is wanted.
    """
    default = card.prompts.get(card.default_prompt_name or "")
    if not (shape.puts_default_prompt and default):
        return prompt
    if prompt == default:
        return None
    raise CannotCarry(
        f"{card.deployment} puts the default prompt of {card.id} before every text; it can be "
        "asked for no other, and not for none",
        field="prompt_name",
    )


def check_lengths(
    inputs: Sequence[Sized],
    truncation: Truncation,
    limit: int | None,
    shape: Shape,
    card: ModelCard,
) -> None:
    """Texts that are, or may be, too long for what was asked to become of them.

    Args:
        limit: most tokens of one input, as far as that is known.

    Raises:
        InputTooLong: one is too long for certain, and is not to be cut.
        CannotCarry: the provider would do something else with it.
    """
    is_shorter = is_shorter_than_the_models(card, truncation)
    for index, one in enumerate(inputs):
        fits = one.fits(limit)
        if fits or (fits is None and shape.too_long == "refused" and not is_shorter):
            continue
        field = f"items[{index}]"
        if fits is False and truncation.refuse:
            raise InputTooLong(
                f"`{field}` has {one.token_count} tokens; {card.id} takes at most {limit}: "
                "shorten it, or ask for truncation",
                field=field,
            )
        if is_shorter:
            raise CannotCarry(
                f"`{field}` may have more than {limit} tokens, and {card.deployment} cannot be "
                "told to take so few",
                field=field,
            )
        if shape.too_long == "refused":
            raise cannot_cut(card, field)
        if shape.too_long == "cut" and (truncation.refuse or truncation.side == "left"):
            raise CannotCarry(
                f"`{field}` may have more tokens than the model takes, and {card.deployment} "
                "would cut it on the right without saying so",
                field=field,
            )


def check_total(inputs: Sequence[Sized], limit: int | None, max_total_tokens: int | None) -> None:
    """Far too many tokens are not sent to be counted.

    Raises:
        TooManyInputs: there are more in all than the job may have, by a count; by an estimate,
            many more.
    """
    if max_total_tokens is None:
        return
    total = sum(one.about_tokens(limit) for one in inputs)
    is_counted = all(one.token_count is not None for one in inputs)
    if total > max_total_tokens * (1 if is_counted else _FAR_TOO_MANY):
        raise TooManyInputs(
            f"the inputs have {'' if is_counted else 'about '}{total} tokens in all; at most "
            f"{max_total_tokens} may come in one request: send fewer at a time"
        )


def cannot_cut(card: ModelCard, field: str | None) -> CannotCarry:
    """The error of a text that is too long, where none can be cut."""
    which = "an input" if field is None else f"`{field}`"
    return CannotCarry(
        f"{which} has more tokens than the model takes, and {card.deployment} cannot be told to "
        "cut it: shorten it",
        field=field,
    )


def too_long(card: ModelCard, field: str | None, limit: int | None) -> InputTooLong:
    """The error of a text that the provider has found to be too long."""
    which = "an input" if field is None else f"`{field}`"
    most = "fewer tokens" if limit is None else f"at most {limit} tokens"
    return InputTooLong(
        f"{which} is too long; {card.id} takes {most}: shorten it, or ask for truncation",
        field=field,
    )
