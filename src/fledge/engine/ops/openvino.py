"""`Ops` as an OpenVINO graph, compiled once per model and run by `CompiledGraph`.

In bf16 the factors of each matmul are typed bf16 in the graph itself: the runtime then packs them
from the mapped file at once, without a float32 copy of its own (bert-base: 251 MB anonymous against
574). The sum behind the last matmul, pooling included, stays float32.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from fledge.engine.ops.attention import absent, attend_to_all, attend_to_past
from fledge.engine.ops.nodes import (
    Array,
    Node,
    constant,
    gather,
    join_rows,
    reshape,
    split_heads,
    typed,
    width,
)
from fledge.engine.ops.protocol import (
    LEAKY_SLOPE,
    SELU_ALPHA,
    SELU_SCALE,
    Activation,
    Attention,
    PoolingMode,
)
from fledge.engine.ops.runtime import openvino, opset
from fledge.errors import ComputeError, CorruptModel, ModelLoadError
from fledge.types import Vectors

BF16 = np.dtype(ml_dtypes.bfloat16)
STORED_TYPES = {  # the runtime's type, and a type of that size that it takes from NumPy
    np.dtype(np.float32): (openvino.Type.f32, np.float32),
    np.dtype(np.int8): (openvino.Type.i8, np.int8),
    BF16: (openvino.Type.bf16, np.uint16),
}
MAX_QUANTIZATION_GROUP = 128
"""Small groups follow outliers better, large ones are faster: on MiniLM the least cosine to fp32 is
0.983 at 384, 0.989 at 192 and 0.992 at 128; a bert-base shape loses 9 % of its speed from 768 to
128, and 17 % to 64."""
MIN_QUANTIZATION_GROUP = 32
WHOLE_ROW = 2**64 - 1  # the runtime's word for one scale per row

# name -> element type and rank of the graph's inputs; `fledge.engine.packing` says what is in them
INPUTS: Mapping[str, tuple[type[np.generic], int]] = {
    "ids": (np.int32, 1),
    "positions": (np.int32, 1),
    "unpad": (np.int32, 1),
    "pad": (np.int32, 2),
    "mask": (np.float32, 2),
    "first": (np.int32, 1),
    "last": (np.int32, 1),
    "pool_mask": (np.float32, 2),
    "mean": (np.float32, 2),
    "mean_sqrt_len_tokens": (np.float32, 2),
    "weightedmean": (np.float32, 2),
    "buckets": (np.int32, 2),
    "cos": (np.float32, 2),
    "sin": (np.float32, 2),
    "query_pad": (np.int32, 3),
    "places": (np.int32, 2),
}

ACTIVATIONS: Mapping[Activation, Callable[[Node], Node]] = {
    "gelu": functools.partial(opset.gelu, approximation_mode="erf"),
    "gelu_tanh": functools.partial(opset.gelu, approximation_mode="tanh"),
    "relu": opset.relu,
    # by default its factor is float32, whatever `x` is
    "silu": lambda x: opset.swish(x, opset.convert_like(constant(1.0), x)),
    "tanh": opset.tanh,
    "sigmoid": opset.sigmoid,
    "identity": lambda x: x,
    "elu": lambda x: opset.elu(x, 1.0),
    "hardsigmoid": lambda x: opset.hard_sigmoid(typed(x, "f32"), constant(1 / 6), constant(0.5)),
    "hardswish": opset.hswish,
    "hardtanh": lambda x: opset.clamp(x, -1.0, 1.0),
    "leaky_relu": lambda x: opset.prelu(typed(x, "f32"), constant(LEAKY_SLOPE)),
    "mish": opset.mish,
    "relu6": lambda x: opset.clamp(x, 0.0, 6.0),
    "selu": lambda x: opset.selu(typed(x, "f32"), constant(SELU_ALPHA), constant(SELU_SCALE)),
    "softplus": opset.softplus,
    "softsign": opset.softsign,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """How a graph is compiled.

    Attributes:
        inference_hint: the type that matmuls compute in, `f32` or `bf16`.
        threads: threads of the compute lane.
        quantization_group: activations quantized with one scale per this many; 0 leaves the
            choice to the runtime, None (no int8 weights) switches it off.
    """

    inference_hint: str
    threads: int
    quantization_group: int | None = None

    def properties(self) -> dict[str, str | int]:
        """The runtime's own names for these choices."""
        properties: dict[str, str | int] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": self.inference_hint,
        }
        if self.quantization_group is not None:
            properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = self.quantization_group
        return properties


def quantization_group(weights: Mapping[str, Array]) -> int:
    """The largest group of at most 128 that divides the inner size of every int8 matmul.

    0 where none is worth having: activations then stay as they are.
    """
    inner = [array.shape[1] for array in weights.values() if array.dtype == np.int8]
    common = math.gcd(*inner)
    group = max(
        (size for size in range(1, min(common, MAX_QUANTIZATION_GROUP) + 1) if common % size == 0),
        default=0,
    )
    return group if group >= MIN_QUANTIZATION_GROUP else 0


