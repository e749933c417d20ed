"""From what was seen to what a person reads: the place, the numbers, the sentence and the advice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.engine.sightings import Note, Record, Sighting
from see_rnn_like.extract.culprits import BadData, BadWeight, Suspect
from see_rnn_like.findings import Autopsy, Where
from see_rnn_like.labels import TensorKey
from see_rnn_like.models.layout import WeightSlot

#: Over how many timesteps before the bad one growth is measured.
_GROWTH_SPAN = 5

#: Growth per timestep below which nothing is said of it.
_GROWTH_TOLD = 1.05

#: How many samples, units and earlier steps are named in a sentence.
_NAMED = 3


def autopsy(
    record: Record,
    first: Sighting,
    suspect: Suspect | None,
    step: int | None,
    trail: xr.DataArray | None,
    replica: int | None,
) -> Autopsy:
    """Puts together what was found.

    Args:
        record: of the replay.
        first: the first tensor that was not finite and did harm.
        suspect: the data or the weight it comes from.
        step: number of the step.
        trail: as in `autopsy_of`.
        replica: as in `autopsy_of`.
    """
    if isinstance(suspect, BadData):
        case = _data_case(suspect)
    elif isinstance(suspect, BadWeight):
        case = _weight_case(suspect, first)
    else:
        case = _tensor_case(record, first, trail)
    where = replace(case.where, step=step)
    found = Autopsy(
        rule="input-not-finite" if where.phase == "data" else "not-finite",
        severity="error",
        confidence=1.0,
        where=where,
        evidence=case.evidence,
        message=f"{_head(case.values, step, replica)}: {case.sentence}",
        advice=case.advice,
        see="plot_autopsy",
        growth=case.growth,
    )
    return found if trail is None else replace(found, trail=trail)


@dataclass(frozen=True, eq=False)
class _Case:
    """One kind of finding, told."""

    where: Where
    values: np.ndarray
    evidence: dict[str, Any]
    sentence: str
    advice: str
    growth: xr.DataArray | None = None


def _head(values: np.ndarray, step: int | None, replica: int | None) -> str:
    kind = "NaN" if np.isnan(values).any() else "Inf"
    at = "" if step is None else f" at step {step}"
    return kind + at + ("" if replica is None else f", replica {replica}")


def _counts(values: np.ndarray) -> dict[str, Any]:
    finite = np.abs(values[np.isfinite(values)])
    counts = {"nan": int(np.isnan(values).sum()), "inf": int(np.isinf(values).sum()), "count": values.size}
    return counts | ({"largest": float(finite.max())} if finite.size else {})


# -- data --------------------------------------------------------------------------------------------


def _data_case(suspect: BadData) -> _Case:
    axes = suspect.axes
    timestep, units, samples = located(suspect.values, axes)
    where = Where(None, "data", None, None, suspect.role, None, timestep, units, samples)
    evidence = _counts(suspect.values)
    many = " and ".join(f"{evidence[k]} {n}" for k, n in (("nan", "NaN"), ("inf", "Inf")) if evidence[k])
    sizes = dict(zip(axes, suspect.values.shape, strict=True))
    place = [] if timestep is None else [f"first at timestep {timestep} of {sizes['time']}"]
    place += _listed("sample", samples, sizes.get("sample")) + _listed("feature", units, sizes.get("unit"))
    what = {"x": "input ", "y": "target "}.get(suspect.role.split("/")[0], "")
    sentence = ", ".join([f"{what}{suspect.role} holds {many}", *place])
    return _Case(where, suspect.values, evidence, sentence, _ADVICE["data"])


# -- weights -----------------------------------------------------------------------------------------


def _weight_case(suspect: BadWeight, first: Sighting) -> _Case:
    slot = suspect.slot
    gate, units = _weight_place(slot, suspect.values)
    where = Where(None, "weights", slot.layer, slot.direction, slot.role, gate, None, units, None)
    kept = slot.role in _STATES
    named = [_layer(slot.layer, slot.direction), _STATES.get(slot.role, slot.role)]
    named += [] if gate is None else [f"{gate} gate"]
    parts = ", ".join([*named, *_listed("unit", units)])
    evidence = _counts(suspect.values)
    what = "the state kept from the batch before" if kept else "the weight"
    shows = f"{parts}: {what} already was not finite; it first shows in {_place(first)}"
    return _Case(where, suspect.values, evidence, shows, _ADVICE["kept" if kept else "weights"])


def _weight_place(slot: WeightSlot, values: np.ndarray) -> tuple[str | None, tuple[int, ...] | None]:
    if slot.spec is None:
        return None, _positions(~np.isfinite(values), -1) if values.ndim else None
    by_gate = ~np.isfinite(values.reshape(-1, *slot.spec.split_shape(slot.role, values.shape)[-2:])).all(
        axis=0
    )
    place = int(np.argmax(by_gate.any(axis=-1)))
    return slot.spec.gates[place], _positions(by_gate[place], 0)


# -- tensors of the step -------------------------------------------------------------------------------


def _tensor_case(record: Record, first: Sighting, trail: xr.DataArray | None) -> _Case:
    note, values = first.note, first.values
    if note.slot is not None:
        gate, units = _weight_place(note.slot, values)
        timestep = samples = None
    else:
        timestep, units, samples = located(values, note.axes)
        gate = note.gate
        if note.moment is not None:
            timestep = note.moment.timestep
    role = note.role
    where = Where(None, first.phase, note.layer, note.direction, role, gate, timestep, units, samples)
    growth = _growth(record, first)
    evidence = _evidence(first, where, growth)
    clauses = [_place(first), *_cause(evidence), *_before(trail, where)]
    return _Case(where, values, evidence, "; ".join(clauses), _advice(first, evidence), growth)


def located(
    values: np.ndarray, axes: tuple[str, ...]
) -> tuple[int | None, tuple[int, ...] | None, tuple[int, ...] | None]:
    """First bad timestep, and the units and samples that are bad there.

    Args:
        values: an array that is not finite.
        axes: names of its axes.
    """
    bad = ~np.isfinite(values)
    timestep = None
    if "time" in axes:
        along = axes.index("time")
        timestep = _positions(bad, along)[0]
        bad = np.take(bad, timestep, axis=along)
        axes = tuple(axis for axis in axes if axis != "time")
    units, samples = (
        _positions(bad, axes.index(axis)) if axis in axes else None for axis in ("unit", "sample")
    )
    return timestep, units, samples


def _positions(bad: np.ndarray, axis: int) -> tuple[int, ...]:
    others = tuple(i for i in range(bad.ndim) if i != axis % bad.ndim)
    return tuple(int(place) for place in np.flatnonzero(bad.any(axis=others)))


def _growth(record: Record, first: Sighting) -> xr.DataArray | None:
    """Largest absolute value per timestep of the tensor that went bad, in input order."""
    note, kind = first.note, "gradient" if first.phase == "backward" else "value"
    if note.moment is not None:
        series = record.series.get(note.key(kind), {})
        largest = np.array([series.get(t, np.nan) for t in range(note.moment.timesteps or 0)])
    elif "time" in note.axes:
        others = tuple(i for i, axis in enumerate(note.axes) if axis != "time")
        largest = np.abs(first.values).max(axis=others).astype("float64")
    else:
        return None
    return xr.DataArray(largest, dims=("time",), coords={"time": np.arange(len(largest))}, name="growth")


def _evidence(first: Sighting, where: Where, growth: xr.DataArray | None) -> dict[str, Any]:
    evidence = _counts(first.values)
    note = first.note
    if note.activation is not None and (note.moment is not None or note.activation != "linear"):
        evidence["activation"] = note.activation
    if first.what is not None:
        evidence["term"] = first.what
    if first.before is not None:
        at_bad = np.abs(first.before[~np.isfinite(first.values)])
        evidence["pre_activation"] = float(at_bad.max())
    if growth is not None:
        evidence["timesteps"] = growth.size
    if growth is not None and note.moment is not None:
        evidence |= _approach(
            growth.values, where.timestep or 0, _backwards(first), np.finfo(first.values.dtype).max
        )
    return evidence


def _backwards(first: Sighting) -> bool:
    """Whether later timesteps come first: in the backward pass, and in the loop of a backward layer."""
    return (first.phase == "backward") != (first.note.direction == "backward")


def _approach(largest: np.ndarray, timestep: int, backwards: bool, limit: float) -> dict[str, Any]:
    """The finite values right before the bad one and by how much they grew from timestep to timestep."""
    before = largest[timestep + 1 :][::-1] if backwards else largest[:timestep]
    last = before[-_GROWTH_SPAN - 1 :]
    fine = np.isfinite(last) & (last > 0)
    last = last[np.flatnonzero(~fine)[-1] + 1 :] if not fine.all() else last
    found: dict[str, Any] = {}
    if last.size:
        found["largest_before"] = float(last[-1])
    # A jump is no growth: the last value must be at least half-way there, on a logarithmic scale.
    if last.size > 1 and np.log(last[-1]) >= 0.5 * np.log(limit):
        found["growth_per_timestep"] = float((last[-1] / last[0]) ** (1 / (last.size - 1)))
    return found


# -- sentences ---------------------------------------------------------------------------------------


def _layer(layer: str | None, direction: str | None) -> str:
    return f"{layer} ({direction})" if direction else str(layer)


_STATES = {"h": "state h", "c": "cell state c"}


def _what(note: Note, phase: str) -> str:
    role, _, call = note.role.partition("@")
    shown = f"{note.gate} gate" if note.gate is not None and note.slot is None else _STATES.get(role, role)
    shown = role if note.slot is not None else shown.replace("_", " ")
    shown += f" of call {int(call) + 1}" if call else ""
    owner = "the pre-activation of its" if note.pre_activation else "its"
    return f"gradient w.r.t. {owner} {shown}" if phase == "backward" else shown


def _place(first: Sighting) -> str:
    """Where it is, as in ``lstm_1 (forward), cell gate, first at timestep 37 of 200, sample 3``."""
    note = first.note
    if first.phase == "loss":
        return _loss_place(first)
    if note.slot is not None:
        gate, units = _weight_place(note.slot, first.values)
        parts = [_layer(note.layer, note.direction), _what(note, first.phase)]
        return ", ".join([*parts, *([f"{gate} gate"] if gate else []), *_listed("unit", units)])
    timestep, units, samples = located(first.values, note.axes)
    timesteps = None
    if note.moment is not None:
        timestep, timesteps = note.moment.timestep, note.moment.timesteps
    elif "time" in note.axes:
        timesteps = first.values.shape[note.axes.index("time")]
    parts = [_layer(note.layer, note.direction), _what(note, first.phase)]
    parts += [] if timestep is None else [f"first at timestep {timestep} of {timesteps}"]
    sizes = dict(zip(note.axes, first.values.shape, strict=True))
    listed = [*_listed("sample", samples, sizes.get("sample")), *_listed("unit", units, sizes.get("unit"))]
    return ", ".join([*parts, *listed])


def _loss_place(first: Sighting) -> str:
    timestep, _, samples = located(first.values, first.note.axes)
    name = first.note.role.partition("/")[2]
    parts = [f"the loss of {name}" if name and not name.endswith("_loss") else name or "the loss"]
    total = first.values.shape[0] if samples else None
    if first.note.layer is not None:
        parts = [f"{first.note.layer}, {first.what}"]
    elif first.what:
        parts[0] += f" ({first.what})"
    parts += [] if timestep is None else [f"first at timestep {timestep}"]
    return ", ".join([*parts, *_listed("sample", samples, total)]) + "; everything before it is finite"


def _listed(name: str, places: tuple[int, ...] | None, total: int | None = None) -> list[str]:
    """``samples 3 and 11``, or the first few and how many."""
    if not places:
        return []
    if len(places) == total and total > 1:
        return [f"all {total} {name}s"]
    if len(places) == 1:
        return [f"{name} {places[0]}"]
    if len(places) > _NAMED:
        return [f"{name}s {', '.join(map(str, places[:_NAMED]))}, … ({len(places)} {name}s)"]
    return [f"{name}s {', '.join(map(str, places[:-1]))} and {places[-1]}"]


def _cause(evidence: dict[str, Any]) -> list[str]:
    """The numbers that led there."""
    clauses = []
    grows = evidence.get("growth_per_timestep", 0.0)
    growing = f", growing ×{_number(grows)} per timestep" if grows > _GROWTH_TOLD else ""
    if "pre_activation" in evidence and np.isfinite(evidence["pre_activation"]):
        clauses.append(f"its pre-activation was {_number(evidence['pre_activation'])}{growing}")
    elif "largest_before" in evidence:
        what = "its pre-activation" if "pre_activation" in evidence else "its largest value"
        before = _number(evidence["largest_before"])
        clauses.append(f"{what} was {before} one timestep before{growing}")
    if "activation" in evidence:
        clauses.append(f"activation is {evidence['activation']}")
    return clauses


def _number(value: float) -> str:
    if value == 0 or 0.01 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _before(trail: xr.DataArray | None, where: Where) -> list[str]:
    """How large the tensor, or of a cell the layer's output, was at the steps before."""
    if trail is None or trail.sizes["step"] < 2:
        return []
    keys = [str(key) for key in trail["tensor"].values]
    names = [key for key in _trail_keys(where) if key in keys]
    if not names:
        return []
    last = [float(v) for v in trail[-1 - _NAMED : -1, keys.index(names[0])]]
    counted = {1: "step", 2: "two steps", 3: "three steps"}[len(last)]
    role = TensorKey.parse(names[0]).role
    if role == where.role and where.layer is not None:
        what = "its largest value"
    else:
        what = {"output": "the layer's largest output", "loss": "the loss"}.get(role, "its largest value")
    return [f"{what} was {', '.join(map(_number, last))} at the {counted} before"]


