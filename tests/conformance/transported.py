"""The small city with its ingest and engine elsewhere: what they would have sent over Kafka, in memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
import polars as pl

from connectors.kafka_transport import Of, Partition, View
from pipelines.announcement import Start, announcements
from pipelines.brain import Step
from pipelines.delivery import Attached, Durable, Now, Run
from pipelines.engines.polars_engine import PolarsEngine
from pipelines.engines.row_records import manifest_records, row_records
from pipelines.ingest import COUNTERS
from pipelines.model import NEVER, Stamped
from pipelines.streams import MINUTE_MS
from pipelines.transport import Topic
from pipelines.watermark import Input
from sinks.memory import MemorySink
from tests.conformance.small_city import CITY, INDICATORS, STREAMS
from tests.conformance.small_runs import REMEMBER_MS, ROLLUPS, Arrivals, How, _older, city_run, sink
from tests.fakes.listed import DirectStore

OF = {rollup.name: rollup.stream.name for rollup in ROLLUPS}
JOB = "polars-one"
EVERYBODY = [stream.name for stream in STREAMS]


@dataclass(frozen=True, slots=True)
class Sent:
    """The records of each topic, in the order of their offsets."""

    rows: tuple[bytes, ...]
    dead: tuple[bytes, ...]
    control: tuple[bytes, ...]
    events: Mapping[str, tuple[bytes, ...]]


def sent(arrived: Arrivals, until: int) -> tuple[MemorySink, Sent]:
    """An embedded run over the files, and what would have been sent if each stream had been grouped elsewhere."""
    kept = sink()
    run = city_run(arrived, How(), DirectStore(kept), 1)
    blocks: dict[str, list[Stamped]] = {name: [] for name in run.streams}
    for name, stream in run.streams.items():
        original: Callable[..., None] = stream.add

        def tapped(new: Any, name: str = name, original: Callable[..., None] = original) -> None:
            new = list(new)
            blocks[name] += new
            original(new)

        stream.add = tapped  # type: ignore[method-assign]
    run.replay(until)
    rows: list[tuple[float, bytes]] = []
    for name in sorted({OF[r.name] for r in ROLLUPS}):
        mine = _grouped(name, blocks[name], until, pl.Series(run.registries[name].ids, dtype=pl.String))
        rows += [(n / len(mine), record) for n, record in enumerate(mine)]
    rows.sort(key=lambda x: x[0])
    letters = kept.page("dead_letters", None, 10**6).drop("seen_at", strict=False).to_dicts()
    starts = {name: Start("log", {f"events.small.{name}/0": 0}, {}) for name in {OF[r.name] for r in ROLLUPS}}
    control = [one.record()[1] for one in announcements(JOB, "polars", ROLLUPS, starts, 0)] + [
        orjson.dumps({"kind": "counters", "ingest": "one", "stream": name, "counters": stream.counters})
        for name, stream in run.streams.items()
    ]
    events = {
        stream.name: tuple(_log(blocks[stream.name], run.registries[stream.name].ids, until, stream.place))
        for stream in STREAMS
        if stream.lifecycle
    }
    return kept, Sent(
        tuple(record for _, record in rows), tuple(orjson.dumps(x) for x in letters), tuple(control), events
    )


def _grouped(name: str, blocks: Sequence[Stamped], until: int, names: pl.Series) -> list[bytes]:
    mine = [rollup for rollup in ROLLUPS if rollup.stream.name == name]
    parts = {block.part for block in blocks}
    engine, out = PolarsEngine(mine, parts), []
    largest = max(block.last_wm for block in blocks) // MINUTE_MS * MINUTE_MS
    ticks = [Stamped(name, part, None, 0, t) for t in range(largest, until + 1, MINUTE_MS) for part in parts]
    for block in [*(few for one in blocks for few in _cut(one)), *ticks]:
        engine.add(block)
        for rollup, taken in zip(mine, engine.take(), strict=True):
            out += row_records(rollup, taken.rows.with_columns(names.gather(taken.rows["place"]).alias("place")), JOB)
            out += manifest_records(rollup, taken.manifests.iter_rows(), JOB)
    return out


def _cut(block: Stamped) -> Iterator[Stamped]:
    """Few events at a time, so that panes close one by one as they do live."""
    if block.events is None:
        yield block
        return
    for events in block.events.iter_slices(20):
        yield replace(block, events=events, off=int(events["off"][0]), last_wm=int(events["wm"][-1]))


def _log(blocks: Sequence[Stamped], names: Sequence[str], until: int, place: str) -> list[bytes]:
    out = []
    for block in blocks:
        for event in [] if block.events is None else block.events.iter_rows(named=True):
            record = {name: value for name, value in event.items() if name not in ("off", "place")}
            out.append(record | {place: names[event["place"]], "wm": None if event["wm"] == NEVER else event["wm"]})
    return [orjson.dumps(record) for record in [*out, {"wm": until}]]


def repeated(one: Sent, rnd: random.Random) -> Sent:
    """Rows as a job that was started again sends them: runs of the topic come again."""
    rows = list(one.rows)
    for _ in range(5):
        first = rnd.randrange(len(rows))
        at = rnd.randrange(first, len(rows))
        rows[at:at] = rows[first : first + rnd.randrange(len(rows) // 3)][: at - first]
    return replace(one, rows=tuple(rows))


class Listed(Partition):
    """A partition whose records are a list, of which so many are `there`."""

    def __init__(self, topic: str, kind: Topic, of: Of | None, records: Sequence[bytes]) -> None:
        super().__init__(None, topic, 0, kind, of)  # type: ignore[arg-type]
        self.records, self.there, self._at = records, 0, -1

    def fetch(self) -> None:
        if self._at < 0:
            self._at = min(view.position for view in self.views.values())
        # What was read before an interruption is there again.
        last = min(len(self.records), max(self.there, *(view.limit or 0 for view in self.views.values()), self._at))
        for offset in range(self._at, last):
            self._take(offset, self.records[offset])
        self._at = last

    def close(self) -> None:
        super().close()
        self._at = -1


def views(one: Sent) -> list[View]:
    shared: list[tuple[str, Topic, Of, Sequence[bytes]]] = [
        ("rows.small", "rows", lambda record: OF.get(str(record.get("rollup"))), one.rows),
        ("dead.small", "dead", lambda record: record.get("stream"), one.dead),
        ("control.small", "control", lambda record: record.get("stream"), one.control),
    ]
    out = []
    for topic, kind, of, records in shared:
        partition = Listed(topic, kind, of, records)
        out += [View(partition, name) for name in EVERYBODY]
    return out + [
        View(Listed(f"events.small.{name}", "events", None, records), name) for name, records in one.events.items()
    ]


def remote_run(
    one: Sent,
    store: DirectStore,
    epoch: int,
    durable: Durable | None = None,
    publish: Callable[[Step], None] | None = None,
) -> Run:
    assert isinstance(store.sink, MemorySink)
    attached = [Attached(view, Input(view.input, view.part)) for view in views(one)]
    return Run(
        CITY, INDICATORS, STREAMS, attached, store, live=True, epoch=epoch, older=_older(store, store.sink),
        cases=store.sink.lifecycles, durable=durable, publish=publish, now=Now(0), remember_ms=REMEMBER_MS, remote=True,
    )  # fmt: skip


def followed(run: Run, seed: int, between: Callable[[], None] = lambda: None) -> None:
    """Beats and steps at random until everything was read."""
    rnd, at = random.Random(seed), run.intake.now.at
    mine = [x for stream in run.streams.values() for x in stream.sources.values() if isinstance(x, View)]
    partitions = {id(view.partition): view.partition for view in mine}.values()
    for partition in partitions:
        assert isinstance(partition, Listed)
        partition.there = max(view.position for view in partition.views.values())
    left = True
    while left:
        at, left = at + 1000, False
        for partition in partitions:
            assert isinstance(partition, Listed)
            partition.there += rnd.randint(0, 1 + len(partition.records) // 8)
            left |= partition.there < len(partition.records)
        run.poll(at)
        run.tick(at)
        if rnd.random() < 0.4 or not left:
            run.step(at)
            between()


__all__ = ["COUNTERS", "Sent", "followed", "remote_run", "repeated", "sent"]
