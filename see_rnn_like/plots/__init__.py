"""Pictures: arrays or recorded runs in, matplotlib figures and axes out; nothing is shown or printed."""

from see_rnn_like.plots.features import features_1D, features_2D
from see_rnn_like.plots.rnn import rnn_heatmap, rnn_histogram

__all__ = ["features_1D", "features_2D", "rnn_heatmap", "rnn_histogram"]
