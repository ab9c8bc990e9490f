"""Rollups: what an engine computes for a stream (rules 13 to 16): filter, place, pane length, integer measures.

All indicators of a stream share one rollup where their panes allow it: one pass, one group-by. A rollup carries a
frame hash (stream, filter, place, pane, buckets) and one hash per measure, so rows serve every measure they carry.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from pipelines.expr import Node, columns
from pipelines.streams import DAY_MS, Int, Stream

PACK = 1 << 42
"""`first` and `last` are min and max of (t - pane_start) * PACK + (value - range minimum) (rule 14)."""
LONGEST_PACKED_PANE_MS = 900_000
OWN = frozenset(
    ("rollup", "frame", "place", "pane_start", "bucket", "n", "as_of", "late", "part", "off", "step", "job", "t", "wm")
)
"""Columns that a row has beside its measures (rules 15, 31)."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One integer of a row.

    `of` is the expression (None for `count`); `where` makes it `count_if` or `sum_if`. `first` and `last` take a
    plain integer column.
    """

    name: str
    kind: Literal["count", "sum", "min", "max", "first", "last"]
    of: Node | None = None
    where: Node | None = None

    @property
    def hash(self) -> str:
        return _hash(repr((self.kind, self.of, self.where)))


@dataclass(frozen=True, slots=True)
class Histogram:
    """The further key `bucket`: index of the first bound >= the value, len(bounds) above the last, -1 for null."""

    of: Node
    bounds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rollup:
    name: str
    stream: Stream
    pane_ms: int
    measures: tuple[Measure, ...]
    histogram: Histogram | None = None
    where: Node | None = None

    def __post_init__(self) -> None:
        if self.pane_ms <= 0 or DAY_MS % self.pane_ms:
            raise ValueError(f"rollup {self.name!r}: pane_ms is {self.pane_ms}; it must divide a day (86400000 ms)")
        names = [m.name for m in self.measures]
        if len(set(names)) != len(names):
            raise ValueError(f"rollup {self.name!r}: a measure name appears twice in {names}")
        if taken := OWN.intersection(names) | ({self.stream.place} & set(names)):
            raise ValueError(
                f"rollup {self.name!r}: {sorted(taken)} cannot be measures; rows have columns of that name"
            )
        nodes = [x for m in self.measures for x in (m.of, m.where)] + [self.where]
        if self.histogram is not None:
            nodes.append(self.histogram.of)
        known = {c.name for c in self.stream.columns} | {self.stream.place, "t"}
        for node in nodes:
            if node is not None and (unknown := columns(node) - known):
                raise LookupError(
                    f"rollup {self.name!r} reads {sorted(unknown)}; stream {self.stream.name!r} has {sorted(known)}"
                )
        for m in self.measures:
            if (m.of is None) != (m.kind == "count"):
                raise ValueError(f"measure {self.name}.{m.name}: only a count has no expression")
            if m.kind in ("first", "last") and self.pane_ms > LONGEST_PACKED_PANE_MS:
                raise ValueError(f"measure {self.name}.{m.name}: first and last need panes of at most 15 min")

    @property
    def frame_hash(self) -> str:
        return _hash(repr((self.stream.name, self.stream.place, self.pane_ms, self.where, self.histogram)))

    def range_minimum(self, column: str) -> int:
        """The offset that `first` and `last` of that column subtract."""
        declared = self.stream.column(column)
        if not isinstance(declared, Int) or declared.high - declared.low >= PACK:
            raise ValueError(f"{self.name}: first/last need an integer column whose range fits 42 bits, not {column!r}")
        return declared.low


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
