"""Delivery: what a step is, in which order its parts happen, and what a restart does. No other file decides that.

A step: read -> merge -> judge -> store -> publish (rule 35). Every table is keyed, so a step may be written again
(rule 33). A restart reads the inputs again from their start under a higher epoch: the rows are the same rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import polars as pl

from pipelines.brain import Brain, Step
from pipelines.city import City
from pipelines.episodes import transitions_frame
from pipelines.indicator import Indicator, Panes
from pipelines.ingest import COUNTERS
from pipelines.model import DEAD_LETTERS_SCHEMA, NEVER, DeadLetter, Decoded, PlaceRegistry, Rows, Stamped
from pipelines.rollup import Rollup
from pipelines.stream_run import Attached, StreamRun
from pipelines.streams import DAY_MS, Stream

COMMIT_EVENTS: Final = 1_000_000
"""Events of a replayed step: large enough that the fixed cost of an insert does not matter."""
FARTHEST_MS: Final = 31 * DAY_MS
"""How long time may go on after the last event of a replay."""
READ_EVENTS: Final = 250_000
"""Events of a replay that are stamped and grouped in one go: few enough for the processor's cache."""
STAGES: Final = ("read", "ingest", "engine", "brain", "store")
Batch = Sequence[tuple[str, pl.DataFrame]]


class Store(Protocol):
    """Where a step is written. `submit` may return before the batch is durable, `flush` only after."""

    def submit(self, batch: Batch) -> None: ...
    def flush(self) -> None: ...


