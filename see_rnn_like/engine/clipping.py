"""Gradients as an optimizer applies them: clipped, where it clips those that it receives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from see_rnn_like.engine.collect import Collected, Note, weight_info
from see_rnn_like.engine.losses import unscaled
from see_rnn_like.engine.native import inner_optimizer
from see_rnn_like.engine.taps import GradientTaps
from see_rnn_like.models.layout import WeightSlot

#: A gradient and its variable.
Pair = tuple[Any, Any]

_ACCUMULATED = "the optimizer clips the mean of several micro-steps, of which each is recorded as received"
_SUMMED = "every replica clips its own before they are summed"


def clips_of(optimizer: Any) -> list[str]:
    """Names of the settings by which an optimizer clips gradients."""
    inner = inner_optimizer(optimizer)
    return [n for n in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(inner, n, None)]


def accumulates(optimizer: Any) -> int | None:
    """Over how many micro-steps an optimizer accumulates gradients; None if it does not."""
    # Keras 3.0 has none.
    return getattr(inner_optimizer(optimizer), "gradient_accumulation_steps", None)


def received_by(optimizer: Any, gradients: GradientTaps, scale: Any) -> list[Pair]:
    """All gradients that an optimizer clips, with loss scaling divided out; none if it does not clip.

    Args:
        optimizer: of the model.
        gradients: what it received.
        scale: by what the loss was multiplied; None if it was not.
    """
    if not clips_of(optimizer) or accumulates(optimizer):
        return []
    return [(unscaled(g, scale), variable) for g, variable in gradients.received if g is not None]


def collect_applied(
    into: Collected,
    optimizer: Any,
    received: Sequence[Pair],
    slots: Sequence[WeightSlot],
    attrs: dict[str, Any],
) -> None:
    """Keeps gradients as they are after clipping, last layer first, under ``kernel@applied``.

    By the optimizer's own clipping, once more: where the step does it, it may be inside of a condition.

    Args:
        into: takes them.
        optimizer: of the model.
        received: all gradients that are clipped together.
        slots: the weights to keep those of.
        attrs: what the labels of the received ones say.
    """
    if not received:
        return
    inner = inner_optimizer(optimizer)
    clipped = inner._clip_gradients([gradient for gradient, _ in received])
    applied = {id(variable): g for g, (_, variable) in zip(clipped, received, strict=True)}
    attrs = {**attrs, "as": "applied by the optimizer", "clipping": f"after {', '.join(clips_of(optimizer))}"}
    for slot in reversed(slots):
        if id(slot.variable) in applied:
            info = weight_info(slot, "gradient", attrs)
            key = dataclasses.replace(info.key, role=f"{info.key.role}@applied")
            into.keep(dataclasses.replace(info, key=key), tf.convert_to_tensor(applied[id(slot.variable)]))


def note_not_applied(into: Collected, optimizer: Any, several: bool) -> None:
    """Says so where an optimizer clips and what it applies is not to be had.

    Args:
        into: takes the note.
        optimizer: of the model.
        several: whether there are several replicas.
    """
    if clips_of(optimizer) and (several or accumulates(optimizer)):
        why = _SUMMED if several else _ACCUMULATED
        message = f"gradients as they are after {', '.join(clips_of(optimizer))} are not recorded: {why}"
        into.notes.append(Note("not-recorded", None, message))
