"""One-shot extractors: weights, outputs and gradients of a model as NumPy arrays, under see-rnn's names.

No function here changes the model, its optimizer, its metrics or the caller's arrays.
"""