def _trail_keys(where: Where) -> list[str]:
    layer, kind = where.layer or "", "gradient" if where.phase == "backward" else "value"
    roles = [str(where.role), "output"] if where.layer else [str(where.role), "loss"]
    wanted = [(role, kind) for role in roles] + [("loss", "value")] * (where.phase == "loss")
    valid = [(role, kind) for role, kind in wanted if "/" not in role]
    return [str(TensorKey(layer if role != "loss" else "", where.direction, role, k)) for role, k in valid]


# -- advice --------------------------------------------------------------------------------------------


_ADVICE = {
    "data": "clean or drop these values before training (np.isfinite tells where they are): mask them, "
    "impute them, or leave the samples out",
    "weights": "the weight was ruined before this step: load the last good checkpoint; NaNGuard keeps good "
    "states itself with action='rollback'; an update of gradients that are finite but huge ruins weights "
    "too: clip gradients (clipnorm=1.0) or lower the learning rate",
    "kept": "the state was ruined by an earlier batch: call reset_state() of the layer, find_nonfinite on "
    "the batches before",
    "half": "float16 ends at 65504: compute this layer in float32 (dtype='float32') or use mixed_bfloat16",
    "unbounded": "the activation is not bounded, so the recurrence can grow without limit: use tanh, or clip "
    "gradients (clipnorm=1.0), lower the learning rate and keep the recurrent kernel near orthogonal",
    "recurrence": "the recurrence grows from timestep to timestep: clip gradients (clipnorm=1.0), lower the "
    "learning rate, scale the inputs, or shorten the sequences",
    "gradient": "the gradient is not finite while the forward pass is: look for sqrt, norm, pow, log or a "
    "division at 0 and add a small epsilon inside; with tf.where make the branch not taken finite as well",
    "layer": "look for a division by 0 (also by the number of unmasked timesteps, or by a standard deviation "
    "over one sample), log or sqrt of what is not positive, or exp of what is large: add a small epsilon or "
    "clip the argument",
    "loss": "the predictions are finite, the loss is not: log(0) or a division by 0 in it. Add an epsilon "
    "(keras.config.epsilon()), or give logits and from_logits=True; check the targets' range",
    "added": "this term of the loss is not finite while the outputs are: add an epsilon in it or lower its "
    "factor",
}