class CompileError(ModelLoadError):
    """The runtime refuses the graph on this machine; in another precision it may not."""


class CompiledGraph:
    """A network in memory, ready to run one batch at a time. Not safe for several threads at once.

    It owns the arrays that its constants point into: they must outlive the compiled model, so
    `close` drops the model first.
    """

    def __init__(
        self,
        output: Node,
        inputs: Mapping[str, Node],
        weights: Sequence[Array],
        config: RuntimeConfig,
    ) -> None:
        self._names = tuple(inputs)
        model = openvino.Model([opset.result(output)], list(inputs.values()), "fledge")
        try:
            self._compiled = _core().compile_model(model, "CPU", config.properties())
            self._request = self._compiled.create_infer_request()
        except RuntimeError as error:
            raise CompileError(f"the runtime cannot compile the model: {error}") from error
        # set last, so that it also goes last where nobody called `close`
        self._weights = weights

    def run(self, arrays: Mapping[str, Array]) -> Vectors:
        """Compute one batch.

        Args:
            arrays: the inputs by name; those that this graph does not use are left out.

        Returns:
            `[B, dim]` float32, a copy that belongs to the caller.

        Raises:
            ComputeError: the runtime failed.
        """
        try:
            self._request.infer([arrays[name] for name in self._names], share_inputs=True)
        except RuntimeError as error:
            raise ComputeError(f"the runtime failed: {error}") from error
        return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)

    def close(self) -> None:
        """Give the memory back: the request, then the model, then the weights they point into."""
        del self._request, self._compiled
        self._weights = ()


