"""What was recorded over training: snapshots, events, and `History`, the read side they share.

A `History` is read by steps and `TensorKey`s. How the numbers are kept is the business of the class
that derives from it (see `store.py`); everything a reader computes from them is here, once.
"""

from __future__ import annotations

import difflib
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like import stats
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, UnknownTensorError
from see_rnn_like.labels import TensorKey

#: What can be kept of a tensor at one step.
FIELDS = ("moments", "histogram", "value")

#: Kind and dims of derived tensors: the saturation of gates, a norm over time, a memory horizon.
_DERIVED = (("value", ("gate", "unit")), ("gradient", ("time",)), ("value", ("lag",)))


@dataclass(frozen=True)
class TensorInfo:
    """What does not change about a recorded tensor.

    Attributes:
        key: its name.
        dims: names of its axes, gates split off.
        shape: its sizes, None where they vary between batches.
        coords: labels of some of the axes, for example ``{"gate": ("input", "forget", ...)}``.
        attrs: what a label must say: ``unscaled``, ``clipped``, ``time_order``, ….
    """

    key: TensorKey
    dims: tuple[str, ...]
    shape: tuple[int | None, ...]
    coords: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gates(self) -> tuple[str, ...]:
        """Gate names, empty for a tensor without gates."""
        return self.coords.get("gate", ())

    @property
    def rows(self) -> int:
        """How many rows its statistics have: one per gate, one without gates."""
        return max(len(self.gates), 1)

    @property
    def derived(self) -> bool:
        """Whether it sums up another tensor of a recurrent layer, in few numbers that are always kept.

        These are ``saturation_left``, ``saturation_right`` and ``output_norm``, and of each state such as h
        ``h_norm`` and ``horizon_h``. They have pictures of their own; where all tensors are drawn they are
        left out, for the sizes and distributions of sums say little.
        """
        return (self.key.kind, self.dims) in _DERIVED

    @property
    def is_state(self) -> bool:
        """Whether it holds a state of a recurrent layer over time, whatever its cell calls that."""
        is_probed = self.attrs.get("from") == "probe batch"
        return is_probed and (self.key.kind, self.dims) == ("value", ("sample", "time", "unit"))


class Rows(Mapping[TensorKey, np.ndarray]):
    """Arrays of many tensors that lie in one block, some of its rows each; read like a dict of them.

    Args:
        block: ``(row, column)``.
        places: key → rows of the block.
    """

    def __init__(self, block: np.ndarray, places: Mapping[TensorKey, slice]) -> None:
        self.block = block
        self.places = places

    def __getitem__(self, key: TensorKey) -> np.ndarray:
        """The rows of one tensor."""
        return self.block[self.places[key]]

    def __iter__(self) -> Iterator[TensorKey]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Snapshot:
    """Everything recorded at one optimizer step.

    Attributes:
        step: optimizer step, from 0; tensors of kind ``weight`` are those *before* its update.
        epoch: epoch of the step, from 0.
        time: seconds since the epoch of the clock (`time.time`).
        seconds: how long the step took, recording included, in seconds.
        moments: key → float64 ``(gate, moment)``, see `stats.MOMENTS`.
        histograms: key → whole numbers ``(gate, bin)``.
        values: key → the array itself, in the dims of its `TensorInfo` (`level="full"` only).
        logs: scalars of the step as Keras reported them (running means since the epoch began).
    """

    step: int
    epoch: int
    time: float
    seconds: float
    moments: Mapping[TensorKey, np.ndarray]
    histograms: Mapping[TensorKey, np.ndarray]
    values: Mapping[TensorKey, np.ndarray] = field(default_factory=dict)
    logs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """Something worth telling that happened at a step.

    Attributes:
        step: optimizer step.
        kind: ``"nan"``, ``"inf"``, ``"capture-off"``, ``"thinned"``, ….
        key: the tensor it is about, or None.
        gate: the gate it is about, or None.
        counts: numbers that belong to it, for example ``{"nan": 3, "inf": 0, "count": 256}``.
        message: one sentence for a person.
    """

    step: int
    kind: str
    key: TensorKey | None
    gate: str | None
    counts: Mapping[str, int]
    message: str


