"""The Cohere shape: `POST {base}/v2/embed`, which vLLM and others speak too.

It wants to know which side of a search texts are on, and can be told what becomes of those that are
too long.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from fledge.providers.shapes import Call, Question, Reading, Reply, TooLong
from fledge.providers.vectors import as_vectors, member, parse, rows, whole_number

_INPUT_TYPES = {"query": "search_query", "document": "search_document", None: "search_document"}
"""It must be one of them: texts of no side are what a search would find, as in the first version of
this API, where nothing needed to be said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CohereShape:
    """See the module.

    Attributes:
        too_long: see `fledge.providers.shapes.TooLong`.
        takes_token_ids: it has no field for them.
        puts_default_prompt: see `fledge.providers.shapes.Shape`.
    """

    too_long: TooLong = "asked"
    takes_token_ids: bool = False
    puts_default_prompt: bool = False

    def call(self, question: Question) -> Call:
        """Floats, of the model's own length."""
        cut = "START" if question.cut_side == "left" else "END"
        body = {
            "model": question.model,
            "texts": list(question.inputs),
            "input_type": _INPUT_TYPES[question.side],
            "embedding_types": ["float"],
            "truncate": cut if question.cuts else "NONE",
        }
        return Call("/v2/embed", orjson.dumps(body))

    def read(self, reply: Reply, count: int) -> Reading:
        """The vectors, and the tokens that were billed."""
        answer = parse(reply.body)
        found = rows(member(member(answer, "embeddings"), "float"), count)
        return Reading(vectors=as_vectors(found), total_tokens=_billed_tokens(answer))


def _billed_tokens(answer: Any) -> int | None:
    for name in ("meta", "billed_units", "input_tokens"):
        answer = answer.get(name) if isinstance(answer, dict) else None
    return whole_number(answer)
