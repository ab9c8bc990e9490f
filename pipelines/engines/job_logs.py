"""The canonical logs that an engine job groups: which topics they are, where it starts in them, and its announcement."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from pipelines import canonical
from pipelines.announcement import Start, announcements
from pipelines.canonical import control_topic
from pipelines.kafka_client import Cluster, Stopped
from pipelines.kafka_options import KafkaFailed
from pipelines.rollup import Rollup

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

ANSWER_S: Final = 1.0


class JobLogs:
    """Those of some streams of a city, which all have one."""

    def __init__(self, cluster: Cluster, city: str, streams: Iterable[str]) -> None:
        self.cluster, self.city = cluster, city
        self.topics = {canonical.topic(city, stream): stream for stream in dict.fromkeys(streams)}
        self._ids: dict[str, str] = {}

    def partitions(self, topic: str) -> int:
        """How many it has; KafkaFailed where it is not the topic any more that it was at first."""
        found = self.cluster.topic(topic)
        if found is None or found.id != self._ids.setdefault(topic, found.id):
            raise KafkaFailed(
                f"topic {topic!r} of {self.cluster.connection.options.servers} was deleted"
                f"{'' if found is None else ' and made again'} while it was grouped: its offsets mean other records now. End the "
                "brain too, and begin with a new --data folder there"
            )
        return found.partitions

    def check(self) -> None:
        """KafkaFailed where one was made again."""
        for topic in self.topics:
            self.partitions(topic)

    def starts(self, group: str | None = None) -> dict[str, Start]:
        """By stream where a job starts: at the oldest record, or where the consumer group, which keeps what was delivered, is
        and that is still there."""
        self.check()
        found = {}
        for topic, stream in self.topics.items():
            kept = {} if group is None else self.cluster.committed(group, topic)
            first = {number: max(off, kept.get(number, 0)) for number, off in self.cluster.firsts(topic).items()}
            found[stream] = Start(self._ids[topic], _parts(topic, first), _parts(topic, kept))
        return found

    def ends(self) -> dict[str, int]:
        """Of every partition, by its part."""
        return {part: end for topic in self.topics for part, end in _parts(topic, self.cluster.ends(topic)).items()}

    def announce(self, job: str, engine: str, rollups: Sequence[Rollup], starts: Mapping[str, Start]) -> None:
        """Returns when the cluster has it. Stopped when the run is to end before."""
        from confluent_kafka import Producer

        connection, refused = self.cluster.connection, list[str]()

        def answered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                refused.append(error.str())

        producer = Producer({**connection.settings(), "enable.idempotence": True})
        for one in announcements(job, engine, rollups, starts, time.time_ns() // 1_000_000):
            key, value = one.record()
            producer.produce(control_topic(self.city), value, key, on_delivery=answered)
        while producer.flush(ANSWER_S):
            connection.check()
            if self.cluster.stopped():
                raise Stopped
        if refused:
            raise KafkaFailed(f"job {job} cannot announce itself in {control_topic(self.city)!r}: {refused[0]}")


def _parts(topic: str, offsets: Mapping[int, int]) -> dict[str, int]:
    return {canonical.part_of(topic, number): offset for number, offset in offsets.items()}