class History(ABC):
    """Recorded tensors over training steps, to be read."""

    # Without it Python would try integers as keys.
    __iter__ = None

    @property
    def path(self) -> Path | None:
        """The file it is kept in; None if it is not in a file."""
        return None

    @property
    @abstractmethod
    def steps(self) -> list[int]:
        """Recorded optimizer steps, ascending."""

    @property
    @abstractmethod
    def events(self) -> list[Event]:
        """Events in the order they were seen."""

    @property
    @abstractmethod
    def epochs(self) -> list[dict[str, float]]:
        """One dict per finished epoch: ``epoch``, ``step`` (the last one) and its logs."""

    @property
    @abstractmethod
    def meta(self) -> dict[str, Any]:
        """What was trained: versions, model, optimizer, host, times."""

    @abstractmethod
    def infos(self) -> dict[TensorKey, TensorInfo]:
        """Every tensor that was recorded, in execution order of the training step."""

    @abstractmethod
    def logs(self) -> xr.Dataset:
        """Scalars of each recorded step over ``step``, and ``epoch``, ``time``, ``seconds``."""

    @abstractmethod
    def load(
        self, key: TensorKey, what: str, steps: Sequence[int] | None = None
    ) -> list[tuple[int, np.ndarray]]:
        """Reads one field of one tensor.

        Args:
            key: the tensor.
            what: one of `FIELDS`.
            steps: only these; None for all.

        Returns:
            Pairs of step and array, by step; steps at which the field was not kept are absent.
        """

    def close(self) -> None:  # noqa: B027 - a history that holds nothing open has nothing to do
        """Lets go of what the history holds open. It can be read afterwards all the same."""

    def __contains__(self, key: object) -> bool:
        """Whether a tensor was recorded under that key, given as a key or in printed form."""
        return str(key) in map(str, self.infos())

    def keys(self) -> list[TensorKey]:
        """Names of the recorded tensors, in execution order."""
        return list(self.infos())

    def info(self, key: TensorKey | str) -> TensorInfo:
        """The fixed facts about one tensor.

        Raises:
            UnknownTensorError: if nothing was recorded under `key`.
            ArgumentError: if `key` is a text that is no printed key.
            ArgumentTypeError: if `key` is neither a key nor a text.
        """
        infos = self.infos()
        wanted = _as_key(key, map(str, infos))
        if wanted not in infos:
            raise UnknownTensorError(_no_such_key(str(wanted), map(str, infos)))
        return infos[wanted]

    def stats(self, key: TensorKey | str) -> xr.Dataset:
        """Statistics of one tensor over training.

        Args:
            key: a key or its printed form, ``"lstm/forward/kernel:gradient"``.

        Returns:
            Dataset over ``step`` (and ``gate`` where there are gates): the variables of `stats.describe`
            and, where any was kept, ``histogram`` ``(step[, gate], bin)``; the coordinate ``bin`` holds the
            geometric middle of each bin, in the units of the tensor. Histograms that were not kept at a
            step (a budget thins them before the other statistics) are NaN there, never zero counts.

        Raises:
            UnknownTensorError: if nothing was recorded under `key`.
        """
        info = self.info(key)
        sums = self.load(info.key, "moments")
        steps = [step for step, _ in sums]
        lead = ("step", "gate")
        table = stats.describe(_stacked(sums, (info.rows, len(stats.MOMENTS))), lead)
        counts = dict(self.load(info.key, "histogram"))
        if counts:
            missing = np.full((info.rows, stats.BINS), np.nan)
            table["histogram"] = ((*lead, "bin"), np.stack([counts.get(step, missing) for step in steps]))
            table = table.assign_coords(bin=stats.CENTERS)
        table = table.assign_coords(step=np.array(steps, "int64"))
        table.attrs = {"key": str(info.key), **info.attrs}
        return table.assign_coords(gate=list(info.gates)) if info.gates else table.isel(gate=0, drop=True)

    def __getitem__(self, key: TensorKey | str) -> xr.DataArray:
        """The values of one tensor over training.

        Args:
            key: a key or its printed form.

        Returns:
            DataArray of the tensor's dims with a leading ``step``. Where a size varies between batches
            (a last, smaller batch), shorter ones are padded with NaN and the coordinate
            ``<dim>_size`` ``(step,)`` holds the true sizes.

        Raises:
            UnknownTensorError: if nothing was recorded under `key`, or only its statistics were.
        """
        info = self.info(key)
        pairs = self.load(info.key, "value")
        if not pairs:
            raise UnknownTensorError(
                f"only statistics of '{info.key}' were recorded; read them with run.stats('{info.key}'), "
                'or record values with RNNMonitor(level="full")'
            )
        return stack_values(info, pairs)


