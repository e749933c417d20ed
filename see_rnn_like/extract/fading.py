"""Where a memory has faded: the lag at which an influence falls below a share of that at lag 0."""

from __future__ import annotations

import numpy as np

#: Shares of the strength at lag 0 at which a memory counts as faded, by the name of the lag.
FADED = {"horizon": float(np.exp(-1)), "horizon_1pct": 0.01}


def fading_lag(strength: np.ndarray, share: float) -> float:
    """The lag at which a strength first falls below a share, interpolated along an exponential.

    Args:
        strength: ``(lag,)``, from lag 0.
        share: of the strength at lag 0, which is 1.

    Returns:
        The lag in timesteps, inf if the strength never falls so far, NaN if none is known but at lag 0.

    Example:
        >>> round(fading_lag(0.5 ** np.arange(10), 0.01), 3)
        6.644
    """
    if np.isnan(strength[1:]).all():
        return np.nan
    below = np.flatnonzero(strength < share)
    if not len(below):
        return np.inf
    lag = int(below[0])
    with np.errstate(divide="ignore"):
        before, after = np.log(strength[lag - 1 : lag + 1])
    return float(lag - 1 + (before - np.log(share)) / (before - after))
