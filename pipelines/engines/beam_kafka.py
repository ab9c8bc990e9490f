"""Kafka for Beam: the canonical log of a stream as a splittable DoFn, and the rows topic as a DoFn.

Time is in the data (rules 7, 8, 15): before a block goes out the watermark of its partition is the first `wm` in it, and the
last one only after it, so nothing in a block is late for Beam and a window fires when every partition's `wm` has passed it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import orjson
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker, WatermarkEstimator
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration, Timestamp
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from pipelines.canonical import part_of, stream_of
from pipelines.engines.beam_transform import Block
from pipelines.job_counts import JobCounts
from pipelines.model import NEVER

RECORDS: Final = 10_000
"""Of a block, at most."""
TURN_S: Final = 1.0
"""So long a log is read before others, and the runner's checkpoint, have their turn."""
PAUSE: Final = Duration(micros=100_000)
"""Before a log has its next turn."""
STALLED_S: Final = 60.0
FOREVER: Final = 2**62
PASSING: Final = (
    KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
)  # fmt: skip
"""Errors that go away by themselves."""
CONSUMER: Final = {
    "group.id": "citybrain-beam", "enable.auto.commit": False, "auto.offset.reset": "error",
    "isolation.level": "read_committed", "enable.partition.eof": True, "fetch.queue.backoff.ms": 10,
    "queued.max.messages.kbytes": 16_384,
}  # fmt: skip


COUNTS: Final = JobCounts()
"""Of all jobs in this process: where the workers are threads of the one that started the job, it sees what they do. Other
runners show the counters below."""
RECORDS_IN: Final = Metrics.counter("citybrain", "records_in")
RECORDS_LATE: Final = Metrics.counter("citybrain", "records_late")
RECORDS_OUT: Final = Metrics.counter("citybrain", "records_out")
LATE: Final = b'"late":true'

Offsets = tuple[int, ...]
"""Of each partition of a topic, by number."""


@dataclass(frozen=True, slots=True)
class Log:
    """A topic from its offsets `first` to before `end` (FOREVER: what comes is read too)."""

    topic: str
    first: Offsets
    end: Offsets


def log_of(kafka: Mapping[str, str | int | bool], topic: str, bounded: bool) -> Log:
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
        first, end = zip(*(_ends(consumer, TopicPartition(topic, n)) for n in sorted(known.partitions)), strict=True)
        return Log(topic, first, end if bounded else (FOREVER,) * len(end))
    finally:
        consumer.close()


