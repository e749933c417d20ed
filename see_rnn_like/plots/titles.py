"""Titles that name the axes, and the counts of NaN and Inf in them."""

from __future__ import annotations

from typing import Any

import numpy as np

from see_rnn_like.plots.figure import nonfinite_note

_FEATURE = {"grads": "Gradients", "outputs": "Outputs", "generic": "Values"}


def title_1d(title: bool | str, ndim: int, subplot_samples: bool) -> str:
    """The title of `features_1D`: one that names the axes, a text as it is, or none.

    Example:
        >>> title_1d("grads", 3, False), title_1d("My net", 3, False), title_1d(False, 2, True)
        ('((Gradients vs. Timesteps) vs. Samples) vs. Channels', 'My net', '')
        >>> title_1d(True, 3, False)
        'Values over timesteps: a panel per channel, a curve per sample'
    """
    if (word := _word(title)) not in _FEATURE:
        return word
    curves, panels = ("Channels", "Samples") if subplot_samples else ("Samples", "Channels")
    if word == "generic":
        each = f", a curve per {curves[:-1].lower()}" if ndim == 3 else ""
        return f"Values over timesteps: a panel per {panels[:-1].lower()}{each}"
    plain = f"({_FEATURE[word]} vs. Timesteps)"
    return f"({plain} vs. {curves}) vs. {panels}" if ndim == 3 else f"{plain} vs. {panels}"


def title_2d(title: bool | str, ndim: int, timesteps_xaxis: bool, limits: tuple[float, float]) -> str:
    """The title of `features_2D`: ``((y vs. x) vs. colour) vs. panels -- norm``.

    Example:
        >>> title_2d("grads", 2, True, (-0.5, 0.5))
        '(Channels vs. Timesteps) vs. Gradients -- norm=(-0.5, 0.5)'
    """
    if (word := _word(title)) not in _FEATURE:
        return word
    rows, columns = ("Channels", "Timesteps") if timesteps_xaxis else ("Timesteps", "Channels")
    plain = f"({rows} vs. {columns}) vs. {_FEATURE[word]}"
    panels = f"({plain}) vs. Samples" if ndim == 3 else plain
    if word == "generic":
        panels = f"Values: {columns.lower()} across, {rows.lower()} down" + ", a panel per sample" * (
            ndim == 3
        )
    return f"{panels} -- norm=({limits[0]:.4G}, {limits[1]:.4G})"


def title_hist(title: bool | str | None) -> str:
    """The title of `features_hist`.

    Example:
        >>> title_hist("grads"), title_hist("My net"), title_hist(None)
        ('(Counts vs. Gradients) vs. Samples', 'My net', '')
    """
    word = _word(title)
    if word == "generic":
        return "Counts of values: a panel per sample"
    return f"(Counts vs. {_FEATURE[word]}) vs. Samples" if word in _FEATURE else word


def title_0d(title: bool | str) -> str:
    """The title of `features_0D`.

    Example:
        >>> title_0d("outputs")
        '(Outputs vs. Samples) vs. Channels'
    """
    word = _word(title)
    if word == "generic":
        return "Values of the samples: a colour per channel"
    return f"({_FEATURE[word]} vs. Samples) vs. Channels" if word in _FEATURE else word


def with_counts(title: str, *arrays: Any) -> str:
    """The title, with a line that counts NaN and Inf if there are any.

    Example:
        >>> with_counts("My net", np.array([0.0, np.nan])).splitlines()
        ['My net', '1 NaN']
    """
    note = nonfinite_note(*(np.ma.getdata(array) for array in arrays))
    return "\n".join(line for line in (title, note) if line)


def _word(title: bool | str | None) -> str:
    if title is True:
        return "generic"
    return title or ""
