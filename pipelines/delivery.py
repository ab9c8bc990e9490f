"""Delivery: what a step is, in which order its parts happen, and what a restart does. No other file decides that.

A step (rules 33 to 36): its inputs are read and judged -> **plan** (which records, ticks and clocks it is made of; synced)
-> **store** (every table is keyed, so a step may be written again) -> **checkpoint** (what it changed of the state; synced)
-> **publish** -> **commit** of the sources' positions. All but the first happen on the thread that writes, in this order,
while the next step is read.

A restart loads the newest checkpoint, publishes what its step told once more, and does the planned steps after it again:
the same records, ticks and clocks, all that they compute written under a higher epoch. Then it goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol

import polars as pl

from pipelines.brain import REMEMBER_MS, Brain, Step
from pipelines.city import City
from pipelines.counts import Counts
from pipelines.engines.grouped_apart import GroupedApart
from pipelines.episodes import Transition
from pipelines.failpoints import reached
from pipelines.indicator import Indicator, Panes
from pipelines.ingest import COUNTERS, saved_places
from pipelines.intake import Intake, Now, Opener, Plan
from pipelines.journal import CheckpointError, Journal, Recovered
from pipelines.model import (
    NEVER,
    Parts,
    PlaceRegistry,
    Rows,
    Stamped,
    prefixed,
    under,
)
from pipelines.readback import ReadBack
from pipelines.readings import NO_READINGS
from pipelines.remote_stream import RemoteStream
from pipelines.retention import Retention
from pipelines.rollup import Rollup
from pipelines.step_frames import Batch, KeptRows, StepFrames
from pipelines.stream_run import Attached, InRun, StreamRun, embedded
from pipelines.streams import DAY_MS, Stream

COMMIT_EVENTS: Final = 1_000_000
"""Events of a replayed step: large enough that the fixed cost of an insert does not matter."""
LONG_STEP_S: Final = 2.0
"""A step that takes longer is kept between two strides of the brain as well."""
FARTHEST_MS: Final = 31 * DAY_MS
"""How long time may go on after the last event of a replay."""


class Store(Protocol):
    """Where a step is written. `submit` and `call` may return before it was done; `flush` only after. A `call` is done
    when everything submitted before it is durable, and everything after it waits for it."""

    def submit(self, batch: Batch) -> None: ...
    def call(self, action: Callable[[], None]) -> None: ...
    def flush(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Durable:
    """Where the checkpoint is kept, what was found there, and whose it is."""

    journal: Journal
    recovered: Recovered | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What the run is of; whoever opens the folder compares it (`Recovered.parts["run"]["identity"]`)."""
    guard: Callable[[], None] | None = None
    """Raises when this process may not write any more (rule 38); called before every checkpoint."""


