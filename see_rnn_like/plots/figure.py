"""What the see-rnn plotters share about a figure: its size, its styles, its words, its file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from see_rnn_like.errors import ArgumentError, ArgumentTypeError
from see_rnn_like.stats import count_nonfinite

#: Arguments that matplotlib knows by two names, and refuses if it gets both.
_ONE_NAME = {
    "fontweight": "weight",
    "horizontalalignment": "ha",
    "ls": "linestyle",
    "lw": "linewidth",
    "size": "fontsize",
    "verticalalignment": "va",
}

#: Keyword arguments of a text that stays legible over what is drawn.
LEGIBLE: dict[str, Any] = {"bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 1}}

#: Share of the figure's width that a title may take before it is made smaller.
_TITLE_WIDTH = 0.97

#: What the caller gives: drawing element → keyword arguments of the matplotlib call that draws it.
Configs = Mapping[str, Mapping[str, Any]]
Styles = dict[str, dict[str, Any]]
Savepath = str | os.PathLike[str]


def merge_styles(configs: Configs | None, defaults: Styles) -> Styles:
    """Lays the caller's styles over the defaults, key by key.

    Args:
        configs: drawing element → keyword arguments of the matplotlib call that draws it; None for none.
        defaults: all elements the plotter draws, with their default keyword arguments.

    Returns:
        A new dict; nothing of `configs` or `defaults` is shared where it could be changed.

    Raises:
        ArgumentError: for an element the plotter does not draw.
        ArgumentTypeError: for something else than dicts.

    Example:
        >>> merge_styles({"title": {"fontsize": 9}}, {"title": {"fontsize": 14, "y": 1}, "save": {}})
        {'title': {'fontsize': 9, 'y': 1}, 'save': {}}
    """
    configs = {} if configs is None else configs
    if not isinstance(configs, Mapping):
        raise ArgumentTypeError(f"configs is a dict of dicts, one per drawing element; got {configs!r}")
    unknown = [key for key in configs if key not in defaults]
    if unknown:
        raise ArgumentError(f"unknown configs key {unknown[0]!r}; this plot draws {', '.join(defaults)}")
    return {key: _overlay(key, style, configs.get(key, {})) for key, style in defaults.items()}


def _overlay(key: str, under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(over, Mapping):
        raise ArgumentTypeError(f"configs[{key!r}] is a dict of keyword arguments; got {over!r}")
    merged = {**under, **{_ONE_NAME.get(name, name): value for name, value in over.items()}}
    nested = [name for name, value in under.items() if isinstance(value, Mapping)]
    return merged | {name: _overlay(name, under[name], merged[name]) for name in nested}


@contextmanager
def drawn_whole(configs: Configs | None, savepath: Savepath | None) -> Iterator[None]:
    """A plot that is drawn whole or not at all: figures opened inside are closed if it fails.

    Args:
        configs: what the caller gave, to be named if matplotlib does not know a keyword argument in it.
        savepath: what the caller gave.

    Raises:
        ArgumentError: for a file that cannot be written where `savepath` says, before anything is drawn,
            and for a keyword argument in `configs` that matplotlib does not know.
    """
    check_savepath(savepath)
    before = set(plt.get_fignums())
    try:
        yield
    except Exception as error:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        entries = _entries_named_in(configs, error)
        if not entries:
            raise
        raise ArgumentError(f"matplotlib does not take what {entries} holds: {error}") from error


def check_savepath(savepath: Savepath | None) -> None:
    """Refuses a file in a directory that does not exist, or one that is a directory.

    Raises:
        ArgumentError: if so.
    """
    if savepath is None:
        return
    path = Path(savepath)
    if not path.parent.is_dir():
        raise ArgumentError(
            f"savepath {str(path)!r}: there is no directory {str(path.parent)!r}; create it first"
        )
    if path.is_dir():
        raise ArgumentError(f"savepath {str(path)!r} is a directory; give the name of a file in it")


def _entries_named_in(configs: Configs | None, error: Exception) -> str:
    """The entries of `configs` with the keyword argument that matplotlib complains of; empty if none."""
    if not isinstance(configs, Mapping) or not isinstance(error, (AttributeError, TypeError)):
        return ""
    if not any(words in str(error) for words in ("unexpected keyword", "has no property")):
        return ""
    found = [f"configs[{key!r}][{name!r}]" for key, name in _named(configs) if f"'{name}'" in str(error)]
    return " or ".join(found)


def _named(configs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every keyword argument with its entry, also those of nested dicts."""
    for key, style in configs.items():
        for name, value in style.items():
            yield key, name
            if isinstance(value, Mapping):
                yield from ((key, inner) for _, inner in _named({name: value}))


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """An argument for x and y: a pair as it is, one value for both.

    Raises:
        ArgumentError: for a sequence of another length.

    Example:
        >>> pair("share_xy", ("col", 1)), pair("show_xy_ticks", 0)
        (('col', 1), (0, 0))
    """
    if not isinstance(value, (tuple, list, np.ndarray)):
        return value, value
    if len(value) != 2:
        raise ArgumentError(f"{name} is one value or a pair (x, y); got {value!r}")
    return value[0], value[1]


def two_numbers(name: str, limits: Any) -> np.ndarray:
    """Limits of an axis, float64 ``(2,)``.

    Raises:
        ArgumentError: if they are not two finite numbers, the first below the second.

    Example:
        >>> two_numbers("xlims", (-1, 2)).tolist()
        [-1.0, 2.0]
    """
    low, high = pair(name, limits)
    if not (np.isfinite([low, high]).all() and low < high):
        raise ArgumentError(f"{name} must be two finite numbers in ascending order; got {limits!r}")
    return np.array([low, high], dtype=float)


