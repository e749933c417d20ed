"""Writing a report: the page put together and set down as one file, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
from markupsafe import Markup

from see_rnn_like.errors import ArgumentError, ArgumentTypeError, StoreError
from see_rnn_like.history import History, require_history
from see_rnn_like.plots.units import ColoredText
from see_rnn_like.report.page import build_page
from see_rnn_like.report.svg import visible


def write_report(
    run: History, path: str | os.PathLike[str], *, texts: Mapping[str, ColoredText] | None = None
) -> Path:
    """Writes what a run recorded as one HTML file, to be opened from disk, on any screen, without a network.

    It shows what was trained, the events (first of all the first NaN), loss, norms, update ratios and
    activations, and per layer, tensor and gate the curves, distributions and last statistics. Of recurrent
    layers whose inside was recorded on a probe batch it shows gradients through time, the saturation of
    gates and the memory horizon. `docs/report.md` says how to read it.

    Args:
        run: a live or a finished run; one without any step gives a report that says so.
        path: file to write, replaced if it exists; until the new report is complete the old one stays.
        texts: heading → a text coloured by units, as `plot_units_on_text` returns it; they come last.

    Returns:
        The path of the file.

    Raises:
        ArgumentTypeError: if `run` is no run, or `texts` holds something else.
        ArgumentError: if `path` is a directory or lies in one that does not exist.
        StoreError: if the file cannot be written (permissions, disk full); nothing is left behind.

    Example:
        >>> write_report(run, "report.html")  # doctest: +SKIP
        PosixPath('report.html')
    """
    require_history(run)
    colored = _checked_texts(texts)
    target = Path(path).expanduser()
    if target.is_dir():
        raise ArgumentError(
            f"the report needs the name of a file; '{target}' is a directory: try '{target / 'report.html'}'"
        )
    if not target.parent.is_dir():
        raise ArgumentError(
            f"cannot write '{target}': there is no directory '{target.parent}'; make it first"
        )
    _replace(target, render(run, colored))
    return target


def render(run: History, texts: Mapping[str, Markup] = MappingProxyType({})) -> str:
    """The report as HTML text; `texts` are fragments by heading."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("see_rnn_like", "report"),
        autoescape=True,
        finalize=_finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(page=build_page(run), texts=texts)


def _checked_texts(texts: Mapping[str, ColoredText] | None) -> dict[str, Markup]:
    if texts is not None and not isinstance(texts, Mapping):
        raise ArgumentTypeError(f"texts maps headings to coloured texts; got {type(texts).__name__}")
    for heading, text in (texts or {}).items():
        if not isinstance(heading, str) or not isinstance(text, ColoredText):
            raise ArgumentTypeError(
                "texts maps headings to what plot_units_on_text returns; got "
                f"{type(heading).__name__} → {type(text).__name__}"
            )
    # Made by plot_units_on_text, which has escaped what it was given.
    return {heading: Markup(text.html) for heading, text in (texts or {}).items()}


def _finalize(value: Any) -> str:
    return value if isinstance(value, Markup) else visible(value)


def _replace(target: Path, text: str) -> None:
    """Puts `text` in place of the file, atomically: written beside it, then renamed over it."""
    # Through a link, so that the link stays one; beside the file, for a rename cannot cross file systems.
    real = target.resolve()
    part = real.with_name(f".{real.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, real)
    except OSError as error:
        raise StoreError(f"the report cannot be written to '{target}': {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
