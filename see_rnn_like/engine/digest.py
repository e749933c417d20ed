"""Statistics of all tensors of a step at little cost: quick inside the graph, exact where it matters.

Every pass over a tensor and every operation of the graph is paid in every recorded step. Therefore

* sums are taken in the tensor's own type, which is exact to its rounding while no square leaves the range of
  the type. `Digest.read` sees on the host where one may have, or where a value is not finite, and has
  `summaries.exactly` go over that tensor again;
* small tensors of known size (weights, their gradients and updates) are laid side by side and reduced in one;
* the histogram of a tensor of many values is that of a sample of them;
* tensors that are the same values in another shape (as those of Flatten and Reshape) share their numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from see_rnn_like.engine import summaries
from see_rnn_like.engine.reductions import PATTERNS, SUMS, Alone, SideBySide
from see_rnn_like.stats import EXPONENTS, MOMENTS

#: Tensors of known size are laid side by side up to this many values.
SMALL = 2**14

#: Sizes of the largest value between which the quick sum of all squares is good to rounding.
_SAFE = {tf.float32: (1e-12, 1e15), tf.float64: (1e-140, 1e145)}


@dataclass(frozen=True)
class Item:
    """One tensor to digest.

    Attributes:
        tensor: floating point, any shape; with gates, these lie side by side along the last axis.
        gates: number of gates.
        mask: bool over the leading axes, False where there is padding; None without.
        source: equal for items that hold the same values.
    """

    tensor: Any
    gates: int
    mask: Any
    source: Hashable


@dataclass(frozen=True)
class Digest:
    """Where the numbers of each item are among what `digest` returned.

    Attributes:
        part: which distinct tensor each item is.
        rows: the rows of each distinct tensor, one per gate.
        safe: `_SAFE` of each distinct tensor.
    """

    part: tuple[int, ...]
    rows: tuple[slice, ...]
    safe: tuple[tuple[float, float], ...]

    def read(self, numbers: dict[str, Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Brings the statistics to the host.

        Args:
            numbers: what `digest` returned, computed.

        Returns:
            Per item the moments, float64 ``(gate, moment)``, and the histogram, int64 ``(gate, bin)``; an
            empty list of histograms if none were counted.
        """
        sums = numbers["sums"].numpy()
        moments = np.zeros((len(sums), len(MOMENTS)))
        moments[:, [MOMENTS.index(name) for name in SUMS]] = sums
        histograms = [_binned(counts.numpy()) for counts in numbers["patterns"]]
        for rows, safe, tensor in zip(self.rows, self.safe, numbers["tensors"], strict=True):
            if not _holds(sums[rows], *safe):
                moments[rows], exact = summaries.exactly(tensor, rows.stop - rows.start)
                for counts in histograms:
                    counts[rows] = exact
        each = [self.rows[part] for part in self.part]
        return [moments[rows] for rows in each], [counts[rows] for counts in histograms for rows in each]


def digest(items: Sequence[Item], histograms: bool) -> tuple[Digest, dict[str, Any]]:
    """Reduces tensors to sums and, if asked for, histograms.

    Args:
        items: the tensors; at least one.
        histograms: whether to count these.

    Returns:
        How to read them, and the tensors to hand to `Digest.read`: ``sums``, float64 ``(row, sum)``;
        ``patterns``, at most one int32 ``(row, pattern)``; ``tensors``, what was reduced.
    """
    numbers: dict[Hashable, int] = {}
    part = tuple(numbers.setdefault((item.source, item.gates), len(numbers)) for item in items)
    distinct = [items[part.index(number)] for number in range(len(numbers))]
    gates = [item.gates for item in distinct]
    tensors = [_values(item) for item in distinct]
    groups = _grouped(tensors)
    reduced = [_reduction([(tensors[i], gates[i]) for i in group]) for group in groups]
    computed = {
        "sums": tf.concat([reduction.sums() for reduction in reduced], 0),
        "patterns": [tf.concat([reduction.patterns() for reduction in reduced], 0)] if histograms else [],
        "tensors": tensors,
    }
    rows = _rows([i for group in groups for i in group], gates)
    return Digest(part, rows, tuple(_SAFE[tensor.dtype] for tensor in tensors)), computed


def _values(item: Item) -> Any:
    """The values that count, in a type that holds the sum of their squares."""
    tensor = item.tensor if item.mask is None else tf.boolean_mask(item.tensor, item.mask)
    return tf.cast(tensor, tf.float32) if tensor.dtype in (tf.float16, tf.bfloat16) else tensor


def _grouped(tensors: Sequence[Any]) -> list[list[int]]:
    """Small ones of one type together, all others by themselves."""
    small = [i for i, tensor in enumerate(tensors) if tensor.shape.num_elements() in range(1, SMALL + 1)]
    together = [[i for i in small if tensors[i].dtype == dtype] for dtype in _SAFE]
    return [group for group in together if group] + [[i] for i in range(len(tensors)) if i not in small]


def _reduction(tensors: list[tuple[Any, int]]) -> Alone | SideBySide:
    return SideBySide(tensors) if len(tensors) > 1 else Alone(*tensors[0])


def _rows(order: Sequence[int], gates: Sequence[int]) -> tuple[slice, ...]:
    ends = np.cumsum([gates[i] for i in order]).tolist()
    found = {i: slice(end - gates[i], end) for i, end in zip(order, ends, strict=True)}
    return tuple(found[i] for i in range(len(order)))


def _holds(sums: np.ndarray, least: float, most: float) -> bool:
    """Whether quick sums ``(gate, sum)`` are those of finite values whose squares all were in range."""
    largest = np.abs(sums[:, SUMS.index("min") :]).max(1)
    in_range = (largest == 0) | ((least < largest) & (largest < most))
    return bool((in_range & np.isfinite(sums[:, SUMS.index("square_sum")])).all())


def _binned(counts: np.ndarray) -> np.ndarray:
    """Histograms, int64 ``(row, bin)`` as `stats.histogram` has them, from counts of patterns."""
    positive, negative = counts[:, : PATTERNS // 2], counts[:, PATTERNS // 2 :]
    zero = positive[:, :1] + negative[:, :1]
    return np.concatenate([_sizes(negative)[:, ::-1], zero, _sizes(positive)], 1).astype("int64")


def _sizes(counts: np.ndarray) -> np.ndarray:
    """Counts by magnitude: what lies below the first bin and above the last belongs to these."""
    first, last = 127 + EXPONENTS[0], 127 + EXPONENTS[-1]
    low, high = counts[:, 1 : first + 1].sum(1), counts[:, last:-1].sum(1)
    return np.concatenate([low[:, None], counts[:, first + 1 : last], high[:, None]], 1)
