"""Quick sums and patterns of tensors in the graph: of a large one by itself, of many small ones side by side.

Both give per gate the numbers `SUMS`, in few passes in the tensor's own type, and the patterns of sign and
exponent of its values are counted, from which histograms are made. Every operation costs some microseconds,
however small the tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

#: What is reduced, in this order. `has_zero` is 1 where there is an exact zero: these are rare, and counting
#: them takes twice as long as looking for one.
SUMS = ("count", "has_zero", "sum", "square_sum", "min", "max")

#: Combinations of the sign and the 8 exponent bits of a float32, negative ones first.
PATTERNS = 512

#: The patterns are those of a sample where a tensor has more than twice as many values; of at least so many.
SAMPLE = 2048

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
        traced: reductions traced so far, to be shared by the tensors of a step.
    """

    tensor: Any
    gates: int
    traced: dict[Hashable, Callable[[Any], Any]]

    @property
    def kept(self) -> tuple[Any, ...]:
        """What `array` needs on the host."""
        return (self.tensor,)

    def array(self, kept: Sequence[Any], _: int = 0) -> np.ndarray:
        """The values on the host, ``(place, gate, unit)``, in the memory of the tensor."""
        # `.numpy()` would copy it.
        values = np.asarray(kept[0])
        return _by_gate(values.reshape(-1), self.gates, units_of(values, self.gates))

    def sums(self) -> Any:
        """float64 ``(gate, sum)``."""
        return self._once_for_all(Alone._sums)

    def patterns(self) -> Any:
        """int32 ``(gate, pattern)``."""
        return self._once_for_all(Alone._patterns)

    def _once_for_all(self, reduce: Callable[[Alone], Any]) -> Any:
        """Reduces by a function that is traced once for tensors of the same size, type and gates."""
        if tf.executing_eagerly():
            return reduce(self)
        spec = tf.TensorSpec(self.tensor.shape, self.tensor.dtype)
        kind = reduce, self.gates, spec
        if kind not in self.traced:
            alone = functools.partial(_alone, reduce, self.gates)
            # Asked for by its signature: called, TensorFlow would warn of the many sizes as of retracing.
            self.traced[kind] = tf.function(alone, autograph=False).get_concrete_function(spec)
        return self.traced[kind](self.tensor)

    def _sums(self) -> Any:
        values = tf.reshape(self.tensor, (-1, self.tensor.shape[-1] if self.gates > 1 else 1))
        count = tf.fill([self.gates], tf.cast(tf.size(values) // self.gates, tf.float64))
        columns = self._of_all(tf.reshape(values, [-1])) if self.gates == 1 else self._of_gates(values)
        return tf.concat([count[:, tf.newaxis], tf.cast(columns, tf.float64)], 1)

    def _patterns(self) -> Any:
        flat = tf.reshape(self.tensor, [-1])
        stride = _stride(self.tensor.shape, tf.size(flat))
        pattern = sign_and_exponent(flat[::stride])
        if self.gates > 1:
            units = self.tensor.shape[-1] // self.gates
            pattern += tf.range(0, tf.size(flat), stride) // units % self.gates * PATTERNS
        return _counted(pattern, self.gates)

    def _of_all(self, values: Any) -> Any:
        has_zero = tf.cast(tf.reduce_any(tf.equal(values, 0)), values.dtype)
        squares = 2 * tf.nn.l2_loss(values)
        ends = tf.reduce_min(values), tf.reduce_max(values)
        return tf.stack([has_zero, tf.reduce_sum(values), squares, *ends])[tf.newaxis]

    def _of_gates(self, values: Any) -> Any:
        columns = (
            tf.cast(self._over_gates(tf.reduce_any, tf.equal(values, 0)), values.dtype),
            self._over_gates(tf.reduce_sum, values),
            self._over_gates(tf.reduce_sum, tf.square(values)),
            self._over_gates(tf.reduce_min, values),
            self._over_gates(tf.reduce_max, values),
        )
        return tf.stack(columns, 1)

    def _over_gates(self, reduce: Callable[..., Any], values: Any) -> Any:
        return reduce(tf.reshape(reduce(values, 0), (self.gates, -1)), 1)


def _alone(reduce: Callable[[Alone], Any], gates: int, tensor: Any) -> Any:
    return reduce(Alone(tensor, gates, {}))


class SideBySide:
    """Tensors of known sizes, reduced in one go: fewer operations where there are many small ones.

    They are cut into blocks that belong to one gate each; what is left over is taken value by value.

    Args:
        tensors: all float32 or all float64, with at least one value each, and their numbers of gates; those
            with gates have the same number of units.
    """

    def __init__(self, tensors: Sequence[tuple[Any, int]]) -> None:
        width = max(units_of(tensor, gates) for tensor, gates in tensors) or _BLOCK
        dtype = tensors[0][0].dtype
        blocks, rest = [tf.zeros((0, width), dtype)], [tf.zeros(0, dtype)]
        block_rows, rest_rows, sampled, sampled_rows = [], [], [], []
        self._gates = [(gates, units_of(tensor, gates)) for tensor, gates in tensors]
        lengths = [divmod(tensor.shape.num_elements(), width) for tensor, _ in tensors]
        self._ends = np.cumsum(lengths, 0).tolist()
        self._starts = [[0, 0], *self._ends]
        self._sizes: list[int] = []
        for tensor, gates in tensors:
            size, first = tensor.shape.num_elements(), len(self._sizes)
            over, flat = size % width, tf.reshape(tensor, [-1])
            stride = stride_of(tensor.shape, size)
            sampled.append(flat[::stride] if stride > 1 else flat)
            gate_of_column = np.arange(size) // (units_of(tensor, gates) or size) % gates
            sampled_rows.append(gate_of_column[::stride] + first)
            blocks += (
                [tf.reshape(flat[: size - over] if over else flat, (-1, width))] if size >= width else []
            )
            rest += [flat[size - over :]] if over else []
            # The gates take turns along the last axis.
            block_rows.append(np.arange(size // width) % gates + first)
            rest_rows.append(np.full(over, first))
            self._sizes += [size // gates] * gates
        self._blocks, self._rest = tf.concat(blocks, 0), tf.concat(rest, 0)
        self._block_rows = np.concatenate(block_rows).astype("int32")
        self._rest_rows = np.concatenate(rest_rows).astype("int32")
        self._sampled = sampled
        self._sampled_rows = np.concatenate(sampled_rows).astype("int32")

    @property
    def kept(self) -> tuple[Any, ...]:
        """What `array` needs on the host: two tensors, however many lie in them."""
        return self._blocks, self._rest

    def array(self, kept: Sequence[Any], number: int) -> np.ndarray:
        """The values of one tensor on the host, ``(place, gate, unit)``."""
        parts = [
            np.asarray(part)[start:end].reshape(-1)
            for part, start, end in zip(kept, self._starts[number], self._ends[number], strict=True)
            if start < end
        ]
        return _by_gate(parts[0] if len(parts) == 1 else np.concatenate(parts), *self._gates[number])

    def sums(self) -> Any:
        """float64 ``(row, sum)``."""
        plain = (self._blocks, self._rest)
        zeros = [tf.equal(part, 0) for part in plain]
        squares = [tf.square(part) for part in plain]
        columns = (
            tf.constant(self._sizes, tf.float64),
            self._by_row(tf.reduce_any, tf.math.unsorted_segment_max, *zeros),
            self._by_row(tf.reduce_sum, tf.math.unsorted_segment_sum, *plain),
            self._by_row(tf.reduce_sum, tf.math.unsorted_segment_sum, *squares),
            self._by_row(tf.reduce_min, tf.math.unsorted_segment_min, *plain),
            self._by_row(tf.reduce_max, tf.math.unsorted_segment_max, *plain),
        )
        return tf.stack(columns, 1)

    def patterns(self) -> Any:
        """int32 ``(row, pattern)``."""
        patterns = sign_and_exponent(tf.concat(self._sampled, 0), self._sampled_rows)
        return _counted(patterns, len(self._sizes))

    def _by_row(self, reduce: Callable[..., Any], join: Callable[..., Any], blocks: Any, rest: Any) -> Any:
        parts = tf.cast(tf.concat([reduce(blocks, 1), rest], 0), tf.float64)
        return join(parts, np.concatenate([self._block_rows, self._rest_rows]), len(self._sizes))


def _by_gate(values: np.ndarray, gates: int, units: int) -> np.ndarray:
    return values.reshape(-1, gates, units) if gates > 1 else values.reshape(1, 1, -1)


def units_of(tensor: Any, gates: int) -> int:
    """How many units a tensor with gates has; 0 without gates."""
    return 0 if gates == 1 else tensor.shape[-1] // gates


def stride_of(shape: tf.TensorShape, size: int) -> int:
    """Distance between sampled values of a tensor of known size: the largest that leaves enough."""
    return max(stride for stride in _usable_strides(shape) if stride <= max(size // SAMPLE, 1))


def may_be_sampled(shape: tf.TensorShape) -> bool:
    """Whether the patterns of a tensor may be those of a sample."""
    size = shape.num_elements()
    return size is None or stride_of(shape, size) > 1


def _stride(shape: tf.TensorShape, size: Any) -> Any:
    """`stride_of` a size that is known in the graph only."""
    usable = _usable_strides(shape)
    enough = tf.cast(tf.less_equal(usable, tf.maximum(size // SAMPLE, 1)), tf.int32)
    return tf.constant(usable)[tf.reduce_sum(enough) - 1]


def _usable_strides(shape: tf.TensorShape) -> list[int]:
    return [stride for stride in _STRIDES if stride == 1 or all(size % stride for size in shape if size)]


def sign_and_exponent(values: Any, rows: Any = 0) -> Any:
    """The pattern of each value, int32 in 0 … `PATTERNS` − 1, beyond those of the rows before its own.

    Exponents of float64 end where those of float32 do.
    """
    if values.dtype == tf.float32:
        # Shifting keeps the sign: −256 … 255.
        return tf.bitwise.right_shift(tf.bitcast(values, tf.int32), 23) + (rows * PATTERNS + PATTERNS // 2)
    top = tf.cast(tf.bitwise.right_shift(tf.bitcast(values, tf.int64), 52), tf.int32)
    exponent = tf.bitwise.bitwise_and(top, 2047)
    short = tf.clip_by_value(exponent - 896, 1, 254)
    short = tf.where(tf.equal(exponent, 0), 0, tf.where(tf.equal(exponent, 2047), 255, short))
    return short + tf.where(top < 0, 0, PATTERNS // 2) + rows * PATTERNS


def _counted(patterns: Any, rows: int) -> Any:
    # `tf.math.bincount` would look for the largest first.
    counts = tf.raw_ops.DenseBincount(input=patterns, size=rows * PATTERNS, weights=tf.constant([], tf.int32))
    return tf.reshape(counts, (rows, PATTERNS))
