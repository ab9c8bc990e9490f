"""The clocks of a live run (rule 1). Each reads the wall clock once, if at all: whoever sets it later, by hand or because
it was wrong, changes no number."""

from __future__ import annotations

import time
from typing import Final

_GOES_ON: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def steady_s() -> float:
    """Seconds since some instant; never goes back, and where the system says so goes on while the machine sleeps."""
    return time.monotonic() if _GOES_ON is None else time.clock_gettime(_GOES_ON)


class WallClock:
    """UTC ms: the wall clock as it was at first, and what has passed since."""

    def __init__(self) -> None:
        self._first, self._since = time.time(), steady_s()

    def __call__(self) -> int:
        return int((self._first + steady_s() - self._since) * 1000)


class RunClock:
    """The run's clock: stands at a set instant while the past is replayed, then goes on at its speed, at most to `until`,
    so that the last step sees what came before it and nothing else."""

    def __init__(self, now: int, speed: float, until: int | None = None) -> None:
        self._base, self._speed, self._until = now, speed, until
        self._since: float | None = None

    def __call__(self) -> int:
        gone = 0.0 if self._since is None else steady_s() - self._since
        now = self._base + int(gone * 1000 * self._speed)
        return now if self._until is None else min(now, self._until)

    def set(self, now: int) -> None:
        self._base, self._since = now, None if self._since is None else steady_s()

    def go(self) -> None:
        self._since = steady_s()
