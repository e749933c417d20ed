"""Films of one recorded tensor over training steps, to be saved as GIF or shown as HTML."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.animation import AbstractMovieWriter, FuncAnimation, HTMLWriter, PillowWriter
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter, FuncFormatter, NullLocator

from see_rnn_like.errors import ArgumentError, ArgumentTypeError, UnknownTensorError, one_of
from see_rnn_like.history import History, TensorInfo, require_history
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.colors import bad_visible, color_limits, one_sided
from see_rnn_like.plots.curves import HUES, Curve, draw_line, mark_zeros, short_name
from see_rnn_like.plots.distribution import value_axis
from see_rnn_like.plots.figure import Savepath, drawn_whole
from see_rnn_like.plots.grid import whole_locator
from see_rnn_like.plots.recorded import with_histogram
from see_rnn_like.plots.rnn import draw_heatmap, gates_line, rows_line
from see_rnn_like.plots.sheets import matrix
from see_rnn_like.plots.steps import BAD, literal, mark_bad_steps, power_text
from see_rnn_like.stats import count_nonfinite

__all__ = ["animate"]

#: Curves that span more than this factor are drawn on a logarithmic axis.
_LOG_SPAN = 30

#: Step and array ``(step, values)`` of every frame.
Frames = Sequence[tuple[int, np.ndarray]]
#: Draws the frame of this number, and returns what it drew.
Show = Callable[[int], Iterable[Artist]]


def animate(
    run: History,
    key: str | TensorKey,
    *,
    sample: int | None = None,
    interval: float = 200,
    savepath: Savepath | None = None,
    fig: Figure | None = None,
) -> FuncAnimation:
    """Makes a time-lapse of one recorded tensor: a frame per recorded step.

    What a frame shows depends on what was recorded:

    - values of a weight, or of anything else with a unit axis and no samples: a heatmap in the look of
      `rnn_heatmap`, gates set apart.
    - values along one axis (a norm over timesteps, a horizon over lags, a bias of a layer without gates): a
      curve, on a logarithmic axis if all are ≥ 0 and span more than a factor of 30.
    - values of a batch: with `sample` those of one of its samples (time down, units to the right), else as
      the next.
    - statistics only: the signed-log histogram as bars, a panel per gate.

    Colours and limits are the same in all frames, so what changes is the tensor. The step is written above;
    steps need not be evenly spaced, frames are. NaN and Inf are drawn in a colour of their own and counted.

    Args:
        run: the recorded run.
        key: the tensor, as a key or in printed form.
        sample: number of one sample of the recorded batch; follow the same one only where the batch is the
            same at each step, as the probe batch is.
        interval: time from frame to frame, in milliseconds.
        savepath: file to write the film to, ``name.gif`` or ``name.html``; for other formats call the
            ``save`` of what is returned.
        fig: empty figure to draw into, best one with ``layout="constrained"``; None for a new one.

    Returns:
        The animation; keep it as long as it is to run. In a notebook,
        ``IPython.display.HTML(animation.to_jshtml())`` shows it with buttons. matplotlib warns when one is
        thrown away that was never shown or saved.

    Raises:
        ArgumentError: if nothing was recorded under `key` at any step, it is a single number, there is no
            such sample, or for another kind of file or an `interval` that is not positive.
        ArgumentTypeError: if `run` is no run, `sample` no whole number, `interval` no number or `savepath` no
            path.
        UnknownTensorError: if nothing was recorded under `key`, or only statistics and `sample` is given.

    Example:
        >>> animation = animate(run, "lstm/forward/kernel:weight", savepath="film.gif")  # doctest: +SKIP
    """
    require_history(run)
    info = run.info(key)
    _check(info, sample, interval, savepath)
    film = _values(run, info, sample)
    with drawn_whole(None, savepath):
        if not film.frames:
            table = with_histogram(run.stats(info.key), info.key)
            figure = _figure(fig, (max(4.5, 1 + 2.3 * len(info.gates)), 3.6))
            draw, count = _bars(figure, info, table), table.sizes["step"]
        else:
            figure = _figure(fig, (6.5, 4))
            draw, count = (_curve if len(film.dims) == 1 else _heatmap)(figure, film), len(film.frames)
        draw(0)
        animation = FuncAnimation(figure, draw, frames=count, interval=interval, cache_frame_data=False)
        _save(animation, savepath, interval)
    return animation


def _check(info: TensorInfo, sample: int | None, interval: float, savepath: Savepath | None) -> None:
    if not info.dims:
        raise ArgumentError(f"'{info.key}' is a single number at each step; a line shows it best: plot_loss")
    if sample is not None and "sample" not in info.dims:
        raise ArgumentError(
            f"sample= picks one of a batch; '{info.key}' has no samples: its dims are {info.dims}"
        )
    if sample is not None and (isinstance(sample, bool) or not isinstance(sample, int | np.integer)):
        raise ArgumentTypeError(f"sample is the number of a sample, or None; got {reprlib.repr(sample)}")
    if isinstance(interval, bool) or not isinstance(interval, int | float | np.number):
        raise ArgumentTypeError(f"interval is a number of milliseconds; got {reprlib.repr(interval)}")
    if savepath is not None and not isinstance(savepath, str | os.PathLike):
        raise ArgumentTypeError(f"savepath is the path of a file, or None; got {reprlib.repr(savepath)}")
    if not 0 < interval < np.inf:
        raise ArgumentError(f"interval is the time between frames in milliseconds, above 0; got {interval!r}")
    if savepath is not None and Path(savepath).suffix not in _WRITERS:
        raise one_of("extension of savepath", Path(savepath).suffix, _WRITERS)


@dataclass(frozen=True)
class _Film:
    """What the frames show.

    Attributes:
        info: the tensor.
        name: its name, with the sample if there is one.
        dims: names of the axes of an array.
        frames: steps and arrays; none where the values were not kept, or are those of whole batches.
    """

    info: TensorInfo
    name: str
    dims: tuple[str, ...]
    frames: Frames


def _values(run: History, info: TensorInfo, sample: int | None) -> _Film:
    if "sample" not in info.dims:
        return _Film(info, str(info.key), info.dims, run.load(info.key, "value"))
    dims = tuple(dim for dim in info.dims if dim != "sample")
    if sample is None:
        return _Film(info, str(info.key), dims, [])
    # One step at a time: values of whole batches are large.
    frames = [
        (step, _sample(array, info.dims.index("sample"), sample))
        for recorded in run.steps
        for step, array in run.load(info.key, "value", [recorded])
    ]
    if not frames:
        raise UnknownTensorError(
            f"sample= needs values, and only statistics of '{info.key}' were recorded; record values with "
            'RNNMonitor(level="full")'
        )
    return _Film(info, f"{info.key} · sample {sample}", dims, frames)


def _sample(array: np.ndarray, axis: int, sample: int) -> np.ndarray:
    if not 0 <= sample < array.shape[axis]:
        raise ArgumentError(
            f"sample must be from 0 to {array.shape[axis] - 1}, as in every batch drawn; got {sample}"
        )
    return array.take(sample, axis)


def _figure(fig: Figure | None, size: tuple[float, float]) -> Figure:
    return fig if fig is not None else plt.figure(figsize=size, layout="constrained")


def _heatmap(fig: Figure, film: _Film) -> Show:
    blocks = [_block(film, array) for _, array in film.frames]
    values = np.ma.masked_invalid(np.concatenate([block.values.ravel() for block in blocks]))
    signed = bool((values.compressed() < 0).any())
    cmap = bad_visible("bwr") if signed else one_sided(bad_visible("bwr"))
    # All zero, the scale still starts at 0: shares of 0 in the middle of one would look like a half.
    limits = (
        color_limits(values, "auto") if signed else (0.0, float(values.compressed().max(initial=0)) or 1.0)
    )
    colors: dict[str, Any] = {"cmap": cmap, "norm": Normalize(*limits)}
    ax = fig.add_subplot()
    fig.colorbar(ScalarMappable(**colors), ax=ax, fraction=0.05)
    headline = _headline(fig)
    any_bad = bool(np.ma.getmaskarray(values).any())

    def draw(frame: int) -> Iterable[Artist]:
        ax.clear()
        draw_heatmap(ax, blocks[frame], {}, {"subtitle": {"fontsize": "medium"}}, colors, 1)
        ax.set(xlabel=gates_line(blocks[frame]), ylabel=rows_line(blocks[frame]))
        if len(matrix(blocks[frame])) == 1:
            ax.set_yticks([])
        if any_bad and "\n" not in ax.get_title():
            # The line that counts NaN keeps its place, or the picture jumps where there are some.
            ax.title.set_text(f"{ax.get_title()}\n ")
        _tell(headline, film.name, film.frames[frame][0], *count_nonfinite(blocks[frame].values))
        return [*ax.images, headline]

    return draw


def _block(film: _Film, array: np.ndarray) -> xr.DataArray:
    """Values as `rnn_heatmap` takes them: ``(..., gate, unit)``, one nameless gate where there are none."""
    block = xr.DataArray(array.astype("float64"), dims=(*film.dims[:-1], "unit"), name=film.info.key.role)
    if film.info.gates:
        return block.assign_coords(gate=list(film.info.gates)).transpose(..., "gate", "unit")
    return block.expand_dims(gate=[""]).transpose(..., "gate", "unit")


def _curve(fig: Figure, film: _Film) -> Show:
    key = film.info.key
    ax = fig.add_subplot(xlabel=film.dims[0], ylabel=f"{literal(key.role)} · {key.kind}")
    longest = max(array.size for _, array in film.frames)
    ax.set_xlim(-0.5, longest - 0.5)
    ax.xaxis.set_major_locator(whole_locator(8))
    _fix_limits(ax, np.concatenate([array for _, array in film.frames]).astype("float64"))
    ax.grid(True, color="#888888", alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    headline = _headline(fig)

    def draw(frame: int) -> Iterable[Artist]:
        for line in list(ax.lines):
            line.remove()
        step, array = film.frames[frame]
        places, values = np.arange(array.size), array.astype("float64")
        # NaN there says that every sample is masked: a gap without a mark.
        absent = np.isnan(values) & np.isin(places, film.info.attrs.get("masked", []))
        curve = Curve(key.layer, None, places, values, ~np.isfinite(values) & ~absent)
        draw_line(ax, curve, HUES[0])
        if ax.get_yscale() == "log":
            mark_zeros(ax, curve, HUES[0])
        mark_bad_steps(ax, places[curve.bad])
        _tell(headline, film.name, step, *count_nonfinite(values[~absent]))
        return [*ax.lines, headline]

    return draw


def _fix_limits(ax: Axes, values: np.ndarray) -> None:
    """Gives the y axis limits that hold all these values, logarithmic if they are sizes far apart."""
    finite = values[np.isfinite(values)]
    sizes = finite[finite > 0]
    if sizes.size and finite.min() >= 0 and sizes.max() > _LOG_SPAN * sizes.min():
        ax.set_yscale("log", nonpositive="mask")
        ax.set_ylim(sizes.min() / 1.3, sizes.max() * 1.3)
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(power_text))
        return
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    pad = 0.05 * (high - low) or abs(high) / 2 or 0.5
    ax.set_ylim(low - pad, high + pad)


def _bars(fig: Figure, info: TensorInfo, table: xr.Dataset) -> Show:
    table = table if info.gates else table.expand_dims(gate=[""], axis=1)
    counts = table["histogram"].transpose("gate", "step", "bin").values
    values = value_axis(counts)
    rows = values.rows(counts)
    axes = fig.subplots(1, len(rows), sharex=True, sharey=True, squeeze=False)[0]
    bars = []
    for ax, gate, first in zip(axes, table["gate"].values, rows[:, 0], strict=True):
        values.apply(ax)
        bars.append(ax.barh(values.edges[:-1], first, np.diff(values.edges), align="edge", color=HUES[0]))
        ax.set(xlim=(0, 1.05 * max(1, rows.max())), xlabel="values per bin")
        ax.set_title(literal(gate), loc="left", fontsize="medium")
        ax.xaxis.set_major_locator(whole_locator(3))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.grid(True, axis="x", color="#888888", alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    headline = _headline(fig)

    def draw(frame: int) -> Iterable[Artist]:
        for container, lengths in zip(bars, rows[:, frame], strict=True):
            for bar, length in zip(container, lengths, strict=True):
                bar.set_width(length)
        now = table.isel(step=frame)
        _tell(headline, str(info.key), int(now["step"]), int(now["nan"].sum()), int(now["inf"].sum()))
        return [*(bar for container in bars for bar in container), headline]

    return draw


def _headline(fig: Figure) -> Text:
    return fig.suptitle("", x=0.01, ha="left", fontsize="medium")


def _tell(headline: Text, name: str, step: int, nan: int, inf: int) -> None:
    bad = ", ".join(f"{count:,} {name}" for count, name in ((nan, "NaN"), (inf, "Inf")) if count)
    words = [short_name(name), f"step {step:,}", bad]
    headline.set(
        text=literal(" · ".join(filter(None, words))), color=BAD if bad else mpl.rcParams["text.color"]
    )


def _save(animation: FuncAnimation, savepath: Savepath | None, interval: float) -> None:
    if savepath is not None:
        animation.save(Path(savepath), writer=_WRITERS[Path(savepath).suffix](1000 / interval))


def _gif_writer(fps: float) -> AbstractMovieWriter:
    return PillowWriter(fps=fps)  # type: ignore[arg-type]  # it takes fractions too


def _html_writer(fps: float) -> AbstractMovieWriter:
    # Without a limit, beyond which matplotlib leaves frames out.
    return HTMLWriter(fps=fps, embed_frames=True, embed_limit=np.inf)  # type: ignore[arg-type]


#: Extension of a file → what writes it.
_WRITERS = {".gif": _gif_writer, ".html": _html_writer}
