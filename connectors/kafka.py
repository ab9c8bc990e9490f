"""One partition of a Kafka topic as a source: its offsets are the positions, its records' times are their arrival.

A message is one record, in canonical NDJSON or in what a mapping reads; an empty one is a blank line. A line feed inside
a message is white space of JSON and is read as a carriage return, which means the same there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Final

import polars as pl
from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from connectors.formats import Block, Format
from connectors.formats.lines import as_line
from pipelines.kafka_client import Connection, refused, say
from pipelines.kafka_options import KafkaFailed, KafkaOptions, Settings
from pipelines.model import DeadLetter, Decoded
from pipelines.streams import Stream

READ_MESSAGES: Final = 20_000
LOOK_S: Final = 5.0
"""How often a running source asks whether its topic is still the one that it began with."""
QUIET_CODES: Final = frozenset({KafkaError._PARTITION_EOF, KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT})


def consumer_settings(options: KafkaOptions, group: str) -> Settings:
    """The configuration of the consumer of one partition.

    The client's own queue is the back-pressure: when it holds `queued.max.messages.kbytes` fetching pauses, and goes on once
    it was read.
    """
    return {
        **options.client(),
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": False,
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 100,
        "queued.max.messages.kbytes": 16_384,
        "reconnect.backoff.max.ms": 2_000,
    }


class KafkaSource:
    """See `pipelines.model.Source`, `Limited`. Starts at offset 0 of what the partition holds, or where `seek` says.

    `topic_id` is the identity of the topic that positions belong to, `partitions` how many it had when the run began: more of
    them later are an error, for nobody reads them. Raises KafkaFailed where the position is not in the
    partition any more or not yet, where the topic was deleted or made again, and where the cluster refuses the client.
    """

    finite = False

    def __init__(
        self,
        options: KafkaOptions,
        partition: int,
        stream: Stream,
        format: Format,
        topic_id: str,
        *,
        group: str = "citybrain",
        partitions: int | None = None,
        said: Callable[[str], None] = say,
    ) -> None:
        self.options, self.partition, self.topic_id = options, partition, topic_id
        self.input, self.stream = input_name(options.topic, partition), stream.name
        self.limit: int | None = None
        self._format, self._group, self._partitions = format, group, partitions
        self.connection = Connection(options, said)
        self._consumer: Consumer | None = None
        self._admin: AdminClient | None = None
        self._looking: Future[Any] | None = None
        self._looked = time.monotonic()
        self._position = 0
        self._held: list[Message] = []
        """Messages that were fetched and lie beyond the limit."""

    @property
    def ended(self) -> bool:
        return False

    @property
    def position(self) -> int:
        """The offset that is read next."""
        return self._position

    def seek(self, position: int) -> None:
        """The next `read` starts with the first record of that offset or later."""
        self.close()
        self._position = position

    def read(self) -> Decoded | None:
        """The next records that were fetched already; None when there are none."""
        if self._consumer is None:
            self._consumer = self._opened()
        self._look()
        messages = self._held or self._fetched()
        self._held = []
        if self.limit is not None:
            count = next((n for n, m in enumerate(messages) if m.offset() >= self.limit), len(messages))
            messages, self._held = messages[:count], messages[count:]
        if not messages:
            return None
        self._position = messages[-1].offset() + 1
        return self._decoded(messages)

    def commit(self, position: int) -> None:
        """Tells the cluster how far the records were taken over, for those who watch the lag; nothing is read by it."""
        if self._consumer is not None:
            at = TopicPartition(self.options.topic, self.partition, position)
            self._consumer.commit(offsets=[at], asynchronous=True)

    def close(self) -> None:
        consumer, self._consumer, self._admin, self._looking, self._held = self._consumer, None, None, None, []
        if consumer is not None:
            consumer.close()

    def _opened(self) -> Consumer:
        consumer = Consumer(consumer_settings(self.options, self._group) | self.connection.settings())
        # Records that were deleted before anybody read them are no loss of this source; later ones are an error.
        start = self._position or OFFSET_BEGINNING
        consumer.assign([TopicPartition(self.options.topic, self.partition, start)])
        return consumer

    def _fetched(self) -> list[Message]:
        assert self._consumer is not None
        messages = self._consumer.consume(READ_MESSAGES, 0)
        self.connection.check()
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                good.append(message)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET or error.code() == KafkaError.OFFSET_OUT_OF_RANGE:
                raise self._out_of_range()
            elif error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
                raise self._made_again("it was deleted")
            elif not (error.retriable() or error.code() in QUIET_CODES):
                raise refused(error, f"{self.options.shown}, partition {self.partition}, cannot be read")
        if good:
            self.connection.answered()
        return good

    def _out_of_range(self) -> KafkaFailed:
        assert self._consumer is not None
        at = TopicPartition(self.options.topic, self.partition)
        first, last = self._consumer.get_watermark_offsets(at, timeout=10)
        where = f"{self.options.shown}, partition {self.partition}"
        if self._position < first:
            return KafkaFailed(
                f"{where}: the records {self._position} to {first - 1} were deleted before they were read (it begins at {first} "
                "now). To go on without them, start an ingest under another --id; lengthen the retention of that topic"
            )
        return KafkaFailed(
            f"{where} ends at {last}, and was read up to {self._position} before: it was cut, or made again. To read it from "
            "its beginning, start an ingest under another --id"
        )

    def _made_again(self, what: str) -> KafkaFailed:
        return KafkaFailed(
            f"{self.options.shown} is not the topic that was read before: {what}. Its records may be others; to read it from its "
            "beginning, start an ingest under another --id"
        )

    def _look(self) -> None:
        """Compares the topic's identity with the one read before, without waiting for the answer."""
        if self._looking is not None and self._looking.done():
            done, self._looking = self._looking, None
            error = done.exception()
            code = error.args[0].code() if error is not None and error.args else None
            if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
                raise self._made_again("it was deleted")
            if error is None:
                self.connection.answered()
                if str(done.result().topic_id) != self.topic_id:
                    raise self._made_again("it was deleted and made again")
                now = len(done.result().partitions)
                if self._partitions is not None and now > self._partitions:
                    raise KafkaFailed(
                        f"{self.options.shown} has {now} partitions now, {self._partitions} are read; start the same command "
                        "again to read all"
                    )
        if self._looking is None and time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            if self._admin is None:
                self._admin = AdminClient(self.connection.settings())
            topic = self.options.topic
            self._looking = self._admin.describe_topics(TopicCollection([topic]), request_timeout=10)[topic]

    def _decoded(self, messages: list[Message]) -> Decoded:
        # Numbered from 2: a byte order mark is cut off the first record of a file, and a message is none.
        payload = b"\n".join(as_line(m.value()) for m in messages) + b"\n"
        decoded = self._format.decode(Block(2, payload), self.input)
        offsets = pl.Series([m.offset() for m in messages], dtype=pl.Int64)
        events, at = decoded.events, decoded.events["record"] - 2
        columns = [offsets.gather(at).alias("record")]
        stamps = [m.timestamp() for m in messages]
        if all(kind != TIMESTAMP_NOT_AVAILABLE for kind, _ in stamps):
            arrival = pl.Series([ms for _, ms in stamps], dtype=pl.Int64)
            columns.append(arrival.gather(at).alias("arrival"))
        letters = tuple(_at_offset(letter, messages) for letter in decoded.refused)
        return Decoded(self.input, self.stream, events.with_columns(columns), letters, self._position, decoded.records)


def input_name(topic: str, partition: int) -> str:
    """What ingest and dead letters call a partition of a source topic."""
    return f"kafka:{topic}/{partition}"


def _at_offset(letter: DeadLetter, messages: list[Message]) -> DeadLetter:
    line, colon, index = letter.position.partition(":")
    return replace(letter, position=f"{messages[int(line) - 2].offset()}{colon}{index}")
