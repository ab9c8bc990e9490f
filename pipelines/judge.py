"""Judges the readings of one rule step by step: only the places that may change run through the automaton (rule 27).

New windows: a vectorised look at the classes finds the places with something open or a value beyond a raise. Corrected
windows: a place whose class changed runs again from its stored daily state until computed equals stored (rule 29).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
import polars as pl

from pipelines.alerts import DAY_MS, Rule
from pipelines.automaton import MISSING, Automaton, Change, State
from pipelines.judged import Classes, Codes, Judged, Mask, Values
from pipelines.model import NEVER, Parts, numbered

CELLS_SCHEMA: Final[dict[str, Any]] = {"place": pl.String, "window_end": pl.Int64, "value": pl.Float64}


@dataclass(slots=True)
class Verdict:
    """What a step makes of one place: its trails keep what lies at or before `since` or after `until` (the run since
    then gave the stored state again), and get `changes` in between and after the windows judged before."""

    since: int | None = None
    until: int | None = None
    changes: list[Change] = field(default_factory=list)
    forgotten: bool = False
    """A correction of this place was older than what is remembered."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a step with place codes and classes."""

    codes: Codes
    ends: Codes
    values: Values
    classes: Classes

    def where(self, mask: Mask) -> Cells:
        return Cells(self.codes[mask], self.ends[mask], self.values[mask], self.classes[mask])


