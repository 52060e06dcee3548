"""The vectors to agree with: sentence-transformers in fp32; torch's own bf16 as a yardstick."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.types import Vectors
from tests.conftest import require

torch = require("torch", "the reference needs torch")
transformers = require("transformers", "the reference needs transformers")
sentence_transformers = require("sentence_transformers", "the reference is sentence-transformers")


class Reference:
    """One folder as sentence-transformers runs it on the CPU, from local files only."""

    def __init__(self, folder: Path, dtype: str = "float32") -> None:
        transformers.logging.set_verbosity_error()  # reports of heads that the encoder leaves out
        transformers.logging.disable_progress_bar()
        # Transformers 5 computes in the dtype of the file unless told otherwise.
        self.model = sentence_transformers.SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"}
        )
        frequencies = list(_rotary_frequencies(self.model))
        self.model.to(getattr(torch, dtype))
        for module, name, value in frequencies:
            setattr(module, name, value)

    def embed(self, texts: Sequence[str], **options: Any) -> Vectors:
        """`encode`, in one padded batch per 32 texts, as float32."""
        vectors = self.model.encode(
            list(texts), convert_to_tensor=True, show_progress_bar=False, **options
        )
        result: Vectors = vectors.float().numpy()
        return result

    def embed_ids(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """Rows of token ids, each in a batch of its own."""
        vectors = []
        for row in rows:
            ids = torch.tensor([list(row)])
            features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            with torch.inference_mode():
                vectors.append(self.model(features)["sentence_embedding"].float().numpy())
        return np.concatenate(vectors)


def _rotary_frequencies(model: Any) -> Iterator[tuple[Any, str, Any]]:
    """Module, name and value of each buffer that stays float32 when torch loads a model in bf16.

    `to` would round them too, and make torch worse than it is.
    """
    for module in model.modules():
        for name, value in module.named_buffers(recurse=False):
            if name.endswith("inv_freq"):
                yield module, name, value.clone()


def relative_errors(got: Vectors, wanted: Vectors) -> NDArray[np.float64]:
    """Length of the difference over length of the wanted vector, for each row."""
    difference = np.linalg.norm(got.astype(np.float64) - wanted, axis=-1)
    return np.asarray(difference / np.linalg.norm(wanted.astype(np.float64), axis=-1))


def relative_error(got: Vectors, wanted: Vectors) -> float:
    """The same over all rows at once."""
    difference = np.linalg.norm(got.astype(np.float64) - wanted)
    return float(difference / np.linalg.norm(wanted.astype(np.float64)))


def cosines(got: Vectors, wanted: Vectors) -> NDArray[np.float64]:
    """Cosine of each row with its counterpart."""
    return np.asarray((unit(got) * unit(wanted)).sum(axis=-1))


def unit(vectors: Vectors) -> NDArray[np.float64]:
    """Rows of length 1."""
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=-1, keepdims=True))
