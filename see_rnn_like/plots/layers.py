"""What pictures of the inside of one recurrent layer share: what they take, their figures and titles."""

from __future__ import annotations

import reprlib
from typing import Any

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from see_rnn_like.errors import ArgumentError, ArgumentTypeError
from see_rnn_like.plots.curves import short_name
from see_rnn_like.plots.figure import add_title
from see_rnn_like.plots.steps import literal
from see_rnn_like.stats import number_arrays

GREY = "#888888"
_TITLE: dict[str, Any] = {"x": 0.01, "ha": "left"}


def variable(given: Any, name: str, dims: tuple[str, ...], maker: str) -> xr.DataArray:
    """A variable as numbers ``(direction, *dims)``; without directions there is one, named "".

    A dimension from which one entry was selected, such as ``.sel(gate="forget")``, comes back.
    """
    if not isinstance(given, xr.Dataset):
        raise ArgumentTypeError(f"expected the Dataset that {maker} returns; got {reprlib.repr(given)}")
    if name not in given.data_vars:
        found = ", ".join(map(str, given.data_vars)) or "nothing"
        raise ArgumentError(f"expected the Dataset that {maker} returns, with {name!r}; this one has {found}")
    array = given[name]
    number_arrays(array.values)
    for dim in ("direction", *dims):
        if dim in array.coords and dim not in array.dims:
            array = array.expand_dims(dim)
    if "direction" not in array.dims:
        array = array.expand_dims(direction=[""])
    if set(array.dims) != {"direction", *dims}:
        raise ArgumentError(
            f"{name!r} of {maker} has the dimensions {', '.join(dims)}, after direction if there is one; got "
            f"{', '.join(map(str, given[name].dims))}. Select with a list to keep a dimension: "
            ".isel(unit=[3]); of several steps take one: .sel(step=100)"
        )
    if not array.size:
        raise ArgumentError(f"nothing to draw: {name!r} is empty, {dict(array.sizes)}")
    return array.transpose("direction", *dims)


def recorded_at(given: xr.Dataset | xr.DataArray) -> str:
    """Step and batch of what a run recorded; empty for what was computed just now."""
    step = f"step {given.attrs['step']}" if "step" in given.attrs else ""
    return ", ".join(filter(None, [step, literal(given.attrs.get("from", ""))]))


def figure_of(fig: Figure | SubFigure | None, size: tuple[float, float]) -> Figure | SubFigure:
    """The figure given, or a new one of a size in inches."""
    if fig is not None:
        return fig
    # A little more air between rows than matplotlib's, in inches.
    return plt.figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.08))


def heading(given: xr.Dataset | xr.DataArray, text: str) -> str:
    """A text after the layer and the kind of its cell, as far as `attrs` tell them."""
    layer, cell = (str(given.attrs.get(name, "")) for name in ("layer", "cell"))
    who = literal(" ".join(filter(None, [short_name(layer), cell and f"({cell})"])))
    return ": ".join(filter(None, [who, text]))


def add_heading(fig: Any, given: xr.Dataset | xr.DataArray, when: str, text: str, note: str = "") -> None:
    """Says what is drawn, below the layer and when it was recorded, or beside the layer if it was not."""
    lines = [heading(given, when), text, note] if when else [heading(given, text), note]
    add_title(fig, "\n".join(filter(None, lines)), _TITLE)


def panel_name(direction: Any, gate: Any) -> str:
    """What a panel is called: direction and gate, of those that there are."""
    return literal(" · ".join(filter(None, [str(direction), str(gate)])))


def counted(number: int, word: str) -> str:
    """A number of things, in words: ``3 units``, ``1 unit``."""
    return f"{number:,} {word}{'s' * (number != 1)}"


def tidy(ax: Axes) -> None:
    """A pale grid behind what is drawn, and no frame above and to the right."""
    ax.grid(True, color=GREY, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
