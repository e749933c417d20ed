"""How far back a recurrent layer remembers: Jacobians between its states, measured on its trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.engine.recurrence import (
    Replay,
    last_state_gradients,
    local_expansion,
    recurrent_spec,
)
from see_rnn_like.errors import ArgumentError, ArgumentTypeError
from see_rnn_like.extract.fading import FADED, fading_lag
from see_rnn_like.extract.gates import by_direction, replayed
from see_rnn_like.models.layout import RecurrentPart


def memory_horizon(model: Any, _id: Any, x: Any, *, probes: int = 8, seed: int = 0) -> xr.Dataset:
    """How strongly the last state of a recurrent layer depends on its states some timesteps back.

    The strength at a lag is ‖∂s_T/∂s_{T−lag}‖ / ‖∂s_T/∂s_T‖ in the Frobenius norm, root mean square over
    samples, for each state s (LSTM: `h` and `c`) by itself, all paths between the two included. The norm is
    estimated by products vᵀJ with random vectors, as E‖vᵀJ‖² = ‖J‖² (Hutchinson 1990). For gated cells the
    half-life stands beside it: the timesteps in which the keeping gate (LSTM ``forget``, GRU ``update``)
    alone would halve a state, ln 2 / mean(−ln f); it leaves out what the recurrent kernel adds (Tallec &
    Ollivier 2018, "Can recurrent neural networks warp time?", section 1).

    Args:
        model: a built Keras 3 model.
        _id: the recurrent layer: name, part of a name, or index in `model.layers`.
        x: input: arrays, a list or dict of them, or a `tf.data.Dataset` (its first batch).
        probes: random vectors per sample; each costs a forward and a backward pass.
        seed: of the random vectors. The global random state is not touched.

    Returns:
        Dataset with `strength` and its standard `error` ``(state, lag)``, and `half_life` ``(unit,)`` in
        timesteps (NaN for cells without a keeping gate); a Bidirectional layer has a leading ``direction``.
        Lags count timesteps at which the cell ran (masked ones are no lag). `attrs`, in timesteps, of the
        state and direction that reach furthest: ``horizon`` and ``horizon_1pct``, the lag at which the
        strength first falls below 1/e and 1 %, between lags interpolated along an exponential, inf if it
        never does within the ``timesteps`` there are; ``half_life``, the median over units.

    Raises:
        UnknownLayerError, UnsupportedLayerError, CaptureError: as `trace`.
        ArgumentError: if `probes` is less than 1, or the layer is not called exactly once.
        ArgumentTypeError: if `probes` or `seed` is not a whole number.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((9, 3)), keras.layers.LSTM(2, name="lstm")])
        >>> memory = memory_horizon(model, "lstm", np.ones((4, 9, 3)))
        >>> memory["strength"].sizes
        Frozen({'state': 2, 'lag': 9})
        >>> memory["strength"].sel(lag=0).values.round(6)
        array([1., 1.])
    """
    _require_count("probes", probes)
    _require_count("seed", seed, least=0)
    layer, parts, batch, inside = replayed(model, _id, x)
    rng = np.random.default_rng(seed)
    directions = [[random_directions(one, rng) for one in inside] for _ in range(probes)]
    measured = [squared_strengths(model, parts, batch, vectors) for vectors in directions]
    by_part = zip(parts, inside, zip(*measured, strict=True), strict=True)
    memory = by_direction(parts, [_memory(part, one, list(squares)) for part, one, squares in by_part])
    attrs = {name: _furthest(memory["strength"], share) for name, share in FADED.items()}
    attrs["half_life"] = _longest(memory["half_life"].median("unit"))
    names = {"layer": layer.name, "cell": recurrent_spec(parts[0]).name, "timesteps": memory.sizes["lag"]}
    return memory.assign_attrs(names | attrs)


def lyapunov(
    model: Any, _id: Any, x: Any, *, exponents: int = 10, settle: int | None = None, seed: int = 0
) -> xr.DataArray:
    """The leading Lyapunov exponents of a recurrent layer along its trajectory on given data.

    A small difference between two states grows by exp(λ) per timestep: below 0 the layer forgets, above 0
    it is chaotic, at 0 it keeps what it knows. By QR of the Jacobians of the whole state (LSTM: `h` and `c`)
    along the trajectory (Benettin et al. 1980; for RNNs Engelken, Wolf & Abbott 2023, "Lyapunov spectra of
    chaotic recurrent neural networks", section II).

    Args:
        model: a built Keras 3 model.
        _id: the recurrent layer: name, part of a name, or index in `model.layers`.
        x: input: arrays, a list or dict of them, or a `tf.data.Dataset` (its first batch).
        exponents: how many; at most the size of the state.
        settle: timesteps in which the basis may align with the directions of growth before growth is
            measured; None for a quarter of them.
        seed: of the basis to start from. The global random state is not touched.

    Returns:
        DataArray ``(exponent,)`` in falling order, per timestep, natural logarithm, mean over samples; a
        Bidirectional layer has a leading ``direction``. The coordinate `error` is the standard error over
        samples. Masked timesteps do not count. Steps are computed in the dtype of the layer: in float32 a
        direction that vanishes exactly reads about −16 or lower, −inf where it underflows.

    Raises:
        UnknownLayerError, UnsupportedLayerError, CaptureError: as `trace`.
        ArgumentError: if `exponents` is less than 1 or `settle` leaves no timestep to measure.
        ArgumentTypeError: if `exponents`, `settle` or `seed` is not a whole number.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((40, 3)), keras.layers.GRU(5, name="gru")])
        >>> found = lyapunov(model, "gru", np.ones((4, 40, 3)), exponents=2)
        >>> found.sizes
        Frozen({'exponent': 2})
    """
    _require_count("exponents", exponents)
    _require_count("seed", seed, least=0)
    layer, parts, batch, inside = replayed(model, _id, x)
    timesteps = inside[0].states[0].shape[1]
    settle = timesteps // 4 if settle is None else settle
    _require_count("settle", settle, least=0)
    if settle >= timesteps:
        raise ArgumentError(
            f"settle must be from 0 to {timesteps - 1}, there are {timesteps} timesteps; got {settle}"
        )
    size = sum(state.shape[-1] for state in inside[0].states)
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, min(exponents, size))))[0]
    found = by_direction(parts, [_exponents(model, part, batch, basis, settle) for part in parts])
    attrs = {"layer": layer.name, "cell": recurrent_spec(parts[0]).name, "units": "1 / timestep"}
    return found["lyapunov"].assign_attrs(attrs)


def squared_strengths(
    model: Any, parts: Sequence[RecurrentPart], x: Any, directions: Sequence[Sequence[np.ndarray]]
) -> list[np.ndarray]:
    """Squared strengths by one random vector per sample and state.

    Args:
        model: a built Keras 3 model.
        parts: directions of recurrent layers.
        x: input tensors.
        directions: per part what `random_directions` drew.

    Returns:
        Per part ``(state, sample, lag)``, 1 at lag 0; NaN beyond the timesteps a sample has.
    """
    return [
        _over_lag([one.numpy() for one in products], None if alive is None else alive.numpy())
        for products, alive in last_state_gradients(model, parts, x, directions)
    ]


def random_directions(inside: Replay, rng: np.random.Generator) -> list[np.ndarray]:
    """A random vector ``(sample, unit)`` of length √unit per state."""
    vectors = [rng.standard_normal((state.shape[0], state.shape[2])) for state in inside.states]
    return [(v * np.sqrt(v.shape[1] / np.square(v).sum(1, keepdims=True))).astype("float32") for v in vectors]


def _over_lag(products: list[np.ndarray], alive: np.ndarray | None) -> np.ndarray:
    """Squares over lags, of products with vectors of length √unit, ``(sample, time, unit)`` per state."""
    squares = np.stack([np.square(one, dtype="float64").mean(-1) for one in products])
    backwards = squares[:, :, ::-1]
    if alive is None:
        return backwards
    ran = alive[:, ::-1]
    by_lag = np.full_like(backwards, np.nan)
    sample, time = np.nonzero(ran)
    by_lag[:, sample, (np.cumsum(ran, 1) - 1)[sample, time]] = backwards[:, sample, time]
    return by_lag


def _require_count(name: str, given: Any, least: int = 1) -> None:
    if isinstance(given, bool) or not isinstance(given, int | np.integer):
        raise ArgumentTypeError(f"{name} must be a whole number; got {given!r}")
    if given < least:
        raise ArgumentError(f"{name} must be at least {least}; got {given}")


def _memory(part: RecurrentPart, inside: Replay, measured: list[np.ndarray]) -> xr.Dataset:
    squares = np.stack(measured)
    probes, _, samples, lags = squares.shape
    counted = np.ones((samples, lags), bool) if inside.alive is None else lags_of(inside.alive.numpy())
    number = probes * counted.sum(0)
    # What counts and is no number makes what comes of it no number; nor is it at lags that no sample has.
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(counted, squares, 0).sum((0, 2)) / number
        spread = np.where(counted, (squares - mean[:, None]) ** 2, 0).sum((0, 2)) / (number - 1)
        strength = np.sqrt(mean)
        error = np.sqrt(spread / number) / (2 * strength)
    variables = {
        "strength": (("state", "lag"), strength),
        "error": (("state", "lag"), np.where(number > 1, error, np.nan)),
        "half_life": _half_life(part, inside),
    }
    return xr.Dataset(variables, {"state": list(recurrent_spec(part).states), "lag": np.arange(lags)})


def lags_of(alive: np.ndarray) -> np.ndarray:
    """Which lags each sample has, ``(sample, lag)``."""
    return np.arange(alive.shape[1]) < alive.sum(1, keepdims=True)


def _half_life(part: RecurrentPart, inside: Replay) -> xr.DataArray:
    spec = recurrent_spec(part)
    units = inside.states[0].shape[-1]
    if spec.keeping is None:
        return xr.DataArray(np.full(units, np.nan), dims="unit")
    gates = xr.DataArray(inside.gates.numpy(), dims=("sample", "time", "gate", "unit"))
    kept = gates.isel(gate=spec.gates.index(spec.keeping)).astype("float64")
    # A gate that shuts off exactly, or stays open exactly, halves in no time or never.
    with np.errstate(divide="ignore"):
        rate = -kept.copy(data=np.log(kept.values)).mean(("sample", "time"))
        return rate.copy(data=np.log(2) / rate.values)


def _furthest(strength: xr.DataArray, share: float) -> float:
    """The longest lag, over states and directions, at which a strength first falls below a share."""
    curves = strength.transpose(..., "lag").values.reshape(-1, strength.sizes["lag"])
    return float(np.max([fading_lag(curve, share) for curve in curves]))


def _longest(values: xr.DataArray) -> float:
    return float(values.max())


def _exponents(model: Any, part: RecurrentPart, x: Any, basis: np.ndarray, settle: int) -> xr.Dataset:
    stretch, alive = local_expansion(model, part, x, basis)
    growth = stretch.numpy()
    ran = np.ones(growth.shape[:2], bool) if alive is None else alive.numpy().T
    counted = (np.cumsum(ran, 0) > settle) & ran
    samples = counted.any(0)
    if not samples.any():
        raise ArgumentError(f"no sample has more than settle={settle} timesteps that are not masked")
    sums = np.where(counted[..., None], growth, 0)[:, samples].sum(0)
    rates = -np.sort(-sums / counted[:, samples].sum(0)[:, None])
    # Directions that vanish exactly, at a rate of -inf, have no spread.
    with np.errstate(invalid="ignore"):
        error = rates.std(0, ddof=min(1, len(rates) - 1)) / np.sqrt(len(rates))
    return xr.Dataset(
        {"lyapunov": ("exponent", rates.mean(0))},
        coords={"exponent": np.arange(1, rates.shape[1] + 1), "error": ("exponent", error)},
    )
