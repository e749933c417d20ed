"""One call of the train function: one step, or `steps_per_execution` of them, some of which are due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from see_rnn_like.engine.train_step import InstrumentedStep, Recording


def execute(
    step: InstrumentedStep, iterator: Any, due: Sequence[bool]
) -> tuple[Any, list[tuple[Any, Recording]]]:
    """Trains on the next ``len(due)`` batches and records those that are due.

    Args:
        step: the instrumented step.
        iterator: the `tf.data` iterator Keras hands to its train function.
        due: one entry per step of the execution.

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
            if wanted:
                logs, recording = step.record(iterator)
                if recording is not None:
                    recordings.append((logs, recording))
            else:
                logs = step.skip(iterator)
    except tf.errors.OutOfRangeError:
        if logs is None:
            raise
    return logs, recordings
