"""See inside recurrent networks while Keras 3 trains them.

One callback, `RNNMonitor`, records what every layer and gate does; `Run` reads it back; the plots and
the report show it. Importing this package starts neither TensorFlow nor matplotlib: names are loaded
when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Public name → module that defines it.
_HOME = {
    "RNNMonitor": "callbacks.monitor",
    "NaNGuard": "callbacks.guard",
    "find_nonfinite": "extract.nonfinite",
    "Autopsy": "findings",
    "Finding": "findings",
    "Where": "findings",
    "replay": "bundle",
    "Run": "run",
    "recover": "store",
    "TensorKey": "labels",
    "Schedule": "schedule",
    "every": "schedule",
    "at": "schedule",
    "first": "schedule",
    "log_spaced": "schedule",
    "CellSpec": "cells",
    "register_cell": "cells",
    "SeeRNNError": "errors",
    "NonFiniteError": "errors",
    "NonFiniteWarning": "errors",
    "trace": "extract.gates",
    "gate_saturation": "extract.units",
    "get_state_gradients": "extract.states",
    "memory_horizon": "extract.memory",
    "lyapunov": "extract.memory",
    "recurrent_spectrum": "extract.spectrum",
    "unit_correlation": "extract.units",
    "dead_and_exploding": "extract.units",
    "find_interpretable_units": "extract.units",
    "get_layer": "extract.layers",
    "get_full_name": "extract.layers",
    "get_weights": "extract.weights",
    "weights_norm": "extract.weights",
    "get_rnn_weights": "extract.rnn",
    "rnn_summary": "extract.rnn",
    "get_weight_penalties": "extract.penalties",
    "weight_loss": "extract.penalties",
    "get_outputs": "extract.outputs",
    "get_gradients": "extract.gradients",
    "detect_nans": "stats",
    "features_0D": "plots.features",
    "features_1D": "plots.features",
    "features_2D": "plots.features",
    "features_hist": "plots.histograms",
    "features_hist_v2": "plots.histograms",
    "hist_clipped": "plots.histograms",
    "rnn_heatmap": "plots.rnn",
    "rnn_histogram": "plots.rnn",
    "scalefig": "plots.figure",
    "clipnums": "plots.figure",
    "plot_norms": "plots.history",
    "plot_histograms": "plots.history",
    "plot_events": "plots.history",
    "plot_loss": "plots.history",
    "plot_update_ratio": "plots.history",
    "plot_gradient_flow": "plots.development",
    "plot_activations_over_training": "plots.development",
    "plot_weight_norms": "plots.development",
    "animate": "plots.animation",
    "plot_gates": "plots.gates",
    "plot_saturation": "plots.gates",
    "plot_horizon": "plots.horizon",
    "plot_spectrum": "plots.spectrum",
    "plot_units_on_text": "plots.units",
    "plot_autopsy": "plots.autopsy",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from see_rnn_like.bundle import replay
    from see_rnn_like.callbacks.guard import NaNGuard
    from see_rnn_like.callbacks.monitor import RNNMonitor
    from see_rnn_like.cells import CellSpec, register_cell
    from see_rnn_like.errors import NonFiniteError, NonFiniteWarning, SeeRNNError
    from see_rnn_like.extract.gates import trace
    from see_rnn_like.extract.gradients import get_gradients
    from see_rnn_like.extract.layers import get_full_name, get_layer
    from see_rnn_like.extract.memory import lyapunov, memory_horizon
    from see_rnn_like.extract.nonfinite import find_nonfinite
    from see_rnn_like.extract.outputs import get_outputs
    from see_rnn_like.extract.penalties import get_weight_penalties, weight_loss
    from see_rnn_like.extract.rnn import get_rnn_weights, rnn_summary
    from see_rnn_like.extract.spectrum import recurrent_spectrum
    from see_rnn_like.extract.states import get_state_gradients
    from see_rnn_like.extract.units import (
        dead_and_exploding,
        find_interpretable_units,
        gate_saturation,
        unit_correlation,
    )
    from see_rnn_like.extract.weights import get_weights, weights_norm
    from see_rnn_like.findings import Autopsy, Finding, Where
    from see_rnn_like.labels import TensorKey
    from see_rnn_like.plots.animation import animate
    from see_rnn_like.plots.autopsy import plot_autopsy
    from see_rnn_like.plots.development import (
        plot_activations_over_training,
        plot_gradient_flow,
        plot_weight_norms,
    )
    from see_rnn_like.plots.features import features_0D, features_1D, features_2D
    from see_rnn_like.plots.figure import clipnums, scalefig
    from see_rnn_like.plots.gates import plot_gates, plot_saturation
    from see_rnn_like.plots.histograms import features_hist, features_hist_v2, hist_clipped
    from see_rnn_like.plots.history import (
        plot_events,
        plot_histograms,
        plot_loss,
        plot_norms,
        plot_update_ratio,
    )
    from see_rnn_like.plots.horizon import plot_horizon
    from see_rnn_like.plots.rnn import rnn_heatmap, rnn_histogram
    from see_rnn_like.plots.spectrum import plot_spectrum
    from see_rnn_like.plots.units import plot_units_on_text
    from see_rnn_like.run import Run
    from see_rnn_like.schedule import Schedule, at, every, first, log_spaced
    from see_rnn_like.stats import detect_nans
    from see_rnn_like.store import recover


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
