"""The Hugging Face shape: `{"inputs": [...]}` and parameters at the root, answered with a list.

hf-inference has a path for each model; an Inference Endpoint and text-embeddings-inference serve
one model, at their root or at `/embed`. Always a list is sent: what comes back for a single text
differs between them.
"""

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import orjson

from fledge.providers.shapes import Call, Question, Reading, Reply, TooLong
from fledge.providers.vectors import as_vectors, parse, rows, whole_number

_TASK = "pipeline/feature-extraction"


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceShape:
    """See the module.

    Attributes:
        path: `model`: one for each model, as on the router; `embed`: TEI's own route; `root`: the
            base URL itself.
        too_long: see `fledge.providers.shapes.TooLong`. TEI and Inference Endpoints do as asked;
            the models of hf-inference ignore every parameter and cut.
        takes_token_ids: TEI makes text of them, and embeds other ids than were sent.
        puts_default_prompt: see `fledge.providers.shapes.Shape`.
    """

    path: Literal["model", "embed", "root"] = "root"
    too_long: TooLong = "asked"
    takes_token_ids: bool = False
    puts_default_prompt: bool = False

    def call(self, question: Question) -> Call:
        """Not normalized where that can be had: what is done to vectors afterwards is done here."""
        body: dict[str, Any] = {
            "inputs": list(question.inputs),
            "normalize": False,
            "truncate": question.cuts,
        }
        if question.cut_side is not None:
            body["truncation_direction"] = question.cut_side
        return Call(self._path(question.model), orjson.dumps(body))

    def read(self, reply: Reply, count: int) -> Reading:
        """A bare list, or what the toolkit of Inference Endpoints puts around it."""
        answer = parse(reply.body)
        if isinstance(answer, dict) and "embeddings" in answer:
            answer = answer["embeddings"]
        said = reply.headers.get("x-compute-tokens", "")
        return Reading(
            vectors=as_vectors(rows(answer, count)),
            total_tokens=whole_number(int(said)) if said.isdecimal() else None,
        )

    def _path(self, model: str) -> str:
        if self.path == "model":
            return f"/models/{quote(model, safe='/')}/{_TASK}"
        return "/embed" if self.path == "embed" else ""
