"""What holds for every picture: it is drawn, nothing is shown or printed, nothing else changes."""

from __future__ import annotations

import contextlib
import hashlib

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def tidy(monkeypatch, capsys):
    """Around a test: no `plt.show`, no output, the same rcParams, no figure left open."""
    shown = []
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: shown.append(args))
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before
    assert shown == []
    assert tuple(capsys.readouterr()) == ("", "")


def digest(array):
    array = np.asarray(array)
    return array.dtype, array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@contextlib.contextmanager
def unchanged(*arrays):
    """Arrays are the same afterwards, bit by bit."""
    before = [digest(array) for array in arrays]
    yield
    assert [digest(array) for array in arrays] == before


def pixels(fig):
    """The figure as it is seen, RGBA ``(row, column, 4)``."""
    fig.canvas.draw()
    return np.asarray(fig.canvas.buffer_rgba())


def nothing_is_cut_off(fig):
    """Whether everything that is drawn lies on the figure."""
    fig.canvas.draw()
    drawn, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
    slack = 1 / fig.dpi
    return (
        drawn.x0 >= -slack and drawn.y0 >= -slack and drawn.x1 <= width + slack and drawn.y1 <= height + slack
    )


def shows(fig, color):
    """Whether a pixel of the figure has this colour."""
    wanted = 255 * np.array(mpl.colors.to_rgb(color))
    return bool((np.abs(pixels(fig)[..., :3] - wanted) < 3).all(-1).any())


def drawn(fig):
    """Renders, as a notebook would; warnings are errors."""
    fig.savefig("/dev/null", format="png")
    return fig


def legend_texts(fig):
    """The words of the legends of a figure."""
    return [text.get_text() for legend in fig.legends for text in legend.get_texts()]


def line_of(ax, label):
    """The one line of this label."""
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line
