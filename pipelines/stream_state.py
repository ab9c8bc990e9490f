"""Everything that the brain holds of one stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from pipelines.attendance import Attendance
from pipelines.city import City
from pipelines.indicator import Cases, Composite, Derived, Indicator, Panes, Stock
from pipelines.lifecycle import CaseBook
from pipelines.model import NEVER, Parts, PlaceRegistry
from pipelines.panes import Older, PaneMemory
from pipelines.place_tree import PlaceTree
from pipelines.rollup import Rollup
from pipelines.streams import HOUR_MS, Stream
from pipelines.tables import CaseTable, PaneTable, StockTable, Table
from pipelines.windows import Window, reach_ms, step_ms


class StreamState:
    """Everything of one stream: its places, presence, panes, cases, and the watermark up to which it was judged."""

    def __init__(
        self,
        city: City,
        stream: Stream,
        registry: PlaceRegistry,
        members: Sequence[Indicator],
        older: Older | None,
        repeats: bool,
    ) -> None:
        self.stream = stream
        self.tree = PlaceTree(city, stream, registry)
        self.attendance = Attendance(stream, self.tree)
        self.memories: dict[str, PaneMemory] = {}
        self.tables: list[Table] = []
        self.book: CaseBook | None = CaseBook(stream) if stream.lifecycle else None
        self.watermark = NEVER
        panes: dict[tuple[str, Window], list[Indicator]] = {}
        rollups: dict[str, Rollup] = {}
        for indicator in members:
            match indicator.kind:
                case Panes(rollup=rollup):
                    panes.setdefault((rollup.name, indicator.window), []).append(indicator)
                    rollups[rollup.name] = rollup
                case Cases():
                    self.tables.append(CaseTable(self.attendance, indicator, city.zone))
                case Stock():
                    self.tables.append(StockTable(self.attendance, indicator, city.zone))
                case Derived() | Composite():
                    raise AssertionError("derived and composite indicators belong to no stream")
        for (name, _), group in panes.items():
            memory = self.memories.setdefault(name, PaneMemory(rollups[name], older, repeats))
            self.tables.append(PaneTable(self.attendance, rollups[name], memory, group, city.zone))
        self.longest_ms = max((reach_ms(t.window) + step_ms(t.window) for t in self.tables), default=0)

    def saved(self, whole: bool) -> Parts:
        """State by name for a checkpoint, but for panes and cases: `load` reads those back from the store."""
        return {"watermark": self.watermark, **self.attendance.saved(whole)}

    def load(self, saved: Parts, remember_ms: int, cases: Iterable[pl.DataFrame]) -> None:
        """Into a fresh state. `cases`: the events of a lifecycle stream (columns of `CaseBook.merge`) up to then."""
        self.watermark = saved["watermark"]
        self.attendance.load(saved)
        if self.watermark == NEVER:
            return
        for name, memory in self.memories.items():
            memory.load(self.watermark - self.reach_of(name) - remember_ms)
        if self.book is None:
            return
        for events in cases:
            self.book.merge(events)
        changed = self.book.cases()
        for table in self.tables:
            if isinstance(table, CaseTable | StockTable):
                table.merge(changed)
                table.changed = table.changed.clear()

    def reach_of(self, rollup: str) -> int:
        """How far behind the watermark the next windows read panes of a rollup."""
        return max(t.reach_ms for t in self.tables if isinstance(t, PaneTable) and t.rollup.name == rollup)

    def stride_end(self, until: int, cells: int) -> int:
        """How far the stream's time goes on in one stride of about so many cells."""
        since = self.attendance.awake(self.watermark, self.longest_ms)
        if until == NEVER or since >= until:
            return until
        places = max(1, len(self.attendance.presence.first), len(self.tree.configured))
        per_ms = places * sum(len(t.members) / step_ms(t.window) for t in self.tables)
        least = min((step_ms(t.window) for t in self.tables), default=HOUR_MS)
        stride = max(least, int(cells / per_ms)) if per_ms else until - since
        return min(until, since + stride)
