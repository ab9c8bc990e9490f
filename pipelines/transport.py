"""What engines and ingest elsewhere send to the brain: rows and manifests of `rows.<city>`, the canonical log of lifecycle
streams, dead letters and counters (rules 15, 16, 19).

Rows may come again and in any order; a pane is handed over once, when it has all the events that its manifest counts and
every earlier pane was. So the brain sees the rows of an engine elsewhere as it sees those of the embedded one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.model import NEVER, NO_MANIFESTS, Decoded, Parts, PlaceRegistry, Rows, Source, numbered
from pipelines.rollup import Rollup

Topic = Literal["rows", "events", "dead", "control"]
WINDOW: Final = 1_000_000
"""An engine sends the late rows of a partition in its order, give or take so many offsets; those further behind the newest
one are repetitions."""
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Carried(Decoded):
    """A run of records of one partition of a topic, as far as they concern one stream; `events` is empty."""

    topic: Topic = "rows"
    part: str = ""
    """The partition, as rows call it."""
    objects: Sequence[Mapping[str, Any]] = ()
    """Rows, manifests, dead letters, counters: what their JSON says."""
    raw: Sequence[bytes] = ()
    """Records of the canonical log, with their `offsets`."""
    offsets: Sequence[int] = ()


@runtime_checkable
class Carrying(Source, Protocol):
    """A source of `Carried`."""

    part: str
    """The partition of the canonical log that it reads; '' for another topic."""


class SeenLate:
    """Which late events were handed over, by partition and offset."""

    def __init__(self) -> None:
        self._low: dict[str, int] = {}
        """Offsets below it count as seen."""
        self._seen: dict[str, Offsets] = {}
        self._unsaved: dict[str, list[Offsets]] = {}
        self._saves = 0

    def add(self, part: str, offsets: Offsets) -> npt.NDArray[np.bool_]:
        """Remembers them; tells which are new, one of each."""
        seen = self._seen.get(part, np.zeros(0, np.int64))
        new = np.zeros(len(offsets), np.bool_)
        new[np.unique(offsets, return_index=True)[1]] = True
        new &= (offsets >= self._low.get(part, 0)) & ~np.isin(offsets, seen)
        if new.any():
            seen = np.union1d(seen, offsets[new])
            self._low[part] = low = max(self._low.get(part, 0), int(seen[-1]) - WINDOW)
            self._seen[part] = seen[np.searchsorted(seen, low) :]
            self._unsaved.setdefault(part, []).append(offsets[new])
        return new

    def told(self) -> pl.Expr:
        """Whether an event, by its `part` and `off`, is among them."""
        off = pl.col("off")
        known = [
            (pl.col("part") == part) & ((off < self._low[part]) | off.is_in(pl.Series(seen).implode()))
            for part, seen in self._seen.items()
        ]
        return pl.any_horizontal(known) if known else pl.lit(False)

    def saved(self, whole: bool) -> Parts:
        """By number: all, or what was added since the last call."""
        added = {part: np.concatenate(more) for part, more in self._unsaved.items()}
        self._unsaved = {}
        if whole:
            self._saves, added = 0, dict(self._seen)
        if not added:
            return {}
        self._saves += 1
        return {str(self._saves): added}

    def load(self, parts: Parts) -> None:
        for number, added in numbered(parts, ""):
            self._saves = number
            for part, offsets in added.items():
                self.add(part, offsets)
        self._unsaved = {}


class Collected:
    """The rows of one rollup that were not handed over yet, and the manifests that say when they will be."""

    def __init__(self, rollup: Rollup, registry: PlaceRegistry) -> None:
        self.rollup, self._registry = rollup, registry
        self.closed = NEVER
        self.keys = ["place", "pane_start", *(["bucket"] if rollup.histogram else [])]
        measured = {name: pl.Int64 for name in (*(m.name for m in rollup.measures), "n", "as_of")}
        stamps = {"late": pl.Boolean, "part": pl.String, "off": pl.Int64}
        kinds = {"place": pl.String, "pane_start": pl.Int64, "bucket": pl.Int32}
        self._schema: dict[str, Any] = {k: kinds[k] for k in self.keys} | measured | stamps
        self.no_rows = pl.DataFrame(schema=self._schema | {"place": pl.UInt32})
        self.open = self.no_rows
        self._came: list[pl.DataFrame] = []
        self._late: list[pl.DataFrame] = []
        self.manifests: dict[int, int] = {}
        self.on_time = self.late_ones = 0
        """Events of what was handed over."""
        self.late = SeenLate()
        self.shown = self.no_rows
        """What an engine has in panes that are open there: no part of what is handed over, saved or judged."""

    def add(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Takes rows and manifests in; returns the largest event time of the rows. TypeError, ValueError or a Polars error
        where one is none."""
        rows = []
        for record in records:
            if record.get("manifest"):
                start, n = int(record["pane_start"]), int(record["n"])
                if start + self.rollup.pane_ms > self.closed:
                    self.manifests[start] = max(n, self.manifests.get(start, 0))
            else:
                rows.append(record)
        if not rows:
            return NEVER
        frame = self._frame(rows)
        for (part,), late in frame.filter("late").group_by("part", maintain_order=True):
            new = self.late.add(str(part), late["off"].to_numpy())
            self._late.append(late.filter(pl.Series(new)))
        on_time = frame.filter(~pl.col("late"), pl.col("pane_start") + self.rollup.pane_ms > self.closed)
        if len(on_time):
            self._came.append(on_time)
        return int(frame["as_of"].max())  # type: ignore[arg-type]

    def _frame(self, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
        frame = pl.DataFrame([[row.get(name) for name in self._schema] for row in rows], self._schema, orient="row")
        if frame.select(*self.keys, "n", "as_of", "late", "part", "off").null_count().sum_horizontal()[0]:
            raise ValueError("a row without its key")
        codes = [self._registry.code(place) for place in frame["place"]]
        return frame.with_columns(pl.Series("place", codes, dtype=pl.UInt32))

    def show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of open panes as they are so far; raises as `add` does."""
        self.shown = self._most([self.shown, self._frame(rows)])

    def _most(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """Of rows with one key the one with more events (rule 16)."""
        rows = pl.concat(frames).sort("n", descending=True, maintain_order=True)
        return rows.unique(self.keys, keep="first", maintain_order=True)

    def merged(self) -> pl.DataFrame:
        """The rows of open panes, of two with one key the one with more events (rule 16)."""
        if self._came:
            self.open, self._came = self._most([self.open, *self._came]), []
        return self.open

    def complete(self) -> int:
        """Up to where panes are complete by what has come."""
        closed, pane = self.closed, self.rollup.pane_ms
        there = dict(self.merged().group_by("pane_start").agg(pl.col("n").sum()).iter_rows())
        for start in sorted({*there, *self.manifests}):
            # Of a pane with rows the manifest must be there, of one without the next one tells.
            if start not in self.manifests or there.get(start, 0) < self.manifests[start]:
                break
            closed = start + pane
        return closed

    def take(self) -> Rows:
        """The late rows that came, and the panes that are complete now."""
        rows, pane = self.merged(), self.rollup.pane_ms
        self.closed = self.complete()
        closing = pl.col("pane_start") + pane <= self.closed
        done = sorted(start for start in self.manifests if start + pane <= self.closed)
        manifests = pl.DataFrame(
            {"pane_start": done, "n": [self.manifests.pop(start) for start in done]}, schema=NO_MANIFESTS.schema
        )
        out, self._late = self._late, []
        self.on_time += int(manifests["n"].sum())
        self.late_ones += sum(map(len, out))
        if done:
            out.append(rows.filter(closing))
            self.open = rows.filter(~closing)
        return Rows(self.rollup.name, pl.concat(out) if out else self.no_rows, manifests, self.closed)

    def open_panes(self) -> Rows:
        self.shown = self.shown.filter(pl.col("pane_start") + self.rollup.pane_ms > self.closed)
        rows = self._most([self.merged(), self.shown]) if len(self.shown) else self.merged()
        return Rows(self.rollup.name, rows, NO_MANIFESTS, self.closed)

    def saved(self) -> dict[str, Any]:
        assert not self._late, "rows that were not taken yet would be lost"
        counts = [[start, n] for start, n in self.manifests.items()]
        events = [self.on_time, self.late_ones]
        return {"frame_hash": self.rollup.frame_hash, "closed": self.closed, "manifests": counts, "events": events}

    def load(self, saved: Mapping[str, Any], rows: pl.DataFrame | None) -> None:
        """A measure that is new is null for the rows that came before it."""
        self.closed, self.manifests = saved["closed"], dict(saved["manifests"])
        self.on_time, self.late_ones = saved.get("events", (0, 0))
        if rows is not None:
            kept = rows.select(c for c in rows.columns if c in self.no_rows.columns)
            self.open = pl.concat([self.no_rows, kept], how="diagonal")


__all__ = ["Carried", "Carrying", "Collected", "SeenLate", "Topic"]
