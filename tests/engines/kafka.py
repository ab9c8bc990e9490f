"""Topics of a real broker, filled and read by tests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from pipelines import canonical
from tests.engines.logs import Log


def create(address: str, topics: Iterable[tuple[str, int]]) -> None:
    """Topics with their partitions."""
    admin = AdminClient({"bootstrap.servers": address})
    for done in admin.create_topics([NewTopic(name, n, 1) for name, n in topics]).values():
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


def read(address: str, topic: str, longest_s: float = 60) -> list[bytes]:
    """All that is in a topic of one partition now."""
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": "tests", "enable.auto.commit": False, "fetch.queue.backoff.ms": 10,
         "isolation.level": "read_committed"}
    )  # fmt: skip
    try:
        at = TopicPartition(topic, 0, 0)
        consumer.assign([at])
        _, end = consumer.get_watermark_offsets(at, timeout=10)
        found: list[bytes] = []
        ends, position = time.monotonic() + longest_s, 0
        while position < end and time.monotonic() < ends:
            for message in consumer.consume(10_000, 0.5):
                assert message.error() is None, message.error()
                found.append(message.value())
                position = message.offset() + 1
        return found
    finally:
        consumer.close()
