"""Colours of curves, points and heatmaps, and of what is not finite."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Colormap, ListedColormap, Normalize, is_color_like, to_rgba_array

from see_rnn_like.errors import ArgumentError

#: Colour of NaN and Inf: in none of blue-white-red, bone and the other diverging maps, and bright where
#: those are dark and saturated where they are bright.
BAD_CELL = "#00d020"

#: matplotlib's diverging colour maps, by the chapter of that name in its reference.
_DIVERGING = {
    *("PiYG", "PRGn", "BrBG", "PuOr", "RdGy", "RdBu", "RdYlBu", "RdYlGn", "Spectral", "coolwarm", "bwr"),
    *("seismic", "berlin", "managua", "vanimo"),
}


def bad_visible(cmap: str | Colormap) -> Colormap:
    """The colour map with NaN and Inf in a colour of their own; a copy.

    Raises:
        ArgumentError: for a name matplotlib does not know.
    """
    if isinstance(cmap, str) and cmap not in mpl.colormaps:
        raise ArgumentError(f"cmap is a colour map of matplotlib, such as 'bwr' or 'bone'; got {cmap!r}")
    found = mpl.colormaps[cmap] if isinstance(cmap, str) else cmap
    return found.with_extremes(bad=BAD_CELL)


def one_sided(cmap: Colormap) -> Colormap:
    """The upper half of a diverging colour map, for sizes: from its neutral middle on; others as they are.

    Example:
        >>> [mpl.colors.to_hex(one_sided(mpl.colormaps["bwr"])(size)) for size in (0.0, 1.0)]
        ['#fffefe', '#ff0000']
        >>> one_sided(mpl.colormaps["viridis"]).name
        'viridis'
    """
    if cmap.name.removesuffix("_r") not in _DIVERGING:
        return cmap
    return ListedColormap(cmap(np.linspace(0.5, 1.0, 256)), name=cmap.name).with_extremes(bad=BAD_CELL)


def line_color(values: np.ma.MaskedArray, cmap: Colormap, norm: Normalize) -> str:
    """Black, or white where most of a heatmap is dark, for a line across it."""
    finite = values.compressed()
    red, green, blue, _ = cmap(norm(np.median(finite))) if finite.size else (1.0, 1.0, 1.0, 1.0)
    # Luma of ITU-R BT.601.
    return "k" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.4 else "w"


def curve_colors(color: Any, curves: int) -> list[Any]:
    """One colour per curve.

    Args:
        color: None for matplotlib's cycle, one colour for all, or a sequence of at least `curves` colours.
        curves: number of curves.

    Raises:
        ArgumentError: for too few colours or what is no colour.

    Example:
        >>> curve_colors("blue", 2), curve_colors(["r", "g"], 2)
        (['blue', 'blue'], ['r', 'g'])
    """
    if color is None:
        cycle = mpl.rcParams["axes.prop_cycle"].by_key().get("color", ["C0"])
        return [cycle[i % len(cycle)] for i in range(curves)]
    if is_color_like(color):
        return [color] * curves
    try:
        to_rgba_array(color)
        enough = len(color) >= curves
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"color is a colour or a sequence of colours; got {color!r}") from error
    if not enough:
        raise ArgumentError(f"color must give one colour, or one per curve: {curves}; got {len(color)}")
    return list(color[:curves])


def color_limits(images: np.ma.MaskedArray, norm: Any) -> tuple[float, float]:
    """Values of the first and the last colour, see `features_2D`.

    Raises:
        ArgumentError: if `norm` is none of None, ``"auto"``, a pair of finite numbers.
    """
    if norm is not None and not isinstance(norm, str):
        try:
            low, high = (float(limit) for limit in norm)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"norm is None, 'auto' or a pair (vmin, vmax); got {norm!r}") from error
        if not (np.isfinite([low, high]).all() and low <= high):
            raise ArgumentError(f"norm is a pair (vmin, vmax) of finite numbers, vmin ≤ vmax; got {norm!r}")
        return low, high
    if norm not in (None, "auto"):
        raise ArgumentError(f"norm is None, 'auto' or a pair (vmin, vmax); got {norm!r}")
    finite = images.compressed()
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        # One value alone has no range: show it against zero.
        low, high = (min(low, 0.0), max(high, 0.0)) if low else (-1.0, 1.0)
    if norm == "auto" or low < 0 < high:
        return -max(abs(low), abs(high)), max(abs(low), abs(high))
    return low, high


def point_colors(color: Any, cmap: str | Colormap, shape: tuple[int, int]) -> np.ndarray:
    """Colours of the points of `features_0D`, RGBA ``(sample · channel, 4)``.

    Args:
        color: None for one colour per channel from `cmap`, first to last; one colour; one per channel; or
            one per point.
        cmap: colour map.
        shape: numbers of samples and channels.

    Raises:
        ArgumentError: for another number of colours, or what is no colour.

    Example:
        >>> point_colors("red", "bwr", (1, 2)).tolist()
        [[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]]
    """
    samples, channels = shape
    if color is None:
        return np.tile(bad_visible(cmap)(np.linspace(0, 1, channels)), (samples, 1))
    per_point = is_color_like(color) is False and np.shape(color)[:1] == (samples * channels,)
    colors = to_rgba_array(curve_colors(color, samples * channels if per_point else channels))
    return colors if per_point else np.tile(colors, (samples, 1))
