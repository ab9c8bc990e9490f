"""The embedded engine as a job of its own: the canonical logs of a city from Kafka to the topic of its rows.

It keeps no state. The position that it goes on from is that of the oldest event of an open pane, and is committed when the
rows before it are in the topic; panes that are told again have been handed over by then (`pipelines.transport`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from pipelines import canonical
from pipelines.announcement import Start
from pipelines.canonical import open_topic, rows_topic
from pipelines.engines.job_logs import JobLogs
from pipelines.engines.polars_engine import PolarsEngine
from pipelines.engines.row_records import manifest_records, row_records
from pipelines.job_counts import JobCounts
from pipelines.kafka_client import Stopped, refused
from pipelines.kafka_options import KafkaFailed
from pipelines.model import NEVER, PlaceRegistry, Stamped
from pipelines.rollup import Rollup
from pipelines.streams import Stream

FETCH: Final = 50_000
"""Records that are grouped in one go."""
COMMIT_S: Final = 1.0
LOOK_S: Final = 5.0
"""How often it looks for new partitions."""
OPEN_S: Final = 0.25
"""How often it tells what is new in open panes, while it is not behind."""
WHOLE_S: Final = 10.0
"""How often it tells all of them, for a brain that was not there before."""


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

    def __init__(self, city: str, stream: Stream, rollups: Sequence[Rollup], id_: str) -> None:
        self.id, self.stream, self.rollups, self.topic = id_, stream, tuple(rollups), canonical.topic(city, stream.name)
        self.registry = PlaceRegistry()
        self.engine = PolarsEngine(rollups, ())
        self.logs: dict[int, Log] = {}
        self._pane = max(rollup.pane_ms for rollup in rollups)
        self._told: dict[str, pl.DataFrame] = {}
        """By rollup the keys and events of the open panes when they were told last."""

    def join(self, number: int) -> Log:
        log = self.logs[number] = Log(self.topic, number)
        self.engine.join(log.part)
        return log

    def take_in(self, number: int, records: Sequence[bytes], offsets: Sequence[int], counts: JobCounts) -> None:
        """A run of records of one partition; pl.exceptions.ComputeError where one is none."""
        log = self.logs[number]
        frame = canonical.decoded(records, offsets, self.stream)
        log.next = offsets[-1] + 1
        panes = frame.group_by(pl.coalesce("t", "wm") // self._pane * self._pane).agg(pl.col("off").min())
        for pane, off in panes.iter_rows():
            log.first.setdefault(pane, off)
        for tick in frame.filter(pl.col("t").is_null(), pl.col("wm") > NEVER)["wm"].unique():
            self.engine.add(Stamped(self.stream.name, log.part, None, offsets[0], tick))
        block = canonical.stamped(frame, self.stream, log.part, self.registry)
        if block.events is not None and len(block.events):
            self.engine.add(block)
        late = 0 if block.events is None else int(block.events["late"].sum())
        counts.read(self.stream.name, len(records), late, self.engine.watermark, {log.part: log.next})

    def records(self) -> list[bytes]:
        """What became final: rows, then manifests."""
        out = []
        for rollup, taken in zip(self.rollups, self.engine.take(), strict=True):
            out += self._named(rollup, taken.rows)
            out += manifest_records(rollup, taken.manifests.iter_rows(), self.id)
        return out

    def open_records(self, whole: bool) -> list[bytes]:
        """The rows of open panes, so far as they have other events than when they were told last (rule 15)."""
        out = []
        for rollup, taken in zip(self.rollups, self.engine.open_panes(), strict=True):
            rows, keys = taken.rows, ["place", "pane_start", *(["bucket"] if rollup.histogram else []), "n"]
            before, self._told[rollup.name] = self._told.get(rollup.name), rows.select(keys)
            if before is not None and not whole:
                rows = rows.join(before, on=keys, how="anti")
            out += self._named(rollup, rows)
        return out

    def _named(self, rollup: Rollup, rows: pl.DataFrame) -> list[bytes]:
        if rows.is_empty():
            return []
        names = pl.Series(self.registry.ids, dtype=pl.String)
        return row_records(rollup, rows.with_columns(names.gather(rows["place"]).alias("place")), self.id)

    def positions(self) -> list[tuple[Log, int]]:
        """Of each partition the offset from which it may be read again."""
        closed = min(self.engine.closed().values())
        out = []
        for log in self.logs.values():
            log.first = {pane: off for pane, off in log.first.items() if pane + self._pane > closed}
            if log.next >= 0:
                out.append((log, min(log.first.values(), default=log.next)))
        return out


def group_of(city: str) -> str:
    """The consumer group that keeps the positions of a city."""
    return f"citybrain-polars-{city}"


def run(
    city: str, rollups: Sequence[Rollup], logs: JobLogs, starts: Mapping[str, Start], id_: str, counts: JobCounts
) -> int:
    """Until the cluster's questions are to stop; returns how many records it wrote. `starts`, `id_`: what it announced. Waits
    while the cluster is away, and says so. KafkaFailed where a log was made again, or lost records that were not read yet."""
    from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

    by_stream = {rollup.stream.name: [r for r in rollups if r.stream.name == rollup.stream.name] for rollup in rollups}
    jobs = {job.topic: job for job in (StreamJob(city, mine[0].stream, mine, id_) for mine in by_stream.values())}
    cluster, begins = logs.cluster, {part: at for start in starts.values() for part, at in (start.first or {}).items()}
    connection = cluster.connection
    consumer = Consumer(
        {**connection.settings(), "group.id": group_of(city), "fetch.queue.backoff.ms": 10, "enable.partition.eof": True,
         "enable.auto.commit": False, "isolation.level": "read_committed", "auto.offset.reset": "error"}
    )  # fmt: skip
    producer = Producer(
        {**connection.settings(), "linger.ms": 5, "enable.idempotence": True, "queue.buffering.max.messages": 1_000_000}
    )
    # Of its own, so that what nobody depends on holds nothing up: it is dropped where the cluster does not take it.
    telling = Producer({**connection.settings(), "linger.ms": 5, "message.timeout.ms": 2000})
    written, looked, committed = 0, -LOOK_S, time.monotonic()
    shown = whole = -WHOLE_S

    def joined() -> None:
        """Partitions that were made since begin where the group left them."""
        new = [
            job.join(number)
            for name, job in jobs.items()
            for number in range(logs.partitions(name))
            if number not in job.logs
        ]
        if new:
            if any(log.part not in begins for log in new):  # it was made since
                for start in logs.starts(group_of(city)).values():
                    begins.update({part: at for part, at in (start.first or {}).items() if part not in begins})
            counts.positions |= {log.part: begins[log.part] for log in new}
            consumer.incremental_assign([TopicPartition(log.topic, log.number, begins[log.part]) for log in new])

    def kept() -> None:
        """Commits the positions, once all that was written is in the topic."""
        began = time.monotonic()
        positions = [(log, off) for job in jobs.values() for log, off in job.positions()]
        while producer.flush(1):
            connection.check()
            if cluster.stopped():
                return
        counts.wrote(written - counts.records_out)
        if positions:
            at = [TopicPartition(log.topic, log.number, off) for log, off in positions]
            try:
                cluster.asked(lambda: consumer.commit(offsets=at, asynchronous=False), "positions cannot be committed")
            except KafkaFailed:
                logs.check()  # which says more of a log that was deleted
                raise
            counts.durable(began)

    try:
        while not cluster.stopped():
            if time.monotonic() - looked > LOOK_S:
                joined()
                looked = time.monotonic()
            runs: dict[tuple[str, int], tuple[list[bytes], list[int]]] = {}
            ended: dict[str, int] = {}
            messages = consumer.consume(FETCH, 0.05)
            for message in messages:
                if (error := message.error()) is None:
                    records, offsets = runs.setdefault((message.topic(), message.partition()), ([], []))
                    records.append(message.value())
                    offsets.append(message.offset())
                elif error.code() == KafkaError._PARTITION_EOF:  # markers of transactions are no messages
                    ended[canonical.part_of(message.topic(), message.partition())] = message.offset()
                elif error.fatal() or error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                    logs.check()
                    raise refused(
                        error,
                        f"partition {message.partition()} of topic {message.topic()!r} lost the records that are "
                        "to be grouped next; the next start goes on with what there is, and the brain tells what is missing",
                    )
            connection.check()
            for (topic, number), (records, offsets) in runs.items():
                jobs[topic].take_in(number, records, offsets, counts)
            counts.positions |= ended
            for record in (record for job in jobs.values() for record in job.records()):
                producer.produce(rows_topic(city), record)
                written += 1
                if not written % 10_000:
                    producer.poll(0)
            now = time.monotonic()
            if len(messages) < FETCH and now - shown > OPEN_S:
                due, shown = now - whole > WHOLE_S, now
                whole = now if due else whole
                with contextlib.suppress(BufferError):
                    for record in (record for job in jobs.values() for record in job.open_records(due)):
                        telling.produce(open_topic(city), record, partition=0)
                telling.poll(0)
            producer.poll(0)
            if time.monotonic() - committed > COMMIT_S:
                kept()
                committed = time.monotonic()
    except Stopped:
        pass
    finally:
        producer.flush(10)
        consumer.close()
    return written
