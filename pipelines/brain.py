"""The brain: rows and cases -> readings -> episodes (rules 18 to 30). Pure: no clock, no file, no network.

A step is given what became known since the last one (rows of every rollup, lifecycle events) and the watermark of every
stream; it returns the readings that are new or changed, and what became of the episodes. Live and replay are this call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from pipelines.alerts import Rule
from pipelines.city import City
from pipelines.composites import PART, CompositeTable
from pipelines.episodes import EpisodeBook, Transition
from pipelines.indicator import Composite, Derived, Indicator
from pipelines.model import EPISODES_SCHEMA, NEVER, Parts, PlaceRegistry, Rows, Stamped, prefixed, under
from pipelines.panes import Older
from pipelines.readings import NO_READINGS, readings_of_cells, readings_of_table
from pipelines.stream_state import StreamState
from pipelines.streams import HOUR_MS, Stream
from pipelines.tables import CaseTable, PaneTable, StockTable, Table
from pipelines.windows import next_end, tumbling

CELLS_A_STRIDE = 300_000
READINGS_A_PART = 500_000
"""From so many readings on a part of a step is handed over: they are 100 bytes each."""
REMEMBER_MS = 2 * HOUR_MS
"""How far behind what the next windows need panes stay in memory for late events; older ones are read from the store."""
NO_CELLS = pl.DataFrame(schema={"place": pl.String, "window_end": pl.Int64, "value": pl.Float64})
_Told = dict[tuple[str, str], list[pl.DataFrame]]
"""Readings (columns of `PART`) by indicator and place kind."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a step found: new and changed readings and episodes, and the transitions in the order in which they happened."""

    readings: pl.DataFrame
    episodes: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=EPISODES_SCHEMA))
    transitions: tuple[Transition, ...] = ()
    rests: bool = False
    """Whether the brain is between two strides after it, so that its state may be kept."""


