"""Reductions: what is kept of a tensor when its values are not.

A tensor is reduced, per gate where there are gates, to eight sums (`MOMENTS`) and one signed-log
histogram. Both merge exactly: adding two of them gives those of the concatenated data (min and max
merge by min and max). Everything a person reads (mean, norm, …) is derived from them by `describe`.

Subnormal numbers count as zero, as they do in the arithmetic of most devices.

The engine computes the same numbers inside the training graph; tests hold the two together.

Histogram bins are powers of two, read off the exponent of the float: bin `EXPONENTS[0]` holds
everything up to twice 2**−64 in size, the last one everything from 2**31 on, zero has a bin of its
own in the middle, negative values mirror the positive ones. NaN and Inf are counted, not binned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.errors import ArgumentError, ArgumentTypeError

#: Order of the packed sums. `sum`, `square_sum`, `min`, `max` are over the finite values only.
MOMENTS = ("count", "nan", "inf", "zero", "sum", "square_sum", "min", "max")

#: Binary exponents of the magnitude bins, smallest first: bin e holds 2**e ≤ |x| < 2**(e + 1).
EXPONENTS = np.arange(-64, 32)
_PER_SIGN = len(EXPONENTS)
#: Number of bins: negative (largest magnitude first), zero, positive (smallest first).
BINS = 2 * _PER_SIGN + 1

#: Bin edges: `EDGES[i]` ≤ value < `EDGES[i + 1]` read towards larger magnitudes; the zero bin is the
#: gap around 0 between ±2**−64, the outermost ones are open.
EDGES = np.concatenate([-(2.0 ** np.arange(32, -65, -1)), 2.0 ** np.arange(-64, 33)])
#: One representative value per bin: the geometric middle, 0 for the zero bin.
CENTERS = np.concatenate([-(2.0 ** (EXPONENTS[::-1] + 0.5)), [0.0], 2.0 ** (EXPONENTS + 0.5)])


def moments(array: Any, gate_axis: int | None = None) -> np.ndarray:
    """Sums of one tensor.

    Args:
        array: floating-point numbers of any shape.
        gate_axis: axis that holds the gates; None for a tensor without gates (one group).

    Returns:
        float64 ``(gate, moment)``, the columns as in `MOMENTS`. `min` and `max` of no finite value
        are +inf and −inf, the neutral elements of merging.

    Example:
        >>> moments(np.array([0.0, 3.0, 4.0, np.nan]))[0].tolist()
        [4.0, 1.0, 0.0, 1.0, 7.0, 25.0, 0.0, 4.0]
    """
    groups = _groups(array, gate_axis)
    nan, inf = np.isnan(groups), np.isinf(groups)
    finite = ~(nan | inf)
    kept = np.where(finite, groups, 0.0)
    # The sums of float64 values beyond 1e154 may be infinite; that is their value, not an accident.
    with np.errstate(over="ignore"):
        total, squares = kept.sum(1), np.square(kept).sum(1)
    return np.stack(
        [
            np.full(len(groups), groups.shape[1], "float64"),
            nan.sum(1),
            inf.sum(1),
            (groups == 0).sum(1),
            total,
            squares,
            np.min(groups, 1, where=finite, initial=np.inf),
            np.max(groups, 1, where=finite, initial=-np.inf),
        ],
        axis=1,
    )


def histogram(array: Any, gate_axis: int | None = None) -> np.ndarray:
    """Signed-log histogram of one tensor.

    Args:
        array: floating-point numbers of any shape; NaN and Inf are left out.
        gate_axis: axis that holds the gates; None for a tensor without gates (one group).

    Returns:
        int64 counts ``(gate, bin)``, `BINS` columns from the most negative to the most positive value.

    Example:
        >>> counts = histogram(np.array([0.0, 1.0, 1.5, -1.0]))[0]
        >>> [(float(CENTERS[i]).__round__(2), int(counts[i])) for i in counts.nonzero()[0]]
        [(-1.41, 1), (0.0, 1), (1.41, 2)]
    """
    groups = _groups(array, gate_axis)
    counts = np.zeros((len(groups), BINS), "int64")
    for row, values in zip(counts, groups, strict=True):
        values = values[np.isfinite(values)]
        # frexp gives |x| = m · 2**e with m in [0.5, 1), so the binary exponent is e − 1.
        exponent = np.clip(np.frexp(values)[1] - 1, EXPONENTS[0], EXPONENTS[-1]) - EXPONENTS[0] + 1
        row += np.bincount(_PER_SIGN + (np.sign(values) * exponent).astype("int64"), minlength=BINS)
    return counts


def merge_moments(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sums of two tensors taken together, exactly; both ``(..., moment)``.

    Example:
        >>> a, b = np.array([1.0, 2.0]), np.array([5.0])
        >>> bool((merge_moments(moments(a), moments(b)) == moments(np.append(a, b))).all())
        True
    """
    merged = first + second
    merged[..., 6] = np.minimum(first[..., 6], second[..., 6])
    merged[..., 7] = np.maximum(first[..., 7], second[..., 7])
    return merged


