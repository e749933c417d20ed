"""What was recorded of a step: reduced where it was computed, read on the host."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from see_rnn_like.engine.collect import Collected, Note
from see_rnn_like.engine.digest import Digest, Item
from see_rnn_like.engine.reductions import SAMPLE, may_be_sampled
from see_rnn_like.engine.replicas import Shares
from see_rnn_like.history import Rows, TensorInfo
from see_rnn_like.labels import TensorKey

#: How much is kept of a tensor: sums, also a histogram, also the values.
LEVELS = ("norms", "stats", "full")


@dataclass(frozen=True)
class Measured:
    """What was measured at one step besides the step itself, on the host.

    Attributes:
        seconds: how long it took.
        infos: the tensors, in execution order.
        moments: key → float64 ``(gate, moment)``.
        histograms: key → whole numbers ``(gate, bin)``.
        values: key → array in the dims of its info, for those whose values are kept.
        notes: what could not be measured, and why.
    """

    seconds: float
    infos: tuple[TensorInfo, ...]
    moments: Mapping[TensorKey, np.ndarray]
    histograms: Mapping[TensorKey, np.ndarray]
    values: dict[TensorKey, np.ndarray]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Recording(Measured):
    """What one instrumented step brought to the host.

    Attributes:
        step: training steps before this one, see `native.step_counter`.
        applied: whether the optimizer counted the step; loss scaling skips one whose gradients overflow.
        learning_rate: that of this step; NaN for an optimizer without one.
        blocked: whether a guard has undone the step.
        tracing: seconds that tracing took right before it; 0 for a step whose kind had been traced.
        nonfinite: with several replicas, of tensors of which one holds NaN or Inf: key → counts of NaN and of
            Inf ``(replica, gate, 2)``.
    """

    step: int
    applied: bool
    learning_rate: float
    blocked: bool = False
    tracing: float = 0.0
    nonfinite: Mapping[TensorKey, np.ndarray] = field(default_factory=dict)

    def joined_by(self, other: Measured) -> Recording:
        """This recording with something else that was measured at the same step."""
        return dataclasses.replace(
            self,
            seconds=self.seconds + other.seconds,
            infos=self.infos + other.infos,
            moments={**self.moments, **other.moments},
            histograms={**self.histograms, **other.histograms},
            values=self.values | other.values,
            notes=self.notes + other.notes,
        )


class Reading:
    """Reduces what was collected of a step, so that little travels to the host, and reads it there.

    Args:
        collected: the tensors of the step, symbolic while it is traced.
        level: one of `LEVELS`.
        shares: the tensors of which every replica has a share; None with one replica.

    Attributes:
        reduced: what the step has to return, to be handed to `read`.
    """

    def __init__(self, collected: Collected, level: str, shares: Shares | None = None) -> None:
        self._collected = collected
        self._level = level
        self._shares = shares
        items = [
            Item(
                collected.tensors[name],
                info.rows,
                collected.masks.get(name),
                collected.sources[name],
                info.key.kind,
            )
            for info, name in ((info, str(info.key)) for info in collected.held)
        ]
        self._digest = Digest(items, histograms=level != "norms")
        self._places = dict(zip((info.key for info in collected.held), self._digest.rows, strict=True))
        self._infos = tuple(map(self._labelled, collected.infos))
        self.reduced = {
            **self._digest.reduced,
            "full": collected.tensors if level == "full" else {},
            "shares": {} if shares is None else shares.exchanged,
        }

    def read(self, start: float, counted: tuple[Any, ...], reduced: dict[str, Any]) -> Recording:
        """Brings a step to the host.

        Args:
            start: when it began, of `time.perf_counter`.
            counted: the step counter before and after, and the learning rate.
            reduced: `reduced`, computed.
        """
        before, after, rate = (number.numpy() for number in counted)
        moments, histograms = self._digest.read(reduced)
        full = reduced["full"]
        recording = Recording(
            time.perf_counter() - start,
            self._infos,
            Rows(moments, self._places),
            {} if histograms is None else Rows(histograms, self._places),
            {info.key: in_dims(info, full[str(info.key)].numpy()) for info in self._collected.held if full},
            tuple(self._collected.notes),
            int(before),
            bool(after > before),
            float(rate),
        )
        return recording if self._shares is None else self._with_shares(recording, reduced["shares"])

    def _with_shares(self, recording: Recording, exchanged: dict[str, Any]) -> Recording:
        assert self._shares is not None
        merged = self._shares.merged(exchanged)
        counted = {} if self._level == "norms" else merged.histograms
        infos = {info.key: info for info in self._shares.joined}
        joined = {key: in_dims(infos[key], values) for key, values in merged.values.items()}
        return dataclasses.replace(
            recording,
            moments={**recording.moments, **merged.moments},
            histograms={**recording.histograms, **counted},
            values={**recording.values, **joined},
            notes=recording.notes + merged.notes,
            nonfinite=merged.nonfinite,
        )

    def _labelled(self, info: TensorInfo) -> TensorInfo:
        """Says of a histogram that it may be that of a sample."""
        tensor = self._collected.tensors.get(str(info.key))
        if self._level == "norms" or tensor is None or not may_be_sampled(tensor.shape):
            return info
        return dataclasses.replace(info, attrs={**info.attrs, "histogram": _SAMPLED})


_SAMPLED = f"of a sample of {SAMPLE:,} values or somewhat more, where there are more than twice as many"


def in_dims(info: TensorInfo, array: np.ndarray) -> np.ndarray:
    """Brings a fetched array into the dims of its info: gates split off, time in input order."""
    if info.gates:
        array = array.reshape(*array.shape[:-1], len(info.gates), -1)
    if info.attrs.get("time_order") == "input":
        array = array[:, ::-1]
    return array