def new_figure(subplot: dict[str, Any], w: float, h: float) -> Figure:
    """Opens a figure of its own, scaled by `w`, `h` and the environment variable SCALEFIG.

    Like the figures of `matplotlib.pyplot.subplots` it is known to pyplot, so a notebook or
    ``plt.show()`` shows it; figures that were open before are left alone.

    Args:
        subplot: style of the figure; `figsize` (inches), `dpi` and other arguments of
            `matplotlib.pyplot.figure` are taken out of it.
        w: factor of the width.
        h: factor of the height.

    Raises:
        ArgumentError: if a factor is not positive.
    """
    if not (w > 0 and h > 0):
        raise ArgumentError(f"w and h scale the figure and must be positive; got w={w!r}, h={h!r}")
    settings = {
        name: subplot.pop(name)
        for name in ("figsize", "dpi", "facecolor", "edgecolor", "frameon", "num", "clear")
        if name in subplot
    }
    width, height = settings.pop("figsize")
    # A layout that the user has set for all figures is none for grids with margins of their own.
    fig = plt.figure(figsize=(width * w, height * h), layout="none", **settings)
    scalefig(fig)
    return fig


def scalefig(fig: Figure) -> None:
    """Scales a figure in place by the environment variable ``SCALEFIG``.

    Every plotter of this package calls it once. The variable holds one factor (``"1.1"``) or two,
    width and height (``"(1, 1.1)"``, ``"1,1.1"``, ``"[1, 1.1]"``); unset means 1.

    Args:
        fig: the figure.

    Raises:
        ArgumentError: if the variable holds something else.

    Example:
        >>> os.environ["SCALEFIG"] = "(1, 2)"
        >>> fig = Figure(figsize=(3, 4))
        >>> scalefig(fig)
        >>> fig.get_size_inches().tolist()
        [3.0, 8.0]
        >>> del os.environ["SCALEFIG"]
    """
    text = os.environ.get("SCALEFIG", "1")
    try:
        factors = [float(part) for part in text.strip("[()] ").split(",")]
    except ValueError:
        factors = []
    if len(factors) not in (1, 2) or not all(0 < factor < np.inf for factor in factors):
        raise ArgumentError(
            "the environment variable SCALEFIG holds one positive number or two, such as '1.1' or "
            f"'(1, 1.1)'; got {text!r}"
        )
    width, height = fig.get_size_inches()
    fig.set_size_inches(width * factors[0], height * factors[-1])


def add_title(fig: Figure, title: str, style: Mapping[str, Any]) -> Text | None:
    """Writes the figure's title, smaller if it were wider than the figure; nothing for an empty one."""
    if not title:
        return None
    text = fig.suptitle(title, **style)
    wide = text.get_window_extent().width / (_TITLE_WIDTH * fig.bbox.width)
    if wide > 1 and "fontsize" not in style:
        text.set_fontsize(float(text.get_fontsize()) / wide)
    return text


def nonfinite_note(*arrays: Any) -> str:
    """How many NaN and Inf there are in all, for a title; empty if none.

    Example:
        >>> nonfinite_note(np.array([1.0, np.nan]), np.array([np.nan, np.inf]))
        '2 NaN, 1 Inf'
    """
    nan, inf = np.sum([count_nonfinite(array) for array in arrays], axis=0, dtype=int) if arrays else (0, 0)
    return ", ".join(f"{n} {name}" for n, name in ((nan, "NaN"), (inf, "Inf")) if n)


def clipnums(nums: Any) -> str | list[str]:
    """Short texts of numbers, for ticks.

    Whole numbers stay whole, numbers between 0.001 and 1000 get three decimals, others two and a
    power of ten.

    Args:
        nums: one number, or a list or tuple of them.

    Returns:
        One text for one number, else a list.

    Example:
        >>> clipnums([3, 2.0, 0.12345, 12345.6, -1e-5, float("nan")])
        ['3', '2', '0.123', '1.23e+4', '-1.00e-5', 'nan']
        >>> clipnums(0.5)
        '0.500'
    """
    if not isinstance(nums, (list, tuple, np.ndarray)) or np.ndim(nums) == 0:
        return _clipnum(nums)
    texts = [_clipnum(num) for num in nums]
    return texts if len(texts) != 1 else texts[0]


def _clipnum(num: Any) -> str:
    number = float(num)
    if number.is_integer() and abs(number) < 1e6:
        return str(int(number))
    if not np.isfinite(number) or 1e-3 < abs(number) < 1e3:
        return f"{number:.3f}"
    mantissa, exponent = f"{number:.2e}".split("e")
    return f"{mantissa}e{int(exponent):+d}"


def save_figures(figs: Sequence[Figure], savepath: Savepath | None, style: dict[str, Any]) -> None:
    """Writes figures to files: one to `savepath`, several to ``name_0.ext``, ``name_1.ext``, ….

    Args:
        figs: at least one figure.
        savepath: file name whose extension says the format; None writes nothing.
        style: keyword arguments of `Figure.savefig`.

    Raises:
        ArgumentError: if `savepath` is in a directory that does not exist; nothing is written.
    """
    check_savepath(savepath)
    if savepath is None:
        return
    path = Path(savepath)
    several = len(figs) > 1
    for i, fig in enumerate(figs):
        fig.savefig(path.with_name(f"{path.stem}_{i}{path.suffix}") if several else path, **style)
