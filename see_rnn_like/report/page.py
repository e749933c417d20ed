"""What a report says: everything on the page as plain data, for the template to set."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.cells import STANDARD_ROLES
from see_rnn_like.history import Event, History, TensorInfo
from see_rnn_like.labels import KINDS, TensorKey
from see_rnn_like.plots.development import is_activation
from see_rnn_like.plots.probed import horizon_layers, norm_layers, saturation_layers
from see_rnn_like.plots.timeline import loss_lines
from see_rnn_like.report.pictures import (
    Picture,
    activations_picture,
    events_picture,
    flow_picture,
    heatmap_picture,
    histogram_picture,
    horizon_picture,
    loss_picture,
    norms_picture,
    ratio_picture,
    saturation_picture,
)
from see_rnn_like.report.svg import theme

#: Columns of the table of last statistics, as in `stats.describe`.
STATISTICS = ("norm", "mean", "std", "min", "max", "zeros", "nan", "inf")

_LOSS = TensorKey("", None, "loss", "value")
#: What a layer's entry in the meta data has, and what is shown of it if it is missing.
_MODEL_LAYER = {"path": "", "class": "", "output_shape": "", "parameters": "", "trainable": None}
_KIND_HEADINGS = {"weight": "Weights", "update": "Updates", "gradient": "Gradients", "value": "Outputs"}


@dataclass(frozen=True)
class StatRow:
    """Last statistics of one gate of one tensor: the variables of `stats.describe` named in `STATISTICS`."""

    kind: str
    gate: str
    step: int
    numbers: dict[str, float]


@dataclass(frozen=True)
class Tensor:
    """One role of a layer: its weight, update and gradient, or its output and the gradient of that."""

    name: str
    pictures: list[Picture]
    rows: list[StatRow]

    @property
    def gated(self) -> bool:
        """Whether its statistics are by gate."""
        return any(row.gate for row in self.rows)


@dataclass(frozen=True)
class Layer:
    """One layer of the page; `gated` if it is recurrent, `inside` what was measured on the probe batch."""

    anchor: str
    name: str
    facts: list[str]
    events: int
    gated: bool
    inside: list[Picture]
    heatmaps: list[Picture]
    tensors: list[Tensor]


@dataclass(frozen=True)
class Page:
    """The whole page."""

    title: str
    sentences: list[str]
    facts: list[tuple[str, str]]
    events: list[Event]
    events_picture: Picture | None
    loss: Picture | None
    epochs: list[dict[str, float]]
    overview: list[tuple[str, Picture]]
    ratio: Picture | None
    activations: Picture | None
    layers: list[Layer]
    model_layers: list[dict[str, Any]]
    optimizer: list[tuple[str, str]]
    summary: str
    version: str
    written: str
    statistics: tuple[str, ...] = STATISTICS
    most_events: int = 8
    most_epochs: int = 10

    @property
    def epoch_columns(self) -> list[str]:
        """What is known at the end of an epoch."""
        return list(dict.fromkeys(name for epoch in self.epochs for name in epoch))

    @property
    def probed(self) -> bool:
        """Whether anything was measured inside of layers."""
        return any(layer.inside for layer in self.layers)

    def untold(self, event: Event) -> list[str]:
        """What is known about an event and not said in its message."""
        facts: dict[str, Sequence[str]] = {f"step {event.step}": [f"step {event.step}"]}
        if event.kind not in _BAD_NAMES:
            facts[event.kind] = [event.kind]
        if event.key:
            facts[str(event.key)] = [event.key.layer, event.key.direction or "", event.key.role]
        if event.gate:
            facts[f"gate {event.gate}"] = [event.gate]
        facts |= {f"{name} {count:,}": [str(count)] for name, count in event.counts.items()}
        return [fact for fact, words in facts.items() if not all(_says(event.message, w) for w in words)]

    @property
    def open_layer(self) -> str:
        """Anchor of the layer to look at first: that of the first event, else the first recurrent one."""
        blamed = next((event.key.layer for event in self.events if event.key), None)
        ranked = sorted(self.layers, key=lambda layer: (layer.name != blamed, not layer.gated))
        return ranked[0].anchor if ranked else ""

    @property
    def colours(self) -> list[tuple[str, str, str]]:
        """Every colour of the pictures: variable, light value, dark value."""
        shown = [self.loss, self.ratio, self.activations, self.events_picture]
        shown += [picture for _, picture in self.overview]
        shown += [picture for layer in self.layers for picture in (*layer.inside, *layer.heatmaps)]
        shown += [picture for layer in self.layers for tensor in layer.tensors for picture in tensor.pictures]
        return theme([picture.svg for picture in shown if picture is not None])


def build_page(run: History) -> Page:
    """Reads a run and draws it.

    Args:
        run: the recorded run; entries missing from its `meta` are left out of the page.

    Returns:
        The page.
    """
    meta, infos, events = run.meta, run.infos(), run.events
    model = meta.get("model") or {}
    known = {layer.get("path"): layer for layer in model.get("layers") or ()}
    recorded = bool(run.steps)
    found = [info for info in infos.values() if info.key.layer and run.load(info.key, "moments")]
    kept = [info for info in found if not info.derived]
    names = list(dict.fromkeys([*(path for path in known), *(info.key.layer for info in found)]))
    layers = [name for name in names if any(info.key.layer == name for info in found)]
    return Page(
        title=str(model.get("name") or "a run"),
        sentences=_sentences(run),
        facts=_facts(run),
        events=events,
        events_picture=events_picture(run) if events and recorded else None,
        loss=loss_picture(run) if loss_lines(run) else None,
        epochs=run.epochs,
        overview=_overview(run, kept),
        ratio=_ratio(run, kept),
        activations=activations_picture(run) if _has_activations(run, kept) else None,
        layers=[_layer(run, kept, name, f"layer-{n}", known.get(name, {})) for n, name in enumerate(layers)],
        model_layers=[_MODEL_LAYER | layer for layer in known.values()],
        optimizer=[(name, _setting(value)) for name, value in (meta.get("optimizer") or {}).items()],
        summary=str(model.get("summary") or ""),
        version=f" {meta['package_version']}" if meta.get("package_version") else "",
        written=datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
    )


def _sentences(run: History) -> list[str]:
    steps = run.steps
    if not steps:
        return ["No step has been recorded yet."]
    sentences = [f"{len(steps)} steps were recorded, {steps[0]} to {steps[-1]}."]
    if _LOSS in run.infos():
        loss = run.stats(_LOSS)["mean"].values
        loss = loss[np.isfinite(loss)]
        sentences += (
            [f"The loss of the batch went from {loss[0]:.4g} to {loss[-1]:.4g}."] if loss.size > 1 else []
        )
    bad = next((event for event in run.events if event.kind in ("nan", "inf")), None)
    if bad is None:
        return [*sentences, "No NaN and no Inf was seen in them."]
    where = f" in {bad.key}" if bad.key else ""
    gate = f", gate {bad.gate}" if bad.gate else ""
    return [*sentences, f"{_BAD_NAMES[bad.kind]} was first seen at step {bad.step}{where}{gate}."]


def _says(message: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", message) is not None


_BAD_NAMES = {"nan": "NaN", "inf": "Inf"}


def _facts(run: History) -> list[tuple[str, str]]:
    meta = run.meta
    model, optimizer = meta.get("model") or {}, meta.get("optimizer") or {}
    fits = meta.get("fits") or []
    seconds = float(run.logs()["seconds"].median()) if run.steps else 0.0
    facts: list[tuple[str, Any]] = [
        ("Model", model.get("name")),
        ("Parameters", f"{model['parameters']:,}" if model.get("parameters") is not None else None),
        ("Optimizer", _optimizer(optimizer)),
        ("Loss", meta.get("loss")),
        ("Recorded", f"{len(run.steps)} steps, {meta['every']}" if meta.get("every") else len(run.steps)),
        ("Captured", ", ".join(map(str, meta.get("capture") or ()))),
        ("Level", meta.get("level")),
        ("Epochs", len(run.epochs) or None),
        ("Batch size", ", ".join(dict.fromkeys(str(f["batch_size"]) for f in fits if f.get("batch_size")))),
        ("Calls of fit", len(fits) if len(fits) > 1 else None),
        ("jit_compile", meta.get("jit_compile")),
        ("A recorded step took", f"{seconds * 1e3:.1f} ms (median)" if seconds else None),
        ("Compiling it took", _tracing(meta.get("tracing"))),
        ("Started", str(meta.get("started") or "").replace("T", " ")),
        ("Finished", str(meta.get("finished") or "").replace("T", " ")),
        ("Versions", _versions(meta)),
        ("Host", meta.get("host")),
        ("Git commit", str(meta.get("git_commit") or "")[:12]),
    ]
    return [(name, str(value)) for name, value in facts if value is not None and value != ""]


def _tracing(traced: Any) -> str | None:
    """Seconds of all tracing; None for a run that does not tell, or tells something else."""
    seconds = [entry.get("seconds") for entry in traced or () if isinstance(entry, Mapping)]
    known = [float(value) for value in seconds if isinstance(value, int | float)]
    return f"{sum(known):.1f} s" + (f" ({len(known)} times)" if len(known) > 1 else "") if known else None


def _optimizer(config: Mapping[str, Any]) -> str:
    rate = _setting(config.get("learning_rate") or "")
    clip = [
        f"{name} {config[name]}" for name in ("clipnorm", "clipvalue", "global_clipnorm") if config.get(name)
    ]
    return ", ".join([str(config.get("class") or ""), *([f"learning rate {rate}"] if rate else []), *clip])


def _setting(value: Any) -> str:
    """A setting as text; of a learning-rate schedule, which Keras describes by a dict, class and settings."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if not isinstance(value, Mapping) or "class_name" not in value:
        return str(value)
    config = (value.get("config") or {}).items()
    inside = [f"{name} {_setting(part)}" for name, part in config if name != "name" and part is not None]
    return f"{value['class_name']} ({', '.join(inside)})" if inside else str(value["class_name"])


