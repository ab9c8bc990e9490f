"""The dead man's switch (rule 39): whether the brain makes progress, computed by whoever asks and never by what may hang.

The loop beats, the thread that writes says which step became durable; both are one assignment. When either falls silent
for longer than the bound, the switch has tripped: on the page, in `/readyz`, in `/metrics` and in the event stream.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

BOUND_S: Final = 30.0
LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Stalled:
    """No progress: since when, and whether the store is what is waited for or the loop has stopped by itself."""

    part: Literal["loop", "store"]
    for_s: float
    text: str


class Pulse:
    """Seconds are of wall time (monotonic; a sleeping machine does not count). `unfinished` says how much the thread that
    writes still has to do, `trouble` what the store says about it."""

    def __init__(
        self,
        bound_s: float = BOUND_S,
        *,
        unfinished: Callable[[], int] = lambda: 0,
        trouble: Callable[[], str] = lambda: "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bound_s, self.unfinished, self.trouble, self._monotonic = bound_s, unfinished, trouble, monotonic
        self.step = 0
        """The number of the step last made durable; 0: none yet."""
        self._beat = self._durable = monotonic()

    def beat(self) -> None:
        """The loop goes on."""
        self._beat = self._monotonic()

    def durable(self, step: int) -> None:
        """That step is in the store and in the checkpoint."""
        self.step, self._durable = step, self._monotonic()

    @property
    def durable_age_s(self) -> float:
        """How long ago a step became durable, or the run began."""
        return self._monotonic() - self._durable

    def stalled(self) -> Stalled | None:
        now = self._monotonic()
        durable_s, loop_s = now - self._durable, now - self._beat
        if max(durable_s, loop_s) <= self.bound_s:
            return None
        allowed = f"(allowed: {self.bound_s:g} s)"
        if self.unfinished():
            why = self.trouble() or "the store has not finished what it was given"
            return Stalled("store", durable_s, f"no step became durable for {durable_s:.0f} s {allowed}: {why}")
        if loop_s > self.bound_s:
            return Stalled("loop", loop_s, f"the loop of the run has stood still for {loop_s:.0f} s {allowed}")
        return Stalled("loop", durable_s, f"no step became durable for {durable_s:.0f} s {allowed}")


class Switch:
    """A thread of its own that looks at a pulse and calls `told` when it stalls and when it goes on (None)."""

    def __init__(self, pulse: Pulse, told: Callable[[Stalled | None], None], look_s: float = LOOK_S) -> None:
        self._pulse, self._told, self._look_s = pulse, told, look_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="switch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        tripped = False
        while not self._ended.wait(self._look_s):
            stalled = self._pulse.stalled()
            if (stalled is not None) != tripped:
                tripped = stalled is not None
                self._told(stalled)
