"""`RNNMonitor`: the callback that shows what happens inside the layers while `fit` runs."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import keras

from see_rnn_like.callbacks import nonfinite
from see_rnn_like.callbacks.arguments import (
    FIRST_BATCH,
    PRESETS,
    checked,
    checked_budget,
    checked_capture,
    checked_layers,
    checked_probe,
)
from see_rnn_like.callbacks.pace import Pace
from see_rnn_like.callbacks.record import Record
from see_rnn_like.callbacks.watching import Listener, WatchedLoop
from see_rnn_like.engine.collect import Note
from see_rnn_like.engine.eager_step import LoopSteps
from see_rnn_like.engine.guarded import is_guarded
from see_rnn_like.engine.native import data_of, step_counter
from see_rnn_like.engine.recording import LEVELS, Measured, Recording
from see_rnn_like.engine.standin import Recorder, StandIn, stand_in
from see_rnn_like.engine.train_step import CAPTURES, InstrumentedStep, require_one_replica, require_recordable
from see_rnn_like.engine.workers import are_several, is_chief, told_by_all
from see_rnn_like.errors import (
    ArgumentError,
    CaptureError,
    NonFiniteError,
    NonFiniteWarning,
    SeeRNNError,
)
from see_rnn_like.extract.batches import Batch, require_fitting
from see_rnn_like.extract.probe import PROBED, Probe
from see_rnn_like.history import Event
from see_rnn_like.models.layout import select, sites
from see_rnn_like.run import Run
from see_rnn_like.schedule import Schedule, as_schedule
from see_rnn_like.store import SQLiteHistory

ON_NAN = ("warn", "stop", "raise")

_NOT_RECOMPILED = (
    "trainable was changed without compiling again: Keras goes on training what it compiled before; call "
    "model.compile(...) after changing trainable"
)

_PROBE_ALONE = (
    f"{', '.join(PROBED)} are not recorded while several workers train one model; measure them on the saved "
    "model, in one process"
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
        capture: what to record, in place of what the preset does; any of ``"weights"`` (before the update),
            ``"outputs"``,
            ``"output_gradients"`` (dL/d(output), what see-rnn shows: it leaves out the path through
            later timesteps of the same layer), ``"gradients"`` (of the weights, as the optimizer receives
            them, loss scaling divided out, before clipping), ``"updates"`` (weights after minus before).
            The loss is always recorded. On the probe batch also ``"gates"``, ``"states"``,
            ``"state_gradients"`` (dL/dh, dL/dc: total, through time) and ``"horizon"`` of recurrent layers.
        level: how much of it to keep, in place of what the preset does. ``"norms"`` keeps sums of every
            tensor, per gate where there are gates: norm, mean, standard deviation, extremes, counts of zero,
            NaN and Inf; ``"stats"`` a signed-log histogram as well; ``"full"`` also the values.
        store: file to write the run to; None keeps it in memory. An existing run file is continued; a new
            training wants a new name. Of several workers only the chief writes, the others keep the same
            record in memory.
        preset: ``"light"``: weights, their gradients and updates, as norms; ``"standard"``: these and outputs
            and their gradients, with histograms; ``"full"``: everything, values too.
        budget: share of the training time that recording may take, such as 0.02; due steps are left out so
            that it is kept to, compiling included. None records every step that is due.
        probe: the batch on which the inside of recurrent layers is measured, in inference mode, before each
            due step, beside the training: ``(x, y)`` or ``(x, y, sample_weight)``, or ``"first_batch"`` for
            the first batch that is recorded.
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
        capture: Collection[str] | None = None,
        level: str | None = None,
        store: str | os.PathLike[str] | None = None,
        on_nan: str = "warn",
        strict: bool = False,
        *,
        preset: str = "standard",
        budget: float | None = None,
        probe: tuple[Any, ...] | str = FIRST_BATCH,
        max_bytes: int = 2**30,
    ) -> None:
        super().__init__()
        self.every = as_schedule(every)
        self.layers = checked_layers(layers)
        usual_capture, usual_level = PRESETS[checked("preset", preset, PRESETS)]
        self.capture = checked_capture(usual_capture if capture is None else capture)
        self.level = checked("level", usual_level if level is None else level, LEVELS)
        self.budget = checked_budget(budget)
        self._pace: Pace | None = None
        self.on_nan = checked("on_nan", on_nan, ON_NAN)
        self.strict = strict
        self.probe = probe
        self._probe_batch = checked_probe(probe, self.capture)
        self._probe: Probe | None = None
        self._probing = bool(self._captured(PROBED))
        self.max_bytes = max_bytes
        chief = is_chief()
        self._left_to_chief = store if not chief else None
        self._record = Record(SQLiteHistory.create(store if chief else None, max_bytes=max_bytes))
        self._warned = False
        self._step: InstrumentedStep | None = None
        self._native: Any = None
        self._trainable: list[bool] = []
        self._stand_in: StandIn | None = None
        self._loop: WatchedLoop | None = None
        self._epoch = 0
        self._now = 0
        self._epoch_start = 0
        self._offset = 0
        self._trained = self._record.steps_trained
        self._fit_is_new = True
        self._model_is_new = False
        self._due_in_loop: bool | None = None

    @property
    def run(self) -> Run:
        """What has been recorded."""
        return self._record.run

    def __deepcopy__(self, memo: dict[int, Any]) -> RNNMonitor:
        """A monitor with the same settings and a run of its own in memory (tuners copy callbacks)."""
        if self.run.path is not None:
            raise ArgumentError(
                f"a monitor that writes '{self.run.path}' cannot be copied: two would write one file; "
                "give each a store of its own"
            )
        settings = (self.every, self.layers, self.capture, self.level, None, self.on_nan, self.strict)
        return type(self)(*settings, budget=self.budget, probe=self.probe, max_bytes=self.max_bytes)

    @contextlib.contextmanager
    def watching(self, model: Any) -> Iterator[None]:
        """Records a training that is not `fit`, while the block runs.

        Seen are the steps of `train_on_batch`, and of loops of one's own whose steps run eagerly and end
        in ``model.optimizer.apply`` or ``apply_gradients``. Steps compiled in a `tf.function` of one's
        own are out of sight: hand them to `record_step`. Nothing is trained otherwise than without the
        block, and after it nothing of it is left on the model.

        Of steps that run eagerly outputs of layers are recorded where a gradient came through their call.

        Args:
            model: compiled; its optimizer's counter tags the steps.

        Raises:
            ArgumentError: if the model is not compiled, is watched already, or trained on several replicas.
            UnknownLayerError: if one of `layers` matches nothing.
            ForeignModelError: if the model is not a Keras 3 model on TensorFlow.

        Example:
            >>> import keras, numpy as np
            >>> from see_rnn_like import RNNMonitor
            >>> lstm = keras.layers.LSTM(3, name="lstm")
            >>> model = keras.Sequential([keras.Input((5, 2)), lstm, keras.layers.Dense(1)])
            >>> model.compile("adam", "mse")
            >>> monitor = RNNMonitor(every=2)
            >>> with monitor.watching(model):
            ...     for _ in range(4):
            ...         loss = model.train_on_batch(np.ones((8, 5, 2)), np.ones((8, 1)))
            >>> monitor.run.steps
            [0, 2]
        """
        self._require_no_block()
        self.set_model(model)
        self._restore()
        require_recordable(model)
        require_one_replica(model)
        steps = LoopSteps(model, self.layers, self._captured(CAPTURES), self.level)
        loop = WatchedLoop(model, steps, self._listener())
        self._warned = False
        try:
            self._loop = loop
            self._begin_fit({})
            self._guarded(self._record.describe, self._now, model, self._settings())
            with loop.watched():
                yield
        finally:
            self._loop = None
            self._trained = self._steps_done()
            self._finish(model)

    def record_step(
        self,
        model: Any,
        gradients: Iterable[Any],
        *,
        variables: Iterable[Any] | None = None,
        loss: Any = None,
        logs: Mapping[str, Any] | None = None,
    ) -> None:
        """Records a step of a compiled loop of one's own; to be called after every update, in the block.

        What is kept if the step was due: the gradients, the weights before and the updates, the loss, the
        logs. Weights changed by hand since the call before count as part of the update.

        Args:
            model: the model that is watched.
            gradients: as the optimizer was given them, one per variable: tensors, `tf.IndexedSlices`, or None
                for none.
            variables: what they are the gradients of; None for ``model.trainable_variables``.
            loss: the loss of the step, not scaled.
            logs: further numbers of the step, by name.

        Raises:
            ArgumentError: outside of ``with monitor.watching(model)``, inside of a `tf.function`, if the
                optimizer has counted no step since the last call, or if gradients do not fit the variables.
            ArgumentTypeError: for arguments of another type.

        Example:
            >>> import keras, numpy as np, tensorflow as tf
            >>> from see_rnn_like import RNNMonitor
            >>> model = keras.Sequential([keras.Input((5, 2)), keras.layers.GRU(3), keras.layers.Dense(1)])
            >>> model.compile("adam", "mse")
            >>> @tf.function
            ... def step(x, y):
            ...     with tf.GradientTape() as tape:
            ...         loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            ...     gradients = tape.gradient(loss, model.trainable_variables)
            ...     model.optimizer.apply(gradients, model.trainable_variables)
            ...     return loss, gradients
            >>> monitor = RNNMonitor(every=2)
            >>> with monitor.watching(model):
            ...     for _ in range(4):
            ...         loss, gradients = step(tf.ones((8, 5, 2)), tf.ones((8, 1)))
            ...         monitor.record_step(model, gradients, loss=loss)
            >>> monitor.run.steps
            [0, 2]
        """
        if self._loop is None or model is not self._loop.model:
            raise ArgumentError(
                "record_step was called for a model that is not watched: call it inside of "
                "`with monitor.watching(model):`, with the same model"
            )
        self._loop.record_step(gradients, variables, loss, logs)

    # -- Keras's hooks --------------------------------------------------------------------------

    def set_model(self, model: Any) -> None:
        """Takes the model to record; called by Keras before training starts."""
        self._require_no_block()
        select(sites(model), self.layers)
        if self.budget is not None and are_several(model.distribute_strategy):
            raise ArgumentError(
                "a budget of time differs between workers, which must record the same steps: use a schedule "
                "instead, such as every=100"
            )
        if self._left_to_chief is not None and not are_several(model.distribute_strategy):
            raise ArgumentError(
                f"the environment variable TF_CONFIG leaves it to another process to write "
                f"'{self._left_to_chief}', but this model is not trained by several: build it under "
                "MultiWorkerMirroredStrategy, or unset TF_CONFIG"
            )
        if model is not self.model:
            # What was taken from, or failed on, another model says nothing of this one.
            self._probe_batch = checked_probe(self.probe, self.capture)
            self._probing = bool(self._captured(PROBED))
            self._model_is_new = self.model is not None
        if self.probe != FIRST_BATCH and self._probe_batch is not None and model.built:
            require_fitting(model, self._probe_batch.x)
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Prepares the instrumented step and writes down what is trained."""
        self._restore()
        self._warned = False
        self._fit_is_new = True
        self._instrumented()
        self._guarded(self._record.describe, self._now, self.model, self._settings())

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes at which optimizer step the epoch starts."""
        if self._fit_is_new:
            # Not in on_train_begin: there other callbacks may still restore a checkpoint.
            self._begin_fit(self.params)
        self._epoch = epoch
        self._epoch_start = self._steps_done()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts the instrumented step in the place of the train function if a step is due."""
        if self._pace is not None:
            self._pace.step_begins()
        if self._step is None:
            return
        self._now = self._steps_done() if _may_skip(self.model) else self._epoch_start + batch
        if not any(self.every(self._now + k) for k in range(self.model.steps_per_execution)):
            return
        if self._pace is not None and not self._pace.allows():
            return
        try:
            self._stand_in = stand_in(self.model, self._native)
            self._stand_in.record_by(
                Recorder(self._step, self._is_due, self._measure_probe, self._kept, self._switch_off)
            )
        except CaptureError as error:
            self._switch_off(error)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps the epoch's logs, validation included."""
        self._pause()
        self._trained = self._steps_done()
        if self._step is not None:
            self._guarded(self._record.history.add_epoch, epoch, self._trained - 1, _scalars(logs))

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Takes the time; that of a validation is not that of a step."""
        self._pause()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves the model as it was and the run file complete."""
        self._restore()
        self._trained = self._steps_done()
        self._finish(self.model)
        if self.strict and self._step is not None and self._step.withdrawn is not None:
            raise self._step.withdrawn

    # -- around a training ----------------------------------------------------------------------

    def _instrumented(self) -> InstrumentedStep | None:
        """The instrumented step that goes with Keras's present train function; None if recording is off."""
        trainable = [v.trainable for v in self.model.variables]
        if self._native is not self.model.train_function:
            # A new train function means a new compile: ours is traced anew, on the first step that is due.
            self._native, self._trainable = self.model.train_function, trainable
            self._step = InstrumentedStep(self.model, self.layers, self._captured(CAPTURES), self.level)
            self._probe = None
        elif len(trainable) == len(self._trainable) and trainable != self._trainable:
            # Keras goes on with what it compiled before; a trace of ours would train other weights.
            self._switch_off(CaptureError(_NOT_RECOMPILED))
        return self._step

    def _finish(self, model: Any) -> None:
        if self._pace is not None:
            self._pace.step_ends()
            self._guarded(self._record.keep_pace, self._now, self._pace.report())
        self._guarded(self._record.finish, self._now, model)

    def _pause(self) -> None:
        if self._pace is not None:
            self._pace.step_ends()

    def _listener(self) -> Listener:
        return Listener(
            self._due,
            self._instrumented,
            self._measure_probe,
            self._no_probe,
            self._kept,
            self._missed,
            self._switch_off,
        )

    def _due(self, counted: int) -> bool:
        now, before = counted + self._offset, self._now
        self._now = now
        if self._pace is None:
            return self.every(now)
        if now != before or self._due_in_loop is None:
            # Asked more than once for a step, the answer stays.
            self._pace.step_begins()
            self._due_in_loop = self.every(now) and self._pace.allows()
        return self._due_in_loop

    def _missed(self, message: str) -> None:
        self._record.add_events([Event(self._now, "unseen-steps", None, None, {}, message)])

    def _require_no_block(self) -> None:
        if self._loop is not None:
            raise ArgumentError(
                "the monitor is watching a model in a block: leave `with monitor.watching(model)` before the "
                "monitor goes to fit or into another block"
            )

    # -- one due step ---------------------------------------------------------------------------

    def _is_due(self, position: int) -> bool:
        """Whether to record the step at this position of the execution; a skipped one is tried again."""
        return self.every(self._steps_done() if _may_skip(self.model) else self._now + position)

    def _kept(self, logs: Any, recording: Recording) -> None:
        self._guarded(self._keep, recording, _scalars(logs))

    def _measure_probe(self, batch: Any) -> Measured | None:
        """What the recurrent layers do on the probe batch, with the weights as they are before the step."""
        if not self._probing:
            return None
        if self._probe_batch is None and batch is None:
            return self._no_probe(
                "the batches of a loop of one's own are not known: give the monitor probe=(x, y)"
            )
        try:
            if are_several(self.model.distribute_strategy):
                raise CaptureError(_PROBE_ALONE)
            if self._probe_batch is None:
                data = data_of(batch, self.model.distribute_strategy)
                self._probe_batch = Batch(*keras.utils.unpack_x_y_sample_weight(data))
            if self._probe is None:
                asked = self._captured(PROBED)
                self._probe = Probe(self.model, self.layers, asked, self.level, self._probe_batch)
            return self._probe.measure()
        except Exception as error:
            if self.strict:
                raise
            self._probing = False
            self._report_failure("the probe is switched off, the rest is recorded", error)
            return None

    def _no_probe(self, reason: str) -> Measured | None:
        if not self._probing:
            return None
        note = Note("no-probe", None, f"nothing is measured on the probe batch: {reason}")
        return Measured(0.0, (), {}, {}, {}, (note,))

    def _captured(self, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in self.capture if name in kinds)

    def _restore(self) -> None:
        if self._stand_in is not None:
            self._stand_in.leave()
        self._stand_in = None

    def _keep(self, recording: Recording, logs: dict[str, float]) -> None:
        if not (recording.applied or recording.blocked or _may_skip(self.model)):
            raise CaptureError(
                "the train step does not advance model.optimizer.iterations: its steps cannot be told apart"
            )
        step = recording.step + self._offset
        alarms = self._record.alarms(step, recording)
        self._guarded(self._record.keep, step, self._epoch, recording, logs, alarms)
        if alarms:
            self._alarm(nonfinite.summary(alarms))

    def _alarm(self, message: str) -> None:
        """Warns, stops or raises: something is not finite that had been in this fit until now."""
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
        step = self._step
        known = step is not None and step.withdrawn is not None
        # Other workers wait for this one until they know, too.
        is_over = step is None or step.withdraw(error)
        if is_over and self.strict:
            raise error
        if is_over:
            self._step = None
            if self._loop is not None:
                self._loop.stop()
        if not known:
            self._report_failure("recording is switched off, training goes on", error)

    def _report_failure(self, consequence: str, error: Exception) -> None:
        # TensorFlow's messages go on with a whole graph.
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        message = f"{consequence}: {reason}"
        _log.error("%s", message, exc_info=None if isinstance(error, SeeRNNError) else error)
        try:
            self._record.add_events([Event(self._now, "capture-off", None, None, {}, message)])
        except SeeRNNError as store_error:
            _log.error("this could not be noted in the run: %s", store_error)

    # -- facts ----------------------------------------------------------------------------------

    def _steps_done(self) -> int:
        return int(step_counter(self.model.optimizer).numpy()) + self._offset

    def _begin_fit(self, params: Mapping[str, Any]) -> None:
        self._fit_is_new = False
        self._due_in_loop = None
        if self.budget is not None:
            self._pace = Pace(self.budget)
        strategy = self.model.distribute_strategy
        if are_several(strategy):
            # The run file is known to the chief only; the steps that are due must be the same to all.
            self._trained = max(told_by_all(strategy, self._trained))
        done = self._steps_done()
        if done < self._trained and (self._model_is_new or done == self._offset):
            # Another model, or an optimizer that counts from 0 again: steps go on after those trained so far.
            self._offset += self._trained - done
        self._model_is_new = False
        self._now = self._steps_done()
        self._guarded(self._record.begin_fit, self._now, params)

    def _settings(self) -> dict[str, Any]:
        return {
            "every": repr(self.every),
            "level": self.level,
            "capture": list(self.capture),
            "budget": self.budget,
            "replicas": self.model.distribute_strategy.num_replicas_in_sync,
        }


def _may_skip(model: Any) -> bool:
    """Whether steps may be left out: by loss scaling when gradients overflow, or by a guard."""
    return hasattr(model.optimizer, "inner_optimizer") or is_guarded(model)


def _scalars(logs: dict[str, Any] | None) -> dict[str, float]:
    """The single numbers among the logs; anything else a custom train step returns is not kept."""
    numbers = {name: keras.ops.convert_to_numpy(value) for name, value in (logs or {}).items()}
    return {
        name: float(value) for name, value in numbers.items() if value.ndim == 0 and value.dtype.kind in "fiu"
    }
