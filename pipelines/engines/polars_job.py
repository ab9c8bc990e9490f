"""The embedded engine as a job of its own: the canonical logs of a city from Kafka to the topic of its rows.

It keeps no state. The position that it goes on from is that of the oldest event of an open pane, and is committed when the
rows before it are in the topic; panes that are told again have been handed over by then (`pipelines.transport`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from pipelines import canonical
from pipelines.canonical import rows_topic
from pipelines.engines.polars_engine import PolarsEngine
from pipelines.engines.row_records import manifest_records, row_records
from pipelines.model import NEVER, PlaceRegistry, Stamped
from pipelines.rollup import Rollup
from pipelines.streams import Stream

FETCH: Final = 50_000
"""Records that are grouped in one go."""
COMMIT_S: Final = 1.0
LOOK_S: Final = 5.0
"""How often it looks for new partitions."""


@dataclass(slots=True)
class Log:
    """A partition of a stream's log: where it goes on, and the first offset of each pane that is still open."""

    topic: str
    number: int
    next: int = -1
    first: dict[int, int] = field(default_factory=dict)

    @property
    def part(self) -> str:
        return canonical.part_of(self.topic, self.number)


class StreamJob:
    """The rollups of one stream over the partitions of its log."""

    def __init__(self, city: str, stream: Stream, rollups: Sequence[Rollup]) -> None:
        self.stream, self.rollups, self.topic = stream, tuple(rollups), canonical.topic(city, stream.name)
        self.registry = PlaceRegistry()
        self.engine = PolarsEngine(rollups, ())
        self.logs: dict[int, Log] = {}
        self._pane = max(rollup.pane_ms for rollup in rollups)

    def join(self, number: int) -> Log:
        log = self.logs[number] = Log(self.topic, number)
        self.engine.join(log.part)
        return log

    def take_in(self, number: int, records: Sequence[bytes], offsets: Sequence[int]) -> None:
        """A run of records of one partition; pl.exceptions.ComputeError where one is none."""
        log = self.logs[number]
        frame = canonical.decoded(records, offsets, self.stream)
        log.next = offsets[-1] + 1
        panes = frame.group_by(pl.coalesce("t", "wm") // self._pane * self._pane).agg(pl.col("off").min())
        for pane, off in panes.iter_rows():
            log.first.setdefault(pane, off)
        wm = int(frame["wm"].max())  # type: ignore[arg-type]
        for tick in frame.filter(pl.col("t").is_null(), pl.col("wm") > NEVER)["wm"].unique():
            self.engine.add(Stamped(self.stream.name, log.part, None, offsets[0], tick))
        events = frame.filter(pl.col("t").is_not_null())
        if events.is_empty():
            self.engine.add(Stamped(self.stream.name, log.part, None, offsets[0], wm))
            return
        codes = [self.registry.code(place) for place in events[self.stream.place]]
        coded = events.rename({self.stream.place: "place"}).with_columns(pl.Series("place", codes, dtype=pl.UInt32))
        self.engine.add(Stamped(self.stream.name, log.part, coded, offsets[0], wm))

    def records(self) -> list[bytes]:
        """What became final: rows, then manifests."""
        names, out = pl.Series(self.registry.ids, dtype=pl.String), []
        for rollup, taken in zip(self.rollups, self.engine.take(), strict=True):
            if len(taken.rows):
                named = taken.rows.with_columns(names.gather(taken.rows["place"]).alias("place"))
                out += row_records(rollup, named)
            out += manifest_records(rollup, taken.manifests.iter_rows())
        return out

    def positions(self) -> list[tuple[Log, int]]:
        """Of each partition the offset from which it may be read again."""
        closed = min(self.engine.closed().values())
        out = []
        for log in self.logs.values():
            log.first = {pane: off for pane, off in log.first.items() if pane + self._pane > closed}
            if log.next >= 0:
                out.append((log, min(log.first.values(), default=log.next)))
        return out


def run(city: str, rollups: Sequence[Rollup], client: Mapping[str, Any], ends: Any) -> int:
    """Until `ends` (a threading.Event) is set; returns how many records it wrote. `client`: options of librdkafka."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

    streams = dict.fromkeys(rollup.stream.name for rollup in rollups)
    jobs = {
        job.topic: job
        for job in (
            StreamJob(city, mine[0].stream, mine)
            for mine in ([r for r in rollups if r.stream.name == name] for name in streams)
        )
    }
    consumer = Consumer(
        {"group.id": f"citybrain-polars-{city}", "fetch.queue.backoff.ms": 10, **client, "enable.auto.commit": False,
         "isolation.level": "read_committed", "auto.offset.reset": "earliest"}
    )  # fmt: skip
    producer = Producer(
        {"linger.ms": 5, "enable.idempotence": True, "queue.buffering.max.messages": 1_000_000, **client}
    )
    written, looked, committed = 0, 0.0, time.monotonic()
    try:
        while not ends.is_set():
            if time.monotonic() - looked > LOOK_S:
                topics = consumer.list_topics(timeout=15).topics
                new = [
                    job.join(number)
                    for name, job in jobs.items()
                    for number in (topics[name].partitions if name in topics else ())
                    if number not in job.logs
                ]
                if new:
                    at = consumer.committed([TopicPartition(log.topic, log.number) for log in new], timeout=15)
                    consumer.incremental_assign(
                        [
                            TopicPartition(p.topic, p.partition, p.offset if p.offset >= 0 else OFFSET_BEGINNING)
                            for p in at
                        ]
                    )
                looked = time.monotonic()
            runs: dict[tuple[str, int], tuple[list[bytes], list[int]]] = {}
            for message in consumer.consume(FETCH, 0.05):
                if message.error() is None:
                    records, offsets = runs.setdefault((message.topic(), message.partition()), ([], []))
                    records.append(message.value())
                    offsets.append(message.offset())
            for (topic, number), (records, offsets) in runs.items():
                jobs[topic].take_in(number, records, offsets)
            for job in jobs.values():
                for record in job.records():
                    producer.produce(rows_topic(city), record)
                    written += 1
                    if not written % 10_000:
                        producer.poll(0)
            producer.poll(0)
            if time.monotonic() - committed > COMMIT_S:
                at = [
                    TopicPartition(log.topic, log.number, off) for job in jobs.values() for log, off in job.positions()
                ]
                if producer.flush(30) == 0 and at:
                    consumer.commit(offsets=at, asynchronous=False)
                committed = time.monotonic()
    finally:
        producer.flush(30)
        consumer.close()
    return written
