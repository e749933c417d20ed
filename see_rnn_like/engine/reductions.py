"""Quick sums and counts of tensors in the graph: of a large one by itself, of many small ones side by side.

Both give per gate the sums `SUMS`, taken in the tensor's own type, and counts of the patterns of sign and
exponent, from which histograms are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

#: What is summed up, in this order; see `stats.MOMENTS`.
SUMS = ("count", "zero", "sum", "square_sum", "min", "max")

#: Combinations of the sign and the 8 exponent bits of a float32, positive ones first.
PATTERNS = 512

#: The patterns of a tensor are those of a sample where it has more than twice as many values per gate; of at
#: least so many.
SAMPLE = 4096

#: Distances between sampled values: primes, of which those are taken that divide no size of the tensor; they
#: meet all units and all timesteps alike.
_STRIDES = (1, 2, 3, 5, 7, 11, 13, 17, 23, 31, 41, 53, 71, 97, 127, 167, 223, 307, 409, 541, 727, 967, 1289)

_BLOCK = 64


@dataclass(frozen=True)
class Alone:
    """One tensor, reduced by itself.

    Attributes:
        tensor: float32 or float64, any shape; with gates, these lie side by side along the last axis.
        gates: number of gates.
    """

    tensor: Any
    gates: int

    def sums(self) -> Any:
        """float64 ``(gate, sum)``."""
        by_unit = tf.reshape(self.tensor, (-1, self._columns))
        zero = tf.cast(tf.equal(by_unit, 0), tf.int32)
        count = tf.fill([self.gates], tf.size(self.tensor) // self.gates)
        columns = (
            count,
            self._by_gate(tf.reduce_sum, zero),
            self._by_gate(tf.reduce_sum, by_unit),
            self._by_gate(tf.reduce_sum, tf.square(by_unit)),
            self._by_gate(tf.reduce_min, by_unit),
            self._by_gate(tf.reduce_max, by_unit),
        )
        return tf.stack([tf.cast(column, tf.float64) for column in columns], 1)

    def patterns(self) -> Any:
        """int32 ``(gate, pattern)``."""
        flat = tf.reshape(self.tensor, [-1])
        stride = self._stride(tf.size(flat))
        pattern = sign_and_exponent(flat[::stride])
        if self.gates > 1:
            units = self._columns // self.gates
            gate = tf.range(0, tf.size(flat), stride) // units % self.gates
            pattern += gate * PATTERNS
        return _counted(pattern, self.gates)

    @property
    def _columns(self) -> int:
        """Where there are no gates, all is one column: reducing memory from end to end is fastest."""
        return 1 if self.gates == 1 else self.tensor.shape[-1]

    def _by_gate(self, reduce: Callable[..., Any], by_unit: Any) -> Any:
        if self.gates == 1:
            return tf.reshape(reduce(by_unit), [1])
        whole = reduce(by_unit, 0)
        exact = tf.cast(whole, tf.float64)
        return reduce(tf.reshape(exact, (self.gates, -1)), 1)

    def _stride(self, size: Any) -> Any:
        """The largest of the usable strides that leaves enough values."""
        sizes = [n for n in self.tensor.shape if n]
        usable = [s for s in _STRIDES if s == 1 or all(n % s for n in sizes)]
        enough = tf.cast(tf.less_equal(usable, tf.maximum(size // (SAMPLE * self.gates), 1)), tf.int32)
        return tf.constant(usable)[tf.reduce_sum(enough) - 1]


class SideBySide:
    """Tensors of known sizes, reduced in one go: fewer operations where there are many small ones.

    The values of every gate are cut into blocks, what is left over is taken value by value.

    Args:
        tensors: all float32 or all float64, with at least one value each, and their numbers of gates.
    """

    def __init__(self, tensors: Sequence[tuple[Any, int]]) -> None:
        rows = [by_gate(tensor, gates) for tensor, gates in tensors]
        self._sizes = [row.shape[1] for row in rows for _ in range(row.shape[0])]
        whole = [size - size % _BLOCK for size in self._sizes]
        left = [size % _BLOCK for size in self._sizes]
        ends = [row.shape[1] - row.shape[1] % _BLOCK for row in rows]
        cut = list(zip(rows, ends, strict=True))
        self._blocks = tf.concat([tf.reshape(row[:, :end], (-1, _BLOCK)) for row, end in cut], 0)
        self._rest = tf.concat([tf.reshape(row[:, end:], [-1]) for row, end in cut], 0)
        owners = np.arange(len(self._sizes), dtype="int32")
        self._block_owners = np.repeat(owners, [size // _BLOCK for size in whole])
        self._rest_owners = np.repeat(owners, left)

    def sums(self) -> Any:
        """float64 ``(row, sum)``."""
        zeros = [tf.cast(tf.equal(part, 0), tf.int32) for part in (self._blocks, self._rest)]
        squares = [tf.square(part) for part in (self._blocks, self._rest)]
        plain = (self._blocks, self._rest)
        columns = (
            tf.constant(self._sizes),
            self._by_row(tf.reduce_sum, tf.math.unsorted_segment_sum, *zeros),
            self._by_row(tf.reduce_sum, tf.math.unsorted_segment_sum, *plain),
            self._by_row(tf.reduce_sum, tf.math.unsorted_segment_sum, *squares),
            self._by_row(tf.reduce_min, tf.math.unsorted_segment_min, *plain),
            self._by_row(tf.reduce_max, tf.math.unsorted_segment_max, *plain),
        )
        return tf.stack([tf.cast(column, tf.float64) for column in columns], 1)

    def patterns(self) -> Any:
        """int32 ``(row, pattern)``."""
        blocks = sign_and_exponent(self._blocks) + self._block_owners[:, None] * PATTERNS
        rest = sign_and_exponent(self._rest) + self._rest_owners * PATTERNS
        return _counted(tf.concat([tf.reshape(blocks, [-1]), rest], 0), len(self._sizes))

    def _by_row(self, reduce: Callable[..., Any], join: Callable[..., Any], blocks: Any, rest: Any) -> Any:
        parts = tf.cast(tf.concat([reduce(blocks, 1), rest], 0), tf.float64)
        return join(parts, np.concatenate([self._block_owners, self._rest_owners]), len(self._sizes))


def by_gate(tensor: Any, gates: int) -> Any:
    """``(gate, value)``, each gate's values side by side: reducing the last axis is fastest."""
    if gates == 1:
        return tf.reshape(tensor, (1, -1))
    split = tf.reshape(tensor, (-1, gates, tensor.shape[-1] // gates))
    return tf.reshape(tf.transpose(split, (1, 0, 2)), (gates, -1))


def sign_and_exponent(values: Any) -> Any:
    """The pattern of each value, int32 in 0 … `PATTERNS` − 1; exponents of float64 end where float32's do."""
    if values.dtype == tf.float32:
        return tf.cast(tf.bitwise.right_shift(tf.bitcast(values, tf.uint32), 23), tf.int32)
    top = tf.cast(tf.bitwise.right_shift(tf.bitcast(values, tf.uint64), 52), tf.int32)
    exponent = tf.bitwise.bitwise_and(top, 2047)
    short = tf.clip_by_value(exponent - 896, 1, 254)
    short = tf.where(tf.equal(exponent, 0), 0, tf.where(tf.equal(exponent, 2047), 255, short))
    return short + tf.where(top > 2047, PATTERNS // 2, 0)


def _counted(patterns: Any, rows: int) -> Any:
    size = rows * PATTERNS
    return tf.reshape(tf.math.bincount(patterns, minlength=size, maxlength=size), (rows, PATTERNS))
