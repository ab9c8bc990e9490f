"""What a rule remembers of the windows that it has judged, so that a correction can be judged again (rule 29).

One byte per place and window (its class), and the values themselves where they matter: beyond a threshold, or of a
place with something open. A quiet value that a correction makes matter later is not known any more (`value` is None).
"""

from __future__ import annotations

import base64
import zlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from pipelines.automaton import MISSING, QUIET

Codes = npt.NDArray[np.int64]
Classes = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Window:
    """One window end of all places: classes by place code, and the kept values with their codes, ascending."""

    __slots__ = ("_packed", "classes", "codes", "end", "values")

    def __init__(self, end: int, classes: Classes, codes: Codes, values: Values) -> None:
        self.end, self.classes, self.codes, self.values = end, classes, codes, values
        self._packed: list[str] | None = None

    def seen(self, code: int) -> int:
        return int(self.classes[code]) if code < self.classes.size else MISSING

    def value(self, code: int) -> float | None:
        at = int(np.searchsorted(self.codes, code))
        if at == self.codes.size or self.codes[at] != code or np.isnan(self.values[at]):
            return None
        return float(self.values[at])

    def packed(self) -> list[str]:
        """Classes, codes and values as texts."""
        if self._packed is None:
            arrays = (self.classes, self.codes.astype("<i8"), self.values.astype("<f8"))
            self._packed = [base64.b64encode(zlib.compress(x.tobytes(), 1)).decode() for x in arrays]
        return self._packed

    def correct(self, codes: Codes, classes: Classes, values: Values) -> Codes:
        """Takes corrected cells; returns the codes whose class changed."""
        self._packed = None
        if codes.size and codes.max() >= self.classes.size:
            self.classes = np.pad(self.classes, (0, int(codes.max()) + 1 - self.classes.size))
        changed: Codes = codes[self.classes[codes] != classes]
        self.classes[codes] = classes
        keep = ~np.isin(self.codes, codes)
        merged = np.concatenate([self.codes[keep], codes])
        order = np.argsort(merged, kind="stable")
        self.codes, self.values = merged[order], np.concatenate([self.values[keep], values])[order]
        return changed


class Judged:
    """The remembered windows of one rule, by end."""

    def __init__(self) -> None:
        self.ends: list[int] = []
        self._windows: dict[int, Window] = {}
        self._changed: set[int] = set()
        """Ends that came, were corrected or forgotten since the last `saved`."""

    def __contains__(self, end: int) -> bool:
        return end in self._windows

    def add(self, end: int, classes: Classes, values: Values, kept: Mask) -> None:
        """A judged window of all places by code; `values` of places beyond a threshold or in `kept` are remembered."""
        codes = np.flatnonzero((classes > QUIET) | kept)
        self._put(Window(end, classes.copy(), codes, values[codes]))

    def add_empty(self, end: int) -> None:
        """A window in which no place has a cell."""
        self._put(Window(end, np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0)))

    def _put(self, window: Window) -> None:
        insort(self.ends, window.end)
        self._windows[window.end] = window
        self._changed.add(window.end)

    def correct(self, end: int, codes: Codes, classes: Classes, values: Values) -> Codes:
        self._changed.add(end)
        return self._windows[end].correct(codes, classes, values)

    def walk(self, code: int, after: int) -> Iterator[tuple[int, int, int]]:
        """(end, ms since the end before, class) of one place, for the windows that end later than `after`."""
        first = bisect_right(self.ends, after)
        before = self.ends[first - 1] if first else None
        for end in self.ends[first:]:
            yield end, 0 if before is None else end - before, self._windows[end].seen(code)
            before = end

    def value(self, code: int, end: int) -> float | None:
        """The value of a place at a window end; None where there is none, or it was quiet and is not remembered."""
        return self._windows[end].value(code) if end in self._windows else None

    def newest_value(self, code: int, after: int, until: int) -> float | None:
        """The last value in windows that end in [after, until]."""
        for end in reversed(self.ends[bisect_left(self.ends, after) : bisect_right(self.ends, until)]):
            if self._windows[end].seen(code) >= QUIET:
                return self._windows[end].value(code)
        return None

    def forget(self, until: int) -> None:
        """Drops the windows that end at or before `until`."""
        count = bisect_right(self.ends, until)
        for end in self.ends[:count]:
            del self._windows[end]
        self._changed.update(self.ends[:count])
        del self.ends[:count]

    def saved(self, whole: bool) -> dict[str, list[str] | None]:
        """Plain data by end: all windows, or what changed since the last call (None: forgotten). A window is packed
        once, and again only after a correction."""
        ends = self.ends if whole else sorted(self._changed)
        self._changed.clear()
        return {str(end): self._windows[end].packed() if end in self._windows else None for end in ends}

    def load(self, saved: Mapping[str, list[str]]) -> None:
        for end, texts in saved.items():
            classes, codes, values = (zlib.decompress(base64.b64decode(x)) for x in texts)
            window = Window(
                int(end),
                np.frombuffer(classes, np.uint8).copy(),
                np.frombuffer(codes, "<i8").astype(np.int64),
                np.frombuffer(values, "<f8").astype(np.float64),
            )
            self._put(window)
        self._changed.clear()


__all__ = ["Judged"]
