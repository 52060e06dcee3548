"""sentence-transformers as an engine: `python -m ... FOLDER fp32|bf16 [defaults]`.

`defaults` asks for nothing, and fails when that does not give the precision that was named; without
it the precision is asked for with the one argument that the library's documentation gives for it.
"""

import sys

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from benchmarks.worker import serve_engine

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(folder: str, precision: str, how: str = "asked") -> None:
    options = {"dtype": DTYPES[precision]} if how == "asked" else None
    model = SentenceTransformer(folder, device="cpu", model_kwargs=options)
    dtype = next(model.parameters()).dtype
    if dtype != DTYPES[precision]:
        sys.exit(f"sentence-transformers computes in {dtype} where {precision} is expected")

    def embed(texts: list[str]) -> NDArray[np.float32]:
        vectors = model.encode(texts, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    serve_engine(embed, {"computes_in": precision, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main(*sys.argv[1:])
