"""Topics of a city's Kafka as the brain reads them: each partition once, for all its streams, from the positions that the
run keeps (never those of a consumer group)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
import polars as pl

from pipelines.canonical import part_of
from pipelines.model import Decoded
from pipelines.transport import Carried, Topic

FETCH: Final = 10_000
"""Records fetched in one go."""
HELD: Final = 200_000
"""Records that wait for the streams that read them; then nothing more is fetched."""
AGAIN_S: Final = 60.0
"""How long records that were read before are waited for."""
NO_EVENTS: Final = pl.DataFrame()
Of = Callable[[Mapping[str, Any]], str | None]
"""The stream that a record concerns; None: nobody's."""


class LogLost(RuntimeError):
    """A topic does not have what is to be read from it; the text says what to do."""


class Partition:
    """One partition of a topic, and what is fetched of it and not read by all its streams yet."""

    def __init__(self, client: Mapping[str, Any], topic: str, number: int, kind: Topic, of: Of | None) -> None:
        """`client`: options of librdkafka (`bootstrap.servers`, security). `of` None: a topic of one stream, whose records
        are handed on as bytes."""
        self.topic, self.number, self.kind, self.of = topic, number, kind, of
        self._client = dict(client)
        self._consumer: Any = None
        self.end: int | None = None
        """The offset to fetch next; None: nothing was fetched yet."""
        self.views: dict[str, View] = {}

    def fetch(self) -> None:
        """What is there now, for all streams."""
        if sum(len(view.waiting) for view in self.views.values()) > HELD:
            return
        if self._consumer is None:
            self._open()
        for message in self._consumer.consume(FETCH, 0.01):
            if (error := message.error()) is not None:
                if error.retriable() or not error.fatal():
                    continue  # the broker is away: librdkafka comes back to it by itself
                raise LogLost(f"topic {self.topic!r}, partition {self.number}: {error.str()}")
            self._take(message.offset(), message.value() or b"")

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
        from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

        self._consumer = Consumer(
            {"group.id": "citybrain-brain", "fetch.queue.backoff.ms": 10, "log_level": 0, **self._client,
             "enable.auto.commit": False, "isolation.level": "read_committed", "auto.offset.reset": "error"}
        )  # fmt: skip
        start = min(view.position for view in self.views.values())
        at = TopicPartition(self.topic, self.number, start or OFFSET_BEGINNING)
        try:
            first, end = self._consumer.get_watermark_offsets(TopicPartition(self.topic, self.number), timeout=10)
        except KafkaException as error:
            raise LogLost(
                f"topic {self.topic!r} cannot be read: {error.args[0].str()}; is the broker at "
                f"{self._client.get('bootstrap.servers')} up, and does the topic exist?"
            ) from None
        if start and not first <= start <= end:
            raise LogLost(
                f"partition {self.number} of topic {self.topic!r} has records {first:,} to {end:,}, and {start:,} is to be read "
                "next: the topic was made anew, or its retention was shorter than the brain was away; restore the topic, or "
                "begin with a new --data folder"
            )
        self._consumer.assign([at])

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self.end = None
        for view in self.views.values():
            view.waiting.clear()


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
                raise LogLost(
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
