"""The axis of training steps: its scale, the cells around recorded steps, the words for a NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, NullLocator

from see_rnn_like.plots.grid import whole_locator

#: Colour of everything that is about NaN and Inf: in no palette or map used beside it, seen on white,
#: on black and on the dark end of viridis.
BAD = "#e6352b"

#: Recorded steps, ascending.
Steps: TypeAlias = Sequence[int] | np.ndarray

#: Steps are crowded if the middle one of them lies in this first part of the axis.
_CROWDED = 0.2


def scale_steps(ax: Axes, steps: Steps) -> None:
    """Makes the x axis one of training steps.

    Steps keep their true distances. Where most of them would crowd at the left end (`log_spaced`
    schedules), the axis is logarithmic from step 1 on and linear before it, so that step 0 is on it.

    Args:
        ax: the axes.
        steps: recorded steps, ascending, at least one.
    """
    if len(steps) > 3 and np.median(steps) - steps[0] < _CROWDED * (steps[-1] - steps[0]):
        ax.set_xscale("symlog", linthresh=1)
    else:
        ax.xaxis.set_major_locator(whole_locator(6))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    edges = cell_edges(ax, steps)
    ax.set_xlim(edges[0], edges[-1])


def cell_edges(ax: Axes, steps: Steps) -> np.ndarray:
    """Borders of the cells around recorded steps: halfway to the neighbours, as seen on the axis.

    Args:
        ax: axes whose x scale is set already.
        steps: recorded steps ``(step,)``, ascending, at least one.

    Returns:
        float64 ``(step + 1,)``.
    """
    scale = ax.xaxis.get_transform()
    seen = scale.transform(np.asarray(steps, "float64"))
    middles = (seen[1:] + seen[:-1]) / 2
    half = np.diff(seen)[[0, -1]] / 2 if len(seen) > 1 else np.array([0.5, 0.5])
    return scale.inverted().transform(np.concatenate([[seen[0] - half[0]], middles, [seen[-1] + half[1]]]))


def mark_bad_steps(ax: Axes, steps: Steps) -> None:
    """Sets a mark in the bad colour on the top edge of the axes, over each of these steps."""
    if len(steps):
        ax.plot(
            steps,
            np.ones(len(steps)),
            transform=ax.get_xaxis_transform(),
            clip_on=False,
            linestyle="none",
            marker="v",
            markersize=5,
            color=BAD,
            zorder=4,
            label="NaN or Inf",
        )


def bad_text(steps: Steps, nan: Any, inf: Any) -> str:
    """Says how many NaN and Inf there are, and since when; empty if there are none.

    Args:
        steps: recorded steps ``(step,)``.
        nan: counts of NaN ``(step,)``.
        inf: counts of Inf ``(step,)``.

    Example:
        >>> bad_text([0, 50, 100], [0, 2, 4], [0, 0, 1])
        '6 NaN, 1 Inf in 2 of 3 steps, from 50'
    """
    nan, inf = np.asarray(nan), np.asarray(inf)
    where = np.flatnonzero(nan + inf)
    if not where.size:
        return ""
    parts = [f"{int(n.sum()):,} {name}" for n, name in ((nan, "NaN"), (inf, "Inf")) if n.any()]
    return f"{', '.join(parts)} in {where.size} of {len(steps)} steps, from {steps[where[0]]}"


def literal(text: object) -> str:
    r"""Text that matplotlib draws as it is.

    A name with two ``$`` in it is no formula; what cannot be seen (control characters, line breaks,
    marks that turn the direction of writing) is drawn as a replacement character.

    Example:
        >>> literal("cost_$x$")
        'cost_\\$x\\$'
        >>> literal("a\nb")
        'a�b'
    """
    return "".join(char if char.isprintable() else "\ufffd" for char in str(text)).replace("$", r"\$")


def power_text(value: float, _position: int | None = None) -> str:
    """A number as short plain text, very small and large ones by a power of ten (a tick formatter).

    Example:
        >>> power_text(-0.001), power_text(5e-4), power_text(0), power_text(0.02), power_text(1e5)
        ('−0.001', '5×10⁻⁴', '0', '0.02', '10⁵')
    """
    sign = "−" if value < 0 else ""
    size = abs(value)
    if size == 0 or 0.00099 < size < 9999:
        return f"{sign}{size:g}"
    mantissa, exponent = f"{size:.2e}".split("e")
    factor = "" if float(mantissa) == 1 else f"{float(mantissa):g}×"
    return f"{sign}{factor}10{str(int(exponent)).translate(_SUPERSCRIPT)}"


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
