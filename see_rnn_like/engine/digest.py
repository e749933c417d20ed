"""Statistics of all tensors of a step at little cost: quick inside a graph, exact where it matters.

Every pass over a tensor and every operation is paid in every recorded step. Therefore

* sums are taken in the tensor's own type, which is exact to rounding while no square leaves the range of the
  type. On the host it is seen where one may have, where a value is not finite, or where values differ too
  little for their spread to be told from the sums, and `stats` goes over that tensor again; the same where
  there are zeros to be counted;
* small tensors of known size (weights, their gradients, their updates) are laid side by side and reduced in
  one; those that are there early, while the step goes on;
* the histogram of a tensor of many values is that of a sample of them;
* tensors that are the same values in another shape (as those of Flatten and Reshape) share their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from see_rnn_like import stats
from see_rnn_like.engine.reductions import PATTERNS, SUMS, Alone, SideBySide, units_of
from see_rnn_like.stats import BINS, EXPONENTS, MOMENTS

#: Tensors of known size are laid side by side up to this many values.
_SMALL = 2**14

#: Sums of squares between which those of float32 numbers are good to rounding: no square has left the range.
_SAFE = (1e-24, 1e30)

#: Below this share of the square of the mean, a variance from quick sums is none to rely on.
_NARROW = 1e-3

#: Where each of the quick sums goes; one after the other but for NaN and Inf, which are 0 wherever they hold.
_COUNT, _ZERO, _SUM, _SQUARES, _MIN, _MAX = (
    MOMENTS.index("zero" if name == "has_zero" else name) for name in SUMS
)


@dataclass(frozen=True)
class Item:
    """One tensor to digest.

    Attributes:
        tensor: floating point, any shape; with gates, these lie side by side along the last axis.
        gates: number of gates.
        mask: bool over the leading axes, False where there is padding; None without.
        source: equal for items that hold the same values.
        ready: equal for items that the step has ready at about the same time.
    """

    tensor: Any
    gates: int
    mask: Any
    source: Hashable
    ready: Hashable = None


class Digest:
    """Reduces tensors in the graph that is being traced, and reads on the host what came of it.

    Args:
        items: the tensors; at least one.
        histograms: whether to count these.

    Attributes:
        reduced: tensors to fetch and to hand to `read`.
        rows: the rows of each item in what `read` returns, one per gate.
    """

    def __init__(self, items: Sequence[Item], histograms: bool) -> None:
        number: dict[Hashable, int] = {}
        part = [number.setdefault((item.source, item.gates), len(number)) for item in items]
        distinct = [items[part.index(i)] for i in range(len(number))]
        gates = [item.gates for item in distinct]
        values = [_values(item) for item in distinct]
        groups = _grouped(values, gates, [item.ready for item in distinct])
        order = [i for group in groups for i in group]
        self._rows = _rows(order, gates)
        self._tensor_of_row = np.repeat(order, [gates[i] for i in order])
        self.rows = [self._rows[i] for i in part]
        traced: dict[Hashable, Callable[[Any], Any]] = {}
        self._reductions = [_reduction([(values[i], gates[i]) for i in group], traced) for group in groups]
        self._found_at = {i: (number, j) for number, group in enumerate(groups) for j, i in enumerate(group)}
        patterns = [reduction.patterns() for reduction in self._reductions] if histograms else []
        self.reduced = {
            "sums": tf.concat([reduction.sums() for reduction in self._reductions], 0),
            "patterns": [tf.concat(patterns, 0)] if patterns else [],
            "kept": [reduction.kept for reduction in self._reductions],
        }

    def read(self, reduced: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """Brings the numbers to the host.

        Args:
            reduced: `reduced`, computed.

        Returns:
            Moments, float64 ``(row, moment)``, and histograms, int32 ``(row, bin)``; None if none were asked
            for.
        """
        # `.numpy()` would copy.
        moments = self._moments(np.asarray(reduced["sums"]), reduced["kept"])
        patterns = reduced["patterns"]
        return moments, _binned(np.asarray(patterns[0])) if patterns else None

    def _moments(self, sums: np.ndarray, kept: Sequence[Sequence[Any]]) -> np.ndarray:
        """Moments ``(row, moment)``: the quick sums, the zeros counted, what may not hold computed again."""
        moments = np.zeros((len(sums), len(MOMENTS)))
        moments[:, _COUNT], moments[:, _ZERO:] = sums[:, 0], sums[:, 1:]
        with np.errstate(over="ignore", invalid="ignore"):
            sound, alike = _sound(moments)
            _make_exact(moments, alike)
            narrow = sound & _narrow(moments)
        narrow &= ~alike
        has_zero = moments[:, _ZERO] > 0
        has_zero &= ~alike
        for i in dict.fromkeys(self._tensor_of_row[~sound | narrow | has_zero].tolist()):
            reduction, number = self._found_at[i]
            rows, array = self._rows[i], self._reductions[reduction].array(kept[reduction], number)
            if not sound[rows].all():
                moments[rows] = stats.moments(array, 1)
                continue
            if narrow[rows].any():
                moments[rows, _SUM], moments[rows, _SQUARES] = _wide_sums(array)
            if has_zero[rows].any():
                moments[rows, _ZERO] = _zeros(array)
        return moments


def _values(item: Item) -> Any:
    """The values that count, in a type that holds the sum of their squares."""
    kept = item.tensor if item.mask is None else tf.boolean_mask(item.tensor, item.mask)
    return tf.cast(kept, tf.float32) if kept.dtype in (tf.float16, tf.bfloat16) else kept


def _grouped(tensors: Sequence[Any], gates: Sequence[int], ready: Sequence[Hashable]) -> list[list[int]]:
    """Small ones of one type, time and number of units together, all others by themselves."""
    small = [i for i, tensor in enumerate(tensors) if tensor.shape.num_elements() in range(1, _SMALL + 1)]
    kinds = {i: (tensors[i].dtype, ready[i]) for i in small}
    units = {i: units_of(tensors[i], gates[i]) for i in small}
    together: dict[Hashable, list[int]] = {}
    for i in small:
        # Those without gates fit everywhere.
        usual = max(units[j] for j in small if kinds[j] == kinds[i])
        together.setdefault((kinds[i], units[i] or usual), []).append(i)
    return [*together.values(), *([i] for i in range(len(tensors)) if i not in units)]


def _reduction(
    tensors: list[tuple[Any, int]], traced: dict[Hashable, Callable[[Any], Any]]
) -> Alone | SideBySide:
    return SideBySide(tensors) if len(tensors) > 1 else Alone(*tensors[0], traced)


def _rows(order: Sequence[int], gates: Sequence[int]) -> list[slice]:
    ends = np.cumsum([gates[i] for i in order]).tolist()
    found = {i: slice(end - gates[i], end) for i, end in zip(order, ends, strict=True)}
    return [found[i] for i in range(len(order))]


def _sound(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the quick sums of each row hold or can be made to, and whether its values are all alike.

    They hold for finite values whose squares were in range, and are known of values that are all alike.
    """
    squares = moments[:, _SQUARES]
    # Extremes pass over NaN, sums do not.
    in_range = squares < _SAFE[1]
    alike = in_range & (moments[:, _MIN] == moments[:, _MAX])
    return in_range & (squares > _SAFE[0]) | alike, alike


