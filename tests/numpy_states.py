"""Recurrent cells in NumPy, timestep by timestep in float64, whose states can be nudged on the way.

The second opinion on derivatives by states: finite differences of these loops. Written from the equations;
shares no code with the package or with Keras. Weights are laid out as Keras keeps them.
"""

from __future__ import annotations

import numpy as np


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def lstm(weights, x, states, nudges):
    kernel, recurrent, bias = weights
    h, c = states
    i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=1)
    # What is added to c is seen by h of the same timestep.
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g) + nudges[1]
    return sigmoid(o) * np.tanh(c) + nudges[0], c


def gru(weights, x, states, nudges):
    """`reset_after`: one bias of the input and one of the recurrent part."""
    kernel, recurrent, bias = weights
    (h,) = states
    xz, xr, xn = np.split(x @ kernel + bias[0], 3, axis=1)
    sz, sr, sn = np.split(h @ recurrent + bias[1], 3, axis=1)
    z = sigmoid(xz + sz)
    new = np.tanh(xn + sigmoid(xr + sr) * sn)
    return (z * h + (1 - z) * new + nudges[0],)


def gru_reset_before(weights, x, states, nudges):
    kernel, recurrent, bias = weights
    (h,) = states
    xz, xr, xn = np.split(x @ kernel + bias, 3, axis=1)
    uz, ur, un = np.split(recurrent, 3, axis=1)
    z, r = sigmoid(xz + h @ uz), sigmoid(xr + h @ ur)
    return (z * h + (1 - z) * np.tanh(xn + (r * h) @ un) + nudges[0],)


def simple_rnn(weights, x, states, nudges):
    kernel, recurrent, bias = weights
    return (np.tanh(x @ kernel + states[0] @ recurrent + bias) + nudges[0],)


def linear_rnn(weights, x, states, nudges):
    kernel, recurrent, bias = weights
    return (x @ kernel + states[0] @ recurrent + bias + nudges[0],)


def damped(weights, x, states, nudges):
    """A cell of the tests: c fades and is driven by x and h, h = sin c."""
    kernel, recurrent = weights
    h, c = states
    c = 0.8 * c + x @ kernel + h @ recurrent + nudges[1]
    return np.sin(c) + nudges[0], c


#: Number of states.
STATES = {lstm: 2, gru: 1, gru_reset_before: 1, simple_rnn: 1, linear_rnn: 1, damped: 2}


def zeros(step, samples, units):
    return [np.zeros((samples, units)) for _ in range(STATES[step])]


def run(step, weights, x, start=None, nudges=None, mask=None):
    """All states over time, ``(N, T, U)`` each; where `mask` is False the cell does not run.

    `start` are the states before the first timestep; `nudges` are added to the states after each timestep.
    """
    weights = [np.asarray(w, "float64") for w in weights]
    x = np.asarray(x, "float64")
    samples, timesteps, _ = x.shape
    states = start or zeros(step, samples, weights[1].shape[0])
    mask = np.ones((samples, timesteps), bool) if mask is None else mask
    history = []
    for t in range(timesteps):
        added = [0.0] * len(states) if nudges is None else [one[:, t] for one in nudges]
        new = step(weights, x[:, t], states, added)
        states = [np.where(mask[:, t, None], a, b) for a, b in zip(new, states, strict=True)]
        history.append(states)
    return [np.stack([one[k] for one in history], 1) for k in range(len(states))]


def gradients(loss, samples, timesteps, units, states, eps=1e-5):
    """Central differences of a loss per sample by every nudge: one ``(N, T, U)`` per state.

    Args:
        loss: takes the nudges, one ``(N, T, U)`` per state; returns one number per sample.
    """
    found = [np.zeros((samples, timesteps, units)) for _ in range(states)]
    for k in range(states):
        for t in range(timesteps):
            for u in range(units):
                nudges = [np.zeros((samples, timesteps, units)) for _ in range(states)]
                nudges[k][:, t, u] = eps
                found[k][:, t, u] = (loss(nudges) - loss([-one for one in nudges])) / (2 * eps)
    return found


def carry(series, start, mask):
    """What belongs to the state at each timestep: at masked ones, to that of the last one that ran."""
    carried, now = [], start
    for t in range(series.shape[1]):
        now = np.where(mask[:, t, None], series[:, t], now)
        carried.append(now)
    return np.stack(carried, 1)


def jacobians(step, weights, x, start=None, mask=None, eps=1e-5):
    """∂s_T/∂s_t of every state s by itself, all paths between included: ``(N, T, U, U)`` (time, of, by)."""
    units, timesteps = np.shape(weights[1])[0], x.shape[1]
    found = []
    for k in range(STATES[step]):
        ends = [
            gradients(
                lambda nudges, k=k, u=u: run(step, weights, x, start, nudges, mask)[k][:, -1, u],
                len(x),
                timesteps,
                units,
                STATES[step],
                eps,
            )[k]
            for u in range(units)
        ]
        found.append(np.stack(ends, 2))
    return found


def step_jacobian(step, weights, x, states, eps=1e-6):
    """The Jacobian of one step by the whole state, ``(N, S·U, S·U)``, by central differences."""
    weights = [np.asarray(w, "float64") for w in weights]
    flat = np.concatenate(states, 1)
    still = [0.0] * len(states)
    columns = []
    for j in range(flat.shape[1]):
        ends = []
        for side in (eps, -eps):
            moved = flat.copy()
            moved[:, j] += side
            ends.append(np.concatenate(step(weights, x, np.split(moved, len(states), 1), still), 1))
        columns.append((ends[0] - ends[1]) / (2 * eps))
    return np.stack(columns, 2)
