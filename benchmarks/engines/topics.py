"""The broker of a benchmark, its topics, and what engines wrote into them."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl

from benchmarks.engines.log import CITY, Log
from pipelines import canonical, catalogue
from pipelines.engines.row_records import NAMED_MANIFESTS, OTHERS, row_columns
from pipelines.rollup import Rollup
from pipelines.streams import LINK

ROLLUPS: Final = tuple(r for r in catalogue.rollups(catalogue.CATALOGUE) if r.stream == LINK)
"""The whole catalogue of the stream."""
(ROLLUP,) = ROLLUPS
READER: Final = {
    "group.id": "bench", "enable.auto.commit": False, "fetch.queue.backoff.ms": 10, "auto.offset.reset": "earliest",
    "isolation.level": "read_committed", "enable.partition.eof": True,
}  # fmt: skip
Answer = dict[str, Any]


def serve() -> Answer:
    """A broker until stdin closes; prints its address and process id first."""
    from tools.stack.broker import Broker

    # The broker is in a session of its own, so a signal for all of a benchmark's processes does not end it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="citybrain-bench-") as folder:
        broker = Broker(Path(folder), heap_mb=1024)
        broker.start()
        try:
            sys.stdout.write(orjson.dumps({"address": broker.address, "pid": broker.pid}).decode() + "\n")
            sys.stdout.flush()
            sys.stdin.read()
        finally:
            broker.end()
    return {}


def created(address: str, topics: dict[str, int]) -> None:
    """Makes them; they keep records of any age, for those of a log have the times of their events."""
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": address})
    asked = [NewTopic(name, n, 1, config={"retention.ms": "-1"}) for name, n in topics.items()]
    for done in admin.create_topics(asked).values():
        done.result(30)


def filled(address: str, city: str, folder: str) -> Answer:
    """The log of a folder as the topic of that city, and an empty topic for the rows."""
    from confluent_kafka import Producer

    log, topic = Log(Path(folder)), canonical.topic(city, LINK.name)
    created(address, {topic: len(log.topics), canonical.rows_topic(city): 1, canonical.open_topic(city): 1})
    began, count = time.perf_counter(), 0
    # Idempotent: a batch that is sent again must not come to be behind the next one.
    producer = Producer(
        {"bootstrap.servers": address, "enable.idempotence": True, "linger.ms": 20, "batch.size": 1 << 20,
         "queue.buffering.max.messages": 2_000_000, "queue.buffering.max.kbytes": 1 << 20}
    )  # fmt: skip
    # In turn, so that the partitions have the order of arrival.
    readers = [log.records(n) for n in range(len(log.topics))]
    open_ = dict(enumerate(readers))
    while open_:
        for number, records in list(open_.items()):
            for _ in range(1000):
                if (record := next(records, None)) is None:
                    del open_[number]
                    break
                _produce(producer, topic, record, number)
                count += 1
        producer.poll(0)
    if left := producer.flush(120):
        raise RuntimeError(f"{topic}: {left} of {count} records were not taken by the broker")
    return {"records": count, "seconds": time.perf_counter() - began}


def _produce(producer: Any, topic: str, record: bytes, partition: int) -> None:
    while True:
        try:
            producer.produce(topic, record, partition=partition)
            return
        except BufferError:
            producer.poll(0.05)


def end_of(address: str, topic: str) -> int:
    """The offset after the last record of a topic of one partition."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({**READER, "bootstrap.servers": address})
    try:
        return int(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30)[1])
    finally:
        consumer.close()


class Watch(threading.Thread):
    """Reads what comes into a topic of one partition, from an offset on, with the moment at which each record came."""

    def __init__(self, address: str, topic: str, start: int, enough: Callable[[Watch], bool] | None = None) -> None:
        """`enough` ends it; None: the end of the topic does."""
        super().__init__(name="watch", daemon=True)
        self.address, self.topic, self.start_at, self.enough = address, topic, start, enough
        self.records: list[bytes] = []
        self.times: list[float] = []
        self.told = 0
        """On-time events of the manifests so far."""
        self.stopped = threading.Event()
        self.manifests: list[tuple[float, int]] = []
        """When each came, and its on-time events."""

    def run(self) -> None:
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({**READER, "bootstrap.servers": self.address})
        consumer.assign([TopicPartition(self.topic, 0, self.start_at)])
        try:
            while not self.stopped.is_set():
                for message in consumer.consume(10_000, 0.05):
                    if message.error() is None:
                        self._take(message.value())
                    elif self.enough is None and message.error().code() == message.error()._PARTITION_EOF:
                        return
                if self.enough is not None and self.enough(self):
                    return
        finally:
            consumer.close()

    def _take(self, record: bytes) -> None:
        now = time.perf_counter()
        self.records.append(record)
        if b'"manifest":true' in record:
            n = int(orjson.loads(record)["n"])
            self.manifests.append((now, n))
            self.told += n


def read(address: str, topic: str, start: int) -> list[bytes]:
    """All that is in a topic of one partition, from an offset on."""
    watch = Watch(address, topic, start)
    watch.run()
    return watch.records


def facts(records: Sequence[bytes], rollup: Rollup = ROLLUP) -> Answer:
    """What must be the same whichever engine wrote these records: rows, late ones among them, manifests, events, vehicles, and
    a checksum of all values. A row that was told twice counts once; a pane without events may be told or not."""
    columns = row_columns(rollup)
    schema = NAMED_MANIFESTS | {c: OTHERS.get(c, pl.Int64) for c in columns}
    frame = pl.read_ndjson(b"\n".join(records), schema=schema).filter(rollup=rollup.name, frame=rollup.frame_hash)
    manifests = frame.filter(pl.col("manifest"), pl.col("n") > 0).select("pane_start", "n").unique()
    keys = [c for c in columns if c in ("place", "pane_start", "bucket", "late", "part", "off")]
    rows = frame.filter(pl.col("manifest").is_null()).select(columns)
    rows = rows.sort("n", descending=True, maintain_order=True).unique(keys, keep="first")
    late = rows.filter("late")
    counts = {"rows": len(rows), "late": len(late), "manifests": len(manifests)}
    sums = {
        "events": rows["n"].sum(),
        "told": manifests["n"].sum(),
        "veh": rows["veh"].sum(),
        "late_veh": late["veh"].sum(),
    }
    return counts | {k: int(v) for k, v in sums.items()} | {"checksum": _checksum(rows) + _checksum(manifests)}


def _checksum(frame: pl.DataFrame) -> int:
    """Of the rows in whatever order."""
    return int((frame.hash_rows(seed=20260302) % 1_000_000_007).sum())


__all__ = ["CITY", "ROLLUP", "ROLLUPS", "Watch", "created", "end_of", "facts", "filled", "read", "serve"]
