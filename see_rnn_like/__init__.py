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
    "Run": "run",
    "TensorKey": "labels",
    "Schedule": "schedule",
    "every": "schedule",
    "at": "schedule",
    "first": "schedule",
    "log_spaced": "schedule",
    "CellSpec": "cells",
    "register_cell": "cells",
    "SeeRNNError": "errors",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from see_rnn_like.callbacks.monitor import RNNMonitor
    from see_rnn_like.cells import CellSpec, register_cell
    from see_rnn_like.errors import SeeRNNError
    from see_rnn_like.labels import TensorKey
    from see_rnn_like.run import Run
    from see_rnn_like.schedule import Schedule, at, every, first, log_spaced


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
