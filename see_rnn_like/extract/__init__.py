"""One-shot extractors: weights, outputs and gradients of a model as NumPy arrays, under see-rnn's names.

No function here changes the model, its optimizer, its metrics or the caller's arrays.
"""

from see_rnn_like.extract.gradients import get_gradients
from see_rnn_like.extract.layers import get_full_name, get_layer
from see_rnn_like.extract.outputs import get_outputs
from see_rnn_like.extract.penalties import get_weight_penalties, weight_loss
from see_rnn_like.extract.rnn import get_rnn_weights, rnn_summary
from see_rnn_like.extract.weights import get_weights, weights_norm

__all__ = [
    "get_full_name",
    "get_gradients",
    "get_layer",
    "get_outputs",
    "get_rnn_weights",
    "get_weight_penalties",
    "get_weights",
    "rnn_summary",
    "weight_loss",
    "weights_norm",
]
