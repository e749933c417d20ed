"""An autopsy as a picture: how large everything was before the step that was not finite, and within it."""

from __future__ import annotations

import reprlib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from see_rnn_like.errors import ArgumentError, ArgumentTypeError
from see_rnn_like.findings import Autopsy, Where
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.arguments import column_count
from see_rnn_like.plots.curves import HUES, Curve, draw_line, mark_zeros, scale_sizes, short_name
from see_rnn_like.plots.figure import add_title
from see_rnn_like.plots.layers import figure_of, tidy
from see_rnn_like.plots.steps import BAD, literal, mark_bad_steps, power_text, scale_steps
from see_rnn_like.stats import number_arrays

#: Colour of the lines that are there for comparison.
PALE = "#c4c4c4"

#: Inches: a panel, what is above and below it and beside it, a line and a character of small text.
_PANEL, _AROUND, _BESIDE, _LINE, _CHARACTER = (4.6, 2.6), 1.2, 1.8, 0.16, 0.06
#: Lines of the message that are written at most.
_MOST_LINES = 8
#: Numbers beyond these are drawn as these: ticks are set past the ends of an axis, and float64 ends at 1e308.
_DRAWN = (1e-100, 1e150)
_STATES = {"h": "state h", "c": "cell state c"}


def plot_autopsy(
    autopsy: Autopsy, *, columns: int | None = None, fig: Figure | SubFigure | None = None
) -> tuple[Figure | SubFigure, np.ndarray]:
    """Draws what led to a NaN or Inf: over the steps before, and over the timesteps of the step itself.

    The first panel is the trail: the largest absolute value of every tensor at each step, logarithmic. The
    loss and the tensors of the layer to blame are coloured, with their value at the bad step written beside;
    all others are pale. Where there is no such layer (bad data, a bad loss) the largest of all gradients is
    drawn in their place. The second panel is the growth: the largest absolute value of the tensor that went
    bad (of a gate its pre-activation) at each timestep of the bad step. A red line is the step, or timestep,
    that went bad; NaN and Inf are red marks on the top edge; exactly 0 is a hollow mark on the bottom edge.

    Args:
        autopsy: of a `NaNGuard`, of `find_nonfinite`, or read back from a bundle.
        columns: panels per row at most; 1 for a narrow page, None for all beside each other.
        fig: figure to draw into, best one with ``layout="constrained"``; None for a new one.

    Returns:
        The figure and its axes ``(panel,)``: trail, growth, or the one of them that there is.

    Raises:
        ArgumentError: if the autopsy has neither a trail nor timesteps, or not in the form that a guard
            makes; if `columns` < 1.
        ArgumentTypeError: if it is no autopsy, or `columns` no whole number.

    Example:
        >>> trail = xr.DataArray(
        ...     [[0.5, 0.1], [90.0, 2e5], [np.nan, np.nan]], dims=("step", "tensor"),
        ...     coords={"step": [7, 8, 9], "tensor": ["loss:value", "lstm/forward/kernel:gradient"]})
        >>> where = Where(step=9, phase="backward", layer="lstm", direction="forward", role="kernel")
        >>> found = Autopsy("not-finite", "error", 1.0, where, {"nan": 3}, "NaN at step 9: …", "", "", trail)
        >>> fig, axes = plot_autopsy(found)
        >>> fig.get_suptitle()
        'NaN at step 9: lstm (forward), gradient of kernel'
    """
    if not isinstance(autopsy, Autopsy):
        raise ArgumentTypeError(
            "expected the Autopsy of a NaNGuard, of find_nonfinite or of a bundle; got "
            f"{reprlib.repr(autopsy)}"
        )
    trail, growth = _trail(autopsy.trail), _growth(autopsy.growth)
    panels = [array for array in (trail, growth) if array is not None]
    if not panels:
        raise ArgumentError(
            "nothing to draw: this autopsy knows no steps before (it was not made while training) and no "
            f"timesteps (what went bad has none). What it says: {autopsy.message}"
        )
    columns = column_count(columns, len(panels))
    rows = -(-len(panels) // columns)
    fig = figure_of(fig, (_PANEL[0] * columns + 1.8, 0.7 + rows * (_PANEL[1] + _AROUND)))
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    room = _room(fig, rows, columns)
    if trail is not None:
        _draw_trail(axes[0], trail, autopsy.where, room)
    if growth is not None:
        _draw_growth(axes[-1], growth, autopsy, room)
    _write(fig, autopsy)
    return fig, axes


# -- what was given --------------------------------------------------------------------------------


def _trail(trail: xr.DataArray) -> xr.DataArray | None:
    """The trail in ascending steps, checked; None if it is empty."""
    _require_dims("trail", trail, ("step", "tensor"))
    return trail if trail.size else None


def _growth(growth: xr.DataArray | None) -> xr.DataArray | None:
    """The growth, checked; None if there is none."""
    if growth is None:
        return None
    _require_dims("growth", growth, ("time",))
    return growth if growth.size else None


def _require_dims(name: str, array: xr.DataArray, dims: tuple[str, ...]) -> None:
    number_arrays(array.values)
    if array.dims != dims:
        raise ArgumentError(f"{name} of an autopsy has the dims {dims}; got {array.dims}")
    if not array.size:
        return
    along = array[dims[0]].values
    number_arrays(along)
    if not (np.isfinite(along).all() and (np.diff(along) > 0).all()):
        raise ArgumentError(f"{name} of an autopsy has ascending numbers as {dims[0]}; got {along}")


# -- the steps before ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Named:
    """A line with a label beside it."""

    label: str
    curve: Curve
    hue: str


def _draw_trail(ax: Axes, trail: xr.DataArray, where: Where, room: Room) -> None:
    """One line per tensor."""
    steps = trail["step"].values
    keys = [TensorKey.parse(str(text)) for text in trail["tensor"].values]
    curves = [_curve(str(key), steps, values) for key, values in zip(keys, trail.values.T, strict=True)]
    _prepare(ax, steps, "step")
    named = _named(keys, curves, where)
    shown = {each.curve.name for each in named}
    pale = [curve for curve in curves if curve.name not in shown]
    for curve in pale:
        draw_line(ax, curve, PALE).set(linewidth=0.8, markersize=1.2, zorder=1.5)
    for each in named:
        draw_line(ax, each.curve, each.hue).set(linewidth=1.8, zorder=3)
        mark_zeros(ax, each.curve, each.hue)
    _finish(ax, curves)
    _mark_place(ax, steps[-1], f"step {steps[-1]}")
    _label_ends(ax, named, _LINE / room[1])
    _set_title(ax, "largest |value| at each step" + _count_pale(len(pale)), room)


def _named(keys: Sequence[TensorKey], curves: Sequence[Curve], where: Where) -> list[Named]:
    """What is to be seen first: the loss, and the layer to blame."""
    pairs = list(zip(keys, curves, strict=True))
    losses = [Named(key.role, curve, mpl.rcParams["text.color"]) for key, curve in pairs if _is_loss(key)]
    guilty = [(_label(key, where), curve) for key, curve in pairs if _is_of(key, where)]
    gradients = [curve for key, curve in pairs if key.kind == "gradient"]
    if not guilty and gradients:
        largest = np.max([curve.values for curve in gradients], axis=0)
        guilty = [("largest gradient", _curve("largest gradient", gradients[0].steps, largest))]
    return losses[:1] + [Named(*pair, hue) for pair, hue in zip(guilty, HUES, strict=False)]


def _is_loss(key: TensorKey) -> bool:
    return not key.layer and key.role.partition("@")[0] == "loss"


def _is_of(key: TensorKey, where: Where) -> bool:
    """Whether a tensor belongs to the layer, and if it has two directions to the direction, to blame."""
    if where.layer is None or not f"{key.layer}/".startswith(f"{where.layer}/"):
        return False
    return where.direction is None or key.direction in (None, where.direction)


def _label(key: TensorKey, where: Where) -> str:
    """What a tensor is within the layer to blame: ``kernel gradient``, ``cell_1/backward/output``."""
    inside = key.layer[len(where.layer or "") + 1 :]
    direction = key.direction if where.direction is None else None
    path = "/".join(filter(None, [inside, direction, key.role]))
    return path if key.kind == "value" else f"{path} {key.kind}"


def _count_pale(number: int) -> str:
    return f"; pale: {number:,} other tensor{'s' * (number != 1)}" if number else ""


def _label_ends(ax: Axes, named: Sequence[Named], gap: float) -> None:
    """Writes beside the axes, at the height at which its line ends, what a line is and how it ended."""
    heights = [_end_height(ax, each.curve) for each in named]
    for each, end, height in zip(named, heights, spread(heights, gap), strict=True):
        (tie,) = ax.plot([1.0, 1.04], [end, height], transform=ax.transAxes, clip_on=False)
        tie.set(color=each.hue, linewidth=1.2, label=f"_{each.label}")
        text = f"{literal(short_name(each.label))} → {_number(each.curve.values[-1])}"
        ax.text(1.05, height, text, transform=ax.transAxes, va="center", fontsize="small")


def _end_height(ax: Axes, curve: Curve) -> float:
    """Where on the axes a curve ends, 0 at the bottom and 1 at the top: at its last finite value."""
    finite = curve.values[np.isfinite(curve.values)]
    if not finite.size:
        return 1.0
    if finite[-1] <= 0:
        return 0.0
    low, high = np.log(ax.get_ylim())
    return float(np.clip((np.log(finite[-1]) - low) / (high - low), 0.0, 1.0))


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Moves places on an axis from 0 to 1 apart, in their order and not above 1, until `gap` is between all.

    Example:
        >>> [round(place, 2) for place in spread([0.5, 0.1, 0.52, 1.0], 0.1)]
        [0.5, 0.1, 0.6, 1.0]
    """
    order = np.argsort(places, kind="stable")
    moved = np.asarray(places, "float64")[order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    moved = np.minimum(moved, 1 - gap * np.arange(len(moved))[::-1])
    back = np.empty_like(moved)
    back[order] = moved
    return back.tolist()


# -- within the step -------------------------------------------------------------------------------


def _draw_growth(ax: Axes, growth: xr.DataArray, autopsy: Autopsy, room: Room) -> None:
    """The line of one tensor over timesteps."""
    where, times = autopsy.where, growth["time"].values
    _prepare(ax, times, "timestep" + " (the last one comes first)" * _is_backwards(where))
    curve = _curve(_what(where), times, growth.values)
    draw_line(ax, curve, HUES[0]).set(linewidth=1.8, zorder=3)
    mark_zeros(ax, curve, HUES[0])
    _finish(ax, [curve])
    if where.timestep is not None:
        _mark_place(ax, where.timestep, f"timestep {where.timestep}")
    _set_title(ax, _growth_title(autopsy), room)


def _is_backwards(where: Where) -> bool:
    """Whether later timesteps are computed first: in a backward layer, or in the backward pass."""
    return (where.phase == "backward") != (where.direction == "backward")


def _growth_title(autopsy: Autopsy) -> str:
    """What the growth is of, and how fast it grew."""
    where, evidence = autopsy.where, autopsy.evidence
    activation = evidence.get("activation")
    named = "its activation" if activation is None else short_name(str(activation))
    what = _what(where)
    if where.phase == "forward" and (where.role or "").partition("@")[0] == "gates":
        what += f" before {named}"
    elif activation is not None:
        what += f", activation {named}"
    rate = evidence.get("growth_per_timestep")
    grows = f": ×{_number(rate)} per timestep" if isinstance(rate, int | float) else " at each timestep"
    return f"largest |value| of {what}{grows}"


# -- both ------------------------------------------------------------------------------------------

#: Width and height of a panel in inches, about: the layout is found when the figure is drawn.
Room = tuple[float, float]


def _room(fig: Figure | SubFigure, rows: int, columns: int) -> Room:
    wide, high = _inches(fig)
    return max(1.5, wide / columns - _BESIDE), max(1.0, high / rows - _AROUND)


def _set_title(ax: Axes, text: str, room: Room) -> None:
    ax.set_title(_lines(text, room[0], 1.5 * _CHARACTER), loc="left", fontsize="medium")


def _prepare(ax: Axes, places: np.ndarray, label: str) -> None:
    scale_steps(ax, places)
    ax.set_yscale("log", nonpositive="mask")
    ax.set_autoscaley_on(False)  # see scale_sizes
    ax.set_xlabel(label)
    tidy(ax)


def _finish(ax: Axes, curves: Sequence[Curve]) -> None:
    """Limits by what is drawn, and the marks of what cannot be drawn."""
    scale_sizes(ax)
    mark_bad_steps(ax, sorted({place for curve in curves for place in curve.steps[curve.bad > 0].tolist()}))


def _mark_place(ax: Axes, place: float, text: str) -> None:
    """A red line at the step, or timestep, that went bad, with its name at the foot."""
    ax.axvline(place, color=BAD, linewidth=1, alpha=0.6, zorder=1, label=f"_{text}")
    left, right = ax.get_xlim()
    side = "right" if place > (left + right) / 2 else "left"
    ax.annotate(
        text,
        (place, 0),
        (-4 if side == "right" else 4, 3),
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        ha=side,
        color=BAD,
        fontsize="small",
    )


def _curve(name: str, places: np.ndarray, values: np.ndarray) -> Curve:
    values = np.asarray(values, "float64")
    bad = (~np.isfinite(values)).astype("int64")
    drawn = np.where(bad | (values <= 0), values, np.clip(values, *_DRAWN))
    return Curve(name, None, places, drawn, bad)


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Inf"
    beyond = dict(zip(_DRAWN, "≤≥", strict=True)).get(value, "")
    return beyond + power_text(float(f"{value:.3g}"))


def _headline(autopsy: Autopsy) -> str:
    """What and where in one line: ``NaN at step 9: lstm (forward), cell gate, first at timestep 3 of 7``."""
    where, evidence = autopsy.where, autopsy.evidence
    kinds = [kind for name, kind in (("nan", "NaN"), ("inf", "Inf")) if evidence.get(name)]
    at = "" if where.step is None else f" at step {where.step}"
    direction = f" ({where.direction})" if where.direction else ""
    who = "" if where.layer is None else short_name(where.layer) + direction
    timesteps = "" if autopsy.growth is None else f" of {autopsy.growth.size}"
    when = "" if where.timestep is None else f"first at timestep {where.timestep}{timesteps}"
    place = ", ".join(filter(None, [who, _what(where), when])) or "place unknown"
    return literal(f"{kinds[0] if kinds else 'NaN or Inf'}{at}: {place}")


def _what(where: Where) -> str:
    """The tensor within its layer, in words: ``cell gate``, ``gradient of kernel, input gate``."""
    role, _, call = short_name(where.role or "").partition("@")
    of_gate = where.gate is not None and role == "gates"
    word = f"{where.gate} gate" if of_gate else _STATES.get(role, role)
    if where.phase in ("weights", "data"):
        word = {"weights": "weight ", "data": "data "}[where.phase] + role
    if where.gate is not None and not of_gate:
        word += f", {where.gate} gate"
    word += f" of call {int(call) + 1}" if call.isdecimal() else ""
    return f"gradient of {word}" if where.phase == "backward" else word


def _write(fig: Any, autopsy: Autopsy) -> None:
    """The title, and below the panels the message in lines, smaller if they were too wide."""
    add_title(fig, _headline(autopsy), {"x": 0.01, "ha": "left"})
    lines = _lines(autopsy.message, _inches(fig)[0], _CHARACTER)
    written = fig.supxlabel(lines, x=0.01, ha="left", fontsize="small")
    # Small letters are drawn up to a pixel wider each than their size says.
    wide = written.get_window_extent().width / (0.92 * fig.bbox.width)
    if wide > 1:
        written.set_fontsize(float(written.get_fontsize()) / wide)


def _lines(text: str, inches: float, character: float) -> str:
    """The text in lines that fit into a width, with characters of about this one."""
    width = max(10, int(inches / character))
    lines = textwrap.wrap(text, width, max_lines=_MOST_LINES, placeholder=" …")
    return "\n".join(map(literal, lines))


def _inches(fig: Figure | SubFigure) -> tuple[float, float]:
    """Width and height, of a subfigure its own."""
    dpi = fig.figure.dpi if isinstance(fig, SubFigure) else fig.dpi
    return fig.bbox.width / dpi, fig.bbox.height / dpi
