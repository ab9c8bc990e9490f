"""What the brain knows of one stream: its panes or cases, who was present, and up to where its windows are final.

A table answers two questions: which windows are touched by what just came (`touched`), and what the cells of given
windows are (`compute`). It decides nothing about publication: that is the brain's part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import polars as pl

from pipelines.attendance import TOUCHED, Attendance
from pipelines.cells import KEY, Formula, climb, climb_buckets, formula, grid, join_aggregates, site_aggregates
from pipelines.indicator import Cases, Indicator, Panes, Stock
from pipelines.model import NEVER
from pipelines.panes import PaneMemory
from pipelines.presence import Spans
from pipelines.rollup import Rollup
from pipelines.streams import DAY_MS
from pipelines.windows import Slide, Window, ends_near, reach_ms, spread, start, starts

CELLS_JOINED = 250_000
"""Cells that are grouped and joined with what their panes gave in one go."""
COARSE = pl.when(pl.col("coarse") > 0).then(pl.lit("coarse_time"))
Levels = list[pl.DataFrame]


def hit(rows: pl.DataFrame, window: Window, until: int, zone: str, lookback_ms: int) -> pl.DataFrame:
    """(place, window_end) of the windows up to `until` in which rows with `place` and `pane_start` lie."""
    rows = rows.select("place", "pane_start").unique()
    if rows.is_empty() or int(rows["pane_start"].min()) >= until:  # type: ignore[arg-type]
        return pl.DataFrame(schema=TOUCHED)
    panes = Spans(DAY_MS, DAY_MS)
    panes.add(rows["pane_start"].to_numpy())
    grid_ = ends_near(window, panes.times, reach_ms(window) + lookback_ms, NEVER, until, zone)
    return spread(rows, window, grid_, zone, lookback_ms).select("place", "window_end").unique()


class PaneTable:
    """Indicators over the panes of one rollup and one kind of window."""

    def __init__(
        self, attendance: Attendance, rollup: Rollup, memory: PaneMemory, members: Sequence[Indicator], zone: str
    ) -> None:
        self.attendance, self.tree, self.rollup, self.memory = attendance, attendance.tree, rollup, memory
        self.window, self.zone = members[0].window, zone
        # Indicators that look back see more panes than their window; they are grouped apart.
        self.groups: dict[int, list[Indicator]] = {}
        for indicator in members:
            assert isinstance(indicator.kind, Panes)
            self.groups.setdefault(indicator.kind.lookback_ms, []).append(indicator)
        self.members = [i for group in self.groups.values() for i in group]

    @property
    def reach_ms(self) -> int:
        return reach_ms(self.window) + max(self.groups)

    def touched(self, late: pl.DataFrame, until: int) -> pl.DataFrame:
        return hit(late, self.window, until, self.zone, max(self.groups))

    def compute(
        self, wanted: list[int], more: pl.DataFrame | None = None, with_data: bool = False
    ) -> Iterator[tuple[Indicator, Levels]]:
        """Cells of every level, indicator by indicator, for one portion of the windows after the other: of a million
        places all at once would be too much. `more` are provisional rows, counted as well; `with_data` leaves out the
        sites whose windows are empty."""
        for portion, cells in self._grids(wanted, with_data):
            for lookback, group in self.groups.items():
                rows = self.memory.read(start(self.window, portion[0], self.zone) - lookback, portion[-1])
                if more is not None:
                    rows = pl.concat([rows, more.select(self.memory.columns)])
                names = sorted({a for i in group if isinstance(i.kind, Panes) for a in i.kind.attributes})
                rows = spread(self.tree.with_attributes(rows, names), self.window, portion, self.zone, lookback)
                sites = self._sites(group, rows, cells)
                for indicator in group:
                    yield indicator, self._levels(indicator, sites, rows)

    def _sites(self, group: Sequence[Indicator], rows: pl.DataFrame, cells: pl.DataFrame | None) -> pl.DataFrame:
        """The site cells with what their panes gave; of very many places by ranges, for grouping and joining take
        several times what comes of them."""
        some = max(len(rows), 0 if cells is None else len(cells))
        if some <= CELLS_JOINED:
            return self._joined(group, rows, cells)
        apart = np.linspace(0, len(self.tree.registry.ids), -(-some // CELLS_JOINED) + 1).astype(np.int64).tolist()
        parts = []
        for low, high in pairwise(apart):
            mine, theirs = (pl.col(c).is_between(low, high, closed="left") for c in ("place", "code"))
            parts.append(self._joined(group, rows.filter(mine), None if cells is None else cells.filter(theirs)))
        return pl.concat(parts, rechunk=True)

    def _joined(self, group: Sequence[Indicator], rows: pl.DataFrame, cells: pl.DataFrame | None) -> pl.DataFrame:
        aggregates = site_aggregates(group, rows)
        if cells is None:
            seen = aggregates.filter(pl.col("samples") > 0)
            closed = seen["window_end"].to_numpy()
            opened = starts(self.window, closed, self.zone)
            cells = grid(seen["place"].to_numpy().astype(np.int64), opened, closed, self.tree, self.rollup.pane_ms)
        return join_aggregates(cells, aggregates)

    def _grids(self, wanted: list[int], with_data: bool) -> Iterable[tuple[list[int], pl.DataFrame | None]]:
        """The cells that exist; None where they are those with data, whatever the presence says."""
        if with_data:
            return [(wanted, None)]
        return self.attendance.cells(self.window, wanted, self.zone, self.rollup.pane_ms)

    def _levels(self, indicator: Indicator, joined: pl.DataFrame, rows: pl.DataFrame) -> Levels:
        kind = indicator.kind
        assert isinstance(kind, Panes)
        how = formula(indicator, kind)
        aggregates = [e.meta.output_name() for e in kind.aggregate]
        partials = [e.meta.output_name() for e in kind.partial] or aggregates
        common = [*KEY, "window_start", "samples", "got", "expected", "as_of"]
        if kind.by_bucket:
            buckets = rows.rename({"place": "code"}).group_by([*KEY, "bucket"]).agg(kind.aggregate)
            buckets = buckets.with_columns(kind.partial).select(*KEY, "bucket", *partials)
            ratio = [c for c in (kind.num, kind.den) if c in partials]
            return climb_buckets(self.tree, how, joined.select(common), buckets, ratio)
        sites = joined.select(*common, *(pl.col(f"{indicator.id}/{a}").alias(a) for a in aggregates))
        sites = sites.with_columns(kind.partial).select(*common, *partials)
        return climb(self.tree, how, sites, partials)


class CaseTable:
    """One lifecycle indicator: decisions of cases, counted in the windows in which they were taken (rule 22)."""

    def __init__(self, attendance: Attendance, indicator: Indicator, zone: str) -> None:
        assert isinstance(indicator.kind, Cases)
        self.attendance, self.tree, self.indicator, self.kind = attendance, attendance.tree, indicator, indicator.kind
        self.window, self.zone, self.members = indicator.window, zone, [indicator]
        self.how = Formula(self.kind.value, caution=COARSE, min_samples=indicator.min_samples)
        self.facts = pl.DataFrame(
            schema={
                "case_id": pl.String,
                "place": pl.UInt32,
                "pane_start": pl.Int64,
                "num": pl.Int64,
                "den": pl.Int64,
                "as_of": pl.Int64,
                "coarse": pl.Int64,
            }
        )
        self.changed = self.facts

    def merge(self, cases: pl.DataFrame) -> None:
        """Takes changed cases in, and remembers which decisions changed."""
        if cases.is_empty():
            self.changed = self.facts.clear()
            return
        found = self.kind.facts(cases, self.zone)
        coarse = (
            pl.col("coarse").fill_null(False).cast(pl.Int64) if "coarse" in found.columns else pl.lit(0, dtype=pl.Int64)
        )
        codes = pl.Series("place", [self.tree.registry.code(p) for p in found["place"]], dtype=pl.UInt32)
        new = found.with_columns(codes, coarse.alias("coarse"), pl.col("t").alias("pane_start")).select(
            self.facts.columns
        )
        mine = pl.col("case_id").is_in(cases["case_id"].to_list())
        old = self.facts.filter(mine)
        both = pl.concat([old, new])
        self.changed = both.filter(~both.is_duplicated())
        self.facts = pl.concat([self.facts.filter(~mine), new]) if len(old) else pl.concat([self.facts, new])

    def touched(self, until: int) -> pl.DataFrame:
        return hit(self.changed, self.window, until, self.zone, 0)

    def compute(
        self, wanted: list[int], more: pl.DataFrame | None = None, with_data: bool = False
    ) -> Iterator[tuple[Indicator, Levels]]:
        for portion, cells in self.attendance.cells(self.window, wanted, self.zone, self.kind.pane_ms):
            inside = pl.col("pane_start").is_between(
                start(self.window, portion[0], self.zone), portion[-1], closed="left"
            )
            rows = spread(self.facts.filter(inside), self.window, portion, self.zone)
            sums = rows.group_by(["place", "window_end"]).agg(
                pl.col("num").sum(), pl.col("den").sum(), pl.col("coarse").sum(), pl.col("as_of").max(),
                pl.col("den").sum().alias("samples"), pl.lit(0, dtype=pl.Int64).alias("got"),
            )  # fmt: skip
            sites = join_aggregates(cells, sums).with_columns(pl.lit(None, dtype=pl.Int64).alias("expected"))
            if with_data:
                sites = sites.filter(pl.col("samples") > 0)
            yield self.indicator, climb(self.tree, self.how, sites, ["num", "den", "coarse"])


class StockTable:
    """One stock indicator: what is open, and of that what is marked, in the last millisecond of each window (rule 23)."""

    def __init__(self, attendance: Attendance, indicator: Indicator, zone: str) -> None:
        assert isinstance(indicator.kind, Stock) and isinstance(indicator.window, Slide)
        self.attendance, self.tree, self.indicator, self.kind = attendance, attendance.tree, indicator, indicator.kind
        self.window, self.zone, self.members = indicator.window, zone, [indicator]
        self.how = Formula(self.kind.value, reason=pl.when(pl.col("den") == 0).then(pl.lit("none_open")), min_samples=0)
        self.spans = pl.DataFrame(
            schema={
                "case_id": pl.String,
                "place": pl.UInt32,
                "opened": pl.Int64,
                "closed": pl.Int64,
                "marked": pl.Int64,
            }
        )
        self.changed = self.spans

    def merge(self, cases: pl.DataFrame) -> None:
        if cases.is_empty():
            self.changed = self.spans.clear()
            return
        found = self.kind.intervals(cases, self.zone)
        codes = pl.Series("place", [self.tree.registry.code(p) for p in found["place"]], dtype=pl.UInt32)
        marked = pl.when(pl.col("marked") < pl.col("closed").fill_null(-NEVER)).then(
            pl.max_horizontal("marked", "opened")
        )
        new = found.with_columns(codes, marked.alias("marked")).select(self.spans.columns)
        mine = pl.col("case_id").is_in(cases["case_id"].to_list())
        both = pl.concat([self.spans.filter(mine), new])
        self.changed = both.filter(~both.is_duplicated())
        self.spans = pl.concat([self.spans.filter(~mine), new])

    def touched(self, until: int) -> pl.DataFrame:
        """Every window from the first instant at which a changed case differs from what was known."""
        changed = self.changed.with_columns(pl.min_horizontal("opened", "closed", "marked").alias("from"))
        if changed.is_empty():
            return pl.DataFrame(schema=TOUCHED)
        differing = []
        for (_,), pair in changed.group_by("case_id"):
            differing.append((pair["place"].to_list(), _first_difference(pair)))
        places: list[int] = []
        closed: list[int] = []
        for codes, since in differing:
            if since < until:
                gained = self.attendance.windows(self.window, since, until, self.zone)
                for code in set(codes):
                    closed += gained
                    places += [code] * len(gained)
        return pl.DataFrame({"place": places, "window_end": closed}, schema=TOUCHED).unique()

    def compute(
        self, wanted: list[int], more: pl.DataFrame | None = None, with_data: bool = False
    ) -> Iterator[tuple[Indicator, Levels]]:
        for _, cells in self.attendance.cells(self.window, wanted, self.zone, self.window.step_ms):
            counted = [
                cells.clear().with_columns(*(pl.lit(0, dtype=pl.Int64).alias(c) for c in ("num", "den", "as_of")))
            ]
            for (code,), mine in cells.group_by("code"):
                at = mine["window_end"].to_numpy() - 1
                spans = self.spans.filter(pl.col("place") == code)
                gone = spans.filter(pl.col("marked").is_not_null())
                opened, closed, marked, unmarked = (
                    np.sort(s.drop_nulls().to_numpy())
                    for s in (spans["opened"], spans["closed"], gone["marked"], gone["closed"])
                )
                a, b = np.searchsorted(opened, at, side="right"), np.searchsorted(closed, at, side="right")
                c, d = np.searchsorted(marked, at, side="right"), np.searchsorted(unmarked, at, side="right")
                newest = np.maximum(np.append(opened, NEVER)[a - 1], np.append(closed, NEVER)[b - 1])
                newest = np.where(a > 0, newest, NEVER)
                counted.append(
                    mine.with_columns(
                        pl.Series("num", c - d, dtype=pl.Int64),
                        pl.Series("den", a - b, dtype=pl.Int64),
                        pl.Series("as_of", newest, dtype=pl.Int64).replace(NEVER, None),
                    )
                )
            sites = pl.concat(counted).with_columns(
                pl.col("den").alias("samples"),
                pl.lit(0, dtype=pl.Int64).alias("got"),
                pl.lit(None, dtype=pl.Int64).alias("expected"),
            )
            if with_data:
                sites = sites.filter(pl.col("samples") > 0)
            yield self.indicator, climb(self.tree, self.how, sites, ["num", "den"])


def _first_difference(pair: pl.DataFrame) -> int:
    """The earliest instant at which two versions of a case differ (one version: its opening)."""
    if len(pair) == 1:
        return int(pair["opened"].min())  # type: ignore[arg-type]
    if pair["place"].n_unique() > 1:
        return int(pair["opened"].min())  # type: ignore[arg-type]
    instants: list[int] = [
        x for c in ("opened", "closed", "marked") if pair[c].n_unique() > 1 for x in pair[c].to_list() if x is not None
    ]
    return min(instants)


Table = PaneTable | CaseTable | StockTable
