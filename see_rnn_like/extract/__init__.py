"""One look at a model: weights, outputs, gradients, and what a recurrent layer does inside.

No function here changes the model, its optimizer, its metrics or the caller's arrays. Modules are imported
one by one: those that read arrays only (`units`) do without TensorFlow.
"""
