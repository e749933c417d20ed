"""Recurrent layers in NumPy loops, forward and backward through time: the second opinion of the tests.

Written from the equations, timestep by timestep, in float64; shares no code with the package or with Keras.
Weights are laid out as Keras keeps them. Shapes: x (N, T, D), h (N, T, U); gradients in the same shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


@dataclass
class Grads:
    x: np.ndarray
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray


def _as_float64(*arrays):
    return tuple(np.asarray(array, "float64") for array in arrays)


def lstm(x, kernel, recurrent_kernel, bias, d_h=None):
    """h of all timesteps; with `d_h`, dL/dh as the loss sees it, also the gradients."""
    x, kernel, recurrent_kernel, bias = _as_float64(x, kernel, recurrent_kernel, bias)
    samples, steps, _ = x.shape
    units = recurrent_kernel.shape[0]
    h, c = np.zeros((samples, units)), np.zeros((samples, units))
    hs, cs, gates = [h], [c], []
    for t in range(steps):
        z = x[:, t] @ kernel + h @ recurrent_kernel + bias
        zi, zf, zg, zo = np.split(z, 4, axis=1)
        i, f, g, o = sigmoid(zi), sigmoid(zf), np.tanh(zg), sigmoid(zo)
        c = f * c + i * g
        h = o * np.tanh(c)
        hs.append(h)
        cs.append(c)
        gates.append((i, f, g, o))
    out = np.stack(hs[1:], 1)
    if d_h is None:
        return out
    grads = Grads(*(np.zeros_like(a) for a in (x, kernel, recurrent_kernel, bias)))
    dh_next, dc_next = np.zeros((samples, units)), np.zeros((samples, units))
    for t in reversed(range(steps)):
        i, f, g, o = gates[t]
        dh = d_h[:, t] + dh_next
        tanh_c = np.tanh(cs[t + 1])
        dc = dc_next + dh * o * (1 - tanh_c**2)
        dz = np.concatenate(
            [
                dc * g * i * (1 - i),
                dc * cs[t] * f * (1 - f),
                dc * i * (1 - g**2),
                dh * tanh_c * o * (1 - o),
            ],
            axis=1,
        )
        grads.x[:, t] = dz @ kernel.T
        grads.kernel += x[:, t].T @ dz
        grads.recurrent_kernel += hs[t].T @ dz
        grads.bias += dz.sum(0)
        dh_next, dc_next = dz @ recurrent_kernel.T, dc * f
    return out, grads


def simple_rnn(x, kernel, recurrent_kernel, bias, d_h=None):
    x, kernel, recurrent_kernel, bias = _as_float64(x, kernel, recurrent_kernel, bias)
    samples, steps, _ = x.shape
    h = np.zeros((samples, recurrent_kernel.shape[0]))
    hs = [h]
    for t in range(steps):
        h = np.tanh(x[:, t] @ kernel + h @ recurrent_kernel + bias)
        hs.append(h)
    out = np.stack(hs[1:], 1)
    if d_h is None:
        return out
    grads = Grads(*(np.zeros_like(a) for a in (x, kernel, recurrent_kernel, bias)))
    dh_next = np.zeros_like(h)
    for t in reversed(range(steps)):
        dz = (d_h[:, t] + dh_next) * (1 - hs[t + 1] ** 2)
        grads.x[:, t] = dz @ kernel.T
        grads.kernel += x[:, t].T @ dz
        grads.recurrent_kernel += hs[t].T @ dz
        grads.bias += dz.sum(0)
        dh_next = dz @ recurrent_kernel.T
    return out, grads


def gru_reset_after(x, kernel, recurrent_kernel, bias, d_h=None):
    """bias (2, 3U): of the input, of the recurrent part."""
    x, kernel, recurrent_kernel, bias = _as_float64(x, kernel, recurrent_kernel, bias)
    samples, steps, _ = x.shape
    units = recurrent_kernel.shape[0]
    h = np.zeros((samples, units))
    hs, kept = [h], []
    for t in range(steps):
        xz, xr, xn = np.split(x[:, t] @ kernel + bias[0], 3, axis=1)
        sz, sr, sn = np.split(h @ recurrent_kernel + bias[1], 3, axis=1)
        z, r = sigmoid(xz + sz), sigmoid(xr + sr)
        n = np.tanh(xn + r * sn)
        h = z * h + (1 - z) * n
        hs.append(h)
        kept.append((z, r, n, sn))
    out = np.stack(hs[1:], 1)
    if d_h is None:
        return out
    grads = Grads(*(np.zeros_like(a) for a in (x, kernel, recurrent_kernel, bias)))
    dh_next = np.zeros_like(h)
    for t in reversed(range(steps)):
        z, r, n, sn = kept[t]
        dh = d_h[:, t] + dh_next
        d_n = dh * (1 - z) * (1 - n**2)
        d_z = dh * (hs[t] - n) * z * (1 - z)
        d_r = d_n * sn * r * (1 - r)
        d_input = np.concatenate([d_z, d_r, d_n], axis=1)
        d_state = np.concatenate([d_z, d_r, d_n * r], axis=1)
        grads.x[:, t] = d_input @ kernel.T
        grads.kernel += x[:, t].T @ d_input
        grads.recurrent_kernel += hs[t].T @ d_state
        grads.bias += np.stack([d_input.sum(0), d_state.sum(0)])
        dh_next = dh * z + d_state @ recurrent_kernel.T
    return out, grads


def gru_reset_before(x, kernel, recurrent_kernel, bias, d_h=None):
    """bias (3U,); the reset gate acts on h before the recurrent product."""
    x, kernel, recurrent_kernel, bias = _as_float64(x, kernel, recurrent_kernel, bias)
    samples, steps, _ = x.shape
    units = recurrent_kernel.shape[0]
    u_z, u_r, u_n = np.split(recurrent_kernel, 3, axis=1)
    h = np.zeros((samples, units))
    hs, kept = [h], []
    for t in range(steps):
        xz, xr, xn = np.split(x[:, t] @ kernel + bias, 3, axis=1)
        z, r = sigmoid(xz + h @ u_z), sigmoid(xr + h @ u_r)
        n = np.tanh(xn + (r * h) @ u_n)
        h = z * h + (1 - z) * n
        hs.append(h)
        kept.append((z, r, n))
    out = np.stack(hs[1:], 1)
    if d_h is None:
        return out
    grads = Grads(*(np.zeros_like(a) for a in (x, kernel, recurrent_kernel, bias)))
    dh_next = np.zeros_like(h)
    for t in reversed(range(steps)):
        z, r, n = kept[t]
        before = hs[t]
        dh = d_h[:, t] + dh_next
        d_n = dh * (1 - z) * (1 - n**2)
        d_z = dh * (before - n) * z * (1 - z)
        d_reset_h = d_n @ u_n.T
        d_r = d_reset_h * before * r * (1 - r)
        d_input = np.concatenate([d_z, d_r, d_n], axis=1)
        grads.x[:, t] = d_input @ kernel.T
        grads.kernel += x[:, t].T @ d_input
        grads.recurrent_kernel += np.concatenate(
            [before.T @ d_z, before.T @ d_r, (r * before).T @ d_n], axis=1
        )
        grads.bias += d_input.sum(0)
        dh_next = dh * z + d_z @ u_z.T + d_r @ u_r.T + d_reset_h * r
    return out, grads
