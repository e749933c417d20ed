"""The guarded train step: of a step whose loss or gradients are not finite, nothing remains.

Loss and gradients are looked at inside the compiled step, before the update. The largest magnitude of
every layer's output, of the loss and of every gradient leaves the step as one small vector.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from see_rnn_like.engine import native
from see_rnn_like.engine.native import data_of
from see_rnn_like.engine.untouched import by_replica, metric_variables, state_variables
from see_rnn_like.engine.watch import Seen, Watch, always, if_finite, nothing, optimizers_of, watching
from see_rnn_like.errors import ArgumentError
from see_rnn_like.models.layout import OutputPoint, sites

#: Models that have been given a guard.
_guarded: weakref.WeakSet[Any] = weakref.WeakSet()


def is_guarded(model: Any) -> bool:
    """Whether a guard may undo steps of the model."""
    return model in _guarded


@dataclass(frozen=True)
class Verdict:
    """What a guarded step saw, on the host.

    Attributes:
        alarm: whether the loss or a gradient was not finite; then nothing of the step remains.
        peaks: key → largest absolute value, NaN if there is one, in execution order.
        replica: the first replica on which something was not finite; None without an alarm.
    """

    alarm: bool
    peaks: dict[str, float]
    replica: int | None


class GuardedStep:
    """Runs training steps of a model so that a step that is not finite leaves no trace.

    What the optimizer writes is guarded by a condition around its `apply`, and what is written outside of
    it (BatchNorm statistics, RNN states, seeds, metrics) is put back. Where a condition would change the
    rounding of a healthy step (XLA fuses an update with its gradient, TensorFlow regroups sums and products
    across both) or cannot be had (several replicas, several updates in one step), the weights and the
    optimizer's slots are put back as well, which needs memory for a second copy of them.

    Args:
        model: compiled.

    Raises:
        ArgumentError: if the model has no optimizer, or is trained by several workers.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        if not optimizers_of(model):
            raise ArgumentError("the model has no optimizer: call model.compile(optimizer, loss) first")
        self._strategy = model.distribute_strategy
        if isinstance(self._strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise ArgumentError("training by several workers cannot be guarded; several replicas of one can")
        _guarded.add(model)
        self._points: list[OutputPoint] = []
        self._names: dict[int, str] = {}
        self._held: list[Any] | None = None
        # Under XLA a condition would part an update from the gradient it is fused with, which rounds
        # otherwise; with several replicas an update meets the others, which no condition allows.
        self._holds_all = bool(model.jit_compile) or self._strategy.num_replicas_in_sync > 1
        self._update = always if self._holds_all else if_finite
        self._watch: Watch | None = None
        self._seen = Seen(apart=True)
        self._step = native.compiled(model, self._watched_step, self.watching)
        self._function: Callable[[Any], Any] = self._guarded_step

    def prepare(self, element_spec: Any) -> None:
        """Finds out what has to be put back after a step that is not finite, unless that is known.

        Args:
            element_spec: specs of a batch, as a `tf.data` iterator has them.
        """
        if self._held is not None:
            return
        native.build(self.model, element_spec)
        layout = sites(self.model)
        self._points = [point for site in layout for point in site.outputs]
        self._names = {id(s.variable): str(s.key("gradient")) for site in layout for s in site.weights}
        self._held = []
        if self.model.run_eagerly:
            return
        # Traced once for what it makes (the variables of metrics) and for what it writes.
        tf.function(self._guarded_step).get_concrete_function(tf.OptionalSpec(element_spec))
        if self._seen.regrouped and not self._holds_all:
            # A condition would part gradient and update, which TensorFlow may compute as one product.
            self._update, self._holds_all = always, True
            self._step = native.compiled(self.model, self._watched_step, self.watching)
        # What one step writes more than once, or out of our sight, no condition guards.
        held_all = self._holds_all or self._seen.updates != 1
        self._held = self._everything() if held_all else self._written_elsewhere()
        self._function = tf.function(self._guarded_step, reduce_retracing=True)

    def run(self, batch: Any) -> tuple[Any, Verdict]:
        """Trains on a batch. The step must have been prepared.

        Args:
            batch: what `native.next_batch` gave.

        Returns:
            The logs of `train_step` and what was seen. After an alarm the logs are of no use.
        """
        logs, watched = self._function(batch)
        return logs, self.verdict(watched)

    def verdict(self, watched: Any) -> Verdict:
        """Reads on the host what a step saw."""
        rows = np.asarray(watched)
        alarms = rows[:, 0] > 0
        if not alarms.any():
            return Verdict(False, self._named(rows[:, 1:].max(axis=0)), None)
        replica = int(np.argmax(alarms))
        return Verdict(True, self._named(rows[replica, 1:]), replica)

    def _named(self, peaks: np.ndarray) -> dict[str, float]:
        return dict(zip(self._seen.names, peaks.tolist(), strict=True))

    def data_of(self, batch: Any, replica: int | None) -> Any:
        """The data of a batch as `train_step` takes them, on one replica (the first for None)."""
        return data_of(batch, self._strategy, replica or 0)

    def lasting_variables(self) -> list[Any]:
        """The TensorFlow variables of model and optimizers: the state of a training without its metrics."""
        passing = {id(variable) for variable in metric_variables(self.model)}
        return [variable for variable in self._everything() if id(variable) not in passing]

    # -- traced: around the step ----------------------------------------------------------------

    def hold(self) -> list[tuple[Any, Any]]:
        """The values that may have to be put back; outside the (perhaps XLA) step.

        Reading shares the variable's buffer, which is copied only where it is written.
        """
        held = self._everything() if self.model.run_eagerly else self._held or []
        return [(variable, variable.read_value()) for variable in held]

    def settle(self, held: list[tuple[Any, Any]], watched: Any) -> Any:
        """Puts back what was held if there was an alarm; returns what was seen, ``(replica, 1 + tensor)``."""
        rows = tf.stack(self._strategy.experimental_local_results(watched))
        alarm = tf.reduce_any(rows[:, 0] > 0)
        tf.cond(alarm, _PutBack(held), nothing)
        if self.model.run_eagerly and alarm:
            self._reset_new_metrics({id(variable) for variable, _ in held})
        return rows

    def _reset_new_metrics(self, known: set[int]) -> None:
        # Run eagerly, metrics are made by the first step itself.
        for metric in self.model.metrics:
            if any(id(variable.value) not in known for variable in metric.variables):
                metric.reset_state()

    @tf.autograph.experimental.do_not_convert
    def _guarded_step(self, batch: Any) -> tuple[Any, Any]:
        held = self.hold()
        logs, watched = self._step(data_of(batch))
        return native.reduced(self.model, logs), self.settle(held, watched)

    @tf.autograph.experimental.do_not_convert
    def _watched_step(self, data: Any) -> tuple[Any, Any]:
        assert self._watch is not None
        logs = self.model.train_step(data)
        return logs, self._watch.here.packed()

    # -- traced: inside the step ----------------------------------------------------------------

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watch]:
        """Looks at outputs, loss and gradients of a train step in the block, and guards its updates.

        Yields:
            What was seen; what `settle` takes is ``watch.here.packed()``.
        """
        with watching(self.model, self._points, self._names, self._update) as self._watch:
            yield self._watch
        self._seen = self._watch.first

    # -- what is put back -----------------------------------------------------------------------

    def _everything(self) -> list[Any]:
        slots = [v.value for optimizer in optimizers_of(self.model) for v in optimizer.variables]
        return by_replica([*state_variables(self.model), *slots, *metric_variables(self.model)])

    def _written_elsewhere(self) -> list[Any]:
        """What is written outside of the optimizer's `apply`; most trainable weights are not."""
        trainable = [v.value for v in self.model.trainable_variables]
        slots = [v.value for optimizer in optimizers_of(self.model) for v in optimizer.variables]
        guarded = {id(v) for v in [*trainable, *slots]} - {
            id(v) for v in trainable if id(v.handle) in self._seen.written
        }
        return [variable for variable in self._everything() if id(variable) not in guarded]


@dataclass(frozen=True)
class _PutBack:
    """Gives variables the values back that they had; an operation for `tf.cond`."""

    held: list[tuple[Any, Any]]

    def __call__(self) -> Any:
        for variable, value in self.held:
            variable.assign(value, read_value=False)
        return tf.constant(0)
