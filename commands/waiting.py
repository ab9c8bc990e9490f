"""What a live run says while its store does not take what it is sent: on the page, at `/readyz`, and once in the log."""

from __future__ import annotations

import sys
import time

from dashboards.board import Board
from sinks.retry import Trouble

LONGEST_PAUSE_S = 5.0
"""So long after somebody made room the run may still wait."""


class Waiting:
    """Takes every change of a `Retry`; called by the thread that writes."""

    def __init__(self) -> None:
        self.board: Board | None = None
        self._since: float | None = None

    def __call__(self, trouble: Trouble | None) -> None:
        if trouble is None:
            self._over()
            return
        todo = "free some space, the run goes on by itself" if trouble.disk_full else "the run tries again by itself"
        if self.board is not None:
            self.board.fail("store", f"{trouble.why}; {todo}")
        if self._since is None:
            self._since = time.monotonic()
            _say(f"warning: the store takes nothing at the moment: {trouble.why}; {todo}")

    def _over(self) -> None:
        if self.board is not None:
            self.board.recovered("store")
        if self._since is not None:
            _say(f"the store takes what it is sent again, after {time.monotonic() - self._since:.0f} s")
        self._since = None


def _say(text: str) -> None:
    print(f"citybrain: {text}", file=sys.stderr, flush=True)
