"""Watching a training loop that is not `fit`: `train_on_batch`, or a loop of one's own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from see_rnn_like.engine.eager_step import Before, EagerTaps, LoopSteps, Pair, Window, as_loss, fitting
from see_rnn_like.engine.recording import Measured, Recording
from see_rnn_like.engine.standin import BatchStandIn, Recorder, StandIn
from see_rnn_like.engine.taps import replaced
from see_rnn_like.engine.train_step import InstrumentedStep
from see_rnn_like.errors import ArgumentError, ArgumentTypeError

#: Models that are being watched.
_watched: weakref.WeakSet[Any] = weakref.WeakSet()


@dataclass(frozen=True)
class Listener:
    """Whom a watched loop asks and tells.

    Attributes:
        due: takes what the optimizer has counted; whether to record the step that comes next.
        instrumented: the instrumented step that goes with the present train function; None if there is none.
        probe: measures the probe batch, or says why not; takes the batch of the step, if it is known.
        no_probe: takes the reason why the probe batch cannot be measured at a step.
        keep: takes logs and recording of a step.
        missed: takes a message about steps that were out of sight.
        failed: takes the reason why nothing can be recorded any more.
    """

    due: Callable[[int], bool]
    instrumented: Callable[[], InstrumentedStep | None]
    probe: Callable[[Any], Measured | None]
    no_probe: Callable[[str], Measured | None]
    keep: Callable[[Any, Recording], None]
    missed: Callable[[str], None]
    failed: Callable[[Exception], None]


class WatchedLoop:
    """The training of a model inside of a block, whatever loop takes its steps.

    Args:
        model: compiled.
        steps: puts recordings together.
        listener: whom to ask and tell.

    Attributes:
        off: whether nothing is recorded any more.
    """

    def __init__(self, model: Any, steps: LoopSteps, listener: Listener) -> None:
        self.model = model
        self.off = False
        self._steps = steps
        self._to = listener
        self._taps = EagerTaps(model, steps.points, self._updating)
        self._seen = steps.count()
        self._held: Before | None = None
        self._told = False
        self._native: Any = None
        self._step: InstrumentedStep | None = None
        self._stand_in: StandIn | None = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Sees the steps that are taken while the block runs.

        Raises:
            ArgumentError: if the model is watched already.
        """
        if self.model in _watched:
            raise ArgumentError("the model is watched already: one monitor at a time, one block at a time")
        _watched.add(self.model)
        try:
            self._safely(self._next)
            train_on_batch = self._watched_train_on_batch()
            with self._taps.placed(), replaced(self.model, "train_on_batch", train_on_batch):
                yield
        finally:
            _watched.discard(self.model)
            self._safely(self._catch_up)

    def stop(self) -> None:
        """Records nothing any more; the loop goes on."""
        self.off = True
        self._held = self._taps.window = None

    # -- train_on_batch -------------------------------------------------------------------------

    def _watched_train_on_batch(self) -> Callable[..., Any]:
        train_on_batch = self.model.train_on_batch

        @functools.wraps(train_on_batch)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self.off:
                return train_on_batch(*args, **kwargs)
            with self._taps.muted(), replaced(self.model, "make_train_function", self._making()):
                try:
                    return train_on_batch(*args, **kwargs)
                finally:
                    self._leave()
                    self._safely(self._next)

        return watched

    def _making(self) -> Callable[..., Any]:
        """`make_train_function`, after which one stands in for what it made; called for every batch."""
        make = self.model.make_train_function

        @functools.wraps(make)
        def made(*args: Any, **kwargs: Any) -> Any:
            result = make(*args, **kwargs)
            self._safely(self._stand_in_once)
            return result

        return made

    def _stand_in_once(self) -> None:
        self._catch_up()
        if isinstance(self.model.train_function, StandIn):  # left behind by a fit that failed
            self.model.train_function.leave()
        native, due = self.model.train_function, self._to.due(self._seen)
        if due or native is not self._native:
            self._native, self._step = native, self._to.instrumented()
        if self._step is None:
            return
        recorder = Recorder(self._step, lambda _: due, self._to.probe, self._to.keep, self._to.failed)
        self._stand_in = self.model.train_function = BatchStandIn(self.model, native, recorder)
        self._seen += 1

    def _leave(self) -> None:
        if self._stand_in is not None:
            self._stand_in.leave()
        self._stand_in = None

    # -- steps that run eagerly -----------------------------------------------------------------

    @contextlib.contextmanager
    def _updating(self, pairs: Sequence[Pair] | None) -> Iterator[None]:
        """Around an update by the optimizer; without pairs it is not due."""
        start = time.perf_counter()
        begun = self._safely(self._begun, pairs)
        yield
        try:
            recording = begun and self._safely(self._recorded, start, *begun, pairs)
            if recording is not None:
                self._to.keep({}, recording)
        finally:
            self._safely(self._updated)

    def _begun(self, pairs: Sequence[Pair] | None) -> tuple[Before, Measured | None] | None:
        """What there is before an update; None if it is not due, or came after others out of sight."""
        in_sight = self._steps.count() == self._seen
        self._catch_up()
        if pairs is None or self._held is None or not in_sight:
            return None
        with self._taps.muted():
            probed = self._to.probe(None)
        return self._steps.seen(self._held, self._steps.before(), pairs), probed

    def _recorded(
        self, start: float, before: Before, probed: Measured | None, pairs: Sequence[Pair]
    ) -> Recording | None:
        window = self._taps.window
        if window is None or not self._took_a_step():
            return None
        losses = [window.losses[number] for number in sorted(window.losses)]
        with self._taps.muted():
            recording = self._steps.recording(start, before, pairs, window.scale, window.outputs(), losses)
        return recording if probed is None else recording.joined_by(probed)

    def _took_a_step(self) -> bool:
        """Whether the update was one: an optimizer that is given nothing does nothing."""
        return self._steps.may_skip or self._steps.count() != self._seen

    def _updated(self) -> None:
        if self._took_a_step():
            self._seen = self._steps.count()
            self._next()

    # -- steps that are handed in ---------------------------------------------------------------

    def record_step(self, gradients: Any, variables: Any, loss: Any, logs: Mapping[str, Any] | None) -> None:
        """See `RNNMonitor.record_step`."""
        start = time.perf_counter()
        pairs = fitting(gradients, self.model.trainable_variables if variables is None else variables)
        loss = None if loss is None else as_loss(loss)
        if not isinstance(logs, Mapping | None):
            raise ArgumentTypeError(f"logs must be a dict of numbers; got {type(logs).__name__}")
        now = self._safely(self._steps.count)
        if now is None:
            return
        if now == self._seen and not self._steps.may_skip:
            raise ArgumentError(_NO_STEP)
        try:
            if self._held is not None and now - self._seen in (0, 1):
                recording = self._safely(self._handed_in, start, self._held, pairs, loss)
                if recording is not None:
                    self._to.keep(logs, recording)
        finally:
            self._seen = now if now <= self._seen + 1 else self._seen
            self._safely(self._next)

    def _handed_in(self, start: float, held: Before, pairs: Sequence[Pair], loss: Any) -> Recording:
        before = dataclasses.replace(held, rate=self._steps.rate_of_last(held))
        losses = [] if loss is None else [loss]
        recording = self._steps.recording(start, before, pairs, held.scale, None, losses)
        probed = self._to.no_probe("record_step is called after the update")
        return recording if probed is None else recording.joined_by(probed)

    # -- between steps --------------------------------------------------------------------------

    def _next(self) -> None:
        """Holds what the next step needs, if it is due."""
        self._catch_up()
        due = self._to.due(self._seen)
        self._held = self._steps.before() if due else None
        self._taps.window = Window() if due else None

    def _catch_up(self) -> None:
        """Goes on from what the optimizer has counted, and tells once of steps that were out of sight."""
        now = self._steps.count()
        if now > self._seen and not self._told:
            self._told = True
            last = f" to {now - 1}" if now - self._seen > 1 else ""
            self._to.missed(f"step {self._seen}{last}: {_OUT_OF_SIGHT}")
        self._seen = now

    def _safely(self, action: Callable[..., Any], *args: Any) -> Any:
        """Runs what may fail in our own code; a failure switches recording off, training goes on."""
        if self.off:
            return None
        try:
            return action(*args)
        except Exception as error:
            self._to.failed(error)
            return None


_NO_STEP = (
    "the optimizer has counted no step since the last one that was seen: call record_step once after each "
    "update; updates that run eagerly, and those of train_on_batch, are recorded without it"
)
_OUT_OF_SIGHT = (
    "taken out of sight, by fit or in a tf.function of one's own, and not recorded, like any more of them. "
    "Call monitor.record_step(model, gradients) after every update that is compiled; give fit the monitor as "
    "a callback, outside of the block"
)