def _ends(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    """The first offset and the one after the last. A topic that was just made may have no leader for a moment."""
    ends = time.monotonic() + 30
    while True:
        try:
            first, end = consumer.get_watermark_offsets(partition, timeout=30)
            return int(first), int(end)
        except KafkaException as error:
            if error.args[0].code() not in PASSING or time.monotonic() > ends:
                raise
            time.sleep(0.2)


class Rest(RestrictionTracker):  # type: ignore[misc]
    """What of a log is to be read, as (from, to before); never shared between readers, only cut off where reading pauses."""

    def __init__(self, restriction: tuple[Offsets, Offsets]) -> None:
        self.start, self.stop = restriction
        self.at = self.start
        self.cut = False

    def current_restriction(self) -> tuple[Offsets, Offsets]:
        return self.start, self.stop

    def try_claim(self, position: tuple[int, int]) -> bool:
        """`position`: a partition, and the offset after the last record that is taken from it."""
        number, offset = position
        if not self.cut:
            self.at = (*self.at[:number], offset, *self.at[number + 1 :])
        return not self.cut

    def try_split(self, fraction_of_remainder: float) -> Any:
        if fraction_of_remainder or self.cut or self.at == self.stop:
            return None
        rest, self.stop, self.cut = (self.at, self.stop), self.at, True
        return (self.start, self.stop), rest

    def check_done(self) -> None:
        if self.at != self.stop:
            raise ValueError(f"read to {self.at}, not to {self.stop}")

    def current_progress(self) -> RestrictionProgress:
        done, rest = sum(self.at) - sum(self.start), sum(self.stop) - sum(self.at)
        return RestrictionProgress(completed=done, remaining=rest)

    def is_bounded(self) -> bool:
        return max(self.stop) < FOREVER


class Whole(RestrictionProvider):  # type: ignore[misc]
    """A log from its first offsets to its ends."""

    def initial_restriction(self, element: Log) -> tuple[Offsets, Offsets]:
        return element.first, element.end

    def create_tracker(self, restriction: tuple[Offsets, Offsets]) -> Rest:
        return Rest(restriction)

    def restriction_size(self, element: Log, restriction: tuple[Offsets, Offsets]) -> int:
        return min(sum(restriction[1]) - sum(restriction[0]), RECORDS)


class Stamps(WatermarkEstimator):  # type: ignore[misc]
    """The smallest `wm` of the partitions, minus infinity while one of them has none."""

    def __init__(self, wms: Sequence[int]) -> None:
        self.wms = [*wms]

    def told(self, number: int, record: bytes) -> None:
        """A record of a partition; its watermark never falls."""
        self.wms[number] = max(self.wms[number], wm_of(record))

    def current_watermark(self) -> Timestamp:
        return timestamp(min(self.wms))

    def get_estimator_state(self) -> list[int]:
        return [*self.wms]

    def observe_timestamp(self, _: Timestamp) -> None:
        """What goes out does not move time."""


class StampsOf(WatermarkEstimatorProvider):  # type: ignore[misc]
    """Every partition's `wm` is the state, which a runner's checkpoint keeps."""

    def initial_estimator_state(self, element: Log, restriction: tuple[Offsets, Offsets]) -> list[int]:
        return [NEVER] * len(element.first)

    def create_watermark_estimator(self, estimator_state: list[int]) -> Stamps:
        return Stamps(estimator_state)


class Reader:
    """A consumer of a log, from offsets on."""

    def __init__(self, kafka: Mapping[str, str | int | bool], topic: str, start: Offsets) -> None:
        self.consumer, self.topic = Consumer({**CONSUMER, **kafka}), topic
        self.consumer.assign([TopicPartition(topic, number, offset) for number, offset in enumerate(start)])
        self.at, self.seen = [*start], [*start]
        """After the last record taken; where a partition was seen to end (transactions leave offsets without a record)."""
        self.heard = time.monotonic()

    def take(self, stop: Offsets, longest_s: float) -> dict[int, list[Message]]:
        """The records before `stop` that are there, by partition, after waiting at most so long for many of them."""
        taken: dict[int, list[Message]] = {}
        for message in self.consumer.consume(min(RECORDS, sum(stop) - sum(self.at)), longest_s):
            error, number = message.error(), message.partition()
            if error is None and message.offset() < stop[number]:
                taken.setdefault(number, []).append(message)
                self.at[number], self.heard = message.offset() + 1, time.monotonic()
            elif error is None or error.code() == KafkaError._PARTITION_EOF:
                self.seen[number] = message.offset()
                COUNTS.read(stream_of(self.topic), 0, 0, NEVER, {part_of(self.topic, number): message.offset()})
            elif error.code() not in PASSING:
                raise KafkaException(error)
        return taken

    def ended(self, stop: Offsets) -> bool:
        return all(max(at, seen) >= end for at, seen, end in zip(self.at, self.seen, stop, strict=True))


class Read(beam.DoFn):  # type: ignore[misc]
    """Logs to blocks, up to their ends.

    A log is one element, whatever partitions it has: as its code reads, Flink's runner lets go of the watermark of what it is to
    process next and holds it by what it processed last, so of two elements the slower one's records could come to be late.
    """

    longest_s = 1.0

    def __init__(self, kafka: Mapping[str, str | int | bool]) -> None:
        self.kafka = dict(kafka)

    def setup(self) -> None:
        self.readers: dict[str, Reader] = {}

    def teardown(self) -> None:
        for reader in self.readers.values():
            reader.consumer.close()
        self.readers.clear()

    def process(
        self,
        log: Log,
        tracker: Any = beam.DoFn.RestrictionParam(Whole()),  # noqa: B008
        stamps: Any = beam.DoFn.WatermarkEstimatorParam(StampsOf()),  # noqa: B008
    ) -> Iterator[Any]:
        start, stop = tracker.current_restriction()
        reader, began = self._reader(log.topic, start), time.monotonic()
        while not reader.ended(stop):
            taken = reader.take(stop, self.longest_s)
            for number, messages in taken.items():
                if not tracker.try_claim((number, messages[-1].offset() + 1)):
                    return
                yield from told(log.topic, number, messages, stamps)
                late = sum(LATE in (message.value() or b"") for message in messages)
                RECORDS_IN.inc(len(messages))
                RECORDS_LATE.inc(late)
                at = {part_of(log.topic, number): messages[-1].offset() + 1}
                COUNTS.read(stream_of(log.topic), len(messages), late, min(stamps.get_estimator_state()), at)
            if max(stop) < FOREVER and time.monotonic() - reader.heard > STALLED_S:
                raise TimeoutError(
                    f"{log.topic} gave nothing for {STALLED_S:.0f} s at offsets {reader.at}, before its ends at {stop}; "
                    "is its broker there, is a transaction open?"
                )
            if (not taken and max(stop) == FOREVER) or time.monotonic() - began > TURN_S:
                tracker.defer_remainder(PAUSE)
                return
        for number, end in enumerate(stop):  # what follows the last record is no record
            tracker.try_claim((number, end))

    def _reader(self, topic: str, start: Offsets) -> Reader:
        """The open one, if it goes on where it stopped."""
        found = self.readers.get(topic)
        if found is None or found.at != [*start]:
            if found is not None:
                found.consumer.close()
            found = self.readers[topic] = Reader(self.kafka, topic, start)
        return found


class Follow(Read):
    """Logs to blocks, for ever."""

    longest_s = 0.0

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        log: Log,
        tracker: Any = beam.DoFn.RestrictionParam(Whole()),  # noqa: B008
        stamps: Any = beam.DoFn.WatermarkEstimatorParam(StampsOf()),  # noqa: B008
    ) -> Iterator[Any]:
        return super().process(log, tracker, stamps)


