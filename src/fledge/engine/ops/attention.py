"""Attention as a part of an OpenVINO graph: the only place that sees rows instead of tokens.

Every token attends to all tokens of its row, or to those before it. The latter needs a mask of
every pair, whose memory grows with the square of the length, and the runtime's own `causal=True`
does the same (2.4 GB at 16k tokens, OpenVINO 2026.4); so queries go in blocks there.
"""

from collections.abc import Callable

import numpy as np

from fledge.engine.ops.nodes import (
    Node,
    constant,
    flatten,
    gather,
    join_rows,
    reshape,
    transpose,
    typed,
    width,
)
from fledge.engine.ops.protocol import Attention
from fledge.engine.ops.runtime import openvino, opset

MASKED_SCORE = -1e9  # far below any score, and finite, so that an empty row gives no NaN

Input = Callable[[str], Node]
"""An input of the graph by its name."""


def attend_to_all(q: Node, k: Node, v: Node, rule: Attention, scores: Node, inputs: Input) -> Node:
    """`[T, heads * d]` in and out; `scores` `[B, 1 or heads, 1 or L, L]` are added to the row's."""
    scores = opset.convert_like(scores, q)
    rows = (_rows(x, rule.num_heads, inputs) for x in (q, k, v))
    y = opset.scaled_dot_product_attention(*rows, scores)
    return gather(join_rows(transpose(y, [0, 2, 1, 3]), width(q)), inputs("unpad"))


def absent(mask: Node) -> Node:
    """0 where a mask has 1, and far below every score where it has 0."""
    return opset.multiply(opset.subtract(constant(1.0), mask), constant(MASKED_SCORE))


def attend_to_past(q: Node, k: Node, v: Node, rule: Attention, inputs: Input) -> Node:
    """`[T, heads * d]` in and out: one block of queries after another, each against all keys.

    Heads that share keys are laid one behind the other, as if they were more queries.
    """
    q, k = opset.convert_like(q, v), opset.convert_like(k, v)  # rotated in float32
    heads = rule.num_kv_heads or rule.num_heads
    group, size = rule.num_heads // heads, width(q) // rule.num_heads
    queries = reshape(gather(q, inputs("query_pad")), [0, 0, 0, heads, group, size])
    queries = reshape(transpose(queries, [0, 1, 3, 4, 2, 5]), [0, 0, heads, -1, size])
    keys, values = (_rows(x, heads, inputs) for x in (k, v))
    y = _for_each_block(queries, keys, values, inputs("places"), rule)
    y = transpose(reshape(y, [0, 0, heads, group, -1, size]), [0, 1, 4, 2, 3, 5])
    return gather(join_rows(y, width(q)), inputs("unpad"))


def _rows(x: Node, heads: int, inputs: Input) -> Node:
    """`[T, heads * d]` -> `[B, heads, L, d]`."""
    rows = reshape(gather(x, inputs("pad")), [0, 0, heads, width(x) // heads])
    return transpose(rows, [0, 2, 1, 3])


def _for_each_block(q: Node, k: Node, v: Node, places: Node, rule: Attention) -> Node:
    """A loop over N blocks of queries `[N, B, heads, G * C, d]`; returns the same shape.

    Args:
        k: `[B, heads, L, d]`, as `v`.
        places: `[N, C]`, each query's place in its row; G is the number of queries that share keys.
    """
    outer = {
        "q": q,
        "place": places,
        "k": k,
        "v": v,
        "places": flatten(places),
    }
    inner = {name: _parameter(value, sliced=name in _SLICED) for name, value in outer.items()}
    group = rule.num_heads // (rule.num_kv_heads or rule.num_heads)
    mask = _mask(inner["place"], inner["places"], rule.window)
    mask = opset.concat([mask] * group, 0) if group > 1 else mask
    queries = opset.squeeze(inner["q"], constant([0]))
    y = _scored(queries, inner["k"], inner["v"], mask, rule)
    body = openvino.Model([opset.unsqueeze(y, constant([0]))], list(inner.values()), "block")
    loop = opset.tensor_iterator()
    loop.set_body(body)
    for name, parameter in inner.items():
        if name in _SLICED:
            loop.set_sliced_input(parameter, outer[name].output(0), 0, 1, 1, -1, 0)
        else:
            loop.set_invariant_input(parameter, outer[name].output(0))
    return loop.get_concatenated_slices(body.results[0].output(0), 0, 1, 1, -1, 0)


_SLICED = ("q", "place")


def _parameter(value: Node, *, sliced: bool) -> Node:
    """What a loop's body sees of a value: all of it, or one slice of the first axis."""
    shape = value.get_output_partial_shape(0)
    if sliced:
        shape[0] = 1
    return opset.parameter(shape, value.get_output_element_type(0))


def _mask(place: Node, places: Node, window: int | None) -> Node:
    """What is added to scores, `[C, L]`: 0 for what a query may see, far below for the rest."""
    distance = opset.subtract(transpose(place, [1, 0]), opset.unsqueeze(places, constant([0])))
    seen = opset.greater_equal(distance, constant(np.int32(0)))
    if window is not None:
        seen = opset.logical_and(seen, opset.less(distance, constant(np.int32(window))))
    return opset.select(seen, constant(0.0), constant(MASKED_SCORE))


def _scored(q: Node, k: Node, v: Node, mask: Node, rule: Attention) -> Node:
    """Scores, softmax, sum; written out where scores are capped, which no fused kernel does."""
    scale = width(q) ** -0.5 if rule.scale is None else rule.scale
    if rule.softcap is None:
        mask = opset.convert_like(opset.unsqueeze(mask, constant([0, 1])), q)
        scale_node = opset.convert_like(constant(scale), q)
        return opset.scaled_dot_product_attention(q, k, v, mask, scale_node)
    scores = typed(opset.matmul(q, k, transpose_a=False, transpose_b=True), "f32")
    capped = opset.tanh(opset.multiply(scores, constant(scale / rule.softcap)))
    scores = opset.add(opset.multiply(capped, constant(rule.softcap)), mask)
    shares = opset.convert_like(opset.softmax(scores, -1), v)
    return opset.matmul(shares, v, transpose_a=False, transpose_b=False)
