"""Writing to a store that fails: the same frame again for as long as it may help, and rows that never will apart.

A frame whose outcome is unknown is sent again as it is: tables are keyed, so rows that are already there are harmless
(rule 33). The driver sends Arrow inserts once, so nothing is sent again but here.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import polars as pl

from sinks.errors import StoreError, StoreGivenUp
from sinks.failures import disk_full, kind_of, reason

JITTER: Final = 0.25
"""Writers that were refused together do not come back together."""
MOST_REFUSED: Final = 100
"""More refused rows than this in one frame are no bad rows but a store that does not fit: stop, rather than flood."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """The store does not take what it is sent. `since_ms` is UTC ms of the first refusal, `why` one line, `tries` how
    often it was sent; `disk_full` asks for a person."""

    since_ms: int
    why: str
    tries: int
    disk_full: bool = False


class Retry:
    """Sends again, with pauses from `first_pause_s` doubling to `longest_pause_s`, for `patience_s` (None: for ever).

    `stop` set from elsewhere ends a pause at once, with StoreGivenUp. `trouble` is what is wrong now (None: nothing),
    for metrics and pages; `told`, if given, is called with it at every change, on the writing thread. `again_total`
    counts what was sent again. `answer_s` is how long an answer to a write is waited for.
    """

    def __init__(
        self,
        patience_s: float | None = 10.0,
        *,
        first_pause_s: float = 0.1,
        longest_pause_s: float = 30.0,
        answer_s: float = 70.0,
        stop: threading.Event | None = None,
        told: Callable[[Trouble | None], None] | None = None,
    ) -> None:
        self.patience_s = patience_s
        self.first_pause_s, self.longest_pause_s = first_pause_s, longest_pause_s
        self.answer_s = answer_s
        self.stop = stop or threading.Event()
        self.told = told
        self.trouble: Trouble | None = None
        self.again_total = 0
        self._dice = random.Random()

    def until_done(self, act: Callable[[], None]) -> None:
        """Does it until it succeeds; raises the error when it is not transient or patience is over."""
        started, pause, tries = time.monotonic(), self.first_pause_s, 0
        while True:
            try:
                act()
            except Exception as error:
                tries += 1
                wait = pause * self._dice.uniform(1 - JITTER, 1 + JITTER)
                over = self.patience_s is not None and time.monotonic() + wait - started > self.patience_s
                if kind_of(error) != "transient" or over:
                    raise
                self._tell(error, tries)
                _forget(error)
                if self.stop.wait(wait):
                    raise StoreGivenUp(
                        f"the run ended while the store could not be written to ({reason(error)}); "
                        "what was not acknowledged is computed and written again at the next start"
                    ) from error
                pause = min(2 * pause, self.longest_pause_s)
                self.again_total += 1
            else:
                if self.trouble is not None:
                    self.trouble = None
                    self._say(None)
                return

    def _tell(self, error: BaseException, tries: int) -> None:
        since = self.trouble.since_ms if self.trouble is not None else int(time.time() * 1000)
        full = disk_full(error)
        why = ("the disk is full: " if full else "") + reason(error)
        self.trouble = Trouble(since, why, tries, full)
        self._say(self.trouble)

    def _say(self, trouble: Trouble | None) -> None:
        if self.told is not None:
            self.told(trouble)


def _forget(error: BaseException | None) -> None:
    """Lets go of what the failed call held: its frames and errors refer to each other in a circle, and with it the rows
    as they were sent stay until the collector comes by (measured: some 20 copies of the frame)."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def divided(
    send: Callable[[pl.DataFrame], None], frame: pl.DataFrame, most: int = MOST_REFUSED
) -> list[tuple[pl.DataFrame, str]]:
    """Sends a frame; where the store cannot take it, its halves, down to single rows.

    Returns the rows that it refuses, one a frame, with the reason; all others are written. Raises what is not the
    rows' fault, and StoreError when more than `most` rows are refused.
    """
    refused: list[tuple[pl.DataFrame, str]] = []
    waiting = [frame]
    while waiting:
        part = waiting.pop()
        try:
            send(part)
        except Exception as error:
            if kind_of(error) != "poison":
                raise
            if len(part) > 1:
                half = len(part) // 2
                waiting += [part[half:], part[:half]]
                continue
            refused.append((part, reason(error)))
            if len(refused) > most:
                raise StoreError(
                    f"the store refuses more than {most} rows of one frame, the last: {reason(error)}; that is no matter "
                    "of single rows: compare the tables with docs/data-model.md. None of these rows was put aside"
                ) from error
    return refused