class Run:
    """One city's run: every stream's ingest and engine, the brain, and the store. Live and replay share it.

    `publish` is called with each step once it is durable (rule 30), on the thread that writes; replay has none. `older`
    loads stored rows of panes, `cases` stored events of a lifecycle stream; `drop` drops the rows of a table before an
    instant, once they are older than `fine_for_ms` (None: never). Without `durable` nothing outlives the run. `apart`
    groups a finite run with another engine; what was killed of it starts over. `remote`: the sources bring what ingest and
    engines elsewhere made of the streams.
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
        cases: Callable[[str], pl.DataFrame] | None = None,
        publish: Callable[[Step], None] | None = None,
        commit_events: int = COMMIT_EVENTS,
        max_places: int = 100_000,
        fine_for_ms: int | None = None,
        drop: Callable[[str, int], int] | None = None,
        remember_ms: int = REMEMBER_MS,
        now: Now | None = None,
        opener: Opener | None = None,
        durable: Durable | None = None,
        apart: GroupedApart | None = None,
        remote: bool = False,
    ) -> None:
        self.city, self.store, self.epoch, self.publish, self.apart = city, store, epoch, publish, apart
        self.live = live
        self.commit_events = commit_events
        self.durable = durable
        saved = durable.recovered.parts if durable is not None and durable.recovered is not None else {}
        by_stream: dict[str, list[Attached]] = {}
        for one in attached:
            by_stream.setdefault(one.source.stream, []).append(one)
        self.registries = {name: PlaceRegistry() for name in by_stream}
        for name, registry in self.registries.items():
            # Before anybody else gives codes: rows and states of the checkpoint are told by them.
            for place in saved_places(under(saved, f"intake/stream/{name}/")):
                registry.code(place)
        known = {s.name: s for s in streams}
        used = {name: known[name] for name in by_stream}
        self.back = ReadBack(self.registries, older, cases, store.flush, epoch)
        load = None if older is None else self.back.panes
        self.brain = Brain(
            city, indicators, self.registries, streams=[*used.values()], older=load, remember_ms=remember_ms
        )
        rollups: dict[str, dict[str, Rollup]] = {name: {} for name in by_stream}
        for indicator in indicators:
            if isinstance(indicator.kind, Panes) and indicator.kind.rollup.stream.name in rollups:
                rollups[indicator.kind.rollup.stream.name][indicator.kind.rollup.name] = indicator.kind.rollup
        self.streams: dict[str, InRun] = {
            name: RemoteStream(used[name], tuple(rollups[name].values()), inputs, self.registries[name])
            if remote
            else StreamRun(
                used[name], tuple(rollups[name].values()), inputs, self.registries[name], live=live, start=start,
                max_places=max_places,
                configured=[self.registries[name].ids[c] for c in self.brain.streams[name].tree.configured],
                engines=embedded if apart is None or not rollups[name] else apart.engine,
            )
            for name, inputs in by_stream.items()
        }  # fmt: skip
        self.retention = {
            name: Retention({r: self.brain.streams[name].reach_of(r) for r in of}, fine_for_ms)
            for name, of in rollups.items()
        }
        self._drop, self.kept = drop, KeptRows()
        self._frames = StepFrames(used, {r: name for name, of in rollups.items() for r in of}, self.registries)
        self.counts = Counts()
        self.finished = False
        self.intake = Intake(self.streams, now or Now(start), self.counts, opener)
        self._floor: dict[str, int] = {}
        """Positions at the base of the running generation of the checkpoint; of an earlier process they are not known."""
        self._outbox: tuple[Transition, ...] = ()
        self._rest: dict[str, Any] | None = None
        """Of a long step whose rows are stored: its plan, and the watermarks up to which it is to be judged."""
        self._ahead: list[dict[str, Any]] = []
        """Steps that were begun before a restart and are to be done again after the running one."""
        self.back.look(self.streams)
        if saved:
            self._restore(saved)

    @property
    def born(self) -> int:
        """The epoch in which the run began: rows of older ones are not its own."""
        return self.back.born

    # ------------------------------------------------------------ the checkpoint
    def _saved(self, whole: bool) -> Parts:
        """The state between two steps, by name: all, or what changed since the last call (None: gone)."""
        assert self.durable is not None
        run = {
            "step": self.counts.steps, "epoch": self.epoch, "born": self.born, "finished": self.finished,
            "identity": self.durable.identity, "rows": {table: dict(months) for table, months in self.kept.rows.items()},
            "dropped": {name: dict(kept.dropped) for name, kept in self.retention.items()},
            "counts": self.counts.saved(), "outbox": [asdict(transition) for transition in self._outbox],
            "rest": self._rest,
        }  # fmt: skip
        parts: Parts = {"run": run}
        parts |= prefixed("intake/", self.intake.saved(whole))
        return parts | prefixed("brain/", self.brain.saved(whole))

    def _restore(self, saved: Parts) -> None:
        run = saved["run"]
        self.back.born, self.finished = run["born"], run["finished"]
        self.counts.load(run["counts"])
        self.kept.rows = run["rows"]
        for name, stream in self.streams.items():
            was = saved.get(f"intake/stream/{name}/engine/at", {}).get("rollups", {})
            for rollup in stream.rollups:
                if rollup.name in was and was[rollup.name]["frame_hash"] != rollup.frame_hash:
                    self.kept.rows.pop(f"rows_{rollup.name}", None)  # the store sets that table aside (rule 16)
        for name, kept in self.retention.items():
            kept.dropped |= run["dropped"].get(name, {})
        self._outbox, self._rest = tuple(Transition(**told) for told in run["outbox"]), run["rest"]
        self.intake.load(under(saved, "intake/"))
        self.back.look(self.streams)
        try:
            self.brain.load(under(saved, "brain/"), self.back.cases)
        except ValueError as error:  # of another city, or a rule that changed under its old version
            raise CheckpointError(str(error)) from error

    def resume(self) -> int:
        """To be called once, before anything else, where the run is durable: begins a new generation of the checkpoint,
        publishes what the last step told, and does again the steps that were begun. Returns how many those were."""
        if self.durable is None:
            return 0
        plans = self.durable.recovered.plans if self.durable.recovered is not None else []
        self.store.call(partial(self.durable.journal.begin, self._saved(whole=True), plans))
        self.store.flush()  # the steps that follow are written after this base, not each as another one
        self._floor = dict(self.intake.positions)
        for kept in self.retention.values():
            for rollup, before in kept.dropped.items():
                if before > NEVER:
                    self.store.call(partial(self._retire, f"rows_{rollup}", before))
        if self._outbox:
            self._publish([Step(NO_READINGS, transitions=self._outbox)])
        self._ahead = plans
        if (rest := self._rest) is not None:
            self._finish(Plan(**rest["plan"]), [], [], rest["watermarks"])
        for n, plan in enumerate(plans, 1):
            self._ahead = plans[n:]
            self._again(Plan(**plan))
        return len(plans) + (rest is not None)

    def _again(self, plan: Plan) -> None:
        match plan.kind:
            case "files":
                self.intake.files_again(plan, self.commit_events)
                self._commit(plan, *self._taken(), again=True)
            case "close":
                self._close(plan, again=True)
            case "live":
                for kind, now, *rest in plan.beats:
                    match kind:
                        case "poll":
                            self.intake.poll(now, rest[0])
                        case "tick":
                            self.tick(now)
                        case "skip":
                            self.intake.skip(now)
                        case "attach":
                            self.intake.attach(self.intake.opened(*rest), now)
                self._commit(plan, *self._taken(), again=True)

    # ------------------------------------------------------------ a finite run
    @property
    def files(self) -> dict[str, StreamRun]:
        """The streams that are ingested and grouped here."""
        return {name: stream for name, stream in self.streams.items() if isinstance(stream, StreamRun)}

    def replay(self, until: int | None = None, progress: Callable[[Run], None] | None = None) -> Counts:
        """Reads every input to its end, in the order of rule 9, and closes what rule 9 closes."""
        self.resume()
        if not self.finished:
            for stream in self.files.values():
                while (name := stream.wanted()) is not None:
                    self.intake.read(stream, name, self.commit_events)
                    if stream.pending >= self.commit_events:
                        self.step(0)
                        if progress is not None:
                            progress(self)
                if stream.pending:
                    self.step(0)
            self._close(self.intake.planned(self.counts.steps + 1, "close", until=until))
        self.store.flush()
        return self.counts

    def _close(self, plan: Plan, again: bool = False) -> None:
        """What is open when every input has ended closes, or time goes on until then (rule 9)."""
        closing, until = {name: stream.closing() for name, stream in self.files.items()}, plan.until
        last = max(closing.values(), default=NEVER)
        if until is not None and last > NEVER and until - last > FARTHEST_MS:
            raise TooFar(
                f"--until is {(until - last) / DAY_MS:.1f} days after the last event; at most {FARTHEST_MS // DAY_MS} are "
                "allowed (is the year right?)"
            )
        if self.apart is not None:
            started = time.perf_counter()
            self.apart.run()
            self.counts.spent(engine=time.perf_counter() - started)
            for _ in self.apart.pieces(closing):
                self._commit(replace(plan, kind="files"), *self._taken())
        if until is None:
            rows = [r for s in self.files.values() for r in s.all_rows()]
        else:
            closing = {name: max(end, until) for name, end in closing.items()}
            for name, stream in self.files.items():
                stream.close_at(closing[name])
                self.brain.listened(name, stream.closing(), closing[name])
            rows = [r for s in self.streams.values() for r in s.rows()]
        self._commit(plan, rows, closing, again=again)

    # ------------------------------------------------------------ a live run
    def poll(self, now: int) -> int:
        """Takes in what the sources have now; returns how many records that were."""
        return self.intake.poll(now)

    def tick(self, now: int) -> None:
        """Once a second or so: time goes on where nothing comes (rule 8)."""
        self.intake.tick(now)
        for name, stream in self.streams.items():
            if stream.watermark > NEVER:
                self.brain.listened(name, stream.watermark, stream.watermark)

    def provisional(self) -> pl.DataFrame:
        """Readings of the open windows with what came so far; for screens only."""
        return self.brain.provisional([r for s in self.streams.values() for r in s.open_panes()])

    # ------------------------------------------------------------ the step
    def step(self, now: int) -> Step | None:
        """What became known since the last step: judged, stored, and published once it is durable."""
        plan = self.intake.planned(self.counts.steps + 1, "live" if self.live else "files", now)
        return self._commit(plan, *self._taken())

    def _taken(self) -> tuple[list[Rows], dict[str, int]]:
        started = time.perf_counter()
        reached("inputs_read")
        rows = [self._applied(name, r) for name, s in self.streams.items() for r in s.rows()]
        self.counts.spent(engine=time.perf_counter() - started)
        return rows, {name: s.watermark for name, s in self.streams.items()}

    def _applied(self, stream: str, one: Rows) -> Rows:
        kept, unapplied = self.retention[stream].applied(one)
        self.counts.late_unapplied += unapplied
        return kept

    def _commit(
        self, plan: Plan, rows: list[Rows], watermarks: Mapping[str, int], *, again: bool = False
    ) -> Step | None:
        """Judges, and hands over to the thread that writes what is to happen; returns the last part of the step.

        A step is written in one part or, where a block holds much time, in several. `again`: its plan is durable.
        """
        if self.durable is not None and self.apart is None and not again:
            self.store.call(partial(self._plan, self.durable.journal, asdict(plan)))
        return self._finish(plan, rows, [block for s in self.streams.values() for block in s.taken()], watermarks)

    def _finish(
        self, plan: Plan, rows: list[Rows], events: list[Stamped], watermarks: Mapping[str, int]
    ) -> Step | None:
        """A step from its rows and events on; or, after a restart, what was left of it."""
        parts: list[Step] = []
        last = None
        durable = self.durable if self.apart is None or plan.kind == "close" else None
        began = started = time.perf_counter()
        for last in self._steps(plan, rows, events, watermarks):
            self.counts.spent(brain=time.perf_counter() - started)
            self._write(rows, events, last, plan.now)
            rows, events = [], []
            if self.publish is not None:
                parts.append(last)
            started = time.perf_counter()
            if durable is not None and last.rests and started - began > LONG_STEP_S:
                self._rest = {"plan": asdict(plan), "watermarks": dict(watermarks)}
                self._outbox = _transitions(parts)
                self._checkpoint(durable.journal)
                self._publish(parts)
                parts, began = [], started
        reached("step_judged")
        self._outbox, self._rest = _transitions(parts), None
        self.intake.beats = []
        self.finished = plan.kind == "close"
        self.back.look(self.streams)
        old = [
            (f"rows_{rollup}", before)
            for name, kept in self.retention.items()
            for rollup, before in kept.due(watermarks.get(name, NEVER))
        ]
        for table, before in old:
            self.kept.drop(table, before)
        if durable is not None:
            self._checkpoint(durable.journal)
        self._publish(parts)
        for table, before in old:
            self.store.call(partial(self._retire, table, before))
        return last

    def _steps(
        self, plan: Plan, rows: list[Rows], events: Iterable[Stamped], watermarks: Mapping[str, int]
    ) -> Iterator[Step]:
        yield from self.brain.strides(rows, events, watermarks, self._revision)
        if plan.kind == "close" and plan.until is None:
            yield self.brain.close(self._revision())

    def _plan(self, journal: Journal, plan: Mapping[str, Any]) -> None:
        reached("plan_made")
        journal.plan(plan)
        reached("plan_synced")

    def _write(self, rows: Sequence[Rows], events: Iterable[Stamped], step: Step, now: int) -> None:
        started = time.perf_counter()
        letters = [x for s in self.streams.values() for x in s.dead_letters()]
        batch = self._frames.batch(rows, events, letters, step, self._revision(), now)
        counts = self.counts
        counts.steps += 1
        counts.rows += sum(len(r.rows) for r in rows)
        counts.readings += len(step.readings)
        counts.transitions += len(step.transitions)
        counts.dead_letters += len(letters)
        counts.first_letter = counts.first_letter or next(iter(letters), None)
        counts.cut_short += [x for x in letters if x.reason == "truncated"]
        counts.counters = {c: sum(s.counters[c] for s in self.streams.values()) for c in COUNTERS}
        if batch:
            if self.durable is not None:
                self.kept.add(batch)
            self.store.submit(batch)
        counts.spent(store=time.perf_counter() - started)

    def _checkpoint(self, journal: Journal) -> None:
        whole, ahead = journal.long, self._ahead
        parts = self._saved(whole)
        guard = self.durable.guard if self.durable is not None else None

        def write() -> None:
            reached("checkpoint_begun")
            if guard is not None:
                guard()
            if whole:
                journal.begin(parts, ahead)
            else:
                changed = {name: part for name, part in parts.items() if part is not None}
                journal.step(changed, [name for name, part in parts.items() if part is None])
            reached("checkpoint_synced")

        self.store.call(write)
        if whole:
            floor, self._floor = self._floor, dict(self.intake.positions)
            self.store.call(partial(self._commit_positions, floor))

    def _commit_positions(self, floor: Mapping[str, int]) -> None:
        """What lies before the older one of the two checkpoints is not read again."""
        self.intake.commit(floor)
        reached("inputs_committed")

    def _publish(self, parts: Sequence[Step]) -> None:
        """After the checkpoint: what is told may be told again, but never taken back by a restart."""
        if self.publish is None:
            return
        for part in parts:
            self.store.call(partial(self.publish, part))
        self.store.call(partial(reached, "step_published"))

    def _retire(self, table: str, before: int) -> None:
        """Drops rows that nothing will read any more; the checkpoint says so already, so that no late row comes after."""
        if self._drop is not None:
            self._drop(table, before)
        reached("rows_dropped")

    def _revision(self) -> int:
        """Monotone, not dense (rule 33)."""
        return (self.epoch << 32) | (self.counts.steps + 1)


def _transitions(parts: Iterable[Step]) -> tuple[Transition, ...]:
    return tuple(transition for part in parts for transition in part.transitions)


class TooFar(ValueError):
    """Time was to go on after the last event for longer than anybody waits."""


__all__ = ["Attached", "Batch", "Counts", "Durable", "Now", "Plan", "Run", "Store", "TooFar"]