def _make_exact(moments: np.ndarray, alike: np.ndarray) -> None:
    """Makes quick sums exact where values are all alike."""
    count, value, total = moments[:, _COUNT], moments[:, _MAX], moments[:, _SUM]
    np.multiply(count, value, out=total, where=alike)
    np.multiply(total, value, out=moments[:, _SQUARES], where=alike)
    np.multiply(count, moments[:, _ZERO], out=moments[:, _ZERO], where=alike)


def _narrow(moments: np.ndarray) -> np.ndarray:
    """Whether values differ so little, if at all, that their variance is lost in the rounding of the sums."""
    square_of_total = moments[:, _SUM] ** 2
    return moments[:, _COUNT] * moments[:, _SQUARES] < (1 + _NARROW) * square_of_total


def _wide_sums(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and sum of squares in float64, per gate of ``(place, gate, unit)``."""
    wide = values.astype("float64")
    return wide.sum((0, 2)), np.einsum("pgu,pgu->g", wide, wide)


def _zeros(values: np.ndarray) -> np.ndarray:
    """Zeros, subnormal numbers among them, per gate of ``(place, gate, unit)``."""
    tiny = np.finfo(values.dtype).tiny
    return np.count_nonzero((values < tiny) & (values > -tiny), axis=(0, 2))


def _binned(counts: np.ndarray) -> np.ndarray:
    """Histograms, int32 ``(row, bin)`` as `stats.histogram` has them; NaN and Inf fall away."""
    binned = np.empty((len(counts), BINS), "int32")
    half = PATTERNS // 2
    negative, positive, zero = counts[:, :half], counts[:, half:], BINS // 2
    np.add(negative[:, 0], positive[:, 0], out=binned[:, zero])
    _by_magnitude(positive, binned[:, zero + 1 :])
    _by_magnitude(negative, binned[:, zero - 1 :: -1])
    return binned


def _by_magnitude(counts: np.ndarray, bins: np.ndarray) -> None:
    """Counts of exponents, in the bins; what lies below the first and above the last belongs to these."""
    first, last = 127 + EXPONENTS[0], 127 + EXPONENTS[-1]
    counts[:, 1 : first + 1].sum(1, out=bins[:, 0])
    bins[:, 1:-1] = counts[:, first + 1 : last]
    counts[:, last:-1].sum(1, out=bins[:, -1])