class OpenVinoOps:
    """Builds a graph node by node; `compile` ends it.

    Args:
        weights: arrays by the architecture's names, as `fledge.engine.weights` maps them.
    """

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self._weights = weights
        self._inputs: dict[str, Node] = {}
        self._used: list[Array] = []

    def compile(self, output: Node, config: RuntimeConfig) -> CompiledGraph:
        """End the graph in `output` and make it ready to run."""
        return CompiledGraph(typed(output, "f32"), self._inputs, self._used, config)

    def _input(self, name: str) -> Node:
        if name not in self._inputs:
            dtype, rank = INPUTS[name]
            self._inputs[name] = opset.parameter([-1] * rank, dtype, name=name)
        return self._inputs[name]

    def _weight(self, name: str) -> Node:
        """A constant that points into the mapped weights."""
        array = self._weights[name]
        self._used.append(array)
        kind, raw = STORED_TYPES[array.dtype]
        tensor = openvino.Tensor(array.view(raw), openvino.Shape(array.shape), kind)
        return opset.constant(tensor, shared_memory=True)

    def token_ids(self) -> Node:
        """`[T]` int32."""
        return self._input("ids")

    def position_ids(self) -> Node:
        """`[T]` int32."""
        return self._input("positions")

    def embedding(self, ids: Node, table: str) -> Node:
        """Looked up in the stored type, computed with in float32."""
        return opset.convert(gather(self._weight(table), ids), "f32")

    def table_row(self, table: str, row: int) -> Node:
        """A constant `[1, width]`."""
        return constant(self._weights[table][row : row + 1].astype(np.float32))

    def linear(self, x: Node, name: str) -> Node:
        """Typed by how the weights are stored: float32, bf16, or int8 with scales.

        In bf16 the result stays bf16, since a conversion in between would keep the runtime from
        computing bias and activation in the same kernel.
        """
        weight = f"{name}.weight"
        dtype = self._weights[weight].dtype
        factor = self._weight(weight)
        if dtype == np.int8:
            factor = opset.multiply(
                opset.convert(factor, "f32"), constant(self._weights[f"{weight}_scale"])
            )
        kind = "bf16" if dtype == BF16 else "f32"
        y = opset.matmul(typed(x, kind), factor, False, True)  # noqa: FBT003 - the runtime's own signature
        bias = f"{name}.bias"
        if bias not in self._weights:
            return y
        return opset.add(y, typed(self._row(bias, self._weights[weight].shape[0]), kind))

    def _row(self, name: str, size: int, offset: float = 0.0) -> Node:
        """A vector as `[1, size]`: copied, since it is small and fused into what it is added to.

        Args:
            offset: added to every number.

        Raises:
            CorruptModel: it has another size; one of 1 would be spread over all in silence.
        """
        vector = self._weights[name]
        if vector.shape != (size,):
            raise CorruptModel(f"{name} has shape {list(vector.shape)} where [{size}] is expected")
        return constant(vector.reshape(1, -1) + np.float32(offset))

    def layer_norm(self, x: Node, name: str, *, eps: float) -> Node:
        """Biased variance, `eps` inside the root, as torch."""
        y = opset.mvn(typed(x, "f32"), constant([-1]), True, eps, "INSIDE_SQRT")  # noqa: FBT003 - likewise
        size = x.get_output_partial_shape(0)[1].get_length()
        scaled = opset.multiply(y, self._row(f"{name}.weight", size))
        return opset.add(scaled, self._row(f"{name}.bias", size))

    def rms_norm(
        self, x: Node, name: str, *, eps: float, offset: float = 0.0, heads: int = 1
    ) -> Node:
        """Written as the runtime's own fused kernel expects it."""
        size = width(x) // heads
        x = typed(x, "f32")
        rows = split_heads(x, heads) if heads > 1 else x
        mean = opset.reduce_mean(opset.power(rows, constant(2.0)), constant([-1]), keep_dims=True)
        root = opset.sqrt(opset.add(mean, constant(eps)))
        y = opset.multiply(rows, opset.divide(constant(1.0), root))
        y = opset.multiply(y, self._row(f"{name}.weight", size, offset))
        return join_rows(y, size * heads) if heads > 1 else y

    def rotary(self, x: Node, *, heads: int) -> Node:
        """Written as the runtime's own fused kernel expects it, which keeps the angles in float32.

        In bf16 the least cosine to fp32 is 0.99995 with it and 0.99994 without.
        """
        size = width(x) // heads
        rows = reshape(typed(x, "f32"), [0, heads, 1, size])
        halves = opset.variadic_split(rows, constant(3), constant([size // 2, size // 2]))
        first, second = halves.outputs()
        cos, sin = (opset.unsqueeze(self._input(name), constant([1, 2])) for name in ("cos", "sin"))
        turned = opset.concat([opset.multiply(second, constant(-1.0)), first], 3)
        y = opset.add(opset.multiply(rows, cos), opset.multiply(turned, sin))
        return join_rows(y, width(x))

    def activation(self, x: Node, kind: Activation) -> Node:
        """One of `ACTIVATIONS`."""
        return ACTIVATIONS[kind](x)

    def add(self, a: Node, b: Node) -> Node:
        """With NumPy's broadcasting, in float32."""
        return opset.add(typed(a, "f32"), typed(b, "f32"))

    def multiply(self, a: Node, b: Node) -> Node:
        """With NumPy's broadcasting, in the type that both have, else in float32."""
        if a.get_output_element_type(0) != b.get_output_element_type(0):
            a, b = typed(a, "f32"), typed(b, "f32")
        return opset.multiply(a, b)

    def scale(self, x: Node, factor: float) -> Node:
        """In float32."""
        return opset.multiply(typed(x, "f32"), constant(factor))

    def concat(self, parts: Sequence[Node]) -> Node:
        """Along the last axis."""
        return opset.concat(list(parts), -1) if len(parts) > 1 else parts[0]

    def relative_bias(self, table: str) -> Node:
        """`[1, heads, L, L]`, gathered by the batch's buckets."""
        scores = gather(constant(self._weights[table]), self._input("buckets"))
        return opset.unsqueeze(opset.transpose(scores, constant([2, 0, 1])), constant(0))

    def attention(
        self, q: Node, k: Node, v: Node, rule: Attention, *, bias: Node | None = None
    ) -> Node:
        """Padded inside only; see `fledge.engine.ops.attention`."""
        if rule.is_causal:
            return attend_to_past(q, k, v, rule, self._input)
        scores = opset.unsqueeze(absent(self._input("mask")), constant([1, 2]))
        if bias is not None:
            scores = opset.add(scores, bias)
        return attend_to_all(q, k, v, rule, scores, self._input)

    def weighted_mean(self, parts: Sequence[Node], name: str) -> Node:
        """In float32, with the weights as constants."""
        weights = self._weights[f"{name}.weight"].astype(np.float64)
        total = weights.sum()
        if weights.shape != (len(parts),) or total == 0:
            raise CorruptModel(
                f"{name}: {weights.tolist()} cannot be the weights of {len(parts)} layers"
            )
        shares = (weights / total).tolist()
        scaled = [self.scale(part, share) for part, share in zip(parts, shares, strict=True)]
        return functools.reduce(opset.add, scaled)

    def pool(self, x: Node, mode: PoolingMode) -> Node:
        """`[T, hidden]` -> `[B, hidden]` float32; the means take their weights from packing."""
        x = typed(x, "f32")
        if mode in ("cls", "lasttoken"):
            return gather(x, self._input("first" if mode == "cls" else "last"))
        rows = gather(x, self._input("pad"))
        axes = constant([1])
        if mode == "max":
            lowered = opset.unsqueeze(absent(self._input("pool_mask")), constant([2]))
            return opset.reduce_max(opset.add(rows, lowered), axes, False)  # noqa: FBT003 - likewise
        share = opset.unsqueeze(self._input(mode), constant([2]))
        return opset.reduce_sum(opset.multiply(rows, share), axes, False)  # noqa: FBT003 - likewise

    def normalize(self, x: Node) -> Node:
        """`x / max(|x|, 1e-12)`."""
        return opset.normalize_l2(typed(x, "f32"), constant([-1]), 1e-24, "max")


@functools.cache
def _core() -> Any:
    """The runtime's device manager: one for the life of the process, and never let go.

    The CPU plugin gives the thread that loads it another signal stack, and unmaps that stack when
    the last manager goes, on whatever thread; the next signal in the first thread is then a
    segfault (OpenVINO 2026.4).
    """
    return openvino.Core()
