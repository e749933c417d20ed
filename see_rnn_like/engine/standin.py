"""Standing in for Keras's train function during one call: one step, or `steps_per_execution` of them.

Callbacks that record or guard join the same stand-in, in whatever order Keras calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from see_rnn_like.engine.guarded import GuardedStep, Verdict
from see_rnn_like.engine.native import GivenBatch, next_batch
from see_rnn_like.engine.recording import Measured, Recording
from see_rnn_like.engine.train_step import InstrumentedStep
from see_rnn_like.errors import CaptureError


@dataclass(frozen=True)
class Recorder:
    """Who records in this call, and what becomes of it.

    Attributes:
        step: the instrumented step.
        due: takes the position of a step in the execution, when its turn has come; whether to record it.
        before: takes the batch of a due step before it is trained on; what it measures joins what is
            recorded of the step.
        keep: takes the logs and the recording of each recorded step.
        failed: takes the reason why nothing can be recorded any more.
    """

    step: InstrumentedStep
    due: Callable[[int], bool]
    before: Callable[[Any], Measured | None]
    keep: Callable[[Any, Recording], None]
    failed: Callable[[Exception], None]


@dataclass(frozen=True)
class Guard:
    """Who guards in this call, and what becomes of an alarm.

    Attributes:
        step: the guarded step.
        judge: takes batch, logs and verdict of each step; returns the logs to go on with and whether to go
            on at all.
        failed: takes the reason why nothing can be guarded any more.
    """

    step: GuardedStep
    judge: Callable[[Any, Any, Verdict], tuple[Any, bool]]
    failed: Callable[[Exception], None]


class StandIn:
    """Is called once in the place of Keras's train function, and gives it its place back.

    Args:
        model: the model that is trained.
        native: Keras's own train function.
    """

    def __init__(self, model: Any, native: Callable[[Any], Any]) -> None:
        self.model = model
        self.native = native
        self.recorder: Recorder | None = None
        self.guard: Guard | None = None
        self._skip: Callable[[Any], Any] | None = None
        self._fit = getattr(model, "history", None)

    @property
    def stale(self) -> bool:
        """Whether it was left behind by a fit that ended before this call."""
        return getattr(self.model, "history", None) is not self._fit

    def record_by(self, recorder: Recorder) -> None:
        """Takes who records.

        Raises:
            CaptureError: if somebody does already.
        """
        if self.recorder is not None:
            raise CaptureError(
                "another RNNMonitor records this step already; use one per fit (schedules combine with |, "
                "layers and capture take several)"
            )
        self.recorder, self._skip = recorder, recorder.step.skip

    def guard_by(self, guard: Guard) -> None:
        """Takes who guards.

        Raises:
            CaptureError: if somebody does already.
        """
        if self.guard is not None:
            raise CaptureError("another NaNGuard guards this fit already; use one")
        self.guard = guard

    def leave(self) -> None:
        """Gives Keras's train function its place back."""
        if self.model.train_function is self:
            self.model.train_function = self.native

    def __call__(self, iterator: Any) -> Any:
        """Trains on the next ``model.steps_per_execution`` batches.

        Args:
            iterator: the `tf.data` iterator Keras hands to its train function.

        Returns:
            The logs of the last step that ran. Like Keras's own train function it stops quietly when the
            data ends within the execution. Without any batch it is Keras's own function that is called, which
            raises.
        """
        self.leave()
        if self.stale or not hasattr(iterator, "element_spec"):
            return self.native(iterator)
        self._prepare(iterator)
        if self.recorder is not None and self.recorder.due(0):
            self._trace(iterator)
        if self.guard is None and self.recorder is None:
            return self.native(iterator)
        return self._serve(iterator)

    def _serve(self, iterator: Any) -> Any:
        logs = self._execute(iterator)
        if self.recorder is not None and self.recorder.step.failure is not None:
            self.recorder.failed(self.recorder.step.failure)
        return logs

    def _prepare(self, iterator: Any) -> None:
        """Compiles what guards this call; a guard that cannot be served is told so and left out."""
        if self.guard is not None:
            try:
                self.guard.step.prepare(iterator.element_spec)
            except Exception as error:
                self.guard.failed(error)
                self.guard = None

    def _trace(self, iterator: Any) -> bool:
        """Compiles what records; a recorder that cannot be served is told so and left out, False then."""
        assert self.recorder is not None
        try:
            self.recorder.step.trace(iterator, None if self.guard is None else self.guard.step)
        except CaptureError as error:
            self.recorder.failed(error)
            self.recorder = None
        return self.recorder is not None

    def _execute(self, iterator: Any) -> Any:
        logs: Any = None
        for position in range(self.model.steps_per_execution):
            try:
                batch = next_batch(iterator)
            except tf.errors.OutOfRangeError:
                # Without any batch it is for Keras's function to say so: it counts a step even then.
                return self.native(iterator) if logs is None else logs
            logs, verdict = self._train(batch, position, iterator)
            if self.guard is not None and verdict is not None:
                logs, going_on = self.guard.judge(batch, logs, verdict)
                if not going_on:
                    break
        return logs

    def _train(self, batch: Any, position: int, iterator: Any) -> tuple[Any, Verdict | None]:
        """One step, recorded if it is due, guarded if there is a guard."""
        # Traced when its turn has come: the data may end before.
        if self.recorder is not None and self.recorder.due(position) and self._trace(iterator):
            probed = self.recorder.before(batch)
            logs, recording, verdict = self.recorder.step.record(batch)
            if recording is not None:
                self.recorder.keep(logs, recording if probed is None else recording.joined_by(probed))
            return logs, verdict
        if self.guard is not None:
            return self.guard.step.run(batch)
        assert self._skip is not None
        return self._skip(batch), None


class BatchStandIn(StandIn):
    """Is called once in the place of Keras's train function by `train_on_batch`.

    Args:
        model: the model that is trained.
        native: Keras's own train function.
        recorder: who records; a step that is not due is run by Keras's own function.
    """

    def __init__(self, model: Any, native: Callable[[Any], Any], recorder: Recorder) -> None:
        super().__init__(model, native)
        self.record_by(recorder)

    def __call__(self, iterator: Any) -> Any:
        """Trains on a batch.

        Args:
            iterator: the generator of one batch that `train_on_batch` hands to a train function.

        Returns:
            The logs of the step.
        """
        self.leave()
        data = next(iterator)
        batch = self._readable(data)
        if batch is None or self.recorder is None:
            return self.native(item for item in [data])
        return self._serve(batch)

    def _readable(self, data: Any) -> GivenBatch | None:
        """The batch, ready to be recorded; without a recorder from here on if it is not due or cannot be."""
        assert self.recorder is not None
        try:
            batch = GivenBatch(data, bool(self.model.run_eagerly))
        except Exception as error:
            self.recorder.failed(error)
            return None
        if self.recorder.due(0):
            self._trace(batch)
        else:
            self.recorder.step.signature(batch.element_spec)
            self.recorder = None
        return batch


def stand_in(model: Any, native: Callable[[Any], Any]) -> StandIn:
    """The stand-in for the next call of the train function, put in its place unless it is there already.

    Args:
        model: the model that is trained.
        native: Keras's own train function.

    Raises:
        CaptureError: if something else is in the place of the train function.
    """
    present = model.train_function
    if isinstance(present, StandIn) and present.native is native and not present.stale:
        return present
    if isinstance(present, StandIn):
        present.leave()
    if model.train_function is not native:
        raise CaptureError(
            "another callback has put its own function in the place of the train function at this step"
        )
    model.train_function = StandIn(model, native)
    return model.train_function
