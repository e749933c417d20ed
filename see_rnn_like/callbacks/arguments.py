"""What a person may pass to `RNNMonitor`, checked before anything is done with it."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Iterable
from types import MappingProxyType
from typing import Any

import keras

from see_rnn_like.engine.train_step import CAPTURES
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, one_of
from see_rnn_like.extract.batches import Batch, read_batch
from see_rnn_like.extract.probe import PROBED

FIRST_BATCH = "first_batch"

_OF_WEIGHTS = ("weights", "updates", "gradients")

#: Preset → what is captured, and at which level.
PRESETS = MappingProxyType(
    {
        "light": (_OF_WEIGHTS, "norms"),
        "standard": ((*_OF_WEIGHTS, "outputs", "output_gradients"), "stats"),
        "full": ((*_OF_WEIGHTS, "outputs", "output_gradients", *PROBED), "full"),
    }
)


def checked_layers(layers: Any) -> Any:
    """Which layers to record, a single one as a tuple too; names are looked up when the model is known."""
    if layers is None or isinstance(layers, str | keras.layers.Layer):
        return layers
    wanted = tuple(layers) if isinstance(layers, Iterable) else (layers,)
    if not wanted or not all(isinstance(item, str | keras.layers.Layer) for item in wanted):
        raise ArgumentTypeError(
            'layers must be None for all, or names, paths or layer objects such as ["lstm", "encoder"]; '
            f"got {layers!r}"
        )
    return wanted


def checked_capture(capture: Collection[str]) -> tuple[str, ...]:
    """What to record, each name once."""
    if isinstance(capture, str) or not isinstance(capture, Collection):
        raise ArgumentTypeError(f'capture must be a list of names such as ["gradients"]; got {capture!r}')
    known = (*CAPTURES, *PROBED)
    if not capture:
        raise ArgumentError(f"capture must name at least one of {', '.join(known)}; got {capture!r}")
    return tuple(dict.fromkeys(checked("capture", name, known) for name in capture))


def checked_probe(probe: Any, capture: tuple[str, ...]) -> Batch | None:
    """The probe batch; None if it is to be taken from the training."""
    if isinstance(probe, str):
        checked("probe", probe, (FIRST_BATCH,))
        return None
    if not isinstance(probe, tuple | list) or not 1 <= len(probe) <= 3:
        raise ArgumentTypeError(
            f"probe must be (x, y), (x, y, sample_weight) or {FIRST_BATCH!r}; got {type(probe).__name__}"
        )
    batch = read_batch(*probe)
    if batch.y is None and "state_gradients" in capture:
        raise ArgumentError('capture "state_gradients" needs targets: probe=(x, y)')
    return batch


def checked_budget(budget: float | None) -> float | None:
    """A share of the time, or None for no budget."""
    if budget is None:
        return None
    if isinstance(budget, bool) or not isinstance(budget, numbers.Real):
        raise ArgumentTypeError(f"budget must be a share of the time such as 0.02, or None; got {budget!r}")
    if not 0 < budget < 1:
        raise ArgumentError(
            f"budget must be a share of the time between 0 and 1, such as 0.02; got {budget!r}"
        )
    return float(budget)


def checked(what: str, given: str, valid: Collection[str]) -> str:
    """One of the valid words."""
    if given not in valid:
        raise one_of(what, given, valid)
    return given
