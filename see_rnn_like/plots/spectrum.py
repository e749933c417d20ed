"""The eigenvalues and singular values of recurrent kernels as a picture."""

from __future__ import annotations

from itertools import product

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator

from see_rnn_like.plots.curves import (
    HUES,
)
from see_rnn_like.plots.figure import nonfinite_note
from see_rnn_like.plots.grid import whole_locator
from see_rnn_like.plots.layers import (
    GREY,
    add_heading,
    figure_of,
    panel_name,
    tidy,
    variable,
)


def plot_spectrum(
    spectrum: xr.Dataset, *, fig: Figure | SubFigure | None = None
) -> tuple[Figure | SubFigure, np.ndarray]:
    r"""Draws the eigenvalues of the recurrent kernel per gate, with the unit circle, and its singular values.

    In a linear recurrence what lies along an eigenvector fades step by step if its eigenvalue is inside the
    circle and grows if it is outside; the angle is how far it turns. With an activation whose slope is at
    most γ (1 for tanh, 1/4 for sigmoid), a largest singular value below 1/γ is enough for gradients to vanish
    (Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks", section 2.1).
    Gates scale this further: of LSTM and GRU it is a part of the answer only. All panels share limits.

    Args:
        spectrum: the result of `recurrent_spectrum`.
        fig: figure to draw into, best one with ``layout="constrained"``; None for a new one.

    Returns:
        The figure and its axes ``(direction, gate, 2)``: the complex plane and the singular values below it.

    Raises:
        ArgumentError: if it is something else, or empty.
        ArgumentTypeError: if it is no Dataset.

    Example:
        >>> import numpy as np, xarray as xr
        >>> turn = np.array([[0.8, -0.6], [0.6, 0.8]])
        >>> spectrum = xr.Dataset({"eigenvalues": (("gate", "index"), np.linalg.eigvals(turn)[None]),
        ...                        "singular_values": (("gate", "index"), np.ones((1, 2)))},
        ...                       coords={"gate": ["hidden"]})
        >>> fig, axes = plot_spectrum(spectrum)
        >>> axes[0, 0, 0].get_title()
        'hidden\nspectral radius 1'
    """
    eigenvalues, singular = (
        variable(spectrum, name, ("gate", "index"), "recurrent_spectrum()")
        for name in ("eigenvalues", "singular_values")
    )
    rows, columns = eigenvalues.sizes["direction"], eigenvalues.sizes["gate"]
    fig = figure_of(fig, (max(4.6, 0.6 + 2.3 * columns), 0.5 + 4.4 * rows))
    grid = fig.subplots(2 * rows, columns, squeeze=False, height_ratios=[2, 1] * rows)
    axes = grid.reshape(rows, 2, columns).transpose(0, 2, 1)
    for row, column in product(range(rows), range(columns)):
        values = eigenvalues.isel(direction=row, gate=column)
        plane, below = axes[row, column]
        _draw_eigenvalues(plane, values.values, HUES[row % len(HUES)])
        _draw_singular_values(below, singular.isel(direction=row, gate=column).values, HUES[row % len(HUES)])
        name = panel_name(values["direction"].values, values["gate"].values)
        plane.set_title(f"{name}\n{_radius_note(values.values)}", fontsize="medium")
    _share_limits(axes, eigenvalues.values, singular.values)
    add_heading(fig, spectrum, "", "spectrum of the recurrent kernel")
    return fig, axes


def _draw_eigenvalues(ax: Axes, eigenvalues: np.ndarray, hue: str) -> None:
    tidy(ax)
    ax.add_patch(Circle((0, 0), 1, fill=False, color=GREY, linewidth=1.2, zorder=1))
    ax.scatter(eigenvalues.real, eigenvalues.imag, s=14, facecolor=hue, alpha=0.6, linewidths=0, zorder=3)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    ax.set(aspect="equal", xlabel="real part")


def _draw_singular_values(ax: Axes, values: np.ndarray, hue: str) -> None:
    tidy(ax)
    ax.axhline(1, color=GREY, linewidth=1.2, zorder=1)
    ax.plot(np.arange(1, 1 + values.size), values, color=hue, marker=".", markersize=4, linewidth=1)
    ax.xaxis.set_major_locator(whole_locator())
    ax.set(xlabel="rank", xlim=(0.5, values.size + 0.5))


def _radius_note(eigenvalues: np.ndarray) -> str:
    sizes = np.abs(eigenvalues)
    finite = sizes[np.isfinite(sizes)]
    radius = f"spectral radius {finite.max():.3g}" if finite.size else "no spectral radius"
    return ", ".join(filter(None, [radius, nonfinite_note(sizes)]))


def _share_limits(axes: np.ndarray, eigenvalues: np.ndarray, singular: np.ndarray) -> None:
    """The same limits for all panels: gates compare, and the circle is as large in each; labels once."""
    sizes = np.abs(eigenvalues)
    reach = 1.1 * sizes[np.isfinite(sizes)].max(initial=1.0)
    top = 1.1 * singular[np.isfinite(singular)].max(initial=1.0)
    for plane, below in axes.reshape(-1, 2):
        plane.set(xlim=(-reach, reach), ylim=(-reach, reach))
        below.set_ylim(0, top)
    for ax in axes[:, 1:].ravel():
        ax.tick_params(labelleft=False)
    for plane, below in axes[:, 0]:
        plane.set_ylabel("imaginary part")
        below.set_ylabel("singular value")
