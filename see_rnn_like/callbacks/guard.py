"""`NaNGuard`: the callback that stops a NaN before it reaches the weights, and names where it came from."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import keras
import xarray as xr

from see_rnn_like import bundle as bundles
from see_rnn_like.callbacks.goodstates import GoodStates
from see_rnn_like.engine.guarded import GuardedStep, Verdict
from see_rnn_like.engine.native import inner_optimizer, step_counter
from see_rnn_like.engine.standin import Guard, StandIn, stand_in
from see_rnn_like.engine.watch import optimizers_of
from see_rnn_like.errors import (
    ArgumentError,
    ArgumentTypeError,
    CaptureError,
    NonFiniteError,
    NonFiniteWarning,
    SeeRNNError,
    one_of,
)
from see_rnn_like.extract.nonfinite import autopsy_of
from see_rnn_like.extract.verdict import not_run_again
from see_rnn_like.findings import Autopsy
from see_rnn_like.models.layout import require_keras_model

ACTIONS = ("stop", "raise", "skip", "rollback")

_log = logging.getLogger("see_rnn_like")


class NaNGuard(keras.callbacks.Callback):
    """Looks at loss and gradients before every update; what is not finite never reaches the weights.

    The step that went wrong leaves no trace: weights, optimizer, BatchNorm statistics, states of recurrent
    layers, random generators and metrics are what they were before it. It is then run once more with
    everything looked at (the autopsy), which names the first tensor that was not finite: layer, direction,
    gate, timestep, units, samples. A training without such a step is not changed: bit-identical to one
    without the guard.

    Args:
        action: what to do then: ``"stop"`` the training (`NonFiniteWarning`), ``"raise"`` `NonFiniteError`,
            ``"skip"`` the batch and go on, or ``"rollback"``: skip, and if `max_skips` batches in a row do
            not help return to the newest good state that was kept, then to older ones.
        bundle: directory for replay bundles; each goes into a directory of its own,
            ``nan-step-1284``. None for no bundles.
        last: over how many steps the largest values of outputs, loss and gradients are remembered for
            `Autopsy.trail`.
        max_skips: how many batches in a row may be skipped before ``"skip"`` stops and ``"rollback"`` rolls
            back.
        keep_every: how many steps lie between the states kept for ``"rollback"``.
        keep: how many of these states are kept, in host memory.
        learning_rate_factor: by what each rollback multiplies the learning rate.

    Attributes:
        autopsy: the last `Autopsy`; None as long as all was finite.
        skipped: steps that were not taken, over all fits.
        rollbacks: how often a kept state was returned to.

    Raises:
        ArgumentError, ArgumentTypeError: at construction, for arguments that cannot be used; before
            training starts, if the learning rate cannot be lowered or the training cannot be guarded.
        ForeignModelError: before training starts, if the model is not a Keras 3 model on TensorFlow.
        NonFiniteError: from `fit`, with ``action="raise"``.

    Example:
        >>> import keras, numpy as np
        >>> from see_rnn_like import NaNGuard
        >>> lstm = keras.layers.LSTM(3, name="lstm")
        >>> model = keras.Sequential([keras.Input((5, 2)), lstm, keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> x, y = np.ones((8, 5, 2)), np.ones((8, 1))
        >>> x[5, 3, 1] = np.nan
        >>> guard = NaNGuard("skip")
        >>> history = model.fit(x, y, batch_size=2, shuffle=False, verbose=0, callbacks=[guard])
        >>> guard.skipped, guard.autopsy.rule, guard.autopsy.where.samples
        (1, 'input-not-finite', (1,))
    """

    # Nothing is done at batch ends, so Keras may go on dispatching those of other callbacks asynchronously.
    async_safe = True

    def __init__(
        self,
        action: str = "stop",
        bundle: str | os.PathLike[str] | None = None,
        last: int = 16,
        max_skips: int = 10,
        *,
        keep_every: int = 100,
        keep: int = 3,
        learning_rate_factor: float = 1.0,
    ) -> None:
        super().__init__()
        if action not in ACTIONS:
            raise one_of("action", action, ACTIONS)
        self.action = action
        self.bundle = None if bundle is None else _directory(bundle)
        self.last = _whole("last", last, 1)
        self.max_skips = _whole("max_skips", max_skips, 1)
        self.keep_every = _whole("keep_every", keep_every, 1)
        self.keep = _whole("keep", keep, 1)
        self.learning_rate_factor = _factor(learning_rate_factor)
        self.autopsy: Autopsy | None = None
        self.skipped = 0
        self.rollbacks = 0
        self._step: GuardedStep | None = None
        self._stand_in: StandIn | None = None
        self._native: Any = None
        self._good = GoodStates(keep)
        self._trail: deque[dict[str, float]] = deque(maxlen=last)
        self._logs: Any = None
        self._burst = 0
        self._since_kept = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> NaNGuard:
        """A guard with the same settings that has seen nothing yet (tuners copy callbacks)."""
        settings = (self.action, self.bundle, self.last, self.max_skips)
        return type(self)(
            *settings,
            keep_every=self.keep_every,
            keep=self.keep,
            learning_rate_factor=self.learning_rate_factor,
        )

    # -- Keras's hooks --------------------------------------------------------------------------

    def set_model(self, model: Any) -> None:
        """Takes the model to guard; called by Keras before training starts."""
        require_keras_model(model)
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Prepares the guarded step."""
        self._leave()
        if self.action == "rollback" and self.learning_rate_factor != 1:
            _require_settable_rate(self.model)
        if self._step is None or self._native is not self.model.train_function:
            # A new train function means a new compile: ours is traced anew, at the first step.
            self._native = self.model.train_function
            self._step = GuardedStep(self.model)
        self._good = GoodStates(self.keep)
        self._trail.clear()
        self._logs = None
        self._burst = self._since_kept = 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts the guarded step in the place of the train function."""
        if self._step is None:
            return
        try:
            self._stand_in = stand_in(self.model, self._native)
            self._stand_in.guard_by(Guard(self._step, self._judge, self._switch_off))
        except CaptureError as error:
            self._switch_off(error)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves the model as it was."""
        self._leave()

    # -- one step -------------------------------------------------------------------------------

    def _judge(self, batch: Any, logs: Any, verdict: Verdict) -> tuple[Any, bool]:
        """What becomes of a step: the logs to go on with, and whether to go on."""
        if not verdict.alarm:
            self._logs = logs
            self._note_good(verdict)
            return logs, True
        self.skipped += 1
        self._burst += 1
        if self._burst == 1:
            self._examine(batch, verdict)
        return self._logs_without(logs), self._go_on()

    def _logs_without(self, logs: Any) -> Any:
        """The logs as they were before a step that has been undone."""
        metrics = self.model.get_metrics_result()
        # A `train_step` of one's own may report what no metric knows.
        reported = isinstance(logs, dict) and logs.keys() == metrics.keys()
        return metrics if reported or self._logs is None else self._logs

    def _note_good(self, verdict: Verdict) -> None:
        if not _was_taken(verdict):
            return
        self._burst = 0
        self._trail.append(verdict.peaks)
        self._since_kept += 1
        if self.action == "rollback" and (not self._good or self._since_kept >= self.keep_every):
            self._keep_state()

    def _keep_state(self) -> None:
        assert self._step is not None
        if self._good.add(self._steps_done(), self._step.lasting_variables()):
            self._since_kept = 0

    def _go_on(self) -> bool:
        """Acts on an alarm; returns whether training goes on."""
        assert self.autopsy is not None
        if self.action == "raise":
            raise NonFiniteError(self.autopsy.message)
        if self.action == "stop":
            return self._stop(self.autopsy.message)
        if self._burst == 1:
            _log.warning("%s The batch is skipped, training goes on.", self.autopsy.message)
        if self._burst < self.max_skips:
            return True
        if self.action == "skip":
            return self._stop(f"{self.max_skips} batches in a row were skipped. {self.autopsy.message}")
        return self._roll_back()

    def _stop(self, message: str) -> bool:
        self.model.stop_training = True
        warnings.warn(message, NonFiniteWarning, stacklevel=2)
        return False

    def _roll_back(self) -> bool:
        assert self.autopsy is not None
        if not self._good:
            return self._stop(f"no good state is left to return to. {self.autopsy.message}")
        rate = self.model.optimizer.learning_rate if self.learning_rate_factor != 1 else None
        lowered = None if rate is None else float(rate) * self.learning_rate_factor
        step = self._good.restore_newest()
        if lowered is not None:
            self.model.optimizer.learning_rate = lowered
        self.rollbacks += 1
        self._burst = self._since_kept = 0
        self._trail.clear()
        changed = "" if lowered is None else f", learning rate {lowered:g}"
        _log.warning(
            "%d batches in a row were skipped: back to the state of step %d%s.", self.max_skips, step, changed
        )
        return True

    # -- the autopsy ----------------------------------------------------------------------------

    def _examine(self, batch: Any, verdict: Verdict) -> None:
        assert self._step is not None
        step = self._steps_done()
        data = self._step.data_of(batch, verdict.replica)
        trail = _trail([*self._trail, verdict.peaks], step)
        several = self.model.distribute_strategy.num_replicas_in_sync > 1
        replica = verdict.replica if several else None
        try:
            found = autopsy_of(self.model, data, step=step, trail=trail, replica=replica)
        except Exception as error:
            # A batch that cannot be run again must not end a training that the guard has just saved.
            _log.error("the step could not be looked into: %s", error, exc_info=error)
            found = not_run_again(step, trail, replica, error)
        found = dataclasses.replace(found, message=f"{found.message}. {_what_is_left(found, step)}.")
        self.autopsy = self._bundled(found, data, step)

    def _bundled(self, found: Autopsy, data: Any, step: int) -> Autopsy:
        if self.bundle is None:
            return found
        try:
            path = bundles.write(self.bundle / f"nan-step-{step}", self.model, data, found)
        except SeeRNNError as error:
            _log.error("no bundle was written: %s", error)
            return found
        # As the person wrote it; the writer's own path is absolute.
        shown = str(self.bundle / path.name)
        return dataclasses.replace(found, message=f"{found.message} Bundle: {shown}/.", bundle=shown)

    # -- facts ----------------------------------------------------------------------------------

    def _steps_done(self) -> int:
        optimizer = optimizers_of(self.model)[0]
        return int(step_counter(optimizer).numpy()) if optimizer.built else 0

    def _leave(self) -> None:
        if self._stand_in is not None:
            self._stand_in.leave()
        self._stand_in = None

    def _switch_off(self, error: Exception) -> None:
        self._step = None
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        known = isinstance(error, SeeRNNError)
        _log.error("NaNGuard is off, training goes on: %s", reason, exc_info=None if known else error)


def _what_is_left(found: Autopsy, step: int) -> str:
    if found.where.phase == "weights":
        return "This step has changed nothing, but the weights were bad before it"
    return f"Weights are intact ({f'step {step - 1}' if step else 'as they started'})"


def _was_taken(verdict: Verdict) -> bool:
    """Whether the optimizer took the step; loss scaling leaves one out whose scaled gradients overflow."""
    return all(math.isfinite(peak) for name, peak in verdict.peaks.items() if name.endswith(":gradient"))


def _trail(peaks: list[dict[str, float]], step: int) -> xr.DataArray:
    """The peaks of steps in a row, the last of which is `step`, dims ``(step, tensor)``."""
    names = list(peaks[-1])
    steps = list(range(step - len(peaks) + 1, step + 1))
    values = [[row.get(name, float("nan")) for name in names] for row in peaks]
    return xr.DataArray(
        values,
        dims=("step", "tensor"),
        coords={"step": steps, "tensor": names},
        attrs={"of": "largest |value|"},
    )


def _require_settable_rate(model: Any) -> None:
    rate = getattr(inner_optimizer(model.optimizer), "_learning_rate", None)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        raise ArgumentError(
            "learning_rate_factor lowers a fixed learning rate; this optimizer follows "
            f"{type(rate).__name__}: leave learning_rate_factor=1, or give the optimizer a number"
        )


def _directory(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise ArgumentTypeError(f"bundle must be a directory path or None; got {path!r}")
    return Path(path)


def _whole(name: str, given: Any, least: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise ArgumentTypeError(f"{name} must be a whole number; got {given!r}")
    if given < least:
        raise ArgumentError(f"{name} must be at least {least}; got {given}")
    return given


def _factor(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ArgumentTypeError(f"learning_rate_factor must be a number; got {given!r}")
    if not 0 < given <= 1:
        raise ArgumentError(f"learning_rate_factor must be above 0 and at most 1; got {given}")
    return float(given)
