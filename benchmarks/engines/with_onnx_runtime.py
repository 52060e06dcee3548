"""ONNX Runtime as an engine: `python -m ... FOLDER FILE.onnx`.

Used as its users do: padded batches of 32, sorted by length so that little is padding, and mean
pooling in NumPy. The session's options are the library's defaults.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.worker import serve_engine

BATCH_SIZE = 32


class OnnxEmbedder:
    """A sentence-transformers folder's tokenizer and pooling around an exported network."""

    def __init__(self, folder: Path, network: Path) -> None:
        self._session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "sentence_bert_config.json").read_text())
        self._tokenizer.enable_truncation(settings["max_seq_length"])
        self._tokenizer.enable_padding()

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Normalized vectors in the order of the texts."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors: list[NDArray[np.float32]] = []
        for start in range(0, len(order), BATCH_SIZE):
            vectors.extend(self._batch([texts[i] for i in order[start : start + BATCH_SIZE]]))
        places = np.argsort(order)
        return np.stack(vectors)[places]

    def _batch(self, texts: list[str]) -> NDArray[np.float32]:
        encodings = self._tokenizer.encode_batch(texts)
        ids = np.array([encoding.ids for encoding in encodings], np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
        (hidden,) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
        weights = mask[:, :, None].astype(np.float32)
        pooled = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        normalized: NDArray[np.float32] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return normalized


if __name__ == "__main__":
    # by default one for each physical core; the session does not tell
    info = {"computes_in": "fp32", "threads": None}
    serve_engine(OnnxEmbedder(Path(sys.argv[1]), Path(sys.argv[2])).embed, info)
