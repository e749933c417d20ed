"""`Run`: what a person holds of a training, while it goes on and afterwards."""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.errors import ArgumentTypeError, StoreError
from see_rnn_like.history import Event, History, TensorInfo, stack_values
from see_rnn_like.labels import TensorKey
from see_rnn_like.store import SQLiteHistory


class Run(History):
    """Everything recorded of one training: read it, draw it, report it, hand it on.

    `RNNMonitor.run` is one while training goes on, `Run.open(path)` one of a run file, also from another
    process while training goes on. Nothing is kept in memory; every call reads what is recorded by then.

    Args:
        history: where the numbers are.

    Raises:
        ArgumentTypeError: if `history` is something else, such as a path.

    Example:
        >>> from see_rnn_like.store import SQLiteHistory
        >>> run = Run(SQLiteHistory.create(None))
        >>> run
        <Run in memory: nothing recorded yet>
        >>> len(run)
        0
    """

    def __init__(self, history: History) -> None:
        if not isinstance(history, History):
            raise ArgumentTypeError(
                f"Run takes a History; got {type(history).__name__}. Run.open(path) opens a run file"
            )
        self._history = history

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Opens a run file, without TensorFlow, also while it is being written.

        Args:
            path: what was given to `RNNMonitor(store=...)`.

        Raises:
            StoreError: if there is no such file, or it cannot be opened.
            StoreVersionError: if it was written by another version of the format.
            DamagedStoreError: if it is not a run file, or is damaged.

        Example:
            >>> run = Run.open("run.sqlite")  # doctest: +SKIP
            >>> run.stats("lstm/forward/kernel:gradient")["norm"].sel(gate="forget")  # doctest: +SKIP
        """
        return cls(SQLiteHistory.open(path))

    @property
    def path(self) -> Path | None:
        """The run file; None if the run is in memory."""
        return self._history.path

    @property
    def steps(self) -> list[int]:
        """Recorded optimizer steps, ascending."""
        return self._history.steps

    @property
    def events(self) -> list[Event]:
        """What happened: the first NaN of each tensor, a thinned budget, … in the order it was seen."""
        return self._history.events

    @property
    def epochs(self) -> list[dict[str, float]]:
        """One dict per finished epoch: ``epoch``, ``step`` (the last one) and its logs."""
        return self._history.epochs

    @property
    def meta(self) -> dict[str, Any]:
        """What was trained: versions, model, optimizer, host, times."""
        return self._history.meta

    def infos(self) -> dict[TensorKey, TensorInfo]:
        """Every tensor that was recorded, in execution order of the training step."""
        return self._history.infos()

    def logs(self) -> xr.Dataset:
        """Scalars of each recorded step over ``step``, and ``epoch``, ``time``, ``seconds``."""
        return self._history.logs()

    def load(
        self, key: TensorKey, what: str, steps: Sequence[int] | None = None
    ) -> list[tuple[int, np.ndarray]]:
        """Reads one field of one tensor; see `History.load`."""
        return self._history.load(key, what, steps)

    def close(self) -> None:
        """Lets go of the run file; a writer leaves one complete file. Reading on is possible."""
        self._history.close()

    def report(self, path: str | os.PathLike[str], *, texts: Mapping[str, Any] | None = None) -> Path:
        """Writes one self-contained HTML file about the run; see `see_rnn_like.report.write_report`.

        Args:
            path: the file to write, for example ``"report.html"``.
            texts: heading → a text coloured by units, as `plot_units_on_text` returns it.

        Returns:
            The path of the file.
        """
        # Only now: the report draws, and reading a run must not load a drawing library.
        from see_rnn_like.report import write_report

        return write_report(self, path, texts=texts)

    def to_xarray(self, keys: Iterable[TensorKey | str] | None = None) -> xr.DataTree:
        """The run as one tree of datasets, to be saved as NetCDF or Zarr by xarray itself.

        Args:
            keys: tensors to take; None for all. All that is taken is loaded into memory.

        Returns:
            A tree with ``tensors/<layer>/<direction>/<role>/<kind>/statistics`` (what `stats` returns) and
            ``…/value`` (what ``run[key]`` returns, where values were kept), and ``logs``, ``epochs``,
            ``events`` where there are any. The attributes of the root are the facts of `meta`, as JSON
            where they are neither text nor a number.

        Raises:
            StoreError: if the installed xarray has no trees.
            UnknownTensorError: if nothing was recorded under one of the keys.

        Example:
            >>> run.to_xarray().to_netcdf("run.nc")  # doctest: +SKIP
        """
        if not hasattr(xr, "DataTree"):
            raise StoreError(
                f"to_xarray() needs xarray 2024.10 or newer; {xr.__version__} is installed: "
                "pip install --upgrade xarray"
            )
        nodes = {"/": xr.Dataset(attrs=_exportable(self.meta)), "logs": self.logs()}
        nodes |= {"epochs": _epoch_table(self.epochs)} if self.epochs else {}
        nodes |= {"events": _event_table(self.events)} if self.events else {}
        for info in self.infos().values() if keys is None else map(self.info, keys):
            nodes |= self._tensor_nodes(info)
        return xr.DataTree.from_dict(nodes)

    def __len__(self) -> int:
        """Number of recorded steps."""
        return len(self.steps)

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else f"'{self.path}'"
        return f"<Run {where}: {', '.join(self._facts().values()) or 'nothing recorded yet'}>"

    def _repr_html_(self) -> str:
        where = "in memory" if self.path is None else str(self.path)
        rows = {"Run": where, **(self._facts() or {"Steps": "nothing recorded yet"})}
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in rows.items()
        )
        return f"<table>{cells}</table>"

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _facts(self) -> dict[str, str]:
        steps, events = self.steps, self.events
        facts = {}
        if steps:
            span = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} … {steps[-1]}"
            facts["Steps"] = f"{_number(len(steps), 'snapshot')}, {span}"
            facts["Tensors"] = _number(len(self.infos()), "tensor")
        if events:
            kinds = Counter(event.kind for event in events)
            listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            facts["Events"] = f"{_number(len(events), 'event')} ({listed})"
        return facts

    def _tensor_nodes(self, info: TensorInfo) -> dict[str, xr.Dataset]:
        place = "tensors/" + str(info.key).replace(":", "/")
        table = self.stats(info.key)
        nodes = {f"{place}/statistics": table.assign_attrs(_exportable(table.attrs))}
        pairs = self.load(info.key, "value")
        if pairs:
            values = stack_values(info, pairs).rename("value")
            nodes[f"{place}/value"] = values.assign_attrs(_exportable(values.attrs)).to_dataset()
        return nodes


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _exportable(facts: Mapping[str, Any]) -> dict[str, str | int | float]:
    """Attributes that NetCDF can hold: text and numbers; all else as JSON."""
    return {
        name: value if type(value) in (str, int, float) else json.dumps(value)
        for name, value in facts.items()
    }


def _epoch_table(epochs: list[dict[str, float]]) -> xr.Dataset:
    names = dict.fromkeys(name for epoch in epochs for name in epoch)
    columns = {name: ("epoch", np.array([epoch.get(name, np.nan) for epoch in epochs])) for name in names}
    return xr.Dataset(columns)


def _event_table(events: list[Event]) -> xr.Dataset:
    columns = {
        "step": [event.step for event in events],
        "kind": [event.kind for event in events],
        "key": ["" if event.key is None else str(event.key) for event in events],
        "gate": [event.gate or "" for event in events],
        "counts": [json.dumps(dict(event.counts)) for event in events],
        "message": [event.message for event in events],
    }
    return xr.Dataset({name: ("event", np.array(column)) for name, column in columns.items()})
