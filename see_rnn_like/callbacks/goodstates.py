"""Good states of a training, kept to go back to."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np


class GoodStates:
    """The newest states of some variables that were finite throughout, on the host.

    Args:
        keep: how many states are kept; the oldest goes first.
    """

    def __init__(self, keep: int) -> None:
        self._states: deque[tuple[int, list[tuple[Any, np.ndarray]]]] = deque(maxlen=keep)

    def __len__(self) -> int:
        return len(self._states)

    def add(self, step: int, variables: list[Any]) -> bool:
        """Keeps the present values, unless one of them is not finite.

        Args:
            step: the step before which this is the state.
            variables: Keras or TensorFlow variables.

        Returns:
            Whether they were kept.
        """
        state = [(variable, np.array(variable.numpy())) for variable in variables]
        if not all(_is_finite(value) for _, value in state):
            return False
        self._states.append((step, state))
        return True

    def restore_newest(self) -> int:
        """Puts the newest state back and forgets it: if that does not help, an older one is next.

        Returns:
            The step before which it was the state.

        Raises:
            IndexError: if none is left.
        """
        step, state = self._states.pop()
        for variable, value in state:
            variable.assign(value)
        return step


def _is_finite(value: np.ndarray) -> bool:
    # NumPy knows bfloat16 as a type of its own, for which kind is "V" and isfinite works.
    return value.dtype.kind not in "fcV" or bool(np.isfinite(value).all())
