"""Big jobs as several requests, and their answers as one again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fledge.errors import ProviderUnavailable
from fledge.providers.lengths import Sized
from fledge.types import Vectors


@dataclass(frozen=True, slots=True)
class PartLimits:
    """Most of one request.

    Attributes:
        max_inputs: texts.
        max_text_bytes: of all of them; no text has more tokens than bytes, so a limit on tokens
            holds as a limit on bytes.
    """

    max_inputs: int
    max_text_bytes: int


@dataclass(frozen=True, slots=True)
class Part:
    """What goes into one request.

    Attributes:
        first: the number of its first input in the job.
        inputs: at least one; all texts, or all token ids.
    """

    first: int
    inputs: Sequence[Sized]

    def field(self, index: int) -> str:
        """How errors name one of them."""
        return f"items[{self.first + index}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartAnswer:
    """What came of a part; see `EmbedResult`."""

    vectors: Vectors
    token_counts: Sequence[int]
    truncated: Sequence[bool]
    counts_estimated: bool


def split(inputs: Sequence[Sized], limits: PartLimits) -> list[Part]:
    """Parts of neighbours, within the limits; an input that alone is beyond them goes alone."""
    return [Part(first, inputs[first:end]) for first, end in _ends(inputs, limits)]


def join(answers: Sequence[PartAnswer], provider: str) -> PartAnswer:
    """The answer to the whole job, from those to its parts in their order.

    Raises:
        ProviderUnavailable: the parts have vectors of different lengths.
    """
    if len(answers) == 1:
        return answers[0]
    if len({one.vectors.shape[1] for one in answers}) > 1:
        raise ProviderUnavailable(
            f"{provider} answered with vectors of different lengths", provider=provider
        )
    return PartAnswer(
        vectors=np.concatenate([one.vectors for one in answers]),
        token_counts=[count for one in answers for count in one.token_counts],
        truncated=[is_cut for one in answers for is_cut in one.truncated],
        counts_estimated=any(one.counts_estimated for one in answers),
    )


def _ends(inputs: Sequence[Sized], limits: PartLimits) -> Iterator[tuple[int, int]]:
    first, size = 0, 0
    for index, one in enumerate(inputs):
        is_full = (
            index - first >= limits.max_inputs
            or size + one.size_bytes > limits.max_text_bytes
            or isinstance(one.item, str) != isinstance(inputs[first].item, str)
        )
        if is_full and index > first:
            yield first, index
            first, size = index, 0
        size += one.size_bytes
    yield first, len(inputs)
