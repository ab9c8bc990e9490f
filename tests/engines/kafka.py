"""Topics of a real broker, filled and read by tests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from pipelines import canonical
from tests.engines.logs import Log


def create(address: str, topics: Iterable[tuple[str, int]]) -> None:
    """Topics with their partitions. They keep records of any age: those of tests have the times of their events."""
    admin = AdminClient({"bootstrap.servers": address})
    for done in admin.create_topics(
        [NewTopic(name, n, 1, config={"retention.ms": "-1"}) for name, n in topics]
    ).values():
        done.result(30)


def write(address: str, topic: str, partitions: Sequence[Sequence[bytes]]) -> None:
    producer = Producer({"bootstrap.servers": address, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    for partition, records in enumerate(partitions):
        for record in records:
            producer.produce(topic, record, partition=partition)
        producer.poll(0)
    assert producer.flush(60) == 0


def sent(address: str, city: str, made: list[Log]) -> None:
    """The logs, and an empty topic for the rows."""
    topics = [(canonical.topic(city, log.stream.name), len(log.partitions)) for log in made]
    create(address, [(f"rows.{city}", 1), *topics])
    for log in made:
        write(address, canonical.topic(city, log.stream.name), log.partitions)


def read(address: str, topic: str, longest_s: float = 60, partition: int = 0) -> list[bytes]:
    """All that is committed in a partition now."""
    return [message.value() for message in messages(address, topic, longest_s, partition)]


def ends(address: str, topic: str, partitions: int = 1) -> list[int]:
    """Of each partition the offset after the last record."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "tests"})
    try:
        return [consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=30)[1] for n in range(partitions)]
    finally:
        consumer.close()


def messages(address: str, topic: str, longest_s: float = 60, partition: int = 0) -> list[Message]:
    """Those that are committed in a partition now."""
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": "tests", "enable.auto.commit": False, "fetch.queue.backoff.ms": 10,
         "isolation.level": "read_committed", "enable.partition.eof": True}
    )  # fmt: skip
    try:
        consumer.assign([TopicPartition(topic, partition, 0)])
        found: list[Message] = []
        until = time.monotonic() + longest_s
        while time.monotonic() < until:
            for message in consumer.consume(10_000, 0.5):
                if message.error() is not None:
                    # Markers of transactions are no messages, so an offset does not say where the end is.
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    return found
                found.append(message)
        raise TimeoutError(f"{topic} has no end after {longest_s} s")
    finally:
        consumer.close()
