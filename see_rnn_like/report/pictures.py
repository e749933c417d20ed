"""The pictures of a report, with words for those who do not see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from see_rnn_like.history import History, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.curves import legend_lines
from see_rnn_like.plots.development import plot_activations_over_training, plot_gradient_flow
from see_rnn_like.plots.gates import plot_saturation
from see_rnn_like.plots.history import plot_histograms, plot_norms, plot_update_ratio
from see_rnn_like.plots.horizon import plot_horizon
from see_rnn_like.plots.rnn import rnn_heatmap
from see_rnn_like.plots.steps import bad_text
from see_rnn_like.plots.timeline import plot_events, plot_loss
from see_rnn_like.report.svg import UNTHEMED, drawing_style, to_svg

#: Inches: about the width of a phone's screen, so that there the letters have their true size.
WIDTH = 4.6
_MOST_SPOKEN = 12


@dataclass(frozen=True)
class Picture:
    """An inline SVG, its caption, and whether it is drawn for a page wider than a phone."""

    svg: Markup
    caption: str = ""
    wide: bool = False


def loss_picture(run: History) -> Picture:
    """The loss over training; the run must have one."""
    with drawing_style("loss"):
        fig = _figure(2.9)
        _, ax = plot_loss(run, ax=fig.add_subplot())
        lines = -(-len(ax.get_legend_handles_labels()[0]) // 2)
        _set_margins(fig, top=0.1 + 0.19 * lines)
        return Picture(to_svg(fig, f"Loss over training. {_spoken_lines(ax)}."))


def events_picture(run: History) -> Picture:
    """When and where the events happened; the run must have some."""
    with drawing_style("events"):
        fig = _figure(3)
        _, ax = plot_events(run, ax=fig.add_subplot())
        fig.set_figheight(0.85 + 0.22 * len(ax.get_yticks()))
        legend = ax.get_legend()
        heading = 0.2 if legend is not None and legend.get_title().get_text() else 0.0
        fig.set_figheight(fig.get_figheight() + heading)
        _set_margins(fig, left=2.5, top=0.35 + heading)
        return Picture(to_svg(fig, "Time line of the events listed on this page."))


def norms_picture(run: History, keys: Sequence[TensorKey], per_gate: bool) -> Picture:
    """L2 norms of some tensors, panels below each other."""
    with drawing_style("norms " + " ".join(map(str, keys))):
        fig = _figure(3)
        _, axes = plot_norms(run, keys, per_gate=per_gate, columns=1, fig=fig)
        _stack(fig, len(axes))
        return Picture(to_svg(fig, _spoken_curves("L2 norm over training", axes)))


def ratio_picture(run: History, keys: Sequence[TensorKey]) -> Picture:
    """Update ratios of some weights, panels below each other."""
    with drawing_style("ratio " + " ".join(map(str, keys))):
        fig = _figure(3)
        _, axes = plot_update_ratio(run, keys, columns=1, fig=fig)
        _stack(fig, len(axes))
        return Picture(to_svg(fig, _spoken_curves("Size of an update relative to the weights", axes)))


def histogram_picture(run: History, info: TensorInfo) -> Picture:
    """The distribution of one tensor over training, a panel per gate below each other."""
    with drawing_style(f"histogram {info.key}"):
        panels = len(info.gates)
        fig = _figure(0.7 + 1.05 * panels if panels > 1 else 2.6)
        # Before there are axes: the colour bar takes its place from where they are then.
        _set_margins(fig, top=0.5 if panels else 0.4, right=0.2, gap=0.3 / 0.75)
        plot_histograms(run, info.key, fig=fig)
        caption = "; ".join(f"{name}: {_words(value)}" for name, value in info.attrs.items() if value)
        return Picture(to_svg(fig, _spoken_distribution(info.key, run.stats(info.key))), caption)


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def heatmap_picture(run: History, infos: Sequence[TensorInfo], step: int) -> Picture | None:
    """The weights of one direction of a recurrent layer as heatmaps, if their values were kept at `step`.

    Args:
        run: the recorded run.
        infos: the kernel, the recurrent kernel and, if there is one, the bias.
        step: the step to show.
    """
    found = [(info, pair) for info in infos for pair in run.load(info.key, "value", [step])]
    if len(found) < len(infos):
        return None
    weights = [
        xr.DataArray(array, dims=info.dims, coords={dim: list(names) for dim, names in info.coords.items()})
        for info, (_, array) in found
    ]
    names = ", ".join(str(info.key) for info in infos)
    with drawing_style(f"heatmap {names}"):
        (fig,), _ = rnn_heatmap(None, None, data=weights, configs=_HEATMAP)
        # The plotter opens its figures for people to see; this one is for the page.
        plt.close(fig)
        for line in (line for ax in fig.axes for line in ax.lines):
            # Between gates; as a part of the image they stay dark on its pale colours in the dark theme.
            line.set_rasterized(True)
        caption = f"weights before the update of step {step}"
        if infos[0].key.direction:
            caption = f"{infos[0].key.direction} {caption}"
        return Picture(to_svg(fig, f"Heatmap of {names}: {caption}."), caption, wide=True)


def activations_picture(run: History) -> Picture:
    """The distribution of the outputs and states of all layers over training; the run must have some."""
    with drawing_style("activations"):
        fig = Figure(figsize=(WIDTH, 3), layout="constrained")
        _, axes = plot_activations_over_training(run, fig=fig)
        rows, columns = axes[0].get_gridspec().get_geometry()
        fig.set_size_inches(WIDTH * min(columns, 2), 0.6 + 1.25 * rows)
        names = ", ".join(ax.get_title(loc="left").replace("\n", ", ") for ax in axes)
        return Picture(to_svg(fig, f"Distributions over training: {names}."), wide=columns > 1)


def flow_picture(run: History, layer: str) -> Picture:
    """Norms of the gradients of one layer by timestep over training; the run must have some."""
    with drawing_style(f"gradient flow {layer}"):
        fig = Figure(figsize=(WIDTH, 3), layout="constrained")
        _, axes = plot_gradient_flow(run, layer, columns=1, fig=fig)
        fig.set_figheight(0.5 + 1.5 * len(axes))
        _keep_colours(fig)
        return Picture(to_svg(fig, _spoken_flow(axes)), _FLOW)


def saturation_picture(run: History, layer: str) -> Picture:
    """How often the gates of one layer are stuck at the last step; the run must tell."""
    with drawing_style(f"saturation {layer}"):
        fig = Figure(figsize=(WIDTH, 3), layout="constrained")
        _, axes = plot_saturation(run, layer=layer, columns=2, fig=fig)
        rows, columns = axes[0, 0].get_gridspec().get_geometry()
        fig.set_figheight(0.6 + (2.15 if columns > 1 else 2.4) * rows)
        spoken = [f"{ax.get_title()}: {ax.texts[0].get_text()}".replace("\n", ", ") for ax in axes.flat]
        return Picture(to_svg(fig, f"Saturation of gates of {layer}. {'. '.join(spoken)}."), _SATURATION)


def horizon_picture(run: History, layer: str) -> Picture:
    """How far back one layer remembers, over training; the run must tell."""
    with drawing_style(f"horizon {layer}"):
        fig = Figure(figsize=(WIDTH, 3), layout="constrained")
        _, axes = plot_horizon(run, layer=layer, fig=fig)
        fig.set_figheight(0.9 + 1.6 * len(axes))
        spoken = ". ".join(ax.get_title(loc="left") for ax in axes)
        return Picture(
            to_svg(fig, f"Influence of earlier states of {layer} over training. {spoken}."), _HORIZON
        )


_FLOW = (
    "Gradients on the probe batch, timesteps up. dL/dh and dL/dc are total, through time. dL/d(output) "
    "leaves out the recurrent path: its zeros are no vanishing gradient."
)
_SATURATION = (
    "A dot per unit, on the probe batch: how often its gate is open (right) or shut (up); of a candidate, "
    "how often at an end. Lower left: never stuck."
)
_HORIZON = (
    "How strongly the last state depends on the one so many timesteps before, on the probe batch. Dots: the "
    "lags at which that falls below 1/e and 1%."
)

_HEATMAP: dict[str, dict[str, object]] = {
    "subplot": {"figsize": (2 * WIDTH, 4.2)},
    "subtitle": {"fontsize": 10},
    "xlabel": {"fontsize": 10, "weight": "normal"},
    "ylabel": {"fontsize": 10, "weight": "normal"},
}


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height))


def _stack(fig: Figure, panels: int, panel: float = 1.05, gap: float = 0.35) -> None:
    """Gives panels below each other, and the legend below them, their place."""
    legend = 0.05 + 0.19 * legend_lines(fig)
    fig.set_figheight(0.3 + panels * panel + (panels - 1) * gap + 0.5 + legend)
    _set_margins(fig, top=0.3, bottom=0.5 + legend, gap=gap / panel)


def _set_margins(
    fig: Figure,
    left: float = 0.8,
    right: float = 0.12,
    top: float = 0.3,
    bottom: float = 0.5,
    gap: float = 0.2,
) -> None:
    # In inches. Margins as wide as the longest labels take half the time of a layout that measures them,
    # and the axes of all pictures of a page stand in line.
    width, height = fig.get_size_inches()
    fig.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, hspace=gap)


def _keep_colours(fig: Figure) -> None:
    """Patches of the legend stay as they are in the dark theme, for so does what they explain, an image."""
    for legend in fig.legends:
        for patch in legend.get_patches():
            patch.set_gid(UNTHEMED)


def _spoken_flow(axes: np.ndarray) -> str:
    parts = [f"{ax.get_title(loc='left')}: {_spoken_column(ax)}".replace("\n", ", ") for ax in axes]
    return f"Gradients at the last step, at the first, middle and last timestep. {'. '.join(parts)}."


def _spoken_column(ax: Axes) -> str:
    """The first, middle and last timestep of the last step of a panel of `plot_gradient_flow`."""
    meshes: dict[str, Any] = {
        str(mesh.get_label()): np.ma.asarray(mesh.get_array())[:, -1] for mesh in ax.collections
    }
    # What is masked and not named below has no sample there.
    sizes = meshes.pop("L2 norm").filled(np.nan)
    texts = ["no value" if np.isnan(size) else f"{size:.2g}" for size in sizes]
    for name, found in meshes.items():
        for timestep in np.flatnonzero(~np.ma.getmaskarray(found)):
            texts[timestep] = name
    return ", ".join(texts[place] for place in sorted({0, len(texts) // 2, len(texts) - 1}))


def _spoken_curves(what: str, axes: np.ndarray) -> str:
    parts = [f"{ax.get_title(loc='left')}: {_spoken_lines(ax)}" for ax in axes]
    return f"{what}. {'. '.join(parts)}."


def _spoken_lines(ax: Axes) -> str:
    # What is placed by the edge of the axes, not by the data, is a mark or a guide.
    lines = [line for line in ax.lines if line.get_transform() == ax.transData]
    spoken = [f"{line.get_label()} {_ends(line.get_ydata())}" for line in lines[:_MOST_SPOKEN]]
    return ", ".join(spoken) + (f" and {len(lines) - _MOST_SPOKEN} more" if len(lines) > _MOST_SPOKEN else "")


def _ends(values: object) -> str:
    numbers = np.asarray(values, "float64")
    finite = numbers[np.isfinite(numbers)]
    return f"from {finite[0]:.3g} to {finite[-1]:.3g}" if finite.size else "nothing finite"


def _spoken_distribution(key: TensorKey, table: xr.Dataset) -> str:
    gates = (
        [(f"{g}: ", table.sel(gate=g)) for g in table["gate"].values]
        if "gate" in table.dims
        else [("", table)]
    )
    parts = [f"Distribution of {key} at {table.sizes['step']} steps; at the last one"]
    for name, part in gates:
        last = part.isel(step=-1)
        note = bad_text(part["step"].values, part["nan"], part["inf"])
        parts.append(
            f"{name}{float(last['min']):.3g} to {float(last['max']):.3g}, "
            f"{float(last['zeros']):.0%} exact zeros" + (f", {note}" if note else "")
        )
    return "; ".join(parts) + "."
