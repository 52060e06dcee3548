"""One part of a job on its way: asked, read, checked, and what became of its long texts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from fledge.errors import FledgeError, ProviderUnavailable
from fledge.providers import lengths
from fledge.providers.checks import cannot_cut, too_long
from fledge.providers.client import ProviderClient
from fledge.providers.parts import Part, PartAnswer
from fledge.providers.refusals import error_of, is_too_long, named_index
from fledge.providers.shapes import Question, Reading, Reply, WrongAnswer
from fledge.types import EmbedJob, ModelCard

# A number in JSON has at most 25 characters and a comma; some servers add white space.
_BYTES_PER_NUMBER = 40
_BYTES_BESIDES = 64 * 1024
_MOST_BODY_BYTES = 64 * 1024 * 1024
_LARGEST_DIMENSION = 16_384
"""Of models whose dimension is not known yet."""


@dataclass(slots=True)
class Errand:
    """One job, and what is noted about it.

    Attributes:
        job: what was asked.
        limit: most tokens of one input, as far as that is known.
        card: the model; its dimension may be learnt on the way.
        began: `time.perf_counter()` when the first request was sent.
    """

    job: EmbedJob
    limit: int | None
    card: ModelCard
    began: float | None = None

    @property
    def may_cut(self) -> bool:
        """Whether texts that are too long are to be cut."""
        return not self.job.truncation.refuse


class _TooLongThere(Exception):
    """The provider has refused a part because a text in it has too many tokens."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


def most_inputs(dimension: int) -> int:
    """As many vectors as an answer may hold; 0: a dimension that is not known."""
    vector_bytes = _BYTES_PER_NUMBER * (dimension or _LARGEST_DIMENSION)
    return max(1, (_MOST_BODY_BYTES - _BYTES_BESIDES) // vector_bytes)


async def answer(client: ProviderClient, part: Part, errand: Errand) -> PartAnswer:
    """Vectors for one part.

    Where the provider does with long texts as it is told, it is first told to refuse them: only so
    is it known that none was cut. It is asked again if one was refused and may be cut.

    Raises:
        InputTooLong: the provider found a text too long, and it is not to be cut.
        CannotCarry: likewise, and it cannot cut it.
        ProviderError: see its subclasses.
    """
    was_refused = False
    can_cut = errand.may_cut and client.provider.shape.too_long == "asked"
    cuts = can_cut and any(one.is_obvious(errand.limit) for one in part.inputs)
    try:
        reading = await _ask(client, part, errand, cuts=cuts)
    except _TooLongThere as refusal:
        if cuts or not can_cut:
            raise _refused(client, part, errand, refusal.reply, cuts=cuts) from None
        cuts = was_refused = True
        try:
            reading = await _ask(client, part, errand, cuts=True)
        except _TooLongThere as again:
            raise _refused(client, part, errand, again.reply, cuts=True) from None
    total = lengths.credible(reading.total_tokens, part.inputs)
    counts, is_estimate = lengths.token_counts(part.inputs, total, errand.limit)
    may_be_cut = cuts or client.provider.shape.too_long == "cut"
    # A total below the limit says that nothing was cut, unless that limit has proved wrong.
    below = None if was_refused else total
    return PartAnswer(
        vectors=reading.vectors,
        token_counts=counts,
        truncated=_truncated(part, errand.limit, reading, below)
        if may_be_cut
        else [False] * len(part.inputs),
        counts_estimated=is_estimate,
    )


async def _ask(client: ProviderClient, part: Part, errand: Errand, *, cuts: bool) -> Reading:
    provider, job = client.provider, errand.job
    question = Question(
        model=errand.card.provider_id,
        inputs=[one.item for one in part.inputs],
        cuts=cuts,
        cut_side=job.truncation.side,
        side=job.side,
    )
    call = provider.shape.call(question)
    async with client.places.take(job.priority):
        errand.began = errand.began or time.perf_counter()
        most_bytes = _most_bytes(len(part.inputs), errand.card.dimension)
        reply = await client.send(call, most_bytes=most_bytes)
    if not reply.is_success:
        if is_too_long(reply):
            raise _TooLongThere(reply)
        raise _error(client, part, reply)
    try:
        reading = provider.shape.read(reply, len(part.inputs))
        _check_dimension(reading, errand)
    except WrongAnswer as wrong:
        raise ProviderUnavailable(
            f"{provider.name} answered with {wrong}", provider=provider.name, status=reply.status
        ) from None
    return reading


def _check_dimension(reading: Reading, errand: Errand) -> None:
    found, expected = reading.vectors.shape[1], errand.card.dimension
    if expected and found != expected:
        raise WrongAnswer(f"vectors of {found} numbers, where this model's have {expected}")


def _most_bytes(count: int, dimension: int) -> int:
    size = count * (dimension or _LARGEST_DIMENSION) * _BYTES_PER_NUMBER
    return min(size + _BYTES_BESIDES, _MOST_BODY_BYTES)


def _error(client: ProviderClient, part: Part, reply: Reply) -> FledgeError:
    provider = client.provider
    return error_of(
        reply,
        provider=provider.name,
        key=provider.secret,
        texts=[one.item for one in part.inputs if isinstance(one.item, str)],
        says_400_while_loading=provider.says_400_while_loading,
    )


def _refused(
    client: ProviderClient, part: Part, errand: Errand, reply: Reply, *, cuts: bool
) -> FledgeError:
    """The error of a part with a text that the provider found too long."""
    if cuts:
        return _error(client, part, reply)  # it was told to cut it
    index = _which(part, errand.limit, reply)
    field = None if index is None else part.field(index)
    if errand.may_cut:
        return cannot_cut(errand.card, field)
    return too_long(errand.card, field, errand.limit)


def _which(part: Part, limit: int | None, reply: Reply) -> int | None:
    """The number of the text at fault, if there can be no doubt."""
    if (named := named_index(reply, len(part.inputs))) is not None:
        return named
    doubtful = [index for index, one in enumerate(part.inputs) if not one.fits(limit)]
    return doubtful[0] if len(doubtful) == 1 else None


def _truncated(
    part: Part, limit: int | None, reading: Reading, total_tokens: int | None
) -> Sequence[bool]:
    """For each text of a part in which texts may have been cut, whether it may have been."""
    count = len(part.inputs)
    if reading.cut_count in (0, count):
        return [reading.cut_count == count] * count
    if limit is not None and total_tokens is not None and total_tokens < limit:
        return [False] * count
    return [not one.fits(limit) for one in part.inputs]
