"""The inside of recurrent layers on one batch that stays the same, measured while the model trains."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import xarray as xr

from see_rnn_like.cells import is_known_cell
from see_rnn_like.engine import summaries
from see_rnn_like.engine.collect import Note
from see_rnn_like.engine.recording import Measured
from see_rnn_like.engine.recurrence import (
    Replay,
    StateGradients,
    recurrent_spec,
    replay,
    state_gradients,
)
from see_rnn_like.errors import SeeRNNError
from see_rnn_like.extract.arrays import to_numpy
from see_rnn_like.extract.batches import Batch
from see_rnn_like.extract.memory import lags_of, random_directions, squared_strengths
from see_rnn_like.extract.units import gate_saturation
from see_rnn_like.history import TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.models.layout import RecurrentPart, recurrent_parts, select, sites

#: What can be measured on a probe batch.
PROBED = ("gates", "states", "state_gradients", "horizon")

_OVER_TIME = ("sample", "time", "unit")
_ATTRS = {"from": "probe batch", "mode": "inference"}


@dataclass(frozen=True)
class _Item:
    """One measured tensor.

    Attributes:
        info: what it is.
        counted: what statistics are taken of: without masked timesteps, gates side by side in the last axis.
        value: what is kept of it, None for statistics only.
    """

    info: TensorInfo
    counted: Any
    value: Any


@dataclass(frozen=True)
class _Place:
    """One direction of a recurrent layer and its path in the model."""

    path: str
    part: RecurrentPart

    def info(self, role: str, kind: str, dims: tuple[str, ...], shape: Any, **attrs: Any) -> TensorInfo:
        gates = {"gate": recurrent_spec(self.part).gates} if "gate" in dims else {}
        key = TensorKey(self.path, self.part.direction, role, kind)
        return TensorInfo(key, dims, tuple(shape), gates, _ATTRS | attrs)


class Probe:
    """Measures what recurrent layers do on a fixed batch.

    The model runs in inference mode beside the training, which it does not touch: see `engine.programs`.

    Args:
        model: a built Keras 3 model.
        layers: which layers, as `models.layout.select` takes them; None for all.
        capture: what to measure, of `PROBED`.
        level: ``"full"`` keeps the values of all tensors, ``"stats"`` those of the small ones.
        batch: inputs, and targets if state gradients are asked for.
        seed: of the random vectors by which the horizon is measured.
    """

    def __init__(
        self, model: Any, layers: Any, capture: Collection[str], level: str, batch: Batch, seed: int = 0
    ) -> None:
        self.model = model
        self.capture = frozenset(capture)
        self.batch = batch
        self._keeps_all = level == "full"
        self._rng = np.random.default_rng(seed)
        self._directions: list[list[np.ndarray]] | None = None
        self._notes: list[Note] = []
        known = list(self._known(select(sites(model), layers)))
        self._places = self._visible(known) if known else []
        if not known and not self._notes:
            message = f"{', '.join(capture)}: there is no recurrent layer to look into"
            self._notes.append(Note("not-recorded", None, message))
        self._pack: Callable[[Any], Any] | None = None

    def measure(self) -> Measured:
        """Runs the batch through the model as it is now.

        Raises:
            SeeRNNError: if the model's recurrent layers cannot be looked into any more.
        """
        start = time.perf_counter()
        items = list(self._items()) if self._places else []
        infos = tuple(item.info for item in items)
        if self._pack is None:
            # The same tensors each time, so one compiled reduction serves them all.
            self._pack = tf.function(functools.partial(summaries.pack, infos), autograph=False)
        moments, histograms = summaries.unpack(infos, *self._pack([item.counted for item in items]))
        values = {item.info.key: item.value for item in items if item.value is not None}
        notes, self._notes = tuple(self._notes), []
        return Measured(time.perf_counter() - start, infos, moments, histograms, values, notes)

    def _known(self, found: Sequence[Any]) -> Iterator[_Place]:
        for site in found:
            for part in recurrent_parts(site.layer):
                place = _Place(site.path, part)
                if len(part.cells) == 1 and is_known_cell(part.cells[0]):
                    yield place
                else:
                    self._leave_out(place, "its cell is stacked or not registered")

    def _visible(self, places: list[_Place]) -> list[_Place]:
        """Those that can be replayed; the others are noted and left alone."""
        try:
            replay(self.model, [place.part for place in places], self.batch.x)
        except SeeRNNError:
            return [place for place in places if self._is_visible(place)]
        return places

    def _is_visible(self, place: _Place) -> bool:
        try:
            replay(self.model, [place.part], self.batch.x)
        except SeeRNNError as error:
            self._leave_out(place, str(error))
            return False
        return True

    def _leave_out(self, place: _Place, why: str) -> None:
        key = TensorKey(place.path, place.part.direction, "gates", "value")
        message = f"the inside of {place.path} ({place.part.direction}) is not recorded: {why}"
        self._notes.append(Note("not-recorded", key, message))

    def _items(self) -> Iterator[_Item]:
        parts = [place.part for place in self._places]
        inside = replay(self.model, parts, self.batch.x)
        for place, one in zip(self._places, inside, strict=True):
            if "gates" in self.capture:
                yield from self._gates(place, one)
            if "states" in self.capture:
                yield from self._states(place, one.states, one.alive, "value")
        if "state_gradients" in self.capture:
            batch = self.batch
            found = state_gradients(self.model, parts, batch.x, batch.y, batch.sample_weight, None)
            for place, gradients in reversed(list(zip(self._places, found, strict=True))):
                yield from self._states(place, gradients.states, gradients.alive, "gradient")
                yield from self._norms_over_time(place, gradients)
        if "horizon" in self.capture:
            yield from self._horizons(inside)

    def _gates(self, place: _Place, inside: Replay) -> Iterator[_Item]:
        gates, spec = inside.gates, recurrent_spec(place.part)
        samples, timesteps = gates.shape[:2]
        flat = _alive(tf.reshape(gates, (samples, timesteps, -1)), inside.alive)
        info = place.info(
            "gates",
            "value",
            ("sample", "time", "gate", "unit"),
            gates.shape,
            gating=list(spec.gating),
            keeping=spec.keeping or "",
            **_mask(inside.alive),
        )
        yield _Item(info, flat, to_numpy(gates) if self._keeps_all else None)
        labelled = xr.Dataset({"gates": (info.dims, to_numpy(gates))}, {"gate": list(spec.gates)}, info.attrs)
        shares = gate_saturation(labelled)
        for side in ("left", "right"):
            share = shares[side].values
            info = place.info(f"saturation_{side}", "value", ("gate", "unit"), share.shape)
            yield _Item(info, share.reshape(1, -1), share)

    def _states(self, place: _Place, states: Sequence[Any], alive: Any, kind: str) -> Iterator[_Item]:
        for name, state in zip(recurrent_spec(place.part).states, states, strict=True):
            info = place.info(name, kind, _OVER_TIME, state.shape, **_mask(alive))
            yield _Item(info, _alive(state, alive), to_numpy(state) if self._keeps_all else None)

    def _norms_over_time(self, place: _Place, gradients: StateGradients) -> Iterator[_Item]:
        names = (*recurrent_spec(place.part).states, "output")
        for name, gradient in zip(names, (*gradients.states, gradients.output), strict=True):
            alive = None if gradients.alive is None else gradients.alive.numpy()
            norms = _norm_over_samples(to_numpy(gradient), alive)
            path = "without the path through later timesteps" if name == "output" else "total, through time"
            info = place.info(f"{name}_norm", "gradient", ("time",), norms.shape, path=path, **_never(alive))
            yield _Item(info, norms if alive is None else norms[alive.any(0)], norms)

    def _horizons(self, inside: Sequence[Replay]) -> Iterator[_Item]:
        if self._directions is None:
            # The same vectors each time: what changes from step to step is the model.
            self._directions = [random_directions(one, self._rng) for one in inside]
        parts = [place.part for place in self._places]
        measured = squared_strengths(self.model, parts, self.batch.x, self._directions)
        for place, one, squares in zip(self._places, inside, measured, strict=True):
            for name, by_sample in zip(recurrent_spec(place.part).states, squares, strict=True):
                known = np.ones(by_sample.shape, bool) if one.alive is None else lags_of(one.alive.numpy())
                strength = _root_mean(by_sample, known)
                masked = _never(None if one.alive is None else known)
                info = place.info(f"horizon_{name}", "value", ("lag",), strength.shape, **masked)
                yield _Item(info, strength[known.any(0)], strength)


def _alive(series: Any, alive: Any) -> Any:
    """The timesteps at which the cell ran, ``(timestep, ...)``; as it is without a mask."""
    return series if alive is None else tf.boolean_mask(series, alive)


def _mask(alive: Any) -> dict[str, str]:
    return {} if alive is None else {"mask": "masked timesteps are left out"}


def _never(counted: np.ndarray | None) -> dict[str, list[int]]:
    """Places at which no sample counts: NaN there says that there is nothing, not that it failed."""
    return {} if counted is None else {"masked": np.flatnonzero(~counted.any(0)).tolist()}


def _norm_over_samples(gradient: np.ndarray, alive: np.ndarray | None) -> np.ndarray:
    """Per timestep the root mean square over samples of the L2 norm over units; NaN where all are masked."""
    squares = np.square(gradient, dtype="float64").sum(-1)
    return _root_mean(squares, np.ones(squares.shape, bool) if alive is None else alive)


def _root_mean(squares: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """√ of the mean over samples of ``(sample, place)``, of those that count."""
    number = counted.sum(0)
    total = np.where(counted, squares, 0).sum(0)
    return np.sqrt(np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0))
