"""Kafka for Beam: the partitions of the canonical log as a splittable DoFn, and the rows topic as a DoFn.

Time is in the data (rules 7, 8, 15): before a block goes out the watermark of its partition is the first `wm` in it, and the
last one only after it, so nothing in a block is late for Beam and a window fires when every partition's `wm` has passed it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import orjson
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration, Timestamp
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from pipelines.canonical import part_of
from pipelines.engines.beam_transform import Block

RECORDS: Final = 10_000
"""Of a block, at most."""
TURN_S: Final = 1.0
"""So long a partition is read before others, and the runner's checkpoint, have their turn."""
PAUSE: Final = Duration(micros=100_000)
"""Before a partition that has nothing new is looked at again."""
STALLED_S: Final = 60.0
FOREVER: Final = 2**62
CONSUMER: Final = {
    "group.id": "citybrain-beam", "enable.auto.commit": False, "auto.offset.reset": "error",
    "isolation.level": "read_committed", "enable.partition.eof": True, "fetch.queue.backoff.ms": 10,
    "queued.max.messages.kbytes": 16_384,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of a topic from offset `first` to before `end` (FOREVER: what comes is read too)."""

    topic: str
    number: int
    first: int
    end: int


def partitions(kafka: Mapping[str, str], topic: str, bounded: bool) -> list[Partition]:
    """The partitions that a topic has now, from the oldest record on; `bounded`: to where they end now.

    Raises LookupError for a topic that is not there, KafkaException where no broker answers.
    """
    consumer = Consumer({**CONSUMER, **kafka})
    try:
        known = consumer.list_topics(topic, timeout=30).topics[topic]
        if known.error is not None:
            raise LookupError(
                f"topic {topic} is not on the broker ({known.error.str()}); create it, or start what writes it"
            )
        found = []
        for number in sorted(known.partitions):
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30)
            found.append(Partition(topic, number, first, end if bounded else FOREVER))
        return found
    finally:
        consumer.close()


class Offsets(OffsetRestrictionTracker):  # type: ignore[misc]
    """Offsets of a partition; they are never shared between readers, only cut off where reading pauses."""

    def try_split(self, fraction_of_remainder: float) -> Any:
        return super().try_split(0) if fraction_of_remainder == 0 else None

    def is_bounded(self) -> bool:
        return bool(self.stop_position() < FOREVER)


class OffsetsOf(RestrictionProvider):  # type: ignore[misc]
    """A partition's offsets as a restriction."""

    def initial_restriction(self, element: Partition) -> OffsetRange:
        return OffsetRange(element.first, element.end)

    def create_tracker(self, restriction: OffsetRange) -> Offsets:
        return Offsets(restriction)

    def restriction_size(self, element: Partition, restriction: OffsetRange) -> int:
        return int(min(restriction.size(), RECORDS))


class Stamps(WatermarkEstimatorProvider):  # type: ignore[misc]
    """The stamp `wm` as a watermark, minus infinity before there is one. It is its own state, which a runner's checkpoint
    keeps."""

    def initial_estimator_state(self, element: Partition, restriction: OffsetRange) -> Timestamp:
        return MIN_TIMESTAMP

    def create_watermark_estimator(self, estimator_state: Timestamp) -> ManualWatermarkEstimator:
        return ManualWatermarkEstimator(estimator_state)


class Reader:
    """A consumer of one partition, from an offset on."""

    def __init__(self, kafka: Mapping[str, str], partition: Partition, start: int) -> None:
        self.consumer = Consumer({**CONSUMER, **kafka})
        self.consumer.assign([TopicPartition(partition.topic, partition.number, start)])
        self.position = self.end = start
        """After the last record taken; where the partition was seen to end (transactions leave offsets without a record)."""
        self.heard = time.monotonic()

    def take(self, most: int, longest_s: float) -> list[Message]:
        """The records that are there, waiting at most so long for `most` of them."""
        taken = []
        for message in self.consumer.consume(most, longest_s):
            error = message.error()
            if error is None:
                taken.append(message)
                self.position, self.heard = message.offset() + 1, time.monotonic()
            elif error.code() == KafkaError._PARTITION_EOF:
                self.end = message.offset()
            elif not error.retriable():
                raise KafkaException(error)
        return taken


class Read(beam.DoFn):  # type: ignore[misc]
    """Partitions to blocks, up to their ends."""

    longest_s = 1.0

    def __init__(self, kafka: Mapping[str, str]) -> None:
        self.kafka = dict(kafka)

    def setup(self) -> None:
        self.readers: dict[Partition, Reader] = {}

    def teardown(self) -> None:
        for reader in self.readers.values():
            reader.consumer.close()
        self.readers.clear()

    def process(
        self,
        partition: Partition,
        tracker: Any = beam.DoFn.RestrictionParam(OffsetsOf()),  # noqa: B008
        stamps: Any = beam.DoFn.WatermarkEstimatorParam(Stamps()),  # noqa: B008
    ) -> Iterator[Any]:
        start, stop = tracker.current_restriction().start, tracker.current_restriction().stop
        reader = self._reader(partition, start)
        began = time.monotonic()
        while max(reader.position, reader.end) < stop:
            messages = [
                m for m in reader.take(min(RECORDS, stop - reader.position), self.longest_s) if m.offset() < stop
            ]
            if messages:
                if not tracker.try_claim(messages[-1].offset()):
                    return
                yield from told(part_of(partition.topic, partition.number), messages, stamps)
            elif stop == FOREVER:
                tracker.defer_remainder(PAUSE)
                return
            elif time.monotonic() - reader.heard > STALLED_S:
                raise TimeoutError(
                    f"{partition.topic}/{partition.number} gave nothing for {STALLED_S:.0f} s at offset {reader.position}, "
                    f"before its end at {stop}; is its broker there, is a transaction open?"
                )
            if time.monotonic() - began > TURN_S:
                tracker.defer_remainder()
                return
        if reader.position < stop:  # what follows the last record is no record
            tracker.try_claim(stop - 1)

    def _reader(self, partition: Partition, start: int) -> Reader:
        """The open one, if it goes on where it stopped."""
        found = self.readers.get(partition)
        if found is None or found.position != start:
            if found is not None:
                found.consumer.close()
            found = self.readers[partition] = Reader(self.kafka, partition, start)
        return found


class Follow(Read):
    """Partitions to blocks, for ever."""

    longest_s = 0.0

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        partition: Partition,
        tracker: Any = beam.DoFn.RestrictionParam(OffsetsOf()),  # noqa: B008
        stamps: Any = beam.DoFn.WatermarkEstimatorParam(Stamps()),  # noqa: B008
    ) -> Iterator[Any]:
        return super().process(partition, tracker, stamps)


