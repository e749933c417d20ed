"""Units of a recurrent layer: which are saturated, depend on each other, are dead or explode, mean something.

Arrays in, arrays out: everything here works on what `trace` returned or a run recorded.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from see_rnn_like.errors import ArgumentError, ArgumentTypeError, one_of
from see_rnn_like.history import History
from see_rnn_like.labels import TensorKey

#: Dimensions of states.
_DIMS = ("sample", "time", "unit")
#: Parts of a sequence that are compared to see whether a unit grows.
_QUARTERS = 4
#: By what factor at least a unit outgrows the beginning of a sequence, however short, when it explodes.
_LEAST_FACTOR = 32

#: A gate from 0 to 1 is left-saturated below the first, right-saturated above the second: `gate_saturation`.
GATE_LIMITS = (0.1, 0.9)
#: The same of candidates, which go from −1 to 1.
CANDIDATE_LIMITS = (-0.9, 0.9)


def gate_saturation(traced: xr.Dataset) -> xr.Dataset:
    """How often each unit's gates are stuck at an end of their range.

    Left-saturated is a gating value below 0.1, right-saturated one above 0.9 (Karpathy, Johnson & Li 2015,
    "Visualizing and understanding recurrent networks", section 4.2). Candidates (LSTM's ``cell``, GRU's
    ``new``, SimpleRNN's ``hidden``), which the paper does not count, go from −1 to 1: there the limits are
    −0.9 and 0.9.

    Args:
        traced: the result of `trace`.

    Returns:
        Dataset with `left` and `right`, shares 0 … 1 over samples and timesteps, ``(gate, unit)`` (and
        ``direction``). Masked timesteps are left out; a unit without any timestep has NaN.

    Raises:
        ArgumentError: if it is not a trace, or one that has lost its samples or timesteps.

    Example:
        >>> import xarray as xr, numpy as np
        >>> gates = xr.DataArray(np.full((1, 5, 1, 2), 0.95), dims=("sample", "time", "gate", "unit"),
        ...                      coords={"gate": ["forget"]})
        >>> gate_saturation(xr.Dataset({"gates": gates}, attrs={"gating": ["forget"]}))["right"].values
        array([[1., 1.]])
    """
    _require_trace(traced, "gate_saturation", ("sample", "time"))
    gates = traced["gates"]
    gating = gates["gate"].isin(traced.attrs["gating"])
    low, high = (xr.where(gating, *limits) for limits in zip(GATE_LIMITS, CANDIDATE_LIMITS, strict=True))
    over = ("sample", "time")
    # Comparisons with NaN are false: masked timesteps are on neither side, and not among those counted.
    counted = gates.count(over)
    left, right = (beyond.sum(over) / counted.where(counted > 0) for beyond in (gates < low, gates > high))
    return xr.Dataset({"left": left, "right": right}, attrs=traced.attrs)


def unit_correlation(traced: xr.Dataset, state: str = "h") -> xr.DataArray:
    """How independent the units of a layer are: Pearson correlation of every two of them.

    Args:
        traced: the result of `trace`.
        state: which state, ``"h"`` or for LSTM ``"c"``.

    Returns:
        DataArray ``(unit, other)``, a Bidirectional layer with a leading ``direction``, of correlations
        −1 … 1 over samples and timesteps. Masked timesteps are left out. Units that are constant, or
        hold NaN or Inf, have no correlation: NaN. `attrs`: ``layer``, ``cell``, ``state`` and

        - ``effective_dimension``: the participation ratio (Σλ)² / Σλ² of the eigenvalues λ of the
          covariance of the units (Abbott, Rajan & Sompolinsky 2011, "Interactions between intrinsic and
          stimulus-evoked activity in recurrent neural networks"; Gao et al. 2017, "A theory of
          multineuronal dimensionality, dynamics and measurement"): 1 if all units move together, their
          number if they are independent and of equal variance. With fewer timesteps than units it says
          more about the data than about the layer.
        - ``largest_correlation``: the largest |r| of two different units.

        Both are numbers, for a Bidirectional layer lists of one per direction; NaN where undefined.

    Raises:
        ArgumentError: if it is not a trace, has no such state, or every timestep is masked.

    Example:
        >>> h = xr.DataArray([[[0.0, 0.0], [1.0, -2.0], [2.0, -4.0]]], dims=("sample", "time", "unit"))
        >>> traced = xr.Dataset({"gates": h.expand_dims(gate=["hidden"]), "h": h}, attrs={"gating": []})
        >>> found = unit_correlation(traced)
        >>> found.values.round(6).tolist(), round(found.attrs["effective_dimension"], 6)
        ([[1.0, -1.0], [-1.0, 1.0]], 1.0)
    """
    _require_state(traced, state, "unit_correlation")
    directions = _by_direction(traced)
    centred = [_centred(part[state].values[_alive(part)]) for part in directions]
    dimensions = [_participation_ratio(np.cov(values.T, bias=True)) for values in centred]
    tables = [_correlation(values) for values in centred]
    largest = [_largest(np.abs(table[~np.eye(len(table), dtype=bool)])) for table in tables]
    found = _joined([xr.DataArray(table, dims=("unit", "other")) for table in tables], traced)
    return found.rename("correlation").assign_attrs(
        **_names(traced),
        state=state,
        effective_dimension=dimensions if "direction" in traced.dims else dimensions[0],
        largest_correlation=largest if "direction" in traced.dims else largest[0],
    )


def dead_and_exploding(
    traced_or_run: xr.Dataset | History,
    *,
    dormant: float = 0.025,
    constant: float = 2.0**-10,
    growth: float = 2.0,
) -> xr.Dataset | dict[str, xr.Dataset]:
    """Units that do not respond to the input, and units that grow without bound.

    A unit is **dead** if its state is all but the same for all samples and timesteps. Its spread (standard
    deviation over both) is then at most `dormant` times the mean spread of the layer's units that do not
    explode, or at most `constant` times its own largest size. The first is the criterion of dormant units
    (Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement learning", section 3, with the
    threshold 0.025 in common use), applied to the spread, so that a unit that is stuck at −1 or 1 is found
    as one stuck at 0 is. The second finds whole layers that are stuck: 2⁻¹⁰ is the distance of 1 to the next
    number in half precision (IEEE 754 binary16), in which such a unit is one number.

    A unit **explodes** if its state holds NaN or Inf, or grows geometrically: its mean size over samples is
    more than `growth` times as large in each quarter of the sequence as in the quarter before, and in the
    last one larger than n and than n times the mean size of the layer in the first, n being the number of
    timesteps, at least 32. Units that count do not get there: they add a bounded amount per step (Weiss,
    Goldberg & Yahav 2018, "On the practical computational power of finite precision RNNs for language
    recognition"), at most 1 in an LSTM, so that the last two quarters are as 5 to 7. Growth is not judged
    over fewer than four timesteps.

    Neither verdict is worth much on little data: a ReLU unit that was not on for 50 timesteps need not be
    dead. On untrained LSTM, GRU and SimpleRNN layers no unit was taken for dead from 100 timesteps on (all
    samples together), with tanh none from 16 on.

    Args:
        traced_or_run: the result of `trace`, or a recorded run with values: of the states
            (``lstm/forward/h:value``, ``…/c:value``), else of the output of recurrent layers
            (``lstm/forward/output:value``). A run's states are judged without their masked timesteps where
            the gates were recorded too; outputs with them, for a run does not say which they are.
        dormant: share of the mean spread of the layer, 0 … 1.
        constant: share of the unit's own largest size, 0 … 1.
        growth: factor from one quarter of the sequence to the next, > 1.

    Returns:
        For a trace a Dataset over ``(state, unit)``, a Bidirectional layer with a leading ``direction``:
        `dead`, `exploding` (bool), `spread` (NaN where the unit holds NaN or Inf) and `largest`, the largest
        size. `attrs`: ``layer``, ``cell``, ``share_dead`` (units whose `h` is dead: the rest of the
        network sees no other state) and ``share_exploding`` (units any state of which explodes), 0 … 1.

        For a run a dict from ``"layer/direction"`` to such a Dataset with a leading ``step``, the state
        being ``output`` where the states were not recorded; the shares are those of the last step.

    Raises:
        ArgumentError: if the run holds no values of a recurrent layer, the Dataset is not a trace, fewer than
            two timesteps (all samples together) are not masked, or a threshold is out of range.
        ArgumentTypeError: if it is neither a trace nor a run, or a threshold is no number.

    Example:
        >>> h = np.random.default_rng(0).normal(size=(4, 50, 3)) * [0.5, 0.3, 0.0]
        >>> h = xr.DataArray(h, dims=("sample", "time", "unit"))
        >>> traced = xr.Dataset({"gates": h.expand_dims(gate=["hidden"]), "h": h}, attrs={"gating": []})
        >>> dead_and_exploding(traced)["dead"].sel(state="h").values.tolist()
        [False, False, True]
    """
    for name, value in (("dormant", dormant), ("constant", constant), ("growth", growth)):
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise ArgumentTypeError(f"{name} is a number; got {reprlib.repr(value)}")
    limits = _Limits(_share("dormant", dormant), _share("constant", constant), growth)
    if not (math.isfinite(growth) and growth > 1):
        raise ArgumentError(f"growth is a factor > 1; got {growth!r}")
    if isinstance(traced_or_run, History):
        return _judged_run(traced_or_run, limits)
    if not isinstance(traced_or_run, xr.Dataset):
        raise ArgumentTypeError(
            "dead_and_exploding takes the Dataset that trace() returns, or a run (monitor.run, "
            f"Run.open(path)); got {reprlib.repr(traced_or_run)}"
        )
    return _judged_trace(traced_or_run, limits)


def find_interpretable_units(
    traced: xr.Dataset, signal: Any, *, state: str | Sequence[str] = "h", top: int = 10
) -> xr.Dataset:
    """The units that best tell a given signal at every timestep, scored on data not used to choose them.

    The search of Karpathy, Johnson & Li (2015, "Visualizing and understanding recurrent networks", section
    4.1), who looked for units that track quotes or line length by eye, as a computation. Each unit alone is
    fitted on one half of the data, units are ranked by how well they fit there, and their score is then taken
    on the other half. The first half of the samples is for fitting (of the timesteps, if there is one
    sample): neighbouring windows of a text stay together, so that the halves do not share what they overlap.

    A signal of numbers is predicted by a straight line; the score is R², the share of its variance that is
    explained: 0 is chance, 1 perfect, below 0 worse than the mean. A yes/no signal is told by a threshold,
    any threshold; the score is AUC, the probability that the unit is higher where the signal is yes than
    where it is no (Hanley & McNeil 1982): 0.5 is chance, 1 perfect.

    Args:
        traced: the result of `trace`.
        signal: ``(sample, time)``: bools, or numbers that are all 0 or 1, for a yes/no signal; other numbers.
            NaN where it is unknown: left out, as masked timesteps are.
        state: which state, or several: ``("h", "c")``.
        top: how many units to return.

    Returns:
        Dataset over ``rank`` (1 is best on the half for fitting): `unit`, `direction` (``""`` where there is
        but one), `state`, `score` (held out), `train_score`, `sign` (−1: the unit is low where the signal is
        high). `attrs`: ``layer``, ``cell``, ``measure`` (``"R²"`` or ``"AUC"``) and ``chance``, the score
        of a unit that knows nothing. A constant unit scores chance, one with NaN or Inf NaN.

    Raises:
        ArgumentError: if it is not a trace, has no such state, the signal has another shape, holds no
            numbers or Inf, or does not vary in one of the halves.
        ArgumentTypeError: if `state` is no name and no list of names.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> h = xr.DataArray(rng.normal(size=(20, 30, 5)), dims=("sample", "time", "unit"))
        >>> traced = xr.Dataset({"gates": h.expand_dims(gate=["hidden"]), "h": h}, attrs={"gating": []})
        >>> found = find_interpretable_units(traced, -2 * h[..., 3] + 1, top=2)
        >>> int(found["unit"][0]), round(float(found["score"][0]), 3), int(found["sign"][0])
        (3, 1.0, -1)
    """
    if not isinstance(state, str | Sequence) or not state:
        raise ArgumentTypeError(f"state is the name of a state or a list of names; got {reprlib.repr(state)}")
    states = [state] if isinstance(state, str) else list(state)
    for name in states:
        _require_state(traced, name, "find_interpretable_units")
    if isinstance(top, bool) or not isinstance(top, int | np.integer) or top < 1:
        raise ArgumentError(f"top is a number of units, at least 1; got {top!r}")
    wanted = _as_signal(signal, (traced.sizes["sample"], traced.sizes["time"]))
    is_yes_no = bool(np.isin(wanted[~np.isnan(wanted)], (0, 1)).all())
    parts = _by_direction(traced)
    candidates = [_scored(part, name, wanted, is_yes_no) for part in parts for name in states]
    table = xr.concat(candidates, "rank")
    best = table.isel(rank=np.argsort(-table["train_score"].values, kind="stable")[:top])
    return best.assign_coords(rank=np.arange(1, best.sizes["rank"] + 1)).assign_attrs(
        **_names(traced), measure="AUC" if is_yes_no else "R²", chance=0.5 if is_yes_no else 0.0
    )


# ---- traces --------------------------------------------------------------------------------------


def _require_trace(traced: Any, function: str, dims: Sequence[str] = (*_DIMS, "gate")) -> None:
    """Refuses what is no trace, and one of whose gates a dimension was taken away."""
    if not isinstance(traced, xr.Dataset) or "gates" not in traced or "gating" not in traced.attrs:
        raise ArgumentError(
            f"{function} takes the Dataset that trace() returns; got {reprlib.repr(type(traced).__name__)}"
            f"{' without gates' if isinstance(traced, xr.Dataset) else ''}"
        )
    lost = [dim for dim in dims if dim not in traced["gates"].dims]
    if lost:
        raise ArgumentError(
            f"{function} needs the dimension {lost[0]!r}, which this trace has lost; select with a list to "
            f"keep it: .isel({lost[0]}=[0])"
        )


def _require_state(traced: Any, state: str, function: str) -> None:
    _require_trace(traced, function)
    if state not in _state_names(traced):
        raise one_of(f"state of {traced.attrs.get('cell', 'this cell')}", state, _state_names(traced))


def _state_names(traced: xr.Dataset) -> list[str]:
    return [str(name) for name in traced.data_vars if name != "gates"]


def _names(traced: xr.Dataset) -> dict[str, Any]:
    return {name: traced.attrs[name] for name in ("layer", "cell") if name in traced.attrs}


def _by_direction(traced: xr.Dataset) -> list[xr.Dataset]:
    """The trace of each direction, variables in the order of DESIGN's dims; one for most layers."""
    ordered = traced.transpose(..., "sample", "time", "gate", "unit")
    if "direction" not in ordered.dims:
        return [ordered]
    return [ordered.isel(direction=i) for i in range(ordered.sizes["direction"])]


def _joined(parts: Sequence[Any], traced: xr.Dataset) -> Any:
    """Results of `_by_direction` as one again."""
    return xr.concat(parts, traced["direction"]) if "direction" in traced.dims else parts[0]


def _alive(part: xr.Dataset) -> np.ndarray:
    """Which timesteps the cell saw, ``(sample, time)``: gates are NaN where it was masked.

    Where a state is NaN as well the network itself has failed; that is not to be left out.
    """
    finite = np.isfinite(np.concatenate([part[name].values for name in _state_names(part)], axis=-1))
    if "gates" not in part:
        return np.ones(finite.shape[:-1], dtype=bool)
    alive = part["gates"].notnull().any(("gate", "unit")).values | ~finite.all(axis=-1)
    if not alive.any():
        raise ArgumentError("every timestep of this trace is masked: there is nothing to look at")
    return alive


# ---- correlation ---------------------------------------------------------------------------------


def _centred(values: np.ndarray) -> np.ndarray:
    """``(timestep, unit)`` minus the mean; exactly 0 for a unit that is constant."""
    wide = values.astype("float64")
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.ptp(wide, axis=0) == 0, 0.0, wide - wide.mean(axis=0))


def _correlation(centred: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scaled = centred / np.linalg.norm(centred, axis=0)
        # Rounding must not make a correlation larger than 1.
        return np.clip(scaled.T @ scaled, -1.0, 1.0)


def _participation_ratio(covariance: np.ndarray) -> float:
    """(Σλ)² / Σλ² without the eigenvalues: their sum is the trace, that of their squares the squared norm."""
    table = np.atleast_2d(covariance)
    size = np.abs(table).max()
    if not np.isfinite(size) or size == 0:
        return math.nan
    return float(np.trace(table / size) ** 2 / np.square(table / size).sum())


def _largest(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if known.size else math.nan


# ---- dead and exploding --------------------------------------------------------------------------


class _Limits(NamedTuple):
    dormant: float
    constant: float
    growth: float


def _share(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ArgumentError(f"{name} is a share, 0 … 1; got {value!r}")
    return value


def _judged_trace(traced: xr.Dataset, limits: _Limits) -> xr.Dataset:
    _require_trace(traced, "dead_and_exploding")
    if not _state_names(traced):
        raise ArgumentError("dead_and_exploding judges states; this trace holds its gates alone")
    found = _joined([_judged_states(part, limits) for part in _by_direction(traced)], traced)
    return found.assign_attrs(**_names(traced), **_shares(found))


def _judged_run(run: History, limits: _Limits) -> dict[str, xr.Dataset]:
    parts: dict[tuple[str, str], list[TensorKey]] = {}
    for key in run.infos():
        if key.direction and key.kind == "value" and _is_over_units(run, key):
            parts.setdefault((key.layer, key.direction), []).append(key)
    snapshots = {"/".join(part): _snapshots(run, keys) for part, keys in parts.items()}
    if not any(snapshots.values()):
        raise ArgumentError(
            "dead_and_exploding needs values of states or outputs, unit by unit; this run holds "
            + ("only their statistics" if parts else "none of a recurrent layer")
            + ': record with RNNMonitor(level="full"), or give it what trace(model, layer, x) returns'
        )
    return {name: _judged_steps(name, steps, limits) for name, steps in snapshots.items() if steps}


def _is_over_units(run: History, key: TensorKey) -> bool:
    """Whether a tensor is a state, gates or an output with a plain axis of units (not of images)."""
    info = run.info(key)
    return info.is_state or (key.role in ("gates", "output") and set(info.dims) <= {*_DIMS, "gate"})


def _snapshots(run: History, keys: Sequence[TensorKey]) -> dict[int, xr.Dataset]:
    """One part of a run as a trace per step: its states and gates, or its output if no state was kept."""
    kept = {key: dict(run.load(key, "value")) for key in keys}
    roles = {key.role for key, values in kept.items() if values}
    states = {key.role for key in keys if run.info(key).is_state} & roles or roles & {"output"}
    # Gates belong to the states' batch; outputs may be those of another one.
    wanted = states | (roles & {"gates"} if "output" not in states else set())
    chosen = {key: values for key, values in kept.items() if key.role in wanted}
    steps = sorted(set.intersection(*map(set, chosen.values()))) if chosen else []
    return {step: _as_trace(run, {key: values[step] for key, values in chosen.items()}) for step in steps}


def _as_trace(run: History, arrays: Mapping[TensorKey, np.ndarray]) -> xr.Dataset:
    (direction,) = {key.direction for key in arrays}
    variables = {key.role: (run.info(key).dims, array) for key, array in arrays.items()}
    part = xr.Dataset(variables, coords={"direction": direction})
    return part if "time" in part.dims else part.expand_dims("time", axis=1)


def _judged_steps(name: str, snapshots: Mapping[int, xr.Dataset], limits: _Limits) -> xr.Dataset:
    judged = [_judged_states(part, limits) for part in snapshots.values()]
    found = xr.concat(judged, xr.DataArray(list(snapshots), dims="step", name="step"))
    return found.assign_attrs(layer=name.rpartition("/")[0], **_shares(found.isel(step=-1)))


def _judged_states(part: xr.Dataset, limits: _Limits) -> xr.Dataset:
    names, alive = _state_names(part), _alive(part)
    if alive.sum() < 2:
        raise ArgumentError(
            "dead_and_exploding compares timesteps: it needs at least 2 that are not masked, those of all "
            f"samples together; got {alive.sum()}: give it more or longer samples"
        )
    is_backward = str(part.coords["direction"].values) == "backward" if "direction" in part.coords else False
    judged = [_judged(part[name].values, alive, is_backward, limits) for name in names]
    return xr.concat(judged, xr.DataArray(names, dims="state", name="state"))


def _judged(values: np.ndarray, alive: np.ndarray, is_backward: bool, limits: _Limits) -> xr.Dataset:
    """One state ``(sample, time, unit)``, judged unit by unit."""
    wide = values.astype("float64")
    flat = wide[alive]
    # What overflows in float64 is Inf, and says so.
    with np.errstate(invalid="ignore", over="ignore"):
        largest, spread = np.abs(flat).max(axis=0), flat.std(axis=0)
        exploding = ~np.isfinite(largest) | _grows(wide, alive, is_backward, limits.growth)
    usual = spread[~exploding].mean() if not exploding.all() else 0.0
    is_same = (spread <= limits.dormant * usual) | (spread <= limits.constant * largest)
    columns = {
        "dead": is_same & ~exploding,
        "exploding": exploding,
        "spread": np.where(np.isfinite(largest), spread, np.nan),
        "largest": largest,
    }
    return xr.Dataset({name: ("unit", column) for name, column in columns.items()})


def _grows(values: np.ndarray, alive: np.ndarray, is_backward: bool, growth: float) -> np.ndarray:
    """Units that grow geometrically, see `dead_and_exploding`."""
    seen = alive.any(axis=0)
    if seen.sum() < _QUARTERS:
        return np.zeros(values.shape[-1], dtype=bool)
    sizes = np.mean(np.abs(values[:, seen]), axis=0, where=alive[:, seen, None])
    in_order = sizes[::-1] if is_backward else sizes
    quarters = np.stack([part.mean(axis=0) for part in np.array_split(in_order, _QUARTERS)])
    known = quarters[0][np.isfinite(quarters[0])]
    usual = max(1.0, float(known.mean())) if known.size else 1.0
    # Over a few timesteps anything can double by chance.
    is_beyond_sums = quarters[-1] > max(len(sizes), _LEAST_FACTOR) * usual
    return np.all(quarters[1:] > growth * quarters[:-1], axis=0) & is_beyond_sums


def _shares(found: xr.Dataset) -> dict[str, float]:
    return {
        "share_dead": float(found["dead"].isel(state=0).mean()),
        "share_exploding": float(found["exploding"].any("state").mean()),
    }


# ---- interpretable units -------------------------------------------------------------------------


def _as_signal(signal: Any, shape: tuple[int, int]) -> np.ndarray:
    """The signal as float64 ``(sample, time)``, NaN where it is unknown."""
    if isinstance(signal, xr.DataArray) and set(signal.dims) == {"sample", "time"}:
        signal = signal.transpose("sample", "time")
    values = np.asarray(signal)
    if values.dtype.kind not in "biuf":
        raise ArgumentError(f"signal is an array of bools or numbers; got {values.dtype}")
    if values.shape != shape:
        raise ArgumentError(
            f"signal has one value per sample and timestep of the trace, {shape}; got shape {values.shape}"
        )
    if np.isinf(values).any():
        raise ArgumentError("signal holds Inf; put NaN where it is unknown: that is left out")
    return values.astype("float64")


def _scored(part: xr.Dataset, state: str, wanted: np.ndarray, is_yes_no: bool) -> xr.Dataset:
    """Scores of all units of one direction and state, in the order of the units."""
    usable = _alive(part) & ~np.isnan(wanted)
    first = _first_half(*usable.shape)
    values = part[state].values.astype("float64")
    fitting, testing = ((values[half], wanted[half]) for half in (usable & first, usable & ~first))
    for half, (_, truth) in (("first", fitting), ("second", testing)):
        if not truth.size or np.ptp(truth) == 0:
            raise ArgumentError(
                f"signal does not vary in the {half} half of the "
                f"{'samples' if len(wanted) > 1 else 'timesteps'}: nothing can be "
                f"{'learnt' if half == 'first' else 'scored'} there; give more data, or shuffle the samples"
            )
    with np.errstate(invalid="ignore", over="ignore"):
        fitted = _by_threshold(fitting, testing) if is_yes_no else _by_line(fitting, testing)
    units = values.shape[-1]
    direction = str(part.coords["direction"].values) if "direction" in part.coords else ""
    columns = {"unit": np.arange(units), "direction": [direction] * units, "state": [state] * units, **fitted}
    return xr.Dataset({name: ("rank", column) for name, column in columns.items()})


def _first_half(samples: int, timesteps: int) -> np.ndarray:
    half = np.zeros((samples, timesteps), dtype=bool)
    if samples > 1:
        half[: (samples + 1) // 2] = True
    else:
        half[:, : (timesteps + 1) // 2] = True
    return half


#: Values ``(timestep, unit)`` and the signal ``(timestep,)``.
_Half = tuple[np.ndarray, np.ndarray]


def _by_line(fitting: _Half, testing: _Half) -> dict[str, np.ndarray]:
    """Least squares through the first half, unit by unit, and R² on both."""
    values, truth = fitting
    centred = _centred(values)
    variance = np.square(centred).sum(axis=0)
    slope = centred.T @ (truth - truth.mean()) / np.where(variance == 0, 1.0, variance)
    offset = truth.mean() - slope * values.mean(axis=0)
    scores = [_r_squared(slope * given + offset, true) for given, true in (testing, fitting)]
    return {"score": scores[0], "train_score": scores[1], "sign": _signs(slope)}


def _r_squared(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    wrong = np.square(predicted - truth[:, None]).sum(axis=0)
    return 1 - wrong / np.square(truth - truth.mean()).sum()


def _by_threshold(fitting: _Half, testing: _Half) -> dict[str, np.ndarray]:
    """Whether yes is high or low, by the first half, unit by unit, and AUC on both."""
    trained = _auc(*fitting)
    sign = _signs(trained - 0.5)
    is_turned = trained < 0.5
    tested = np.where(np.isnan(trained), np.nan, _auc(*testing))
    scores = [np.where(is_turned, 1 - auc, auc) for auc in (tested, trained)]
    return {"score": scores[0], "train_score": scores[1], "sign": sign}


def _auc(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """P(value at a yes > value at a no), ties counted half, unit by unit; NaN for units with NaN or Inf."""
    low, high = np.sort(values[truth == 0], axis=0), values[truth == 1]
    below = [
        np.searchsorted(low[:, unit], high[:, unit], side)
        for unit in range(values.shape[1])
        for side in ("left", "right")
    ]
    found = np.mean(np.reshape(below, (values.shape[1], -1)), axis=1) / len(low)
    return np.where(np.isfinite(values).all(axis=0), found, np.nan)


def _signs(slope: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(slope), 0, np.sign(slope)).astype("int64")
