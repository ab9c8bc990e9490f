"""Topics of a city's Kafka as the brain reads them: each partition once, for all its streams, from the positions that the
run keeps (never those of a consumer group)."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson
import polars as pl

from pipelines.canonical import part_of
from pipelines.kafka_options import KafkaFailed
from pipelines.model import Decoded
from pipelines.transport import Carried, Topic

if TYPE_CHECKING:  # the client library is an extra, and what is fetched otherwise needs none
    from pipelines.kafka_client import Cluster

FETCH: Final = 10_000
"""Records fetched in one go."""
HELD: Final = 200_000
"""Records that wait for the streams that read them; then nothing more is fetched."""
OPEN_MS: Final = 15_000
"""Longer than it takes until an engine has told all its open panes again."""
AGAIN_S: Final = 60.0
"""How long records that were read before are waited for."""
NO_EVENTS: Final = pl.DataFrame()
Of = Callable[[Mapping[str, Any]], str | None]
"""The stream that a record concerns; None: nobody's."""


class Partition:
    """One partition of a topic, and what is fetched of it and not read by all its streams yet."""

    def __init__(self, cluster: Cluster, topic: str, number: int, kind: Topic, of: Of | None) -> None:
        """`of` None: a topic of one stream, whose records are handed on as bytes."""
        self.topic, self.number, self.kind, self.of = topic, number, kind, of
        self._cluster = cluster
        self._consumer: Any = None
        self.end: int | None = None
        """The offset to fetch next; None: nothing was fetched yet."""
        self.views: dict[str, View] = {}

    def fetch(self) -> None:
        """What is there now, for all streams. Says so while the cluster is away; KafkaFailed where it refuses."""
        if sum(len(view.waiting) for view in self.views.values()) > HELD:
            return
        if self._consumer is None:
            self._open()
        for message in self._consumer.consume(FETCH, 0.01):
            if (error := message.error()) is None:
                self._cluster.connection.answered()
                self._take(message.offset(), message.value() or b"")
            elif error.code() == error._PARTITION_EOF:  # markers of transactions are no messages
                self._cluster.connection.answered()
                self.end = message.offset()
            elif error.fatal() or error.code() == error._AUTO_OFFSET_RESET:
                from pipelines.kafka_client import refused

                raise refused(error, f"partition {self.number} of topic {self.topic!r} cannot be read")
        self._cluster.connection.check()

    def _take(self, offset: int, value: bytes) -> None:
        self.end = offset + 1
        if self.of is None:
            for view in self.views.values():
                view.waiting.append((offset, value))
            return
        try:
            record = orjson.loads(value)
            name = self.of(record) if isinstance(record, dict) else None
        except (orjson.JSONDecodeError, TypeError):
            record, name = {"record": value.decode(errors="replace")}, None
        # What is nobody's is told by the first stream, so that somebody sets it aside by name.
        view = self.views.get(str(name)) or next(iter(self.views.values()))
        view.waiting.append((offset, record if isinstance(record, dict) else {"record": record}))

    def _open(self) -> None:
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        consumer = Consumer(
            {**self._cluster.connection.settings(), "group.id": "citybrain-brain", "fetch.queue.backoff.ms": 10,
             "enable.auto.commit": False, "isolation.level": "read_committed", "auto.offset.reset": "error",
             "enable.partition.eof": True}
        )  # fmt: skip
        start = min(view.position for view in self.views.values())
        at = TopicPartition(self.topic, self.number, start or OFFSET_BEGINNING)
        first, end = self._cluster.asked(
            lambda: consumer.get_watermark_offsets(TopicPartition(self.topic, self.number), timeout=10),
            f"partition {self.number} of topic {self.topic!r} cannot be read",
        )
        if start and not first <= start <= end:
            raise KafkaFailed(
                f"partition {self.number} of topic {self.topic!r} has records {first:,} to {end:,}, and {start:,} is to be read "
                "next: the topic was made anew, or its retention was shorter than the brain was away; restore the topic, or "
                "begin with a new --data folder"
            )
        consumer.assign([at])
        self._consumer = consumer

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self.end = None
        for view in self.views.values():
            view.waiting.clear()


class OpenPanes:
    """What engines tell of panes that are open, from some seconds ago on. Nothing depends on it: it is shown, and forgotten."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        from confluent_kafka import OFFSET_END, Consumer, TopicPartition

        self._consumer = Consumer(
            {**cluster.connection.settings(), "group.id": "citybrain-brain", "fetch.queue.backoff.ms": 10,
             "enable.auto.commit": False, "auto.offset.reset": "latest"}
        )  # fmt: skip
        since = TopicPartition(topic, 0, int(time.time() * 1000) - OPEN_MS)
        at = cluster.asked(
            lambda: self._consumer.offsets_for_times([since], timeout=10), f"topic {topic!r} cannot be read"
        )
        self._consumer.assign([TopicPartition(topic, 0, at[0].offset if at[0].offset >= 0 else OFFSET_END)])

    def read(self) -> list[Mapping[str, Any]]:
        """What has come since the last call; of very much only the newest is worth its time."""
        found: list[bytes] = []
        while messages := self._consumer.consume(FETCH, 0):
            found += [message.value() or b"" for message in messages if message.error() is None]
        records = []
        for value in found[-HELD:]:
            with contextlib.suppress(orjson.JSONDecodeError):
                records.append(orjson.loads(value))
        return [record for record in records if isinstance(record, dict)]

    def close(self) -> None:
        self._consumer.close()


class View:
    """What a partition has for one stream: a Source (see `pipelines.model`) whose positions are offsets."""

    finite = False

    def __init__(self, partition: Partition, stream: str) -> None:
        self.partition, self.stream = partition, stream
        named = part_of(partition.topic, partition.number)
        self.part = named if partition.kind == "events" else ""
        self.input = named if partition.of is None else f"{named}:{stream}"
        self.limit: int | None = None
        self.position = 0
        self.waiting: deque[tuple[int, Any]] = deque()
        partition.views[stream] = self

    def read(self) -> Decoded | None:
        ends = time.monotonic() + AGAIN_S
        while not self.waiting:
            self.partition.fetch()
            if self.limit is None or (self.partition.end or 0) >= self.limit:
                break
            if time.monotonic() > ends:
                raise KafkaFailed(
                    f"{self.input}: records up to {self.limit:,} were read before and do not come again; is the broker up?"
                )
        stop = self.partition.end or 0
        if self.limit is not None:
            stop = min(stop, self.limit)
        if stop <= self.position:
            return None
        found: list[tuple[int, Any]] = []
        while self.waiting and self.waiting[0][0] < stop and len(found) < FETCH:
            record = self.waiting.popleft()
            if record[0] >= self.position:
                found.append(record)
        more = bool(self.waiting) and self.waiting[0][0] < stop
        self.position = found[-1][0] + 1 if more else stop
        offsets, records = [offset for offset, _ in found], [record for _, record in found]
        raw, objects = (records, []) if self.partition.of is None else ([], records)
        return Carried(
            self.input, self.stream, NO_EVENTS, (), self.position, len(found), self.partition.kind,
            part_of(self.partition.topic, self.partition.number), objects, raw, offsets,
        )  # fmt: skip

    def seek(self, position: int) -> None:
        self.partition.close()
        self.position = position

    @property
    def ended(self) -> bool:
        return False

    def commit(self, position: int) -> None:
        """The run keeps its positions itself; topics have their retention."""

    def close(self) -> None:
        self.partition.close()