def _advice(first: Sighting, evidence: dict[str, Any]) -> str:
    if first.phase == "loss":
        return _ADVICE["added" if first.note.layer is not None else "loss"]
    if first.values.dtype == np.float16 and evidence["inf"]:
        return _ADVICE["half"]
    if first.phase == "backward":
        return _ADVICE["recurrence" if _overflows(first, evidence) else "gradient"]
    if not _overflows(first, evidence):
        return _ADVICE["layer"]
    bounded = evidence.get("activation") in ("tanh", "sigmoid", "hard_sigmoid", "softsign")
    return _ADVICE["recurrence" if bounded or "activation" not in evidence else "unbounded"]


def _overflows(first: Sighting, evidence: dict[str, Any]) -> bool:
    """Whether a recurrence became too large, as far as that shows: not what one operation makes at once."""
    note = first.note
    if note.moment is None and (note.slot is None or note.slot.spec is None):
        return False
    grows = evidence.get("growth_per_timestep", 0.0) > _GROWTH_TOLD
    summed = note.slot is not None or (note.gate is not None and not note.pre_activation)
    return grows or not np.isfinite(evidence.get("pre_activation", 0.0)) or (summed and not evidence["nan"])


# -- what did not come again ---------------------------------------------------------------------------


def not_reproduced(step: int | None, trail: xr.DataArray | None, replica: int | None) -> Autopsy:
    """Says that the step is finite when it is run again, and names what the trail saw first."""
    return _by_trail(
        step, trail, replica, "run again the step is finite, so its inside cannot be shown", _REPEAT
    )


