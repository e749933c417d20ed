"""A text coloured by what a unit does while the network reads it, as HTML."""

from __future__ import annotations

import functools
import html
import math
import reprlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.colors import to_hex
from seaborn.utils import relative_luminance

from see_rnn_like.errors import ArgumentError, ArgumentTypeError, one_of
from see_rnn_like.plots.arguments import position
from see_rnn_like.plots.colors import BAD_CELL

#: Shades on either side of the neutral one.
_SHADES = 10
#: seaborn's pair of perceptually even diverging maps: neutral is white in the one, black in the other.
_LIGHT, _DARK = "vlag", "icefire"
#: Luminance at which black and white text have the same contrast, 4.6 : 1 (WCAG 2.2, contrast ratio).
_MIDDLE_LUMINANCE = math.sqrt(1.05 * 0.05) - 0.05
#: What is written for characters that would not be seen.
_SHOWN = {"\n": "↵\n", "\t": "⇥\t", "\r": "␍"}


@dataclass(frozen=True)
class ColoredText:
    """A text coloured by units, see `plot_units_on_text`. Notebooks show it.

    Attributes:
        html: a fragment for the inside of an HTML page, plain ASCII, with its own style and no scripts.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"<ColoredText: {len(self.html):,} characters of HTML>"


def plot_units_on_text(
    traced: xr.Dataset,
    text: str | Sequence[str],
    unit: int | Sequence[int],
    *,
    state: str = "h",
    sample: int = 0,
    direction: str | None = None,
) -> ColoredText:
    """Colours a text, character by character, by the state of a unit after reading that character.

    As in Karpathy, Johnson & Li (2015), "Visualizing and understanding recurrent networks", figure 2. Blue is
    negative, red positive, neutral 0; colours are symmetric about 0 and reach to the largest size of the
    unit on this text. Light and dark themes are followed; letters keep a contrast of 4.5 : 1 on every shade.
    Line ends are shown as ↵, what cannot be shown as �, masked timesteps faded and without colour, NaN and
    Inf in green. The mouse shows the numbers.

    Args:
        traced: the result of `trace`.
        text: what was read: a string of one character per timestep, or a list of one string per timestep.
        unit: which unit, or several: one block each.
        state: which state, ``"h"`` or for LSTM ``"c"``.
        sample: which sample.
        direction: ``"forward"`` or ``"backward"``, of a Bidirectional layer.

    Returns:
        An object that notebooks show, with the attribute `html`.

    Raises:
        ArgumentError: if it is not a trace, the text has another length, there is no such unit, state, sample
            or direction, or a Bidirectional layer comes without a direction.
        ArgumentTypeError: if `text` is no text, or `unit` or `sample` no whole number.

    Example:
        >>> h = xr.DataArray([[[0.5], [-0.5]]], dims=("sample", "time", "unit"))
        >>> traced = xr.Dataset({"gates": h.expand_dims(gate=["hidden"]), "h": h}, attrs={"gating": []})
        >>> "&lt;" in plot_units_on_text(traced, "a<", 0).html
        True
    """
    part = _reading(traced, state, sample, direction)
    tokens = _tokens(text, part.sizes["time"])
    values, gates = part[state].transpose("time", "unit").values, part["gates"].transpose("time", ...).values
    is_masked = np.isnan(gates).all(axis=(1, 2)) & np.isfinite(values).all(axis=1)
    units = [unit] if np.ndim(unit) == 0 else list(unit)  # type: ignore[arg-type]
    places = [position("unit", each, values.shape[1]) for each in units]
    where = [str(traced.attrs.get("layer", "")), direction or "", f"state {state}", f"sample {sample}"]
    blocks = [
        _block(" · ".join(filter(None, [f"unit {place}", *where])), tokens, values[:, place], is_masked)
        for place in places
    ]
    page = f'<div class="srl-units"><style>{_style()}</style>{"".join(blocks)}</div>'
    # Whatever encoding a file or a page has, ASCII survives it.
    return ColoredText(page.encode("ascii", "xmlcharrefreplace").decode("ascii"))


# ---- what was asked for --------------------------------------------------------------------------


def _reading(traced: Any, state: str, sample: int, direction: str | None) -> xr.Dataset:
    """One sample and direction of a trace."""
    if not isinstance(traced, xr.Dataset) or "gates" not in traced:
        raise ArgumentError(
            f"plot_units_on_text takes the Dataset that trace() returns; got {reprlib.repr(traced)}"
        )
    states = [str(name) for name in traced.data_vars if name != "gates"]
    if state not in states:
        raise one_of("state", state, states)
    directions = [str(name) for name in traced["direction"].values] if "direction" in traced.dims else []
    if directions and direction not in directions:
        raise one_of("direction", direction, directions)
    if not directions and direction is not None:
        raise ArgumentError(f"this layer has one direction: leave direction out; got {direction!r}")
    part = traced.sel(direction=direction) if directions else traced
    return part.isel(sample=position("sample", sample, traced.sizes["sample"]))


def _tokens(text: Any, timesteps: int) -> list[str]:
    tokens = list(text) if isinstance(text, str | Sequence) else [text]
    if not all(isinstance(token, str) for token in tokens):
        raise ArgumentTypeError(f"text is a string or a list of strings; got {reprlib.repr(text)}")
    if len(tokens) != timesteps:
        what = "string" if isinstance(text, str) else "list"
        raise ArgumentError(
            f"text is a {what} of length {len(tokens)}, the trace has {timesteps} timesteps; give what was "
            "read at each"
        )
    return tokens


# ---- HTML ----------------------------------------------------------------------------------------


def _block(title: str, tokens: Sequence[str], values: np.ndarray, is_masked: np.ndarray) -> str:
    finite = values[np.isfinite(values) & ~is_masked].astype("float64")
    limit = float(np.abs(finite).max(initial=0.0)) or 1.0
    bad = int((~np.isfinite(values)).sum())
    told = f"{title} · {bad} NaN or Inf" if bad else title
    spans = map(_span, tokens, values.astype("float64"), is_masked, [limit] * len(tokens))
    return (
        f'<div class="srl-unit" role="figure" aria-label="{html.escape(told)}">'
        f'<div class="srl-head"><b>{html.escape(told)}</b>'
        f'<span class="srl-key">{-limit:.3g}<i></i>{limit:.3g}</span></div>'
        f'<div class="srl-read">{"".join(spans)}</div></div>'
    )


def _span(token: str, value: float, is_masked: bool, limit: float) -> str:
    shade = "m" if is_masked else f"s{round((value / limit + 1) * _SHADES)}" if math.isfinite(value) else "n"
    number = "masked" if is_masked else f"{value:.3g}"
    return f'<span class="{shade}" title="{number}">{html.escape("".join(map(_visible, token)))}</span>'


def _visible(char: str) -> str:
    """Control characters and marks that turn the direction of writing are shown, not obeyed."""
    if char.isprintable() or unicodedata.category(char) == "Zs":
        return char
    return _SHOWN.get(char, "\ufffd")


@functools.cache
def _style() -> str:
    """Rules for this fragment alone; what is around it is left as it is."""
    dark = f"@media screen and (prefers-color-scheme:dark){{{_theme(_DARK)}}}"
    return _LAYOUT + _theme(_LIGHT) + dark


def _theme(cmap: str) -> str:
    colors = sns.color_palette(cmap, as_cmap=True)(np.linspace(0, 1, 2 * _SHADES + 1))
    shades = [to_hex(color) for color in colors]
    classes = {**{f"s{i}": shade for i, shade in enumerate(shades)}, "n": BAD_CELL}
    rules = [
        f".srl-units .{name}{{background:{color};color:{_ink(color)}}}" for name, color in classes.items()
    ]
    neutral = shades[_SHADES]
    rules.append(f".srl-units .srl-unit{{background:{neutral};color:{_ink(neutral)}}}")
    rules.append(f".srl-units i{{background:linear-gradient(90deg,{','.join(shades)})}}")
    return "".join(rules)


def _ink(background: str) -> str:
    return "#000" if relative_luminance(background) > _MIDDLE_LUMINANCE else "#fff"


_LAYOUT = (
    ".srl-units .srl-unit{border:1px solid #8888;border-radius:6px;margin:0 0 .75em;padding:.5em .75em}"
    ".srl-units .srl-head{display:flex;flex-wrap:wrap;justify-content:space-between;gap:.25em 1.5em;"
    "margin-bottom:.4em;font:.85em/1.4 system-ui,sans-serif}"
    ".srl-units b{overflow-wrap:anywhere}"
    ".srl-units .srl-key{white-space:nowrap;font-variant-numeric:tabular-nums}"
    ".srl-units i{display:inline-block;width:8em;height:.8em;margin:0 .5em;border:1px solid #8888;"
    "vertical-align:-.05em}"
    ".srl-units .srl-read{font:.95em/1.6 ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
    "white-space:break-spaces;overflow-wrap:anywhere;tab-size:4;text-align:left;unicode-bidi:isolate}"
    ".srl-units .m{opacity:.5}"
)