def told(part: str, messages: list[Message], stamps: Any) -> Iterator[TimestampedValue]:
    """A block between the watermark before it and the one after it."""
    records = tuple(message.value() for message in messages)
    advance(stamps, records[0])
    yield TimestampedValue(Block(part, tuple(m.offset() for m in messages), records), stamps.current_watermark())
    advance(stamps, records[-1])


def advance(stamps: Any, record: bytes) -> None:
    """The watermark to a record's `wm`; it never falls."""
    wm = orjson.loads(record)["wm"]
    if wm is not None and (at := Timestamp(micros=wm * 1000)) > stamps.current_watermark():
        stamps.set_watermark(at)


class Write(beam.DoFn):  # type: ignore[misc]
    """Records to the first partition of a topic, at least once: a bundle is done when the broker has all of it."""

    def __init__(self, kafka: Mapping[str, str], topic: str) -> None:
        self.kafka, self.topic = dict(kafka), topic

    def setup(self) -> None:
        self.producer = Producer({"linger.ms": 20, **self.kafka, "enable.idempotence": True})
        self.refused: list[KafkaError] = []

    def process(self, record: bytes) -> Iterable[Any]:
        while True:
            try:
                self.producer.produce(self.topic, record, partition=0, on_delivery=self._answered)
                return ()
            except BufferError:
                self.producer.poll(0.1)

    def finish_bundle(self) -> None:
        left = self.producer.flush(STALLED_S)
        if self.refused:
            raise KafkaException(self.refused.pop())
        if left:
            raise TimeoutError(
                f"topic {self.topic} did not take {left} records in {STALLED_S:.0f} s; is its broker there?"
            )

    def _answered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self.refused.append(error)
