"""What a process of the pipeline counts of its own work, for `/metrics`: filled by its loop, read by another thread."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from pipelines.model import NEVER

EVERY_S: Final = 1.0


class JobCounts:
    """By stream unless it says otherwise; what does not apply to a process stays empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.records_in: Counter[str] = Counter()
        """Records of the log or the source that were taken in, ticks among them."""
        self.late: Counter[str] = Counter()
        self.records_out = 0
        """Rows, manifests, or records of the log, as far as they are written for good."""
        self.watermarks: dict[str, int] = {}
        self.positions: dict[str, int] = {}
        """By partition the offset that is read next."""
        self.durable_at = time.monotonic()
        """When what was done last became durable."""
        self.took: Callable[[float], None] = lambda seconds: None
        """Told how long that took."""

    def read(self, stream: str, records: int, late: int, watermark: int, positions: Mapping[str, int]) -> None:
        """Records of a stream's log were taken in, so far that its time is `watermark`."""
        with self._lock:
            self.records_in[stream] += records
            self.late[stream] += late
            if watermark > NEVER:
                self.watermarks[stream] = max(watermark, self.watermarks.get(stream, NEVER))
            self.positions.update(positions)

    def wrote(self, records: int) -> None:
        with self._lock:
            self.records_out += records

    def durable(self, began: float) -> None:
        """What was begun then (monotonic) is durable now."""
        self.durable_at = time.monotonic()
        self.took(self.durable_at - began)


class Ends:
    """Where partitions end now, asked again and again by a thread of its own, so that whoever wants to know never waits.
    While nobody answers there are none."""

    def __init__(self, ask: Callable[[], Mapping[str, int]]) -> None:
        self._ask, self._known = ask, dict[str, int]()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ends", daemon=True)
        self._thread.start()

    def lags(self, positions: Mapping[str, int]) -> dict[str, int]:
        """Of each partition how many offsets lie between its end and what is read next."""
        known = self._known
        return {part: max(0, known[part] - at) for part, at in sorted(positions.items()) if part in known}

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._known = dict(self._ask())
            except Exception:  # whatever it is, the process that works says it; here there is no number
                self._known = {}
            self._closed.wait(EVERY_S)
