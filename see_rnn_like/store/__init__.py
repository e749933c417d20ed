"""History <-> one SQLite file per run: safe against a killed process, readable while it is written."""

from see_rnn_like.store.recovery import recover
from see_rnn_like.store.sqlite import SQLiteHistory

__all__ = ["SQLiteHistory", "recover"]