def stack_values(info: TensorInfo, pairs: list[tuple[int, np.ndarray]]) -> xr.DataArray:
    """Values of one tensor at several steps as one array; see `History.__getitem__`.

    Args:
        info: the tensor.
        pairs: step and array in the dims of `info`, at least one.
    """
    shapes = np.array([array.shape for _, array in pairs]).reshape(len(pairs), -1)
    full = tuple(int(n) for n in shapes.max(0)) if shapes.size else ()
    coords: dict[str, Any] = {"step": [step for step, _ in pairs]}
    coords |= {dim: list(labels) for dim, labels in info.coords.items()}
    ragged = [axis for axis in range(len(full)) if (shapes[:, axis] != full[axis]).any()]
    if ragged:
        coords |= {f"{info.dims[axis]}_size": ("step", shapes[:, axis]) for axis in ragged}
        values = np.full(
            (len(pairs), *full), np.nan, np.result_type("float32", *(array.dtype for _, array in pairs))
        )
        for row, (_, array) in zip(values, pairs, strict=True):
            row[tuple(slice(n) for n in array.shape)] = array
    else:
        values = np.stack([array for _, array in pairs])
    return xr.DataArray(
        values, dims=("step", *info.dims), coords=coords, name=str(info.key), attrs=dict(info.attrs)
    )


def _stacked(pairs: list[tuple[int, np.ndarray]], shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([array for _, array in pairs]) if pairs else np.zeros((0, *shape))


def require_history(run: object) -> None:
    """Checks that what is to be drawn or reported is a recorded run.

    Raises:
        ArgumentTypeError: if it is something else, such as the path of a run file.
    """
    if not isinstance(run, History):
        raise ArgumentTypeError(
            "run must be a recorded run: monitor.run, or Run.open(path) of a run file; "
            f"got {reprlib.repr(run)}"
        )


def _as_key(key: object, known: Iterable[str]) -> TensorKey:
    if isinstance(key, TensorKey):
        return key
    if not isinstance(key, str):
        raise ArgumentTypeError(
            "a tensor is named by a TensorKey or by text such as 'lstm/forward/kernel:gradient'; "
            f"got {reprlib.repr(key)}"
        )
    try:
        return TensorKey.parse(key)
    except ArgumentError as error:
        raise ArgumentError(f"{error}{_did_you_mean(key, list(known))}") from error


def _no_such_key(wanted: str, known: Iterable[str]) -> str:
    names = list(known)
    if not names:
        return f"nothing was recorded under '{wanted}': the run is empty"
    guess = _did_you_mean(wanted, names)
    if guess:
        return f"nothing was recorded under '{wanted}'{guess}"
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"nothing was recorded under '{wanted}'; recorded are {shown} (run.keys() lists all {len(names)})"


def _did_you_mean(wanted: str, names: Sequence[str]) -> str:
    """What may have been meant, ready to be appended to a message; empty if nothing is near."""
    near = [name for name in names if wanted and wanted in name][:3]
    near = near or difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}? run.keys() lists all" if near else ""
