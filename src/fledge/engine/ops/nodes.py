"""Small pieces of an OpenVINO graph: nodes from arrays, types, shapes."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fledge.engine.ops.runtime import opset

Node: TypeAlias = Any
"""An OpenVINO node or output; the package ships no types for them."""

Array: TypeAlias = NDArray[Any]


def constant(value: Array | np.generic | Sequence[int] | int | float) -> Node:
    """A constant: integers as int64, floats as float32, arrays as they are."""
    if isinstance(value, float):
        value = np.float32(value)
    return opset.constant(np.asarray(value, order="C"))


def typed(x: Node, kind: str) -> Node:
    """`x` in a type of numbers; itself if it has that type."""
    return x if x.get_output_element_type(0).get_type_name() == kind else opset.convert(x, kind)


def width(x: Node) -> int:
    """Length of the last axis, which must be known."""
    shape = x.get_output_partial_shape(0)
    length: int = shape[len(shape) - 1].get_length()
    return length


def gather(table: Node, index: Node) -> Node:
    """Rows of a table by number."""
    return opset.gather(table, index, constant(0))


def flatten(x: Node) -> Node:
    """To one axis."""
    return opset.reshape(x, constant([-1]), special_zero=False)


def reshape(x: Node, sizes: Sequence[int]) -> Node:
    """To other sizes: 0 keeps the axis at that place, one -1 takes what is left."""
    return opset.reshape(x, constant(sizes), special_zero=True)


def transpose(x: Node, order: Sequence[int]) -> Node:
    """The axes in another order."""
    return opset.transpose(x, constant(order))


def split_heads(x: Node, heads: int) -> Node:
    """`[T, heads * d]` -> `[T, heads, d]`."""
    return reshape(x, [0, heads, width(x) // heads])


def join_rows(x: Node, size: int) -> Node:
    """`[..., size]`, also where `size` is spread over several axes -> `[N, size]`."""
    return opset.reshape(x, constant([-1, size]), special_zero=False)