def not_run_again(
    step: int | None, trail: xr.DataArray | None, replica: int | None, error: Exception
) -> Autopsy:
    """Says that the step could not be run again, and names what the trail saw first."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    why = f"the step cannot be run again, so its inside cannot be shown ({type(error).__name__}: {reason})"
    return _by_trail(step, trail, replica, why, _RUN)


_REPEAT = (
    "make the step repeatable: random operations by keras.random with a SeedGenerator, no state outside of "
    "the model; rounding differs between compiled and eager runs, so a value on the brink of overflow may "
    "not overflow again"
)
_RUN = "make the train step one that also runs eagerly: try model.compile(..., run_eagerly=True)"


def _by_trail(
    step: int | None, trail: xr.DataArray | None, replica: int | None, why: str, advice: str
) -> Autopsy:
    at = "" if step is None else f" at step {step}"
    at += "" if replica is None else f", replica {replica}"
    seen = _first_in(trail)
    named = "" if seen is None else f": the first tensor seen then was {seen}"
    found = Autopsy(
        rule="not-finite",
        severity="error",
        confidence=0.3 if seen is None else 0.6,
        where=_seen_where(seen, step),
        evidence={"reproduced": False},
        message=f"NaN or Inf{at}{named}; {why}",
        advice=advice,
        see="plot_autopsy",
    )
    return found if trail is None else replace(found, trail=trail)


def _first_in(trail: xr.DataArray | None) -> TensorKey | None:
    if trail is None or not trail.sizes["step"]:
        return None
    bad = np.flatnonzero(~np.isfinite(trail[-1].values))
    return TensorKey.parse(str(trail["tensor"].values[bad[0]])) if bad.size else None


def _seen_where(key: TensorKey | None, step: int | None) -> Where:
    if key is None:
        return Where(step)
    phase = {"gradient": "backward", "weight": "weights", "update": "backward", "value": "forward"}[key.kind]
    if key.role == "loss" and not key.layer:
        phase = "loss"
    return Where(step, phase, key.layer or None, key.direction, key.role)
