"""The errors and warnings of the package: one small tree.

Every error is a `SeeRNNError` and also the built-in error a caller would expect, so both
`except SeeRNNError` and `except ValueError` work.
"""

from __future__ import annotations

from collections.abc import Iterable


class SeeRNNError(Exception):
    """Base of every error this package raises on purpose."""


class ArgumentError(SeeRNNError, ValueError):
    """An argument has a value that cannot be used."""


class ArgumentTypeError(SeeRNNError, TypeError):
    """An argument has a type that cannot be used."""


class UnknownLayerError(SeeRNNError, ValueError):
    """An id matches no layer or no weight of the model."""


class UnsupportedLayerError(SeeRNNError, TypeError):
    """The layer exists but cannot give what is asked for (for example gates of a Dense layer)."""


class ForeignModelError(SeeRNNError, TypeError):
    """The model is not a Keras 3 model on a backend that has an engine."""


class UnknownTensorError(SeeRNNError, KeyError):
    """The run holds no tensor under that key."""

    # KeyError prints the repr of its argument, which turns a sentence into a quoted string.
    __str__ = Exception.__str__


class StoreError(SeeRNNError, RuntimeError):
    """A run file or a replay bundle cannot be written, read or used."""


class StoreVersionError(StoreError):
    """A run file or a replay bundle was written by another version of the format."""


class DamagedStoreError(StoreError):
    """A run file or a replay bundle is truncated, damaged or not one at all."""


class UntrustedModelError(SeeRNNError, ValueError):
    """The model of a replay bundle asks for code that nobody handed in, or that no bundle may run."""


class CaptureError(SeeRNNError, RuntimeError):
    """Something that should have been recorded could not be."""


class NonFiniteError(SeeRNNError, RuntimeError):
    """A NaN or Inf was found and the caller asked to raise (`on_nan="raise"`)."""


class NonFiniteWarning(UserWarning):
    """A NaN or Inf was found and the caller asked to be warned (`on_nan="warn"`)."""


class MonitorWarning(UserWarning):
    """A capture was switched off because it failed; training goes on."""


def one_of(what: str, given: object, valid: Iterable[object]) -> ArgumentError:
    """Builds the error for a value outside a closed list of choices.

    Args:
        what: name of the argument.
        given: the value received.
        valid: the values that would have been accepted.

    Returns:
        The error, ready to raise.

    Example:
        >>> str(one_of("level", "all", ["stats", "full"]))
        "level must be one of 'stats', 'full'; got 'all'"
    """
    return ArgumentError(f"{what} must be one of {', '.join(map(repr, valid))}; got {given!r}")
