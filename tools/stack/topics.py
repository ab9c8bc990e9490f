"""The topics of a city, as `docs/deploy.md` lists them, on a broker of the stack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pipelines.canonical import OPEN_TOPIC, control_topic, dead_topic, open_topic, rows_topic, topic
from pipelines.state_records import topic as state_topic

DAYS: Final = 86_400_000
STATE_PARTITIONS: Final = 8  # as many as ingest would make


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


def kept(days: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * DAYS)}


def topics(city: str, streams: Iterable[str], partitions: int = 1) -> list[Topic]:
    """`partitions`: of each canonical log; ingest adds what it needs."""
    return [
        *(Topic(topic(city, stream), partitions, kept(7)) for stream in streams),
        Topic(rows_topic(city), 1, kept(7)),
        Topic(open_topic(city), 1, OPEN_TOPIC),
        Topic(dead_topic(city), 1, kept(30)),
        Topic(control_topic(city), 1, kept(7)),
        Topic(state_topic(city), STATE_PARTITIONS, {"cleanup.policy": "compact"}),
    ]


def create(address: str, wanted: Iterable[Topic]) -> None:
    """Makes them; RuntimeError names the one that a broker refuses."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    new = [NewTopic(each.name, each.partitions, 1, config=dict(each.config)) for each in wanted]
    for name, done in admin.create_topics(new).items():
        try:
            done.result(30)
        except KafkaException as error:
            raise RuntimeError(f"topic {name} cannot be made: {error}") from None
