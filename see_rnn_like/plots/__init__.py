"""Pictures: arrays or recorded runs in, matplotlib figures and axes out; nothing is shown or printed."""

from see_rnn_like.plots.features import features_0D, features_1D, features_2D
from see_rnn_like.plots.figure import clipnums, scalefig
from see_rnn_like.plots.histograms import features_hist, features_hist_v2, hist_clipped
from see_rnn_like.plots.rnn import rnn_heatmap, rnn_histogram

__all__ = [
    "clipnums",
    "features_0D",
    "features_1D",
    "features_2D",
    "features_hist",
    "features_hist_v2",
    "hist_clipped",
    "rnn_heatmap",
    "rnn_histogram",
    "scalefig",
]
