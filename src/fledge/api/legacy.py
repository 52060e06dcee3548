"""What clients asked Hugging Face's old inference API about models.

Source: huggingface_hub 0.27 (`get_model_status`, `list_deployed_models`, `get_endpoint_info`).
"""

from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fledge.api.errors import HUGGING_FACE, Failure, failure_response
from fledge.api.listing import LIBRARY, facts, known
from fledge.api.rendering import JsonResponse, dump
from fledge.api.tasks import TASKS
from fledge.catalog.listed import Listed
from fledge.names import quoted
from fledge.service import Service

_OWN_FRAMEWORKS = frozenset((LIBRARY, "text-embeddings-inference"))
# Those that its client goes through when it is asked for models of all of them.
_OTHER_FRAMEWORKS = frozenset(
    (
        *("adapter-transformers", "allennlp", "asteroid", "bertopic", "diffusers", "doctr"),
        *("espnet", "fairseq", "fastai", "fasttext", "flair", "k2", "keras", "mindspore", "nemo"),
        *("open_clip", "paddlenlp", "peft", "pyannote-audio", "setfit", "sklearn", "spacy"),
        *("span-marker", "speechbrain", "stanza", "text-generation-inference", "timm"),
        "transformers",
    )
)
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}


class Legacy:
    """Routes of the old inference API that are about models."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def status(self, request: Request) -> Response:
        """Whether a model is loaded, or would be."""
        one = self._service.model(request.path_params["model_id"])
        body = {
            "loaded": one.state == "warm",
            "state": _state(one),
            "compute_type": "cpu",
            "framework": LIBRARY,
        }
        return JsonResponse(dump(body))

    async def framework(self, request: Request) -> Response:
        """The warm models of a framework."""
        name = request.path_params["framework"]
        if name in _OWN_FRAMEWORKS:
            warm = [one for one in self._service.models() if one.state == "warm"]
            return JsonResponse(dump([{"model_id": one.id, "task": TASKS[0]} for one in warm]))
        if name in _OTHER_FRAMEWORKS:
            return JsonResponse(dump([]))
        failure = Failure(
            status=HTTPStatus.NOT_FOUND,
            code="framework_not_found",
            error_type="NotFound",
            message=f"the framework {quoted(name)} is unknown; models here are of {LIBRARY}",
        )
        return failure_response(failure, HUGGING_FACE)

    async def info(self, request: Request) -> Response:
        """What is known of a model, under Fledge's names and text-embeddings-inference's."""
        one = self._service.model(request.path_params["model_id"])
        return JsonResponse(dump(_info(one)))


def _state(one: Listed) -> str:
    match one.state:
        case "warm":
            return "Loaded"
        case "failed":
            return "TooBig" if one.status.failure == "out_of_memory" else "error"
        case _:
            return "Loadable"


def _info(one: Listed) -> dict[str, Any]:
    card = one.card
    return {
        "id": one.id,
        "state": one.state,
        "model_id": one.id,
        "model_sha": card and card.revision,
        **known(
            model_dtype=card and _DTYPES[card.precision],
            model_type={"embedding": {"pooling": one.pooling[0]}} if one.pooling else None,
            max_input_length=one.max_seq_length,
            max_seq_length=one.max_seq_length,
            vocab_size=card and card.vocab_size,
        ),
        **facts(one),
    }
