"""One stream of a run whose ingest and engine are elsewhere: rows by their manifests, lifecycle events by their stamps."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson
import polars as pl

from pipelines import canonical
from pipelines.announcement import KIND, Announcement
from pipelines.ingest import COUNTERS, bounded
from pipelines.job_watch import JobWatch
from pipelines.model import NEVER, DeadLetter, Decoded, Parts, PlaceRegistry, Rows, Source, Stamped, prefixed, under
from pipelines.rollup import Rollup
from pipelines.stream_run import Attached, InRun
from pipelines.streams import Stream
from pipelines.transport import Carried, Carrying, Collected

NO_EVENTS: Final = pl.DataFrame()
WRONG: Final = (KeyError, TypeError, ValueError, OverflowError, pl.exceptions.PolarsError)
"""What a record that is no row, event or letter raises."""
HELD_MS: Final = 60_000
"""So long rows wait for the announcement of their job, which was sent before them on another topic."""


class RemoteStream(InRun):
    """Its inputs bring `Carried`. What is no record of it, of another frame or of a rollup that the catalogue does not have
    is set aside: a dead letter names the first of each kind, `set_aside` counts all."""

    def __init__(
        self, stream: Stream, rollups: Sequence[Rollup], attached: Sequence[Attached], registry: PlaceRegistry
    ) -> None:
        super().__init__(stream, rollups, registry, [one.source for one in attached])
        self.collected = {rollup.name: Collected(rollup, registry) for rollup in rollups}
        self.jobs = JobWatch(stream.name, rollups)
        self.set_aside: Counter[str] = Counter()
        self._wm: dict[str, int] = {}
        self._next: dict[str, int] = {}
        """Of the partitions of a lifecycle stream: their watermark, and the next offset."""
        self._told: dict[str, dict[str, int]] = {}
        """The counters of each ingest task."""
        self._largest: dict[str, int] = {}
        """The largest M that each of them told of."""
        self._held: list[Mapping[str, Any]] = []
        self._held_since = 0
        self._rows_from = ""
        self._letters: list[DeadLetter] = []
        self._inputs: list[str] = []
        self._named = 0

    # ------------------------------------------------------------ what comes in
    def stamped(self, decoded: Decoded, now: int, last: bool = False) -> list[Stamped]:
        assert isinstance(decoded, Carried)
        match decoded.topic:
            case "rows":
                self._rows(decoded, now)
            case "dead":
                for record in decoded.objects:
                    self._each([record], decoded, now, lambda x: self._letters.append(DeadLetter(**x[0])))
            case "control":
                for record in decoded.objects:
                    self._each([record], decoded, now, lambda x: self._control(x[0], now))
            case "events":
                return self._events(decoded, now)
        self.pending += len(decoded.objects)
        return []

    def _rows(self, carried: Carried, now: int) -> None:
        of: dict[str, list[Mapping[str, Any]]] = {}

        def collect() -> None:
            for records in of.values():
                self._each(records, carried, now, self._collect)
            of.clear()

        self._rows_from = carried.input
        for record in carried.objects:
            name, job = str(record.get("rollup")), str(record.get("job", ""))
            if name not in self.collected:
                self._aside(f"rows of rollup {name!r}, which this catalogue does not have", record, carried, now)
            elif (frame := str(record.get("frame"))) != self.collected[name].rollup.frame_hash:
                which = "an older" if self.jobs.older(name, {"": frame}) else "another"
                self._aside(f"rows of {which} frame of rollup {name!r}: {frame!r}", record, carried, now)
            elif job and not self.jobs.knows(job):
                self._held_since = self._held_since if self._held else now
                self._held.append(record)
            elif why := self.jobs.unusable(job, name):
                self._aside(why, record, carried, now)
            else:
                if job and not self.jobs.has_begun(job):
                    collect()
                    self.jobs.begins(job, min(each.complete() for each in self.collected.values()), now)
                of.setdefault(name, []).append(record)
        collect()

    def _release(self, now: int) -> None:
        """The rows that waited for an announcement; those whose job still has none wait on."""
        held, self._held = self._held, []
        self._rows(Carried(self._rows_from, self.stream.name, NO_EVENTS, (), 0, 0, objects=held), now)

    def _collect(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.last_event = max(self.last_event, self.collected[records[0]["rollup"]].add(records))

    def _control(self, record: Mapping[str, Any], now: int) -> None:
        match record["kind"]:
            case "counters":
                ingest = str(record["ingest"])
                self._told[ingest] = {name: int(record["counters"][name]) for name in COUNTERS}
                if "largest" in record:
                    self._largest[ingest] = max(int(record["largest"]), self._largest.get(ingest, NEVER))
            case kind if kind == KIND:
                self.jobs.announced(Announcement.read(record), now)
                self._release(now)

    @property
    def largest(self) -> int | None:
        """The largest M of all that ingest has told of so far; None where one did not tell any."""
        return max(self._largest.values()) if self._largest and self._largest.keys() == self._told.keys() else None

    def _each(self, records: Sequence[Mapping[str, Any]], carried: Carried, now: int, take: Any) -> None:
        """All at once, or, where one of them is none, each by itself."""
        try:
            take(records)
        except WRONG as error:
            if len(records) == 1:
                self._aside(f"a record of {carried.topic} that is none: {error}", records[0], carried, now)
                return
            for record in records:
                self._each([record], carried, now, take)

    def _events(self, carried: Carried, now: int) -> list[Stamped]:
        if not carried.raw:  # the end of a transaction
            return []
        try:
            frame = canonical.decoded(carried.raw, carried.offsets, self.stream)
        except WRONG:
            if len(carried.raw) == 1:
                shown = {"record": carried.raw[0].decode(errors="replace")}
                self._aside("a record of the canonical log that is none", shown, carried, now)
                return []
            half = len(carried.raw) // 2
            parts = [
                replace(carried, raw=carried.raw[some], offsets=carried.offsets[some])
                for some in (slice(half), slice(half, None))
            ]
            return [block for part in parts for block in self._events(part, now)]
        if frame.is_empty():
            return []
        self._next[carried.part] = carried.next_position
        return [canonical.stamped(frame, self.stream, carried.part, self.registry)]

    def add(self, blocks: Iterable[Stamped]) -> None:
        for block in blocks:
            self._wm[block.part] = max(self._wm.get(block.part, NEVER), block.last_wm)
            if block.events is not None and len(block.events):
                self.kept.append(block)
                self.pending += len(block.events)
                self.last_event = max(self.last_event, int(block.events["t"].max()))  # type: ignore[arg-type]
        parts = [source.part for source in self.sources.values() if isinstance(source, Carrying) and source.part]
        if parts:
            self.watermark = max(self.watermark, min(self._wm.get(part, NEVER) for part in parts))

    def tick(self, now: int) -> None:
        """Time is in the data: the manifests, and the ticks of the log, tell it."""
        if self._held and now - self._held_since > HELD_MS:
            closed = min(each.complete() for each in self.collected.values())
            for job in dict.fromkeys(str(record["job"]) for record in self._held):
                self.jobs.begins(job, closed, now)
            self._release(now)

    def _aside(self, what: str, record: Mapping[str, Any], carried: Carried, now: int) -> None:
        self.set_aside[what] += 1
        if self.set_aside[what] == 1:
            payload = bounded(orjson.dumps(record, default=str).decode())
            position = f"{carried.next_position}:{len(self.set_aside)}"
            self._letters.append(
                DeadLetter(carried.input, position, self.stream.name, "set_aside", what, payload, seen_at=now)
            )

    @property
    def ended(self) -> set[str]:
        return set()

    @property
    def joined(self) -> list[str]:
        return [name for name in self._inputs if name not in self.sources]

    def attach(self, source: Source, now: int) -> None:
        self.know(source)

    def know(self, source: Source) -> None:
        self.sources[source.input] = source

    # ------------------------------------------------------------ what goes out
    def rows(self) -> list[Rows]:
        taken = [collected.take() for collected in self.collected.values()]
        if taken:
            self.watermark = max(self.watermark, min(one.watermark for one in taken))
        return taken

    def show(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Rows of panes that are open where they are grouped, for screens: what cannot be used is passed over, for the rows
        that count name it."""
        of: dict[str, list[Mapping[str, Any]]] = {}
        for record in records:
            collected = self.collected.get(str(record.get("rollup")))
            if collected is not None and record.get("frame") == collected.rollup.frame_hash:
                of.setdefault(collected.rollup.name, []).append(record)
        for name, rows in of.items():
            with contextlib.suppress(*WRONG):
                self.collected[name].show(rows)

    def open_panes(self) -> list[Rows]:
        return [collected.open_panes() for collected in self.collected.values()]

    def closed(self) -> dict[str, int]:
        return {name: collected.closed for name, collected in self.collected.items()}

    def seen(self, rollup: str | None) -> pl.Expr:
        if rollup is not None:
            return self.collected[rollup].late.told()
        return pl.col("off") < pl.col("part").replace_strict(self._next, default=0, return_dtype=pl.Int64)

    def dead_letters(self) -> list[DeadLetter]:
        letters, self._letters = self._letters, []
        return letters

    @property
    def counters(self) -> dict[str, int]:
        return {name: sum(told[name] for told in self._told.values()) for name in COUNTERS}

    # ------------------------------------------------------------ the checkpoint
    def saved(self, whole: bool) -> Parts:
        assert not self.kept and not self.pending, "events that were not taken yet would be lost"
        own = {
            "watermark": self.watermark, "last_event": self.last_event, "wm": dict(self._wm), "next": dict(self._next),
            "told": self._told, "inputs": [*self.sources], "aside": dict(self.set_aside), "largest": self._largest,
            "held": [*self._held], "held_since": self._held_since, "rows_from": self._rows_from, "jobs": self.jobs.saved(),
        }  # fmt: skip
        at = {"rollups": {name: collected.saved() for name, collected in self.collected.items()}}
        parts: Parts = {"own": own, "engine/at": at}
        for name, collected in self.collected.items():
            parts[f"engine/open/{name}"] = collected.merged()
            parts |= prefixed(f"engine/late/{name}/", collected.late.saved(whole))
        since = 0 if whole else self._named
        if since < len(self.registry.ids):
            parts[f"places/{since}"] = self.registry.ids[since:]
        self._named = len(self.registry.ids)
        return parts

    def load(self, parts: Parts, now: int) -> None:
        own = parts["own"]
        self.watermark, self.last_event, self._inputs = own["watermark"], own["last_event"], own["inputs"]
        self._wm, self._next, self._told = dict(own["wm"]), dict(own["next"]), dict(own["told"])
        self.set_aside.update(own["aside"])
        if "jobs" in own:
            self._largest, self._held, self._held_since = dict(own["largest"]), [*own["held"]], own["held_since"]
            self._rows_from = own["rows_from"]
            self.jobs.load(own["jobs"])
        for name, collected in self.collected.items():
            mine = parts["engine/at"]["rollups"].get(name)
            if mine is not None and mine["frame_hash"] == collected.rollup.frame_hash:
                collected.load(mine, parts.get(f"engine/open/{name}"))
                collected.late.load(under(parts, f"engine/late/{name}/"))
