"""The OpenAI shape: `POST {base}/embeddings`, spoken by most services and servers.

It has no word for prompts, for what becomes of texts that are too long, nor for the side of a
search. Another Fledge has: it is spoken to in the same shape, with the fields it adds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from fledge.providers.shapes import Call, Question, Reading, Reply, TooLong, WrongAnswer
from fledge.providers.vectors import as_vectors, member, parse, rows, whole_number


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIShape:
    """See the module.

    Attributes:
        too_long: see `fledge.providers.shapes.TooLong`.
        takes_token_ids: whether ids are embedded as they are, rather than as the text that some
            tokenizer makes of them.
        asks_base64: whether vectors are asked for as base64, a third of the bytes; only where it
            is known to be understood.
        counts_tokens: whether `usage` counts tokens; Infinity's counts characters.
        puts_default_prompt: see `fledge.providers.shapes.Shape`.
    """

    too_long: TooLong = "refused"
    takes_token_ids: bool = False
    asks_base64: bool = False
    counts_tokens: bool = True
    puts_default_prompt: bool = False

    def call(self, question: Question) -> Call:
        """Nothing but what every service knows: many refuse fields that they do not."""
        return Call("/embeddings", orjson.dumps(self._body(question)))

    def read(self, reply: Reply, count: int) -> Reading:
        """The vectors by their `index`, which services do not always keep in order."""
        answer = parse(reply.body)
        data = _sorted(rows(member(answer, "data"), count))
        return Reading(
            vectors=as_vectors([member(one, "embedding") for one in data]),
            total_tokens=_total_tokens(answer) if self.counts_tokens else None,
        )

    def _body(self, question: Question) -> dict[str, Any]:
        return {
            "input": list(question.inputs),
            "model": question.model,
            "encoding_format": "base64" if self.asks_base64 else "float",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FledgeShape(OpenAIShape):
    """Another Fledge: it can be told what to do with texts that are too long, and to put nothing
    before them."""

    too_long: TooLong = "asked"
    takes_token_ids: bool = True
    asks_base64: bool = True

    def read(self, reply: Reply, count: int) -> Reading:
        """As of any service, and how many texts were cut."""
        reading = OpenAIShape.read(self, reply, count)
        said = reply.headers.get("x-fledge-truncated", "0")
        return Reading(
            vectors=reading.vectors,
            total_tokens=reading.total_tokens,
            cut_count=int(said) if said.isdecimal() else None,
        )

    def _body(self, question: Question) -> dict[str, Any]:
        # "" is no prompt, where saying nothing is the default one.
        body = OpenAIShape._body(self, question) | {"prompt_name": "", "normalize": False}
        if question.cuts:
            body["truncate"] = True
            if question.cut_side is not None:
                body["truncation_direction"] = question.cut_side
        if question.side is not None:
            body["input_type"] = question.side
        return body


def _sorted(data: list[Any]) -> list[Any]:
    """In the order of the inputs.

    Raises:
        WrongAnswer: what they say of their order makes no sense.
    """
    numbers = [one.get("index") if isinstance(one, Mapping) else None for one in data]
    if all(number is None for number in numbers):
        return data
    places = {number: one for number, one in zip(numbers, data, strict=True) if _is_int(number)}
    if set(places) != set(range(len(data))):
        raise WrongAnswer("vectors whose `index` does not number the inputs")
    return [places[index] for index in range(len(data))]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _total_tokens(answer: Any) -> int | None:
    usage = answer.get("usage")
    if not isinstance(usage, Mapping):
        return None
    # Voyage and Jina have no `prompt_tokens`.
    return whole_number(usage.get("prompt_tokens")) or whole_number(usage.get("total_tokens"))
