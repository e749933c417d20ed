"""Keeping the cost of recording within a share of the time that training takes."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable

#: So many steps without recording must have been timed before a second one is recorded.
_NEEDED = 3

#: What is usual is the median of so many steps, the newest.
_REMEMBERED = 101


class Pace:
    """Measures what recording costs and says when there is time for more.

    A recorded step costs what it takes longer than is usual without recording, compiling included. The first
    step that is due is always recorded, for it tells the price; from then on one is when what recording took
    so far is within the budget.

    Args:
        budget: share of the time of the training steps, above 0 and below 1.
        clock: seconds that pass.

    Attributes:
        due: steps that were due.
        recorded: those of them that were recorded.
        elapsed: seconds of all steps.

    Example:
        >>> seconds = iter([0.0, 1.0, 2.0, 3.0, 6.0, 7.0, 17.0])  # the fourth step, recorded, takes 3
        >>> pace, decided = Pace(0.2, clock=lambda: next(seconds)), []
        >>> for step in range(7):
        ...     pace.step_begins()
        ...     decided.append(step >= 3 and pace.allows())
        >>> decided, pace.spent, pace.elapsed
        ([False, False, False, True, False, False, True], 2.0, 17.0)
    """

    def __init__(self, budget: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.budget = budget
        self.due = self.recorded = 0
        self.elapsed = 0.0
        self._clock = clock
        self._usual: deque[float] = deque(maxlen=_REMEMBERED)
        self._seconds_recorded = 0.0
        self._begun: float | None = None
        self._recording = False

    @property
    def spent(self) -> float:
        """Seconds that recording took, as far as it is known what is usual without."""
        usual = statistics.median(self._usual) if self._usual else 0.0
        over = self.recorded - self._recording
        return max(self._seconds_recorded - over * usual, 0.0)

    def step_begins(self) -> None:
        """Takes the time at which a step begins, and the one before it ends."""
        now = self._clock()
        self._end(now)
        self._begun = now

    def step_ends(self) -> None:
        """Takes the time at which a step ends, unless it is over already."""
        if self._begun is not None:
            self._end(self._clock())

    def _end(self, now: float) -> None:
        if self._begun is None:
            return
        took, self._begun = now - self._begun, None
        self.elapsed += took
        if self._recording:
            self._seconds_recorded += took
        else:
            self._usual.append(took)
        self._recording = False

    def allows(self) -> bool:
        """Whether the step that began, which is due, may be recorded; it then is."""
        self.due += 1
        known = len(self._usual) >= _NEEDED
        self._recording = not self.recorded or (known and self.spent <= self.budget * self.elapsed)
        self.recorded += self._recording
        return self._recording

    def report(self) -> dict[str, float]:
        """What was done, for the run: counts of steps, seconds, and the share of the time that was spent."""
        share = self.spent / self.elapsed if self.elapsed else 0.0
        return {
            "budget": self.budget,
            "due": self.due,
            "recorded": self.recorded,
            "seconds": self.spent,
            "share": share,
        }
