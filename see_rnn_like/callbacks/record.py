"""The run while it is written: recordings become snapshots and events; nothing is told twice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from see_rnn_like import __version__
from see_rnn_like.callbacks import nonfinite
from see_rnn_like.engine.recording import Recording
from see_rnn_like.history import Event, Snapshot, TensorInfo
from see_rnn_like.models.description import (
    describe_machine,
    describe_model,
    describe_optimizer,
    now,
    seed_states,
)
from see_rnn_like.run import Run
from see_rnn_like.store import SQLiteHistory


class Record:
    """Writes what a monitor sees.

    Args:
        history: where it is kept; what is in there already is continued.
    """

    def __init__(self, history: SQLiteHistory) -> None:
        self.history = history
        self.run = Run(history)
        self._told = nonfinite.as_seen(self.run.events)
        self._alarmed: nonfinite.Seen = set()
        self._steps: set[int] = set()
        self._declared: tuple[TensorInfo, ...] = ()

    @property
    def steps_trained(self) -> int:
        """How many steps the run knows to have been trained."""
        epochs = (int(epoch["step"]) for epoch in self.run.epochs)
        return max([*self.run.steps, *epochs], default=-1) + 1

    # -- around a fit ---------------------------------------------------------------------------

    def describe(self, step: int, model: Any, settings: Mapping[str, Any]) -> None:
        """Writes down what is trained, how it is recorded, and where."""
        facts = {
            "package_version": __version__,
            "started": self.run.meta.get("started", now()),
            "loss": str(getattr(model.loss, "name", None) or model.loss),
            "jit_compile": bool(model.jit_compile),
            **settings,
            **describe_machine(),
        }
        for name, value in facts.items():
            self.history.set_meta(name, value)
        self._note(step, "model", describe_model, model)
        self._note(step, "optimizer", describe_optimizer, model.optimizer)
        self._note(step, "seeds", seed_states, model)

    def begin_fit(self, first_step: int, params: Mapping[str, Any]) -> None:
        """Notes that training starts, or goes on, at a step; NaN and Inf are alarming anew."""
        self._alarmed = set()
        self._steps = set(self.run.steps)
        fit = {"first_step": first_step, "started": now(), **params}
        self.history.set_meta("fits", [*self.run.meta.get("fits", []), fit])

    def keep_pace(self, step: int, report: Mapping[str, float]) -> None:
        """Writes down what a fit with a budget spent, and tells if it left out steps to stay in it."""
        self.history.set_meta("pace", [*self.run.meta.get("pace", []), report])
        left_out = int(report["due"] - report["recorded"])
        if left_out:
            counts = {"due": int(report["due"]), "recorded": int(report["recorded"])}
            message = (
                f"{left_out} of {counts['due']} due steps were not recorded, to stay in the budget of "
                f"{report['budget']:.1%} of the time: recording took {report['share']:.1%}, "
                f"{report['seconds']:.2f} s"
            )
            self.add_events([Event(step, "stretched", None, None, counts, message)])

    def finish(self, step: int, model: Any) -> None:
        """Completes the run; a next fit may continue it."""
        # Some models are built by their first batch only.
        self._note(step, "model", describe_model, model)
        self.history.set_meta("finished", now())
        self.history.close()

    def _note(self, step: int, name: str, describe: Callable[[Any], Any], what: Any) -> None:
        """Keeps a description; what a user's own class refuses to tell about itself is noted as missing."""
        try:
            fact = describe(what)
        except Exception as error:
            fact = None
            message = f"the run does not describe the {name}: {type(error).__name__}: {error}"
            self.add_events([Event(step, "not-described", None, None, {}, message)])
        self.history.set_meta(name, fact)

    # -- one recorded step ----------------------------------------------------------------------

    def alarms(self, step: int, recording: Recording) -> list[Event]:
        """NaN and Inf of a step that are new to this fit, in execution order.

        Nothing is written for it: whatever becomes of the run, all workers of a training come to the same.
        """
        found = nonfinite.nonfinite_events(
            step, recording.infos, recording.moments, self._alarmed, recording.nonfinite
        )
        if not (recording.applied or recording.blocked):
            # Scaled gradients may overflow; what went into them may not.
            found = [e for e in found if e.key is not None and e.key.kind in ("weight", "value")]
        self._alarmed |= nonfinite.as_seen(found)
        return found

    def keep(
        self,
        step: int,
        epoch: int,
        recording: Recording,
        logs: Mapping[str, float],
        alarms: Sequence[Event],
    ) -> None:
        """Keeps a step that was recorded, or says why there is nothing to keep.

        Args:
            step: optimizer step.
            epoch: its epoch.
            recording: what was seen.
            logs: scalars of the step.
            alarms: those of the step.
        """
        if recording.blocked:
            message = f"step {step} was tried and undone by NaNGuard: its loss or gradients were not finite"
            self.add_events([Event(step, "blocked-step", None, None, {}, message)])
        elif not recording.applied and not alarms:
            self.add_events([_skipped(step)])
            return
        self._add_notes(step, recording)
        if recording.tracing:
            traced = {"step": step, "seconds": recording.tracing, "first_run_seconds": recording.seconds}
            self.history.set_meta("tracing", [*self.run.meta.get("tracing", []), traced])
        if recording.applied:
            self._append(_snapshot(step, epoch, recording, logs), recording)
        # The run may go back further than this fit.
        new = nonfinite.as_seen(alarms) - self._told
        self.add_events([event for event in alarms if (event.key, event.gate, event.kind) in new])

    def _append(self, snapshot: Snapshot, recording: Recording) -> None:
        if snapshot.step not in self._steps:
            if recording.infos is not self._declared:
                self.history.declare(recording.infos)
                self._declared = recording.infos
            self.history.append(snapshot)
            self._steps.add(snapshot.step)
        else:
            step = snapshot.step
            message = f"step {step} was trained again (from a checkpoint?); the run keeps its first recording"
            self.add_events([Event(step, "repeated-step", None, None, {}, message)])

    def add_events(self, events: list[Event]) -> None:
        """Adds events to the run."""
        for event in events:
            self.history.add_event(event)
        self._told |= nonfinite.as_seen(events)

    def _add_notes(self, step: int, recording: Recording) -> None:
        for note in recording.notes:
            if (note.key, None, note.kind) not in self._told:
                self.add_events([Event(step, note.kind, note.key, None, {}, note.message)])


def _snapshot(step: int, epoch: int, recording: Recording, logs: Mapping[str, float]) -> Snapshot:
    rate = recording.learning_rate
    logs = logs if math.isnan(rate) else {"learning_rate": rate, **logs}
    return Snapshot(
        step,
        epoch,
        time.time(),
        recording.seconds,
        recording.moments,
        recording.histograms,
        recording.values,
        logs,
    )


def _skipped(step: int) -> Event:
    message = (
        f"step {step} was tried and skipped: its scaled gradients overflowed, the optimizer halved the "
        "loss scale; nothing was recorded"
    )
    return Event(step, "skipped-step", None, None, {}, message)