def _versions(meta: Mapping[str, Any]) -> str:
    names = {"package": "see_rnn_like", "keras": "Keras", "tensorflow": "TensorFlow", "numpy": "NumPy"}
    names |= {"python": "Python"}
    found = [(title, meta.get(f"{name}_version")) for name, title in names.items()]
    backend = [f"backend {meta['backend']}"] if meta.get("backend") else []
    return ", ".join([f"{title} {version}" for title, version in found if version] + backend)


def _overview(run: History, infos: Sequence[TensorInfo]) -> list[tuple[str, Picture]]:
    by_kind = {kind: [info.key for info in infos if info.key.kind == kind] for kind in KINDS}
    return [(_heading(kind, keys), norms_picture(run, keys, False)) for kind, keys in by_kind.items() if keys]


def _heading(kind: str, keys: Sequence[TensorKey]) -> str:
    probed = kind == "value" and any(key.role != "output" for key in keys)
    return "Outputs, gates and states" if probed else _KIND_HEADINGS[kind]


def _has_activations(run: History, infos: Sequence[TensorInfo]) -> bool:
    return any(run.load(info.key, "histogram", run.steps[-1:]) for info in infos if is_activation(info))


def _ratio(run: History, infos: Sequence[TensorInfo]) -> Picture | None:
    keys = {info.key for info in infos}
    both = [
        k for k in keys if k.kind == "update" and TensorKey(k.layer, k.direction, k.role, "weight") in keys
    ]
    return ratio_picture(run, sorted(both)) if both else None