class Judge:
    """The places, states and remembered windows of one rule.

    `remember_ms`: how far behind the watermark a corrected window is judged again.
    """

    def __init__(self, rule: Rule, remember_ms: int) -> None:
        self.rule, self.remember_ms = rule, remember_ms
        self.automaton = Automaton(rule)
        self.places: list[str] = []
        self.judged = Judged()
        self.last: int | None = None
        """The newest judged window end."""
        self.beyond_memory = 0
        """Corrected cells older than the oldest stored state: not judged again."""
        self._codes: dict[str, int] = {}
        self._table = pl.DataFrame(schema={"place": pl.String, "code": pl.Int64})
        self._active: dict[int, State] = {}
        self._days: list[tuple[int, dict[int, State]]] = [(NEVER, {})]
        self._named = 0
        self._changed_days: set[int] = set()
        """Of the stored daily states those that changed since the last `saved`, by end."""

    @property
    def oldest(self) -> int:
        """The window end of the oldest stored state; NEVER = from the first window on."""
        return self._days[0][0]

    def step(
        self, ends: Sequence[int], frame: pl.DataFrame, watermark: int, previous_end: int | None
    ) -> dict[int, Verdict]:
        """Judges; returns what happened to the places (by code) that the step may have changed."""
        new = self._new_ends(ends, previous_end)
        cells, verdicts = self._read(frame), dict[int, Verdict]()
        is_new = cells.ends > (NEVER if self.last is None else self.last)
        fresh = cells.where(is_new)
        if fresh.ends.size and (strange := set(np.unique(fresh.ends).tolist()) - set(new)):
            raise ValueError(
                f"rule {self.rule.name!r}: cells of window end {min(strange)}, which is not among the ends {new}"
            )
        self._correct(ends, cells.where(~is_new), verdicts)
        while new:  # one day at a time, for its stored state
            day = (new[0] - 1) // DAY_MS
            count = sum((end - 1) // DAY_MS == day for end in new)
            if self.last is not None and (self.last - 1) // DAY_MS != day:
                self._days.append((self.last, dict(self._active)))
                self._changed_days.add(self.last)
            self._judge(new[:count], fresh, verdicts)
            del new[:count]
        self._forget(watermark)
        return verdicts

    def _new_ends(self, ends: Sequence[int], previous_end: int | None) -> list[int]:
        """The ends that are later than all judged ones; the others extend the grid to before its first window."""
        if any(a >= b for a, b in pairwise(ends)):
            raise ValueError(f"rule {self.rule.name!r}: window ends {list(ends)} do not ascend")
        new = [end for end in ends if self.last is None or end > self.last]
        if repeated := [end for end in ends if end in self.judged]:
            raise ValueError(f"rule {self.rule.name!r}: window end {repeated[0]} was judged before; give each end once")
        if new and previous_end is not None and self.last is not None and previous_end != self.last:
            raise ValueError(
                f"rule {self.rule.name!r}: the window before {new[0]} ends at {previous_end}, but the last one judged "
                f"at {self.last}; a step was left out or the state is another run's"
            )
        return new

    def _read(self, frame: pl.DataFrame) -> Cells:
        if frame.is_empty():
            return Cells(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.uint8))
        frame = frame.select(pl.col(name).cast(dtype) for name, dtype in CELLS_SCHEMA.items())
        coded = frame.join(self._table, on="place", how="left", maintain_order="left")["code"]
        if coded.null_count():
            self._name(frame.filter(coded.is_null())["place"].unique(maintain_order=True).to_list())
            coded = frame.join(self._table, on="place", how="left", maintain_order="left")["code"]
        values = frame["value"].fill_null(float("nan")).to_numpy()
        return Cells(coded.to_numpy(), frame["window_end"].to_numpy(), values, self.automaton.classify(values))

    def _name(self, places: Sequence[str]) -> None:
        for place in places:
            self._codes[place] = len(self.places)
            self.places.append(place)
        self._table = pl.DataFrame({"place": self.places, "code": range(len(self.places))}, self._table.schema)

    def _correct(self, ends: Sequence[int], cells: Cells, verdicts: dict[int, Verdict]) -> None:
        """Takes corrected cells and runs the places again whose class changed."""
        forgotten = cells.ends <= self.oldest
        self.beyond_memory += int(forgotten.sum())
        for code in np.unique(cells.codes[forgotten]).tolist():
            verdicts[code] = Verdict(forgotten=True)
        cells = cells.where(~forgotten)
        corrected = np.unique(cells.ends).tolist()
        self._extend_back(
            {end for end in (*ends, *corrected) if self.last is not None and self.oldest < end < self.last}
        )
        changed: dict[int, list[int]] = {}
        for end in corrected:
            of_end = cells.where(cells.ends == end)
            for code in self.judged.correct(end, of_end.codes, of_end.classes, of_end.values).tolist():
                changed.setdefault(code, []).append(end)
        for code in {*changed, *self._active.keys() & set(cells.codes.tolist())}:
            verdict = verdicts.setdefault(code, Verdict())
            if code in changed:
                self._again(code, changed[code][0], changed[code][-1], verdict)

    def _extend_back(self, ends: set[int]) -> None:
        """Adds window ends that were not given, because no place had a cell there: before the first one, or in between."""
        for end in sorted(ends):
            if end not in self.judged:
                self.judged.add_empty(end)

    def _again(self, code: int, first: int, last: int, verdict: Verdict) -> None:
        """Runs a place again from the stored state before `first` until, after `last`, it meets the stored one."""
        at = bisect_left(self._days, first, key=lambda day: day[0]) - 1
        verdict.since, state = self._days[at][0], self._days[at][1].get(code, self.automaton.idle)
        for end, step, seen in self.judged.walk(code, verdict.since):
            state = self._advance(state, seen, end, step, verdict.changes)
            if at + 1 < len(self._days) and self._days[at + 1][0] == end:
                at += 1
                if end >= last and self._days[at][1].get(code, self.automaton.idle) == state:
                    verdict.until = end
                    return
                self._store(self._days[at][1], code, state)
                self._changed_days.add(end)
        self._store(self._active, code, state)

    def _advance(self, state: State, seen: int, end: int, step: int, changes: list[Change]) -> State:
        if state is self.automaton.idle and not self.automaton.trigger[seen]:
            return state
        return self.automaton.advance(state, seen, end, step, changes)

    def _store(self, states: dict[int, State], code: int, state: State) -> None:
        if state == self.automaton.idle:
            states.pop(code, None)
        else:
            states[code] = state

    def _judge(self, ends: list[int], cells: Cells, verdicts: dict[int, Verdict]) -> None:
        """New windows of one day."""
        row = np.searchsorted(np.array(ends, np.int64), cells.ends)
        inside = (cells.ends >= ends[0]) & (cells.ends <= ends[-1])
        row, cells = row[inside], cells.where(inside)
        classes = np.full((len(ends), len(self.places)), MISSING, np.uint8)
        values = np.full(classes.shape, np.nan)
        classes[row, cells.codes], values[row, cells.codes] = cells.classes, cells.values
        busy: Mask = np.any(self.automaton.trigger[classes], axis=0)
        busy[list(self._active)] = True
        for n, end in enumerate(ends):
            self.judged.add(end, classes[n], values[n], busy)
        steps = [b - a for a, b in pairwise([ends[0] if self.last is None else self.last, *ends])]
        codes = np.flatnonzero(busy)
        for code, column in zip(codes.tolist(), classes[:, codes].T.tolist(), strict=True):
            state, changes = self._active.get(code, self.automaton.idle), list[Change]()
            for end, step, seen in zip(ends, steps, column, strict=True):
                state = self._advance(state, seen, end, step, changes)
            self._store(self._active, code, state)
            if changes:
                verdicts.setdefault(code, Verdict()).changes += changes
        self.last = ends[-1]

    def _forget(self, watermark: int) -> None:
        while len(self._days) > 1 and self._days[1][0] <= watermark - self.remember_ms:
            self._changed_days.add(self._days.pop(0)[0])
        self.judged.forget(self.oldest)

    def saved(self, whole: bool) -> Parts:
        """Plain data by name for a checkpoint: all, or what changed since the last call (None: gone)."""
        since, days = 0 if whole else self._named, dict(self._days)
        changed = days if whole else self._changed_days
        parts: Parts = {
            "judge": {
                "last": self.last,
                "beyond_memory": self.beyond_memory,
                "active": [[code, *state] for code, state in self._active.items()],
            },
            **{f"window/{end}": window for end, window in self.judged.saved(whole).items()},
        }
        for end in changed:
            parts[f"day/{end}"] = [[code, *state] for code, state in days[end].items()] if end in days else None
        if since < len(self.places):
            parts[f"names/{since}"] = self.places[since:]
        self._named, self._changed_days = len(self.places), set()
        return parts

    def load(self, parts: Parts) -> None:
        """Into a fresh judge of the same rule."""
        self._name([name for _, names in numbered(parts, "names/") for name in names])
        self.last, self.beyond_memory = parts["judge"]["last"], parts["judge"]["beyond_memory"]
        self._active = dict(map(_state, parts["judge"]["active"]))
        self._days = [(end, dict(map(_state, states))) for end, states in numbered(parts, "day/")]
        self.judged.load({name.removeprefix("window/"): x for name, x in parts.items() if name.startswith("window/")})
        self._named = len(self.places)


def _state(dumped: Sequence[Any]) -> tuple[int, State]:
    code, pending, clearing, fired, current, silent = dumped
    return code, State(tuple(pending), tuple(clearing), tuple(fired), current, silent)


__all__ = ["CELLS_SCHEMA", "Judge", "Verdict"]
