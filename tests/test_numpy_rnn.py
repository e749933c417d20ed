"""The second opinion checked against finite differences, so that it is no opinion only."""

from __future__ import annotations

import numpy as np
import numpy_rnn
import pytest

CELLS = {
    "lstm": (numpy_rnn.lstm, 4, (12,)),
    "simple_rnn": (numpy_rnn.simple_rnn, 1, (3,)),
    "gru_reset_after": (numpy_rnn.gru_reset_after, 3, (2, 9)),
    "gru_reset_before": (numpy_rnn.gru_reset_before, 3, (9,)),
}


@pytest.mark.parametrize("kind", CELLS)
def test_backward_equals_finite_differences(kind):
    run, gates, bias_shape = CELLS[kind]
    rng = np.random.default_rng(0)
    bias_shape = (4 * 3,) if kind == "lstm" else bias_shape
    arrays = [rng.normal(size=shape) for shape in ((2, 5, 4), (4, 3 * gates), (3, 3 * gates), bias_shape)]
    weighting = rng.normal(size=(2, 5, 3))
    _, grads = run(*arrays, weighting)
    for position, name in enumerate(("x", "kernel", "recurrent_kernel", "bias")):
        for index in [tuple(rng.integers(size) for size in arrays[position].shape) for _ in range(8)]:
            ends = []
            for delta in (1e-6, -1e-6):
                moved = [a.copy() for a in arrays]
                moved[position][index] += delta
                ends.append((run(*moved) * weighting).sum())
            numeric = (ends[0] - ends[1]) / 2e-6
            np.testing.assert_allclose(getattr(grads, name)[index], numeric, rtol=1e-6, atol=1e-8)