def told(topic: str, number: int, messages: list[Message], stamps: Any) -> Iterator[TimestampedValue]:
    """A block between the watermark before it and the one after it."""
    records = tuple(message.value() for message in messages)
    stamps.told(number, records[0])
    block = Block(part_of(topic, number), tuple(m.offset() for m in messages), records)
    yield TimestampedValue(block, timestamp(wm_of(records[0])))
    stamps.told(number, records[-1])


def wm_of(record: bytes) -> int:
    wm = orjson.loads(record)["wm"]
    return NEVER if wm is None else int(wm)


def timestamp(wm: int) -> Timestamp:
    return MIN_TIMESTAMP if wm == NEVER else Timestamp(micros=wm * 1000)


class Write(beam.DoFn):  # type: ignore[misc]
    """Records to the first partition of a topic, at least once: a bundle is done when the broker has all of it."""

    def __init__(self, kafka: Mapping[str, str | int | bool], topic: str) -> None:
        self.kafka, self.topic = dict(kafka), topic

    def setup(self) -> None:
        self.producer = Producer({"linger.ms": 20, **self.kafka, "enable.idempotence": True})
        self.refused: list[KafkaError] = []
        self.written = 0

    def process(self, record: bytes) -> Iterable[Any]:
        while True:
            try:
                self.producer.produce(self.topic, record, partition=0, on_delivery=self._answered)
                self.written += 1
                return ()
            except BufferError:
                self.producer.poll(0.1)

    def finish_bundle(self) -> None:
        began, written = time.monotonic(), self.written
        left, self.written = self.producer.flush(STALLED_S), 0
        if self.refused:
            raise KafkaException(self.refused.pop())
        if left:
            raise TimeoutError(
                f"topic {self.topic} did not take {left} records in {STALLED_S:.0f} s; is its broker there?"
            )
        if written:
            RECORDS_OUT.inc(written)
            COUNTS.wrote(written)
            COUNTS.durable(began)

    def _answered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self.refused.append(error)
