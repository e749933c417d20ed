"""The command line: ``python -m see_rnn_like`` or ``see-rnn-like``."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from see_rnn_like import __version__
from see_rnn_like.errors import ArgumentError, SeeRNNError
from see_rnn_like.findings import Autopsy

if TYPE_CHECKING:
    from see_rnn_like.bundle import Bundle

REPRODUCED, NOT_REPRODUCED, FAILED = 0, 1, 2
INTERRUPTED = 130  # as shells have it

#: Columns; wider lines are hard to read.
_MAX_WIDTH = 100

#: Parts of a place that a replay has to find again; the step is not computed but noted.
_PLACE = ("phase", "layer", "direction", "role", "gate", "timestep", "units", "samples")

_REPLAY = """\
Runs the train step that a NaNGuard wrote to disk again, and shows the first
tensor that is not finite. The bundle may come from a stranger: nothing in it
is run but Keras's own layers, and the code you give.
"""

_EPILOG = """\
exit status:
  0  the step went bad again, in the same place
  1  it did not, or in another place
  2  the bundle, the code or the command line cannot be used
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit status: 0, 1 or 2 as the help says.

    Example:
        >>> main(["replay", "no-such-bundle"])
        2
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as ended:  # argparse has printed the help, the version or what is wrong
        return int(ended.code or 0)
    try:
        return int(arguments.run(arguments))
    except SeeRNNError as error:
        print(f"see-rnn-like: {_printable(str(error))}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("see-rnn-like", description="See inside recurrent networks.")
    parser.add_argument("--version", action="version", version=f"see-rnn-like {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    replay = commands.add_parser(
        "replay",
        help="run the train step of a replay bundle again",
        description=_REPLAY,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    replay.add_argument("bundle", metavar="BUNDLE", help="directory of the bundle, e.g. runs/a/nan-step-1284")
    replay.add_argument(
        "--code",
        metavar="FILE.py",
        help="your file with the classes and functions the model needs besides Keras's own; it is imported, "
        "and the bundle may use every class and function defined in it",
    )
    replay.set_defaults(run=_replay)
    return parser


def _replay(arguments: argparse.Namespace) -> int:
    with _quiet_tensorflow():
        from see_rnn_like import bundle as bundles
    bundle = bundles.read(arguments.bundle)
    _show_bundle(bundle, bundles.versions())
    custom_objects = {} if arguments.code is None else _code(Path(arguments.code))
    found = bundles.replay(bundle, custom_objects=custom_objects)
    if found is None:
        print(_wrapped("\nNot reproduced: this time the loss and all gradients are finite."))
        return NOT_REPRODUCED
    _show_autopsy(found)
    return _compare(bundle.autopsy, found)


# -- what is printed -------------------------------------------------------------------------------


def _show_bundle(bundle: Bundle, here: dict[str, str]) -> None:
    from see_rnn_like.bundle.arrays import shapes

    size = bundle.model.get("parameters")
    rows = [
        ("bundle", str(bundle.directory)),
        ("written", bundle.created),
        ("model", f"{bundle.model.get('name')}, {size:,} parameters" if isinstance(size, int) else ""),
        ("step", str(bundle.autopsy.where.step)),
        *((f"batch{place}", f"{list(shape)} {dtype}") for place, shape, dtype in shapes(bundle.batch)),
        ("versions", ", ".join(f"{_title(name)} {version}" for name, version in bundle.versions.items())),
    ]
    _table([row for row in rows if row[1]])
    different = [
        f"{_title(name)} {here[name]} instead of {bundle.versions.get(name)}"
        for name in here
        if here[name] != bundle.versions.get(name)
    ]
    if different:
        print(_wrapped(f"warning: versions differ, results may too: {', '.join(different)}"))
    print(_wrapped(f"\nWhen it was written: {bundle.autopsy.message}"))


def _title(name: str) -> str:
    return name.removesuffix("_version")


def _show_autopsy(found: Autopsy) -> None:
    print(_wrapped(f"\nReplayed: {found.message}\n"))
    where = [(name, getattr(found.where, name)) for name in ("step", *_PLACE)]
    _table([(name, _value(value)) for name, value in where if value is not None])
    if found.evidence:
        print()
        _table([(name, _value(value)) for name, value in found.evidence.items()])
    print(_wrapped(f"\nWhat to do: {found.advice}"))


def _compare(written: Autopsy, found: Autopsy) -> int:
    different = [
        f"{name} {_value(getattr(found.where, name))} instead of {_value(getattr(written.where, name))}"
        for name in _PLACE
        if getattr(found.where, name) != getattr(written.where, name)
    ]
    if different:
        print(_wrapped(f"\nNot reproduced: another place than when it was written: {', '.join(different)}."))
        return NOT_REPRODUCED
    print(_wrapped("\nReproduced: the same place as when it was written."))
    return REPRODUCED


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple | list):
        shown = ", ".join(map(_value, value[:10]))
        return f"{shown}, … ({len(value)} in all)" if len(value) > 10 else shown
    return str(value)


def _table(rows: Sequence[tuple[str, str]]) -> None:
    longest = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(_wrapped(f"{name.ljust(longest)}  {value}", indent=longest + 2))


def _wrapped(text: str, indent: int = 0) -> str:
    """As wide as the terminal; leading and trailing line breaks are kept."""
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH)
    lines = _printable(text).split("\n")
    return "\n".join(textwrap.fill(line, width, subsequent_indent=" " * indent) for line in lines)


def _printable(text: str) -> str:
    """Text of a stranger without what steers a terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text)


# -- the user's own code ---------------------------------------------------------------------------


def _code(file: Path) -> dict[str, Any]:
    """Imports a file of the user's; returns what the model of a bundle may use of it.

    That is what is registered with Keras meanwhile, and the classes and functions defined in it; not
    functions it merely imports, such as `subprocess.run`.
    """
    import keras

    before = dict(keras.saving.get_custom_objects())
    module = _imported(file)
    defined = {
        name: found
        for name, found in vars(module).items()
        if (inspect.isclass(found) or inspect.isfunction(found)) and found.__module__ == module.__name__
    }
    registered = {
        name: found
        for name, found in keras.saving.get_custom_objects().items()
        if found is not before.get(name)
    }
    return defined | registered


def _imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ArgumentError(f"--code takes a Python file such as model.py; got '{file}'")
    module = importlib.util.module_from_spec(spec)
    # As if it were run: it finds what lies beside it.
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ArgumentError(f"'{file}' cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.resolve().parent))
    return module


@contextlib.contextmanager
def _quiet_tensorflow() -> Iterator[None]:
    """TensorFlow's greetings are not part of the answer; errors still come through."""
    before = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        yield
    finally:
        if before is None:
            del os.environ["TF_CPP_MIN_LOG_LEVEL"]
