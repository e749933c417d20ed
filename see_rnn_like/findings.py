"""Findings: what is wrong with a network, where, by which numbers, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.errors import one_of

SEVERITIES = ("error", "warning", "info")

#: The parts of a train step in which a tensor can go bad, in execution order.
PHASES = ("data", "weights", "forward", "loss", "backward")


@dataclass(frozen=True)
class Where:
    """The place of a finding, as fine as it is known; what does not apply is None.

    Attributes:
        step: optimizer step, counted from 0.
        phase: one of `PHASES`.
        layer: path of the layer (``"encoder/lstm_1"``).
        direction: ``"forward"`` or ``"backward"`` of a recurrent layer.
        role: what the tensor is there: ``"kernel"``, ``"gates"``, ``"h"``, ``"c"``, ``"output"``,
            ``"input"``, ``"loss"``; further calls of a shared layer append ``@1``, …. In the data ``"x"``,
            ``"y"`` or ``"sample_weight"``, with the place within a dict or list behind (``"x/tokens"``).
        gate: of a recurrent cell.
        timestep: in input order, counted from 0; the first one in the order of execution.
        units: positions on the last axis, at that timestep.
        samples: positions in the batch, at that timestep.
    """

    step: int | None = None
    phase: str | None = None
    layer: str | None = None
    direction: str | None = None
    role: str | None = None
    gate: str | None = None
    timestep: int | None = None
    units: tuple[int, ...] | None = None
    samples: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.phase is not None and self.phase not in PHASES:
            raise one_of("phase", self.phase, PHASES)


@dataclass(frozen=True, eq=False)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        rule: id of the rule, such as ``"not-finite"``.
        severity: ``"error"`` (training cannot work or is destroyed), ``"warning"``, ``"info"``.
        confidence: 0..1.
        where: the place.
        evidence: the numbers that led here, by name.
        message: one plain sentence.
        advice: what to change, concretely.
        see: the figure or function to look at.
    """

    rule: str
    severity: str
    confidence: float
    where: Where
    evidence: dict[str, Any]
    message: str
    advice: str
    see: str

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise one_of("severity", self.severity, SEVERITIES)

    def __str__(self) -> str:
        return self.message


def _empty_trail() -> xr.DataArray:
    return xr.DataArray(np.zeros((0, 0)), dims=("step", "tensor"), coords={"step": [], "tensor": []})


@dataclass(frozen=True, eq=False)
class Autopsy(Finding):
    """The first non-finite tensor of a train step, found by running the step again.

    The rule is ``"input-not-finite"`` if it is in the data, else ``"not-finite"``.

    Attributes:
        trail: largest absolute value of each tensor at the steps before and at the step itself, dims
            ``(step, tensor)``; `tensor` holds the text of a `TensorKey`. Empty outside of training.
        growth: largest absolute value over the timesteps of the tensor that went bad (of a gate its
            pre-activation), dims ``(time,)`` in input order; None where there is no time.
        bundle: directory of the replay bundle; None if none was written.
    """

    trail: xr.DataArray = field(default_factory=_empty_trail)
    growth: xr.DataArray | None = None
    bundle: str | None = None