@dataclass(slots=True)
class Counts:
    """What a run did so far. `seconds` is the time of the calling thread by stage."""

    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    readings: int = 0
    transitions: int = 0
    rows: int = 0
    steps: int = 0
    dead_letters: int = 0
    first_letter: DeadLetter | None = None
    cut_short: list[DeadLetter] = field(default_factory=list)
    """Where inputs broke off."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


class Run:
    """One city's run: every stream's ingest and engine, the brain, and the store. Live and replay share it.

    `publish` is called with each step once it is durable (rule 30); replay has none. `older` loads rows of evicted panes.
    """

    def __init__(
        self,
        city: City,
        indicators: Sequence[Indicator],
        streams: Sequence[Stream],
        attached: Sequence[Attached],
        store: Store,
        *,
        live: bool,
        epoch: int,
        start: int = 0,
        older: Callable[[Rollup, int, int], pl.DataFrame] | None = None,
        publish: Callable[[Step], None] | None = None,
        commit_events: int = COMMIT_EVENTS,
        max_places: int = 100_000,
    ) -> None:
        by_stream: dict[str, list[Attached]] = {}
        for one in attached:
            by_stream.setdefault(one.source.stream, []).append(one)
        self.registries = {name: PlaceRegistry() for name in by_stream}
        self.city, self.store, self.epoch, self.publish = city, store, epoch, publish
        self._older, self.commit_events = older, commit_events
        known = {s.name: s for s in streams}
        used = [known[name] for name in by_stream]
        self.brain = Brain(city, indicators, self.registries, streams=used, older=None if older is None else self._load)
        rollups: dict[str, dict[str, Rollup]] = {name: {} for name in by_stream}
        for indicator in indicators:
            if isinstance(indicator.kind, Panes) and indicator.kind.rollup.stream.name in rollups:
                rollups[indicator.kind.rollup.stream.name][indicator.kind.rollup.name] = indicator.kind.rollup
        self.streams = {
            name: StreamRun(
                known[name], tuple(rollups[name].values()), inputs, self.registries[name], live=live, start=start,
                max_places=max_places,
            )
            for name, inputs in by_stream.items()
        }  # fmt: skip
        self.counts = Counts()

    # ------------------------------------------------------------ a finite run
    def replay(self, until: int | None = None, progress: Callable[[Run], None] | None = None) -> Counts:
        """Reads every input to its end, in the order of rule 9, and closes what rule 9 closes."""
        for stream in self.streams.values():
            while (name := stream.ingest.wanted()) is not None:
                self._read(stream, name)
                if stream.pending >= self.commit_events:
                    self.step(0)
                    if progress is not None:
                        progress(self)
            if stream.pending:
                self.step(0)
        closing = {name: stream.closing() for name, stream in self.streams.items()}
        if until is None:
            rows = [r for s in self.streams.values() for r in s.engine.finish()]
            self._commit(rows, closing, 0)
            tail = self.brain.close(self._revision())
            self._write([], [], tail)
        else:
            last = max(closing.values(), default=NEVER)
            if last > NEVER and until - last > FARTHEST_MS:
                days = (until - last) / DAY_MS
                raise TooFar(
                    f"--until is {days:.1f} days after the last event; at most {FARTHEST_MS // DAY_MS} are allowed (is the year "
                    "right?)"
                )
            closing = {name: max(end, until) for name, end in closing.items()}
            for name, stream in self.streams.items():
                for part in stream.parts:
                    stream.engine.add(Stamped(name, part, None, 0, closing[name]))
                self.brain.listened(name, stream.closing(), closing[name])
            self._commit([r for s in self.streams.values() for r in s.engine.take()], closing, 0)
        self.store.flush()
        return self.counts

    def _read(self, stream: StreamRun, name: str) -> None:
        """One block of the file that is to be read next; several at once while it is the only one."""
        source, started = stream.sources[name], time.perf_counter()
        blocks: list[Decoded] = []
        size = 0
        while size < min(READ_EVENTS, self.commit_events) and not source.ended:
            decoded = source.read()
            if decoded is not None:
                blocks.append(decoded)
                size += len(decoded.events)
            if len(stream.sources) > 1 and blocks:
                break
        read = time.perf_counter()
        out: list[Stamped] = []
        if blocks:
            out += stream.ingest.push(_one(blocks), 0, last=source.ended)
        elif source.ended:
            out += stream.ingest.end(name, 0)
        if source.ended:
            source.close()
        ingested = time.perf_counter()
        stream.add(out)
        self._spent(read=read - started, ingest=ingested - read, engine=time.perf_counter() - ingested)

    # ------------------------------------------------------------ a live run
    def poll(self, now: int) -> int:
        """Takes in what the sources have now; returns how many records that were."""
        taken = 0
        for stream in self.streams.values():
            for source in stream.sources.values():
                while (decoded := source.read()) is not None:
                    taken += decoded.records
                    stream.add(stream.ingest.push(decoded, now))
        return taken

    def tick(self, now: int) -> None:
        """Once a second: time goes on where nothing comes (rule 8)."""
        for stream in self.streams.values():
            stream.add(stream.ingest.tick(now))
            self.brain.listened(stream.stream.name, stream.watermark, stream.watermark)

    def provisional(self) -> pl.DataFrame:
        """Readings of the open windows with what came so far; for screens only."""
        return self.brain.provisional([r for s in self.streams.values() for r in s.engine.open_panes()])

    # ------------------------------------------------------------ the step
    def step(self, now: int) -> Step | None:
        """What became known since the last step: judged, stored, and published once it is durable."""
        started = time.perf_counter()
        rows = [r for s in self.streams.values() for r in s.engine.take()]
        self._spent(engine=time.perf_counter() - started)
        return self._commit(rows, {name: s.watermark for name, s in self.streams.items()}, now)

    def _commit(self, rows: list[Rows], watermarks: Mapping[str, int], now: int) -> Step | None:
        """Judges and stores, in one step or, where a block holds much time, in several; returns the last one."""
        events = [block for s in self.streams.values() for block in s.taken()]
        steps = self.brain.strides(rows, events, watermarks, self._revision)
        last = None
        started = time.perf_counter()
        for last in steps:
            self._spent(brain=time.perf_counter() - started)
            self._write(rows, events, last, now)
            rows, events = [], []
            started = time.perf_counter()
        return last

    def _write(self, rows: list[Rows], events: list[Stamped], step: Step, now: int = 0) -> None:
        started = time.perf_counter()
        number = self._revision()
        batch: list[tuple[str, pl.DataFrame]] = []
        for one in rows:
            if len(one.rows):
                batch.append((f"rows_{one.rollup}", self._stored_rows(one, number)))
        for block in events:
            if block.events is not None and len(block.events):
                batch.append((f"lifecycles_{block.stream}", self._stored_cases(block, number)))
        letters = [x for s in self.streams.values() for x in s.ingest.dead_letters()]
        if letters:
            batch.append(("dead_letters", dead_letters_frame(letters, now)))
        found = (
            ("readings", step.readings),
            ("episodes", step.episodes),
            ("transitions", transitions_frame(step.transitions)),
        )
        batch += [(table, frame) for table, frame in found if len(frame)]
        counts = self.counts
        counts.steps += 1
        counts.rows += sum(len(r.rows) for r in rows)
        counts.readings += len(step.readings)
        counts.transitions += len(step.transitions)
        counts.dead_letters += len(letters)
        counts.first_letter = counts.first_letter or next(iter(letters), None)
        counts.cut_short += [x for x in letters if x.reason == "truncated"]
        counts.counters = {c: sum(s.ingest.counters[c] for s in self.streams.values()) for c in COUNTERS}
        if batch:
            self.store.submit(batch)
        if self.publish is not None:
            self.store.flush()
            self.publish(step)
        self._spent(store=time.perf_counter() - started)

    def _stored_rows(self, one: Rows, number: int) -> pl.DataFrame:
        stream = next(s for s in self.streams.values() if any(r.name == one.rollup for r in s.rollups))
        return one.rows.with_columns(
            self._names(stream.stream.name, one.rows["place"]), pl.lit(number, dtype=pl.Int64).alias("step")
        )

    def _stored_cases(self, block: Stamped, number: int) -> pl.DataFrame:
        assert block.events is not None
        stream = self.streams[block.stream].stream
        columns = [c.name for c in stream.columns]
        return block.events.select(
            *columns, "t", "off", self._names(stream.name, block.events["place"]),
            pl.lit(block.part).alias("part"), pl.lit(number, dtype=pl.Int64).alias("step"),
        )  # fmt: skip

    def _names(self, stream: str, codes: pl.Series) -> pl.Series:
        return pl.Series("place", self.registries[stream].ids, dtype=pl.String).gather(codes)

    def _load(self, rollup: Rollup, since: int, until: int) -> pl.DataFrame:
        """Rows of evicted panes from the store, with codes for places (rule 26).

        Only what this run wrote: a simple restart reads everything again, so an older run's rows are those that this
        one has written or still will, and a late one among them would count once from each.
        """
        assert self._older is not None
        self.store.flush()
        rows = self._older(rollup, since, until).filter(pl.col("step") >= self.epoch << 32)
        registry = self.registries[rollup.stream.name]
        return rows.with_columns(pl.Series("place", [registry.code(p) for p in rows["place"]], dtype=pl.UInt32))

    def _revision(self) -> int:
        """Monotone, not dense (rule 33)."""
        return (self.epoch << 32) | (self.counts.steps + 1)

    def _spent(self, **seconds: float) -> None:
        for stage, spent in seconds.items():
            self.counts.seconds[stage] += spent


def dead_letters_frame(letters: Sequence[DeadLetter], now: int) -> pl.DataFrame:
    """The rows of the table `dead_letters`."""
    rows = [(x.source, x.position, x.stream, x.reason, x.detail, x.payload, x.seen_at or now) for x in letters]
    return pl.DataFrame(rows, DEAD_LETTERS_SCHEMA, orient="row")


class TooFar(ValueError):
    """Time was to go on after the last event for longer than anybody waits."""


class DamagedEpoch(ValueError):
    """The file that holds a store's epoch is not readable as one."""


