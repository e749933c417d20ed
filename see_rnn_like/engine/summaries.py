"""The reductions of `see_rnn_like.stats`, computed by TensorFlow where the tensors are.

`pack` reduces many tensors to two, so that little travels to the host; `unpack` takes them apart there.

Written for few passes over the data: sign and exponent of a float are its topmost bits, so one
`bincount` of these gives the histogram, the zeros and the non-finite values together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from see_rnn_like.history import TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.stats import BINS, EXPONENTS, MOMENTS

_PER_SIGN = len(EXPONENTS)


def pack(infos: Sequence[TensorInfo], tensors: Sequence[Any]) -> tuple[Any, Any]:
    """Summarizes tensors, by gate where there are gates, and stacks the results.

    Args:
        infos: what the tensors are.
        tensors: of the same length; gates side by side along the last axis.

    Returns:
        Moments, float64 ``(row, moment)``, and histograms, int32 ``(row, bin)``; a row per tensor and gate.
    """
    if not infos:
        return tf.zeros((0, len(MOMENTS)), tf.float64), tf.zeros((0, BINS), tf.int32)
    pairs = [summarize(tensor, info.rows) for info, tensor in zip(infos, tensors, strict=True)]
    return tf.concat([moments for moments, _ in pairs], 0), tf.concat([counts for _, counts in pairs], 0)


def unpack(
    infos: Sequence[TensorInfo], moments: Any, histograms: Any
) -> tuple[dict[TensorKey, np.ndarray], dict[TensorKey, np.ndarray]]:
    """Brings what `pack` made to the host.

    Returns:
        Key → float64 ``(gate, moment)``, and key → int64 ``(gate, bin)``; one row without gates.
    """
    keys = [info.key for info in infos]
    ends = np.cumsum([info.rows for info in infos])[:-1]
    counts = np.split(np.asarray(histograms).astype("int64"), ends)
    return dict(zip(keys, np.split(np.asarray(moments), ends), strict=False)), dict(
        zip(keys, counts, strict=False)
    )


def summarize(tensor: Any, gates: int = 1) -> tuple[Any, Any]:
    """In-graph twin of `stats.moments` and `stats.histogram`.

    Args:
        tensor: floating point, any shape; with gates, these lie side by side along the last axis.
        gates: number of gates.

    Returns:
        Moments, float64 ``(gate, moment)``, and histogram, int32 ``(gate, bin)``. Sums are taken in
        float64, where squares of float32 cannot overflow.
    """
    groups = _groups(tensor, gates)
    patterns = _pattern_counts(groups)
    bits = _exponent_bits(groups.dtype)
    zero, nonfinite = _ends(patterns, bits)
    broken = tf.reduce_any(nonfinite > 0)
    nan = tf.cond(
        broken,
        lambda: tf.math.count_nonzero(tf.math.is_nan(groups), axis=1, dtype=tf.int32),
        lambda: tf.zeros_like(nonfinite),
    )
    low, high, total, squares = tf.cond(broken, lambda: _finite_sums(groups), lambda: _sums(groups))
    columns = {
        "count": tf.fill([gates], tf.shape(groups)[1]),
        "nan": nan,
        "inf": nonfinite - nan,
        "zero": zero,
        "sum": total,
        "square_sum": squares,
        "min": low,
        "max": high,
    }
    moments = tf.stack([tf.cast(columns[name], tf.float64) for name in MOMENTS], axis=1)
    return moments, _binned(patterns, bits)


def _groups(tensor: Any, gates: int) -> Any:
    """``(gate, value)``, each gate's values side by side: reducing the last axis is fastest."""
    if tensor.dtype in (tf.float16, tf.bfloat16):
        tensor = tf.cast(tensor, tf.float32)
    if gates == 1:
        return tf.reshape(tensor, (1, -1))
    by_gate = tf.reshape(tensor, (-1, gates, tensor.shape[-1] // gates))
    return tf.reshape(tf.transpose(by_gate, (1, 0, 2)), (gates, -1))


def _exponent_bits(dtype: tf.DType) -> int:
    return 11 if dtype == tf.float64 else 8


def _pattern_counts(groups: Any) -> Any:
    """Counts of each combination of sign and exponent bits, int32 ``(gate, pattern)``."""
    wide = groups.dtype == tf.float64
    pattern = tf.bitcast(groups, tf.uint64 if wide else tf.uint32)
    top = tf.cast(tf.bitwise.right_shift(pattern, 52 if wide else 23), tf.int32)
    patterns = 2 << _exponent_bits(groups.dtype)
    return tf.math.bincount(top, minlength=patterns, maxlength=patterns, axis=-1)


def _ends(patterns: Any, bits: int) -> tuple[Any, Any]:
    """Counts of zeros (exponent bits all 0) and of NaN and Inf (all 1) per gate."""
    by_sign = tf.reduce_sum(tf.reshape(patterns, (-1, 2, 1 << bits)), axis=1)
    return by_sign[:, 0], by_sign[:, -1]


def _sums(groups: Any) -> tuple[Any, Any, Any, Any]:
    wide = tf.cast(groups, tf.float64)
    squares = tf.squeeze(tf.matmul(wide[:, None], wide[:, :, None]), (1, 2))
    low, high = tf.reduce_min(groups, 1), tf.reduce_max(groups, 1)
    return tf.cast(low, tf.float64), tf.cast(high, tf.float64), tf.reduce_sum(wide, 1), squares


def _finite_sums(groups: Any) -> tuple[Any, Any, Any, Any]:
    finite = tf.math.is_finite(groups)
    _, _, total, squares = _sums(tf.where(finite, groups, tf.zeros([], groups.dtype)))
    infinity = tf.constant(float("inf"), groups.dtype)
    low = tf.reduce_min(tf.where(finite, groups, infinity), 1)
    high = tf.reduce_max(tf.where(finite, groups, -infinity), 1)
    return tf.cast(low, tf.float64), tf.cast(high, tf.float64), total, squares


def _binned(patterns: Any, bits: int) -> Any:
    """Puts the counts of bit patterns into the bins of `stats.histogram`; NaN and Inf fall away."""
    binned = tf.math.unsorted_segment_sum(tf.transpose(patterns), _bin_of_pattern(bits), BINS + 1)
    return tf.transpose(binned)[:, :BINS]


def _bin_of_pattern(bits: int) -> np.ndarray:
    """Bin of each pattern, positive ones first; `BINS` for those that are not numbers."""
    exponent = np.arange(1 << bits) - ((1 << bits - 1) - 1)
    size = np.clip(exponent, EXPONENTS[0], EXPONENTS[-1]) - EXPONENTS[0] + 1
    size[0] = 0
    bins = np.concatenate([_PER_SIGN + size, _PER_SIGN - size])
    bins[[(1 << bits) - 1, (2 << bits) - 1]] = BINS
    return bins.astype("int32")
