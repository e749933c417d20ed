"""From a matplotlib figure to SVG inside a page: real text, and colours that follow the page's theme."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
import matplotlib.style
from markupsafe import Markup
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

#: Background of the page in the dark theme, see report.css.
DARK_PAGE = "#16181d"
#: Group (`Artist.set_gid`) of what keeps its colours in the dark theme, as images do.
UNTHEMED = "unthemed"
#: Least contrast to the page: that of text (WCAG 2.2, 1.4.3), for thin lines need it as letters do.
_CONTRAST = 4.5

_INK = "#24292f"
_RC = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_DROPPED = ("metadata", "style", "title")


@contextmanager
def drawing_style(salt: str) -> Iterator[None]:
    """Inside, figures are drawn for the report, whatever style the user has set; after, all is as it was.

    Args:
        salt: makes the ids inside the SVG unique on the page and the same in every run of the program.
    """
    with warnings.catch_warnings(), mpl.style.context(["default", {**_RC, "svg.hashsalt": salt}]):
        # The text stays text and the browser has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        yield


def to_svg(fig: Figure, alt: str) -> Markup:
    """Writes a figure as an ``<svg>`` element for the inside of an HTML page.

    Args:
        fig: drawn inside `drawing_style`.
        alt: what the picture shows, for those who do not see it.

    Returns:
        The element: text as text, every colour but those of `UNTHEMED` parts as a variable of `theme`, no
        ids that could clash and no style rules that could reach the page around it.
    """
    buffer = io.BytesIO()
    fig.savefig(buffer, format="svg", dpi=130, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in _DROPPED:
                parent.remove(child)
    fixed = {part for group in root.iter() if group.get("id") == UNTHEMED for part in group.iter()}
    for element in root.iter():
        _localise(element, themed=element not in fixed)
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.attrib |= {"role": "img", "aria-label": visible(alt)}
    # ElementTree escapes all text and attributes, so what it writes is safe to insert.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def visible(text: object) -> str:
    r"""Text in which control characters and marks that turn the direction of writing are replaced.

    Example:
        >>> visible("a\x07b")
        'a�b'
    """
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in str(text))


def theme(pictures: list[Markup]) -> list[tuple[str, str, str]]:
    """The colours of pictures: name of the variable, value on a light page, value on a dark one."""
    names = sorted(
        {name for picture in pictures for name in re.findall(r"var\(--c-([0-9a-f]{6})\)", picture)}
    )
    return [(f"--c-{name}", f"#{name}", on_dark(f"#{name}")) for name in names]


def on_dark(colour: str) -> str:
    """The counterpart of a colour on the dark page: greys are inverted, others lightened until they show.

    Example:
        >>> on_dark("#24292f"), on_dark("#0072b2")
        ('#dbd6d0', '#338ec1')
    """
    red, green, blue = to_rgb(colour)
    if max(red, green, blue) - min(red, green, blue) < 0.08:
        return to_hex((1 - red, 1 - green, 1 - blue))
    white = 0.0
    while contrast(to_hex((red, green, blue)), DARK_PAGE) < _CONTRAST:
        white += 0.05
        red, green, blue = (value + (1 - value) * white for value in to_rgb(colour))
    return to_hex((red, green, blue))


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, 1 … 21 (WCAG 2.2, definition of contrast ratio).

    Example:
        >>> contrast("#000000", "#ffffff")
        21.0
    """
    low, high = sorted(_luminance(colour) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour)]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _localise(element: ElementTree.Element, themed: bool) -> None:
    """Takes the namespaces off (HTML knows SVG), the ids that number things, and makes colours variables."""
    element.tag = element.tag.rpartition("}")[2]
    for name in list(element.attrib):
        element.attrib[name.rpartition("}")[2]] = element.attrib.pop(name)
    if element.tag == "image" or re.fullmatch(rf"[\w.]+_\d+|{UNTHEMED}", element.get("id", "")):
        element.attrib.pop("id", None)
    if themed and "style" in element.attrib and element.tag != "image":
        element.set("style", _COLOUR.sub(lambda m: f"var(--c-{m[0][1:]})", element.get("style", "")))
