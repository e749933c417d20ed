"""Many short texts as one artist: a `matplotlib.text.Text` costs half a millisecond to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D, Bbox, Transform

#: Height of a capital letter or digit of matplotlib's default font, as a share of the font size.
_CAP_HEIGHT = 0.73


class Labels(PathCollection):
    """Texts of one font and colour at many places.

    Attributes:
        texts: what is written.
    """

    def __init__(
        self,
        texts: Sequence[str],
        anchors: np.ndarray,
        transform: Transform,
        *,
        dpi: float,
        size: float | str,
        weight: Any = None,
        color: Any = None,
        ha: str = "left",
        va: str = "baseline",
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Makes the artist.

        Args:
            texts: what is written.
            anchors: places of the texts ``(text, 2)``.
            transform: from the places to pixels.
            dpi: pixels per inch.
            size: of the font, in points or in matplotlib's words.
            weight: of the font.
            color: of the font.
            ha: what of a text is at its place: ``left``, ``center`` or ``right``.
            va: ``baseline``, ``center`` or ``top``, of capital letters and digits.
            shift: of all texts, in points.
        """
        font = FontProperties(weight=weight, size=size)
        shapes = {text: _shape(text, font, ha, va, shift) for text in set(texts)}
        super().__init__(
            [shapes[text] for text in texts],
            offsets=anchors,
            offset_transform=transform,
            facecolors=color,
            edgecolors="none",
            clip_on=False,
            zorder=3,
        )
        # Shapes are in points.
        self.set_transform(Affine2D().scale(dpi / 72))
        self.texts = tuple(texts)
        self._anchors = np.asarray(anchors, dtype=float)
        self._anchored = transform
        self._pixels_per_point = dpi / 72

    def get_window_extent(self, renderer: Any = None) -> Bbox:
        """The box around all texts in pixels, for layouts and for saving with ``bbox_inches="tight"``."""
        # By the points that define a shape: all of it lies between them.
        points = [np.asarray(path.vertices) for path in self.get_paths()]
        low = np.array([each.min(axis=0) for each in points]) * self._pixels_per_point
        high = np.array([each.max(axis=0) for each in points]) * self._pixels_per_point
        places = self._anchored.transform(self._anchors)
        return Bbox([(places + low).min(axis=0), (places + high).max(axis=0)])


def _shape(text: str, font: FontProperties, ha: str, va: str, shift: tuple[float, float]) -> Path:
    path = TextPath((0, 0), text, prop=font)
    width = path.vertices[:, 0].max(initial=0)
    left = {"left": 0.0, "center": -width / 2, "right": -width}[ha]
    height = _CAP_HEIGHT * font.get_size_in_points()
    bottom = {"baseline": 0.0, "center": -height / 2, "top": -height}[va]
    return Affine2D().translate(left + shift[0], bottom + shift[1]).transform_path(path)