def next_epoch(folder: Path) -> int:
    """Raises the epoch of a store's folder and makes it durable before it is used (rule 33).

    DamagedEpoch when the file holds no number: a guess might repeat an epoch, and old revisions would win.
    """
    path = folder / "epoch"
    try:
        epoch = int(path.read_text()) + 1
    except FileNotFoundError:
        epoch = 1
    except ValueError:
        raise DamagedEpoch(
            f"{path} holds {path.read_bytes()[:80]!r}, not a number; write one into it that is larger than every epoch "
            "used so far (each start of citybrain uses the next one, from 1)"
        ) from None
    draft = folder / "epoch.new"
    with draft.open("w") as file:
        file.write(str(epoch))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return epoch


def _one(blocks: Sequence[Decoded]) -> Decoded:
    """Blocks of one input that follow each other, as one."""
    if len(blocks) == 1:
        return blocks[0]
    return Decoded(
        blocks[0].input,
        blocks[0].stream,
        pl.concat([b.events for b in blocks]),
        tuple(x for b in blocks for x in b.refused),
        blocks[-1].next_position,
        sum(b.records for b in blocks),
    )


__all__ = [
    "Attached",
    "Batch",
    "Counts",
    "DamagedEpoch",
    "Run",
    "Store",
    "StreamRun",
    "dead_letters_frame",
    "next_epoch",
]