class Brain:
    """One city's brain. `registries` are those of ingest, by stream; `older` loads evicted panes from the store;
    `repeats` says that the transport may deliver rows more than once (rule 16)."""

    def __init__(
        self,
        city: City,
        indicators: Sequence[Indicator],
        registries: Mapping[str, PlaceRegistry],
        *,
        streams: Sequence[Stream] = (),
        older: Older | None = None,
        repeats: bool = False,
        remember_ms: int = REMEMBER_MS,
    ) -> None:
        """`streams` override those of the catalogue (a mapping may declare another period)."""
        self.city, self.indicators, self.remember_ms = city, tuple(indicators), remember_ms
        self.order = {i.id: n for n, i in enumerate(self.indicators)}
        members: dict[str, list[Indicator]] = {name: [] for name in registries}
        known = {s.name: s for s in streams}
        for indicator in self.indicators:
            if indicator.stream is not None and indicator.stream.name in registries:
                members[indicator.stream.name].append(indicator)
                known.setdefault(indicator.stream.name, indicator.stream)
        self.streams = {
            name: StreamState(city, known[name], registries[name], mine, older, repeats)
            for name, mine in members.items()
        }
        self.evicts = older is not None
        self.derived = [i for i in self.indicators if isinstance(i.kind, Derived)]
        self.composites = [
            CompositeTable(i) for i in self.indicators if isinstance(i.kind, Composite) and self._fed(i.kind)
        ]
        self.episodes = EpisodeBook(city.id, city.rules)
        self.rules: dict[str, list[Rule]] = {}
        for rule in city.rules:
            self.rules.setdefault(rule.indicator, []).append(rule)
        self._read = {(rule.indicator, rule.place_kind) for rule in city.rules}
        self._read |= {(part, kind) for c in self.composites for part in c.history for kind in c.kind.levels}
        """The readings, by indicator and place kind, that rules and composites read."""
        self._shown: dict[int, tuple[tuple[int, ...], tuple[pl.DataFrame, ...]]] = {}
        """The provisional readings of each table (by identity), and what of its panes they were made of."""
        self._late: dict[str, pl.DataFrame] = {}
        """Rows of the running step that may touch windows that were final before, by rollup."""

    def _fed(self, kind: Composite) -> bool:
        """Whether the streams of this run feed enough of a composite for it ever to have a value; else it has no cells."""
        fed = sum(
            p.weight for p in kind.parts if p.indicator in self.order and self._source(p.indicator) in self.streams
        )
        total = sum(p.weight for p in kind.parts)
        return total - fed <= kind.missing_share * total

    def _source(self, name: str) -> str:
        """The stream that a reading comes from in the end."""
        indicator = self.indicators[self.order[name]]
        return indicator.stream.name if indicator.stream is not None else self._source(indicator.inputs[0])

    # ------------------------------------------------------------ the step
    def step(
        self, rows: Iterable[Rows], events: Iterable[Stamped], watermarks: Mapping[str, int], revision: int
    ) -> Step:
        """Readings of the windows that became final and of those that late events or cases changed, then the episodes."""
        self._take_in(rows, events)
        *parts, last = self._stride(watermarks, revision)
        return Step(_joined([part.readings for part in (*parts, last)]), last.episodes, last.transitions)

    def strides(
        self,
        rows: Iterable[Rows],
        events: Iterable[Stamped],
        watermarks: Mapping[str, int],
        revision: Callable[[], int],
        cells: int = CELLS_A_STRIDE,
    ) -> Iterator[Step]:
        """The same as `step` in parts that fit into memory: time goes on in strides of about so many cells, for a block of
        a sparse stream may hold years, and the readings of very many places are handed over before all are computed."""
        self._take_in(rows, events)
        while True:
            reached = {
                name: self.streams[name].stride_end(end, cells)
                for name, end in watermarks.items()
                if name in self.streams
            }
            yield from self._stride(reached, revision())
            if all(reached[name] >= watermarks[name] for name in reached):
                return

    def _take_in(self, rows: Iterable[Rows], events: Iterable[Stamped]) -> None:
        self._late = {}
        for state in self.streams.values():
            state.attendance.segments = []
        for one in rows:
            self._late[one.rollup] = self._take(one)
        events = [e for e in events if e.events is not None]
        for state in self.streams.values():
            self._take_cases(state, [e for e in events if e.stream == state.stream.name])

    def _stride(self, watermarks: Mapping[str, int], revision: int) -> Iterator[Step]:
        """Lets time go on; the last part has the episodes."""
        found: list[pl.DataFrame] = []
        told: _Told = {}
        for name, state in self.streams.items():
            before, state.watermark = state.watermark, max(state.watermark, watermarks.get(name, NEVER))
            for table in state.tables:
                for frame in self._advance(state, table, before, state.watermark, revision):
                    self._keep(told, frame)
                    found.append(frame)
                    if sum(map(len, found)) >= READINGS_A_PART:
                        yield Step(_joined(found))
                        found = []
            # What came is told once: the strides after the first only let time go on.
            state.attendance.segments = []
            for table in state.tables:
                if isinstance(table, CaseTable | StockTable):
                    table.changed = table.changed.clear()
        self._late = {}
        for frame in self._composites(told, revision):
            self._keep(told, frame)
            found.append(frame)
        transitions = self._judge(told)
        yield Step(_joined(found), self.episodes.episodes(revision), transitions, rests=True)
        self._forget()

    def _keep(self, told: _Told, frame: pl.DataFrame) -> None:
        """Of the readings of an indicator at one level, what rules and composites read."""
        where = frame["indicator"][0], frame["place_kind"][0]
        if where in self._read:
            told.setdefault(where, []).append(frame.select(list(PART)))

    def close(self, revision: int) -> Step:
        """End of a finite input (rule 9): tumbling and calendar windows that are still open close for the places with
        data, `degraded`, reason `input_ended`; stored and not judged."""
        found: list[pl.DataFrame] = []
        for state in self.streams.values():
            for table in state.tables:
                if not tumbling(table.window) or state.watermark == NEVER:
                    continue
                last = state.attendance.presence.last
                newest = max(int(last.max()) if len(last) else NEVER, NEVER)
                if newest == NEVER:
                    continue
                wanted = state.attendance.windows(
                    table.window, state.watermark, next_end(table.window, newest, self.city.zone), self.city.zone
                )
                if wanted:
                    levels = table.compute(wanted, with_data=True)
                    found += readings_of_table(levels, self.derived, state.tree, revision, None, "input_ended")
        return Step(_joined(found))

    def provisional(self, open_rows: Iterable[Rows]) -> pl.DataFrame:
        """Readings of windows that are still open, with what is grouped so far, above the site level; never stored,
        never judged (rule 19). Of each kind of window the next to become final, and the one that the newest events are in."""
        found: list[pl.DataFrame] = []
        rows = {one.rollup: one.rows for one in open_rows}
        for state in self.streams.values():
            if state.watermark == NEVER:
                continue
            for table in state.tables:
                if isinstance(table, PaneTable) and table.rollup.name in rows:
                    more = rows[table.rollup.name]
                    panes = more["pane_start"].to_numpy()
                    newest = max(state.watermark, int(panes.max()) if len(panes) else NEVER)
                    wanted = sorted({next_end(table.window, t, self.city.zone) for t in (state.watermark, newest)})
                    # Most tables have no new event between two looks.
                    seen = (*wanted, table.memory.version, len(more), int(more["n"].sum()))
                    if self._shown.get(id(table), ((), ()))[0] != seen:
                        levels = table.compute(wanted, more, with_data=True)
                        shown = readings_of_table(levels, self.derived, state.tree, 0, None, "provisional", skip=1)
                        self._shown[id(table)] = seen, tuple(shown)
                    found += self._shown[id(table)][1]
        return _joined(found)

    def listened(self, stream: str, since: int, until: int) -> None:
        """Ticks came of a stream from one watermark to another (rule 8): its silence is one that was heard."""
        self.streams[stream].attendance.tick(since, until)

    def spans(self) -> dict[str, Sequence[tuple[int, int]]]:
        """By stream the times, from pane start to pane start, from which there are events, late ones as well."""
        return {name: state.attendance.told.times for name, state in self.streams.items()}

    # ------------------------------------------------------------ what came
    def _take(self, one: Rows) -> pl.DataFrame:
        """Takes rows of a rollup in; returns the late ones."""
        for state in self.streams.values():
            memory = state.memories.get(one.rollup)
            if memory is not None:
                changed = memory.add(one.rows)
                is_late = changed["late"]
                places, panes = changed["place"].to_numpy().astype(np.int64), changed["pane_start"].to_numpy()
                if not state.stream.lifecycle:
                    state.attendance.add(places, panes, panes[~is_late.to_numpy()])
                # Rows that are not late may still touch windows that are final when a transport repeats rows.
                return changed if memory.repeats else changed.filter(is_late)
        return one.rows.clear()

    def _take_cases(self, state: StreamState, blocks: list[Stamped]) -> None:
        if state.book is None:
            return
        names = state.tree.registry.ids
        frames = [
            b.events.with_columns(pl.Series(names, dtype=pl.String).gather(b.events["place"]).alias("place"))
            for b in blocks
            if b.events is not None
        ]
        for b in blocks:
            assert b.events is not None
            places, t = b.events["place"].to_numpy().astype(np.int64), b.events["t"].to_numpy()
            panes = t // 60_000 * 60_000
            state.attendance.add(places, panes, panes[~b.events["late"].to_numpy()])
        changed = state.book.merge(pl.concat(frames)) if frames else state.book.cases([])
        for table in state.tables:
            if isinstance(table, CaseTable | StockTable):
                table.merge(changed)

    # ------------------------------------------------------------ windows
    def _advance(
        self, state: StreamState, table: Table, before: int, now: int, revision: int
    ) -> Iterable[pl.DataFrame]:
        zone = self.city.zone
        if now == NEVER:
            return ()
        touched = pl.DataFrame(schema={"place": pl.UInt32, "window_end": pl.Int64})
        if before > NEVER:
            came = self._late.get(table.rollup.name) if isinstance(table, PaneTable) else None
            if isinstance(table, PaneTable):
                touched = table.touched(came, before) if came is not None else touched
            else:
                touched = table.touched(before)
            touched = pl.concat([touched, state.attendance.appeared(table.window, before, zone)]).unique()
        fresh = state.attendance.windows(table.window, before, now, zone)
        wanted = sorted({*touched["window_end"].to_list(), *fresh})
        if not wanted:
            return ()
        some = touched if len(touched) else None
        return readings_of_table(table.compute(wanted), self.derived, state.tree, revision, some, None, before)

    def _composites(self, told: _Told, revision: int) -> list[pl.DataFrame]:
        if not self.composites or not self.streams:
            return []
        by_id: dict[str, list[pl.DataFrame]] = {}
        for (name, _), frames in told.items():
            by_id.setdefault(name, []).extend(frames)
        readings = {name: pl.concat(frames) for name, frames in by_id.items()}
        watermark = min(state.watermark for state in self.streams.values())
        out = []
        for table in self.composites:
            cells = table.step(readings, watermark, self.remember_ms)
            if len(cells):
                opened = cells["window_end"] - table.window.size_ms
                cells = cells.with_columns(opened.alias("window_start"), pl.lit(None, dtype=pl.String).alias("caution"))
                for kind in cells["place_kind"].unique(maintain_order=True):
                    mine = cells.filter(pl.col("place_kind") == kind)
                    out.append(readings_of_cells(table.indicator, kind, mine["place"], mine, revision, None))
        return out

    # ------------------------------------------------------------ episodes
    def _judge(self, told: _Told) -> tuple[Transition, ...]:
        transitions = self.episodes.end_outdated()
        for indicator_id, rules in self.rules.items():
            if indicator_id not in self.order:
                continue
            indicator = self.indicators[self.order[indicator_id]]
            until = self._final(indicator)
            if until == NEVER:
                continue
            for rule in rules:
                cells = told.get((indicator_id, rule.place_kind))
                frame = pl.concat(cells).select(NO_CELLS.columns) if cells else NO_CELLS
                last = self.episodes.last_end(rule)
                if last is None and frame.is_empty():
                    continue
                oldest = int(frame["window_end"].min()) if len(frame) else until  # type: ignore[arg-type]
                fresh = self._windows(indicator, oldest - 1 if last is None else last, until)
                if last is not None and oldest <= last:  # a late event may have made cells where there were none
                    fresh = self.episodes.unjudged(rule, self._windows(indicator, oldest - 1, last)) + fresh
                if fresh or len(frame):
                    transitions += self.episodes.step(rule, fresh, frame, until, last)
        return tuple(transitions)

    def _final(self, indicator: Indicator) -> int:
        if indicator.stream is not None:
            state = self.streams.get(indicator.stream.name)
            return state.watermark if state else NEVER
        if isinstance(indicator.kind, Composite):
            return min((state.watermark for state in self.streams.values()), default=NEVER)
        return self._final(self.indicators[self.order[indicator.inputs[0]]])

    def _windows(self, indicator: Indicator, after: int, until: int) -> list[int]:
        """Window ends of an indicator in (after, until], but for those that lie deep in time when nothing was heard."""
        if indicator.stream is not None:
            heard = self.streams[indicator.stream.name].attendance
            return heard.windows(indicator.window, after, until, self.city.zone)
        if isinstance(indicator.kind, Composite):
            beyond = indicator.kind.lag_ms + indicator.kind.validity_ms
            found: set[int] = set()
            for state in self.streams.values():
                more = state.attendance.windows(
                    indicator.window, after, until, self.city.zone, beyond + state.longest_ms
                )
                found.update(more)
            return sorted(found)
        return self._windows(self.indicators[self.order[indicator.inputs[0]]], after, until)

    # ------------------------------------------------------------ the checkpoint
    def saved(self, whole: bool) -> Parts:
        """State by name: all, or what changed since the last call (None: gone)."""
        parts: Parts = {}
        for name, state in self.streams.items():
            parts |= prefixed(f"stream/{name}/", state.saved(whole))
        for table in self.composites:
            parts |= prefixed(f"composite/{table.indicator.id}/", table.saved(whole))
        return parts | prefixed("episodes/", self.episodes.saved(whole))

    def load(self, parts: Parts, cases: Callable[[str], Iterable[pl.DataFrame]]) -> None:
        """Into a fresh brain. `cases` gives the stored events of a lifecycle stream up to the checkpoint; panes are read
        through `older`. A composite that is new begins with what is told from now on."""
        for name, state in self.streams.items():
            if mine := under(parts, f"stream/{name}/"):
                state.load(mine, self.remember_ms, cases(name) if state.book is not None else ())
        for table in self.composites:
            if mine := under(parts, f"composite/{table.indicator.id}/"):
                table.load(mine)
        self.episodes.load(under(parts, "episodes/"))

    def _forget(self) -> None:
        """Panes that no coming window needs go; with them what only corrections of old windows would read."""
        if not self.evicts:
            return
        for state in self.streams.values():
            for name, memory in state.memories.items():
                reach = state.reach_of(name)
                if state.watermark > NEVER:
                    memory.evict(state.watermark - reach, state.watermark - reach - self.remember_ms)


def _joined(found: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(found) if found else NO_READINGS
