"""One call of the train function: one step, or `steps_per_execution` of them, some of which are due."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from see_rnn_like.engine.train_step import InstrumentedStep, Measured, Recording, next_batch


def execute(
    step: InstrumentedStep, iterator: Any, due: Sequence[bool], before: Callable[[Any], Measured | None]
) -> tuple[Any, list[tuple[Any, Recording]]]:
    """Trains on the next ``len(due)`` batches and records those that are due.

    Args:
        step: the instrumented step, traced for the iterator.
        iterator: the `tf.data` iterator Keras hands to its train function.
        due: one entry per step of the execution.
        before: takes the batch of each due step before it is trained on; what it measures joins what is
            recorded of the step.

    Returns:
        The logs of the last step that ran, and for each recorded step its logs and recording. Like
        Keras's own train function it stops quietly when the data ends within the execution.

    Raises:
        tf.errors.OutOfRangeError: if there was no batch at all.
    """
    logs: Any = None
    recordings: list[tuple[Any, Recording]] = []
    try:
        for wanted in due:
            batch = next_batch(iterator)
            if not wanted:
                logs = step.skip(batch)
                continue
            probed = before(batch)
            logs, recording = step.record(batch)
            if recording is not None:
                recordings.append((logs, recording if probed is None else recording.joined_by(probed)))
    except tf.errors.OutOfRangeError:
        if logs is None:
            raise
    return logs, recordings
