"""`RNNMonitor`: the callback that shows what happens inside the layers while `fit` runs."""

from __future__ import annotations

import functools
import logging
import os
import time
import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any

import keras

from see_rnn_like import __version__
from see_rnn_like.callbacks import nonfinite
from see_rnn_like.engine.execution import execute
from see_rnn_like.engine.train_step import CAPTURES, LEVELS, InstrumentedStep, Recording, step_counter
from see_rnn_like.errors import (
    ArgumentTypeError,
    CaptureError,
    NonFiniteError,
    NonFiniteWarning,
    SeeRNNError,
    one_of,
)
from see_rnn_like.history import Event, Snapshot
from see_rnn_like.models.description import (
    describe_machine,
    describe_model,
    describe_optimizer,
    now,
    seed_states,
)
from see_rnn_like.models.layout import select, sites
from see_rnn_like.run import Run
from see_rnn_like.schedule import Schedule, as_schedule
from see_rnn_like.store import SQLiteHistory

ON_NAN = ("warn", "stop", "raise")

_TWO_INSTRUMENTS = (
    "another callback has put its own function in the place of the train function at this step; use one "
    "RNNMonitor per fit (schedules combine with |, layers and capture take several)"
)

_log = logging.getLogger("see_rnn_like")


class RNNMonitor(keras.callbacks.Callback):
    """Records weights, outputs, gradients and updates of a model while it trains.

    On the steps that are due the model's own train step runs with taps on: what is recorded are the
    tensors of the training itself, there is no second forward or backward pass. All other steps run
    Keras's own compiled function. Training is not changed: weights, optimizer, seeds and metrics end up
    bit-identical to a run without the monitor.

    Args:
        every: record every n-th optimizer step (counted from 0), or a schedule such as
            ``log_spaced(10) | first(20)``.
        layers: which layers to record: paths (``"encoder/lstm_1"``), names, parts of them or layer
            objects; None for all.
        capture: what to record, any of ``"weights"`` (before the update), ``"outputs"``,
            ``"output_gradients"`` (dL/d(output), what see-rnn shows: it leaves out the path through
            later timesteps of the same layer), ``"gradients"`` (of the weights, as the optimizer receives
            them, loss scaling divided out, before clipping), ``"updates"`` (weights after minus before).
            The loss is always recorded.
        level: ``"stats"`` keeps statistics and a signed-log histogram of every tensor, per gate where there
            are gates, reduced inside the graph; ``"full"`` keeps the values as well.
        store: file to write the run to; None keeps it in memory. An existing run file is continued.
        max_bytes: budget for what is kept, in bytes; when it is reached old steps are thinned.
        on_nan: what to do when a recorded tensor holds NaN or Inf for the first time: ``"warn"``
            (`NonFiniteWarning`), ``"stop"`` the training after this step, or ``"raise"`` `NonFiniteError`.
        strict: raise when recording fails. By default the failure is logged and noted in `run.events`,
            recording is switched off, and training goes on.

    Raises:
        ArgumentError, ArgumentTypeError: at construction, for arguments that cannot be used.
        StoreError: at construction, if `store` cannot be written or is not a run of this version.
        UnknownLayerError: before training starts, if one of `layers` matches nothing.
        ForeignModelError: before training starts, if the model is not a Keras 3 model on TensorFlow.

    Example:
        >>> import keras, numpy as np
        >>> from see_rnn_like import RNNMonitor
        >>> lstm = keras.layers.LSTM(3, name="lstm")
        >>> model = keras.Sequential([keras.Input((5, 2)), lstm, keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> monitor = RNNMonitor(every=2)
        >>> x, y = np.ones((8, 5, 2)), np.ones((8, 1))
        >>> history = model.fit(x, y, batch_size=2, epochs=1, verbose=0, callbacks=[monitor])
        >>> monitor.run.steps
        [0, 2]
        >>> monitor.run.stats("lstm/forward/kernel:gradient").gate.values.tolist()
        ['input', 'forget', 'cell', 'output']
    """

    # Nothing is done at batch ends, so Keras may go on dispatching those of other callbacks asynchronously.
    async_safe = True

    def __init__(
        self,
        every: int | Schedule = 50,
        layers: Iterable[Any] | str | None = None,
        capture: Collection[str] = ("weights", "updates", "gradients", "outputs", "output_gradients"),
        level: str = "stats",
        store: str | os.PathLike[str] | None = None,
        on_nan: str = "warn",
        strict: bool = False,
        *,
        max_bytes: int = 2**30,
    ) -> None:
        super().__init__()
        self.every = as_schedule(every)
        self.layers = layers
        self.capture = _checked_capture(capture)
        self.level = _checked("level", level, LEVELS)
        self.on_nan = _checked("on_nan", on_nan, ON_NAN)
        self.strict = strict
        self._history = SQLiteHistory.create(store, max_bytes=max_bytes)
        self.run = Run(self._history)
        self._seen = nonfinite.as_seen(self.run.events)
        self._step: InstrumentedStep | None = None
        self._native: Any = None
        self._stand_in: Callable[[Any], Any] | None = None
        self._epoch = 0
        self._first_step = 0
        self._offset = 0
        self._warned = False

    # -- Keras's hooks --------------------------------------------------------------------------

    def set_model(self, model: Any) -> None:
        """Takes the model to record; called by Keras before training starts."""
        select(sites(model), self.layers)
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Prepares the instrumented step and writes down what is trained."""
        self._restore()
        self._warned = False
        if self._native is not self.model.train_function:
            # A new train function means a new compile: ours is traced anew, on the first step that is due.
            self._native = self.model.train_function
            self._step = InstrumentedStep(self.model, self.layers, self.capture, self.level)
        iterations = self._iterations()
        recorded = self.run.steps
        # A recompiled model counts from 0 again; its steps go on after those of the run.
        self._offset = max(0, recorded[-1] + 1 - iterations) if recorded else 0
        self._guarded(self._describe)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes at which optimizer step the epoch starts."""
        self._epoch = epoch
        self._first_step = self._iterations() + self._offset

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts the instrumented step in the place of the train function if a step is due."""
        if self._step is None:
            return
        first = self._first_step + batch
        due = [self.every(first + k) for k in range(self.model.steps_per_execution)]
        if not any(due):
            return
        if self.model.train_function is not self._native:
            self._switch_off(CaptureError(_TWO_INSTRUMENTS))
        else:
            self._stand_in = functools.partial(self._train_and_record, self._step, self._native, due)
            self.model.train_function = self._stand_in

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps the epoch's logs, validation included."""
        if self._step is not None:
            last = self._iterations() + self._offset - 1
            self._guarded(self._history.add_epoch, epoch, last, _scalars(logs))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves the model as it was and the run file complete."""
        self._restore()
        # Some models are built by their first batch only.
        self._guarded(self._history.set_meta, "model", describe_model(self.model))
        self._guarded(self._history.set_meta, "finished", now())
        self._guarded(self._history.close)

    # -- one due step ---------------------------------------------------------------------------

    def _train_and_record(
        self, step: InstrumentedStep, native: Callable[[Any], Any], due: list[bool], iterator: Any
    ) -> Any:
        """Stands in for Keras's train function during one call."""
        self._restore()
        try:
            step.trace(iterator)
        except CaptureError as error:
            self._switch_off(error)
            return native(iterator)
        logs, recordings = execute(step, iterator, due)
        for recording in recordings:
            self._guarded(self._keep, recording, _scalars(logs))
        return logs

    def _restore(self) -> None:
        if self._stand_in is not None and self.model.train_function is self._stand_in:
            self.model.train_function = self._native
        self._stand_in = None

    def _keep(self, recording: Recording, logs: dict[str, float]) -> None:
        step = recording.step + self._offset
        if not recording.applied:
            self._add_events([self._skipped(step)])
            return
        self._history.declare(recording.infos)
        events = nonfinite.nonfinite_events(step, recording.infos, recording.moments, self._seen)
        self._history.append(
            Snapshot(
                step,
                self._epoch,
                time.time(),
                recording.seconds,
                recording.moments,
                recording.histograms,
                recording.values,
                logs,
            )
        )
        self._add_notes(step, recording)
        if events:
            self._report_nonfinite(events)

    def _skipped(self, step: int) -> Event:
        if not hasattr(self.model.optimizer, "dynamic_scale"):
            raise CaptureError(
                "the train step does not advance model.optimizer.iterations: its steps cannot be told apart"
            )
        message = (
            f"step {step} was tried and skipped: its scaled gradients overflowed, the optimizer halved the "
            "loss scale; nothing was recorded"
        )
        return Event(step, "skipped-step", None, None, {}, message)

    def _add_notes(self, step: int, recording: Recording) -> None:
        for note in recording.notes:
            if (note.key, None, note.kind) not in self._seen:
                self._add_events([Event(step, note.kind, note.key, None, {}, note.message)])

    def _add_events(self, events: list[Event]) -> None:
        for event in events:
            self._history.add_event(event)
        self._seen |= nonfinite.as_seen(events)

    def _report_nonfinite(self, events: list[Event]) -> None:
        self._add_events(events)
        message = nonfinite.summary(events)
        if self.on_nan == "raise":
            raise NonFiniteError(message)
        if self.on_nan == "stop":
            self.model.stop_training = True
        if not self._warned:
            self._warned = True
            warnings.warn(message, NonFiniteWarning, stacklevel=2)

    # -- keeping training alive -----------------------------------------------------------------

    def _guarded(self, action: Callable[..., None], *args: Any) -> None:
        """Runs what may fail in our own code; a failure switches recording off, training goes on."""
        try:
            action(*args)
        except (NonFiniteError, NonFiniteWarning):
            raise
        except Exception as error:
            self._switch_off(error)

    def _switch_off(self, error: Exception) -> None:
        if self.strict:
            raise error
        self._step = None
        message = f"recording is switched off, training goes on: {error}"
        _log.error("%s", message, exc_info=None if isinstance(error, SeeRNNError) else error)
        try:
            self._history.add_event(Event(self._first_step, "capture-off", None, None, {}, message))
        except SeeRNNError as store_error:
            _log.error("this could not be noted in the run: %s", store_error)

    # -- facts ----------------------------------------------------------------------------------

    def _iterations(self) -> int:
        return int(step_counter(self.model.optimizer).numpy())

    def _describe(self) -> None:
        first = self._iterations() + self._offset
        fits = [*self.run.meta.get("fits", []), {"first_step": first, "started": now(), **self.params}]
        facts = {
            "package_version": __version__,
            "started": fits[0]["started"],
            **describe_machine(),
            "model": describe_model(self.model),
            "optimizer": describe_optimizer(self.model.optimizer),
            "loss": str(getattr(self.model.loss, "name", None) or self.model.loss),
            "jit_compile": bool(self.model.jit_compile),
            "seeds": seed_states(self.model),
            "every": repr(self.every),
            "level": self.level,
            "capture": list(self.capture),
            "fits": fits,
        }
        for name, value in facts.items():
            self._history.set_meta(name, value)


def _checked_capture(capture: Collection[str]) -> tuple[str, ...]:
    if isinstance(capture, str) or not isinstance(capture, Collection):
        raise ArgumentTypeError(f'capture must be a list of names such as ["gradients"]; got {capture!r}')
    return tuple(_checked("capture", name, CAPTURES) for name in capture)


def _checked(what: str, given: str, valid: tuple[str, ...]) -> str:
    if given not in valid:
        raise one_of(what, given, valid)
    return given


def _scalars(logs: dict[str, Any] | None) -> dict[str, float]:
    """The single numbers among the logs; anything else a custom train step returns is not kept."""
    numbers = {name: keras.ops.convert_to_numpy(value) for name, value in (logs or {}).items()}
    return {
        name: float(value) for name, value in numbers.items() if value.ndim == 0 and value.dtype.kind in "fiu"
    }
