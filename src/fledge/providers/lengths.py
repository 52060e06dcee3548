"""What is known of the lengths of texts before and after a provider has embedded them.

Without the model's tokenizer little is certain: that a text has no more tokens than bytes, and what
the provider counted. Where that is not enough, tokens are estimated, and the answer says so.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from fledge.errors import InvalidRequest
from fledge.types import Item, ModelCard, Truncation

_SPECIAL_TOKENS = 4
"""More than any model puts around one text."""

_BYTES_PER_TOKEN = 4
"""Of ordinary English, for estimates."""

_BYTES_OF_AN_ID = 8
"""A token id in JSON, with its comma."""

_OBVIOUS = 8
"""Bytes for each token that a model takes, beyond which a text is taken for too long without asking
first whether it is."""


@dataclass(frozen=True, slots=True)
class Sized:
    """One input of a job.

    Attributes:
        item: a text with its prompt before it, or token ids.
        size_bytes: of it in a request, about.
        token_count: how many tokens it has, if somebody counted.
        most_tokens: it has no more than these.
    """

    item: Item
    size_bytes: int
    token_count: int | None
    most_tokens: int

    def about_tokens(self, limit: int | None) -> int:
        """Its tokens after truncation, counted or estimated."""
        count = self.token_count
        if count is None:
            count = min(self.most_tokens, math.ceil(self.size_bytes / _BYTES_PER_TOKEN) + 2)
        return count if limit is None else min(count, limit)

    def fits(self, limit: int | None) -> bool | None:
        """Whether it has at most so many tokens; None: nobody knows."""
        if limit is None:
            return None
        if self.token_count is not None:
            return self.token_count <= limit
        return True if self.most_tokens <= limit else None

    def is_obvious(self, limit: int | None) -> bool:
        """Whether it is so long that it hardly fits."""
        if limit is None:
            return False
        return self.fits(limit) is False or self.size_bytes > _OBVIOUS * limit


def measure(items: Sequence[Item], prompt: str | None) -> list[Sized]:
    """The inputs of a job as they are sent: a prompt goes before texts, never before ids.

    Raises:
        InvalidRequest: a text with half of a pair of surrogates, which no JSON can carry.
    """
    return [
        _measure(item, index, prompt) if isinstance(item, str) else _measure_ids(item)
        for index, item in enumerate(items)
    ]


def token_limit(card: ModelCard, truncation: Truncation) -> int | None:
    """Most tokens of one input; None: the provider alone knows."""
    limits = [limit for limit in (card.max_seq_length or None, truncation.max_tokens) if limit]
    return min(limits, default=None)


def is_shorter_than_the_models(card: ModelCard, truncation: Truncation) -> bool:
    """Whether a job wants fewer tokens than the model takes, which no shape can say."""
    asked = truncation.max_tokens
    return asked is not None and not 0 < card.max_seq_length <= asked


def credible(total_tokens: int | None, inputs: Sequence[Sized]) -> int | None:
    """A provider's count, unless it cannot be one: some say 0, some count something else."""
    if total_tokens is None or total_tokens < len(inputs):
        return None
    most = sum(one.most_tokens for one in inputs)
    return total_tokens if total_tokens <= most else None


def token_counts(
    inputs: Sequence[Sized], total_tokens: int | None, limit: int | None
) -> tuple[list[int], bool]:
    """Tokens of each input, and whether some of that is an estimate.

    A provider tells one number for all. That is their sum then, spread over the inputs by what is
    known or estimated of each.
    """
    about = [one.about_tokens(limit) for one in inputs]
    are_known = all(one.token_count is not None for one in inputs)
    if total_tokens is None:
        return about, not are_known
    if len(inputs) == 1:
        return [total_tokens], False
    if are_known and sum(about) == total_tokens:
        return about, False
    return spread(total_tokens, about), True


def spread(total: int, weights: Sequence[int]) -> list[int]:
    """A total of at least one for each, in proportion to their weights, as whole numbers."""
    rest, weight = total - len(weights), sum(weights)
    shares = [rest * one // weight for one in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: -(rest * weights[i] % weight))
    for index in by_remainder[: rest - sum(shares)]:
        shares[index] += 1
    return [1 + share for share in shares]


def _measure(text: str, index: int, prompt: str | None) -> Sized:
    whole = f"{prompt}{text}" if prompt else text
    try:
        size = len(whole) if whole.isascii() else len(whole.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"`items[{index}]` is not valid Unicode: {error.reason} at {error.start}",
            field=f"items[{index}]",
        ) from None
    most = size
    if not whole.isascii():
        # Some tokenizers normalize first, and then a ligature of 3 bytes may become 33.
        most = max(size, len(unicodedata.normalize("NFKC", whole).encode()))
    return Sized(whole, size, None, most + _SPECIAL_TOKENS)


def _measure_ids(ids: Sequence[int]) -> Sized:
    return Sized(ids, _BYTES_OF_AN_ID * len(ids), len(ids), len(ids))