def _layer(
    run: History, infos: Sequence[TensorInfo], name: str, anchor: str, facts: Mapping[str, Any]
) -> Layer:
    own = [info for info in infos if info.key.layer == name]
    groups: dict[tuple[str | None, str], list[TensorInfo]] = {}
    for info in own:
        groups.setdefault((info.key.direction, info.key.role), []).append(info)
    two = {"forward", "backward"} <= {info.key.direction for info in own}
    tensors = [
        _tensor(run, f"{direction} · {role}" if two and direction else role, members)
        for (direction, role), members in groups.items()
    ]
    words = [facts.get("class"), facts.get("output_shape")]
    if facts.get("parameters") is not None:
        words.insert(1, f"{facts['parameters']:,} parameters")
    words.append("frozen" if facts.get("trainable") is False else None)
    events = sum(event.key is not None and event.key.layer == name for event in run.events)
    return Layer(
        anchor,
        name,
        facts=[str(word) for word in words if word],
        events=events,
        gated=any(info.gates for info in own),
        inside=_inside(run, name),
        heatmaps=_heatmaps(run, own),
        tensors=tensors,
    )


def _inside(run: History, layer: str) -> list[Picture]:
    drawers = {
        flow_picture: norm_layers,
        saturation_picture: saturation_layers,
        horizon_picture: horizon_layers,
    }
    return [draw(run, layer) for draw, layers_of in drawers.items() if layer in layers_of(run)]


def _heatmaps(run: History, infos: Sequence[TensorInfo]) -> list[Picture]:
    weights = [info for info in infos if info.key.kind == "weight" and info.gates]
    pictures = []
    for direction in dict.fromkeys(info.key.direction for info in weights):
        own = {info.key.role: info for info in weights if info.key.direction == direction}
        if {"kernel", "recurrent_kernel"} <= own.keys() <= set(STANDARD_ROLES):
            members = [own[role] for role in STANDARD_ROLES if role in own]
            pictures.append(heatmap_picture(run, members, run.steps[-1]))
    return [picture for picture in pictures if picture is not None]


def _tensor(run: History, name: str, infos: Sequence[TensorInfo]) -> Tensor:
    infos = sorted(infos, key=lambda info: KINDS.index(info.key.kind))
    pictures = [norms_picture(run, [info.key for info in infos], True)]
    rows: list[StatRow] = []
    for info in infos:
        table = run.stats(info.key)
        rows += _last_rows(info, table)
        if "histogram" in table:
            pictures.append(histogram_picture(run, info))
    return Tensor(name, pictures, rows)


def _last_rows(info: TensorInfo, table: xr.Dataset) -> list[StatRow]:
    last = table.isel(step=-1)
    parts = [(gate, last.sel(gate=gate)) for gate in info.gates] or [("", last)]
    step = int(last["step"])
    return [
        StatRow(info.key.kind, gate, step, {name: float(part[name]) for name in STATISTICS})
        for gate, part in parts
    ]
