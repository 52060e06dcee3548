"""The machine's limit: how fast it multiplies matrices, in billions of operations a second.

`python -m benchmarks.gemm torch|openvino` is a worker. The shapes are those of a BERT's
feed-forward layers over 2,048 tokens. OpenVINO's are chained, as in a network, so that what enters
and leaves is not measured; its int8 quantizes activations on the way, as Fledge's does.
"""

import math
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.worker import serve
from fledge.engine.ops.runtime import openvino, opset

Node: TypeAlias = Any
"""OpenVINO's; the package ships no types for them."""

TOKENS, HIDDEN, INNER = 2048, 768, 3072
CHAIN = 3
SECONDS = 0.4
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}


def rate(multiply: Callable[[], object], operations: float) -> float:
    """Billions of operations a second: the median of some repetitions."""
    multiply()
    samples: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(samples) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        multiply()
        samples.append(time.perf_counter() - start)
    return operations / float(np.median(samples)) / 1e9


def torch_rates() -> dict[str, float]:
    """fp32 and bf16 by `torch.mm`, the better of the two directions of a feed-forward layer."""
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found = []
        for inner, outer in ((HIDDEN, INNER), (INNER, HIDDEN)):
            x, w = torch.rand(TOKENS, inner).to(dtype), torch.rand(inner, outer).to(dtype)
            y = torch.empty(TOKENS, outer, dtype=dtype)
            found.append(rate(partial(torch.mm, x, w, out=y), 2 * TOKENS * inner * outer))
        rates[name] = max(found)
    return rates


class Chain:
    """Feed-forward layers one after another as an OpenVINO graph."""

    def __init__(self, precision: str, hint: str) -> None:
        rng = np.random.default_rng(0)
        x = opset.parameter([TOKENS, HIDDEN], np.float32)
        y = x
        for step in range(2 * CHAIN):
            shape = (INNER, HIDDEN) if step % 2 == 0 else (HIDDEN, INNER)
            weights = rng.standard_normal(shape, np.float32) / math.sqrt(shape[1])
            y = opset.relu(_multiply(y, weights, precision))
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": hint,
        }
        if precision == "int8":
            config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = HIDDEN
        model = openvino.Model([opset.result(y)], [x], precision)
        compiled = openvino.Core().compile_model(model, "CPU", config)
        self._request = compiled.create_infer_request()
        self._input = rng.standard_normal((TOKENS, HIDDEN), np.float32)

    def rate(self) -> float:
        operations = 2 * CHAIN * 2 * TOKENS * HIDDEN * INNER
        return rate(lambda: self._request.infer([self._input], share_inputs=True), operations)


def _multiply(x: Node, weights: NDArray[np.float32], precision: str) -> Node:
    if precision == "int8":
        scale = np.abs(weights).max(axis=1, keepdims=True) / 127
        stored = opset.convert(opset.constant(np.round(weights / scale).astype(np.int8)), "f32")
        return _transposed(x, opset.multiply(stored, opset.constant(scale)))
    if precision == "bf16":
        raw = weights.astype(ml_dtypes.bfloat16).view(np.uint16)
        tensor = openvino.Tensor(raw, openvino.Shape(raw.shape), openvino.Type.bf16)
        factor = opset.constant(tensor)
        return opset.convert(_transposed(opset.convert(x, "bf16"), factor), "f32")
    return _transposed(x, opset.constant(weights))


def _transposed(x: Node, weights: Node) -> Node:
    return opset.matmul(x, weights, transpose_a=False, transpose_b=True)


def main(library: str) -> None:
    if library == "torch":
        serve({"rates": torch_rates})
        return
    chains = {name: Chain(name, hint) for name, hint in PRECISIONS.items()}
    serve({"rates": lambda: {name: chain.rate() for name, chain in chains.items()}})


if __name__ == "__main__":
    main(sys.argv[1])
