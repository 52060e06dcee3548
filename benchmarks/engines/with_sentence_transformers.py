"""sentence-transformers as an engine: `python -m ... FOLDER fp32|bf16`.

fp32 is what a user gets without asking for anything; bf16 is the same with the one argument that
the library's documentation gives for it.
"""

import sys

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from benchmarks.worker import serve_engine


def main(folder: str, precision: str) -> None:
    options = {"dtype": "bfloat16"} if precision == "bf16" else None
    model = SentenceTransformer(folder, device="cpu", model_kwargs=options)

    def embed(texts: list[str]) -> NDArray[np.float32]:
        vectors = model.encode(texts, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    serve_engine(embed, {"computes_in": str(next(model.parameters()).dtype)})


if __name__ == "__main__":
    main(*sys.argv[1:])