def describe(sums: np.ndarray, dims: tuple[str, ...]) -> xr.Dataset:
    """Turns sums into the numbers a person reads.

    Args:
        sums: float64 ``(*dims, moment)``.
        dims: names of the leading axes, for example ``("step", "gate")``.

    Returns:
        Dataset over `dims` with, all over the finite values: `mean`, `std` (population), `min`, `max`,
        `norm` (L2); and `count` (all values), `zeros` (share of exact zeros, 0 … 1), `nan`, `inf` (counts).
        Without a finite value mean, std, min and max are NaN, the norm 0.

    Raises:
        ArgumentError: if the last axis is not the moments.

    Example:
        >>> float(describe(moments(np.array([3.0, 4.0])), ("gate",))["norm"][0])
        5.0
    """
    if sums.shape[-1] != len(MOMENTS) or sums.ndim != len(dims) + 1:
        raise ArgumentError(
            f"sums must have axes {(*dims, 'moment')}, {len(MOMENTS)} moments; got shape {sums.shape}"
        )
    count, nan, inf, zero, total, squares, low, high = np.moveaxis(sums, -1, 0)
    finite = count - nan - inf
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(finite > 0, total / finite, np.nan)
        # Rounding can leave a tiny negative variance for constant data.
        variance = np.maximum(squares / finite - mean**2, 0.0)
        share = np.where(count > 0, zero / count, np.nan)
    columns = {
        "count": count.astype("int64"),
        "mean": mean,
        "std": np.sqrt(variance),
        "min": np.where(finite > 0, low, np.nan),
        "max": np.where(finite > 0, high, np.nan),
        "norm": np.sqrt(squares),
        "zeros": share,
        "nan": nan.astype("int64"),
        "inf": inf.astype("int64"),
    }
    return xr.Dataset({name: (dims, values) for name, values in columns.items()})


def _groups(array: Any, gate_axis: int | None) -> np.ndarray:
    values = np.asarray(array)
    # bfloat16 is no floating type to NumPy; half precision has no subnormals once it is float32.
    values = values.astype("float32" if values.dtype.itemsize == 2 else values.dtype)
    if values.dtype.kind == "f":
        values = np.where(np.abs(values) < np.finfo(values.dtype).tiny, 0, values)
    values = values.astype("float64")
    if gate_axis is None:
        return values.reshape(1, -1)
    return np.moveaxis(values, gate_axis, 0).reshape(values.shape[gate_axis], -1)


#: From this share on a number of NaN or Inf is told as a share, below it as a count.
_TOLD_AS_SHARE = 1e-3


def detect_nans(data: Any, include_inf: bool = True) -> str | None:
    """Says how much of the data is NaN or Inf.

    Args:
        data: numbers of any shape, or a list of arrays, whose shapes may differ.
        include_inf: whether Inf is looked for too.

    Returns:
        None if nothing is (or the data is empty), else for example ``"1.5% NaN, 3 Inf"``: a share with one
        decimal from 0.1 % on, below that a count. 100.0% means all of it.

    Raises:
        ArgumentTypeError: if the data is not numbers.

    Example:
        >>> detect_nans(np.array([np.nan, 1.0, 2.0, 3.0]))
        '25.0% NaN'
        >>> detect_nans([np.array([np.inf, np.nan]), np.zeros(9_998)])
        '1 NaN, 1 Inf'
    """
    arrays = number_arrays(data)
    size = sum(array.size for array in arrays)
    counts = np.sum([count_nonfinite(array) for array in arrays], axis=0, dtype="int64")
    named = zip(counts[: 1 + include_inf], ("NaN", "Inf"), strict=False)
    return ", ".join(f"{_amount(int(count), size)} {name}" for count, name in named if count) or None


def count_nonfinite(array: Any) -> tuple[int, int]:
    """Numbers of NaN and of Inf (of either sign) in an array of numbers of any shape.

    Example:
        >>> count_nonfinite([np.nan, np.inf, -np.inf, 0.0])
        (1, 2)
    """
    return int(np.isnan(array).sum()), int(np.isinf(array).sum())


def number_arrays(data: Any) -> list[np.ndarray]:
    """The data as arrays of numbers: one, or one per element of a list whose elements differ in shape.

    Raises:
        ArgumentTypeError: if there is something else than numbers in it.
    """
    try:
        arrays = [np.asarray(data)]
    except ValueError:  # NumPy's word for a list of different shapes
        arrays = [array for element in data for array in number_arrays(element)]
    for array in arrays:
        # bfloat16 and the 8-bit floats of ml_dtypes are of NumPy's kind "V", but can be cast to numbers.
        if array.dtype.kind not in "biufc" and not np.can_cast(array.dtype, "float64"):
            raise ArgumentTypeError(f"expected numbers; got an array of {array.dtype}")
    return arrays


def _amount(count: int, size: int) -> str:
    share = count / size
    if share < _TOLD_AS_SHARE:
        return str(count)
    # Rounding must not turn "nearly all" into "all".
    return f"{share if count == size else min(share, 0.999):.1%}"
