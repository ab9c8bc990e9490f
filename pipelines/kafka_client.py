"""What all clients of a Kafka cluster share: which errors end a run and which are waited for, and what a topic is now."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipelines.kafka_options import KafkaFailed, KafkaOptions

ASK_S: Final = 10.0
PATIENCE_S: Final = 1.0
"""A loss that is over so soon is not worth a word; nor is one before the cluster says why."""
REFUSED: Final = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})
"""Errors of a connection that no waiting mends."""
LOST: Final = frozenset(
    {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT}
)
MOVING: Final = frozenset(
    {
        KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError._WAIT_COORD, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE,
    }
)  # fmt: skip
"""Nobody has a group's positions, or a partition that was just made, at the moment; librdkafka does not call these errors
retriable."""
FORBIDDEN: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)  # fmt: skip


def say(text: str) -> None:
    """One line for the operator."""
    print(f"citybrain: {text}", file=sys.stderr, flush=True)


class Connection:
    """The state of one client's connection, as its callbacks tell it. A loss that lasts is said once, and so is its end."""

    def __init__(self, options: KafkaOptions, said: Callable[[str], None] = say) -> None:
        self.options, self.say = options, said
        self._refused: str | None = None
        self._ever = self._told = False
        self._lost: tuple[float, str] | None = None
        """Since when it is lost, and why."""

    @property
    def lost(self) -> bool:
        return self._lost is not None

    def settings(self) -> dict[str, Any]:
        """The options of a client, with its callbacks. Its own log is not the operator's."""
        return {**self.options.client(), "error_cb": self.failed, "logger": SILENT}

    def failed(self, error: KafkaError) -> None:
        """The client's callback."""
        code = error.code()
        if code in REFUSED or (code == KafkaError._SSL and not self._ever):
            self._refused = error.str()
        elif code in LOST:
            self.gone(error.str())

    def gone(self, why: str) -> None:
        if self._lost is None:
            self._lost = time.monotonic(), why

    def answered(self) -> None:
        self._ever, self._lost = True, None
        if self._told:
            self._told = False
            self.say(f"{self.options.servers} answers again")

    def check(self) -> None:
        """To be called while it is waited for. Raises KafkaFailed where the cluster does not let this client in."""
        if self._refused is not None:
            who = f" as user {self.options.user!r}" if self.options.user else ""
            raise KafkaFailed(
                f"{self.options.servers} refuses the connection{who}: {self._refused}; look at user, password, mechanism and "
                "certificates"
            )
        if self._lost is not None and not self._told and time.monotonic() - self._lost[0] > PATIENCE_S:
            self._told = True
            self.say(f"{self.options.servers} does not answer ({self._lost[1]}); waiting")


def refused(error: KafkaError, what: str) -> KafkaFailed:
    """What a user reads of an error that ends a run."""
    hint = "; the user needs that permission" if error.code() in FORBIDDEN else ""
    return KafkaFailed(f"{what}: {error.str()}{hint}")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is now. `id` tells it from one of the same name that was made after it was deleted."""

    id: str
    partitions: int


SILENT: Final = logging.getLogger("citybrain.kafka")
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False
T = TypeVar("T")


class Cluster:
    """Questions to a cluster. Each waits until it is answered, says so, and asks `stopped` meanwhile."""

    def __init__(self, connection: Connection, stopped: Callable[[], bool] = lambda: False) -> None:
        self.connection, self.stopped = connection, stopped
        self.admin = AdminClient(connection.settings())

    def topic(self, name: str) -> Topic | None:
        """None where there is no such topic."""

        def ask() -> Topic | None:
            found = self.admin.describe_topics(TopicCollection([name]), request_timeout=ASK_S)[name]
            try:
                topic = found.result(ASK_S)
            except KafkaException as error:
                if error.args[0].code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
                    return None
                raise
            return Topic(str(topic.topic_id), len(topic.partitions))

        return self.asked(ask, f"topic {name!r} of {self.connection.options.servers} cannot be looked at")

    def partitions(self, name: str) -> int:
        """How many partitions a topic has; 0 where there is no such topic."""
        found = self.topic(name)
        return 0 if found is None else found.partitions

    def ends(self, name: str) -> dict[int, int]:
        """Of each partition of a topic the offset after its last committed record."""
        return self._offsets(name, OffsetSpec.latest())

    def firsts(self, name: str) -> dict[int, int]:
        """Of each partition of a topic the offset of its oldest record."""
        return self._offsets(name, OffsetSpec.earliest())

    def committed(self, group: str, name: str) -> dict[int, int]:
        """The positions in a topic that a consumer group has committed."""
        at = [TopicPartition(name, number) for number in range(self.partitions(name))]
        consumer = Consumer({**self.connection.settings(), "group.id": group})
        try:
            found = self.asked(lambda: consumer.committed(at, timeout=ASK_S), "positions cannot be read")
        finally:
            consumer.close()
        return {partition.partition: partition.offset for partition in found if partition.offset >= 0}

    def _offsets(self, name: str, which: OffsetSpec) -> dict[int, int]:
        at = {TopicPartition(name, number): which for number in range(self.partitions(name))}

        def ask() -> dict[int, int]:
            found = self.admin.list_offsets(at, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ASK_S)
            return {partition.partition: int(future.result(ASK_S).offset) for partition, future in found.items()}

        return self.asked(ask, f"the offsets of topic {name!r} cannot be read") if at else {}

    def asked(self, question: Callable[[], T], what: str) -> T:
        """The answer; raises KafkaFailed where the cluster refuses, Stopped when the run is to end."""
        while True:
            try:
                answer = question()
            except KafkaException as error:
                self.admin.poll(0)
                if not _waits(error.args[0]):
                    raise refused(error.args[0], what) from None
                self.connection.gone(error.args[0].str())
            except TimeoutError:
                self.connection.gone("no answer in time")
            else:
                self.connection.answered()
                return answer
            self.admin.poll(0.2)
            self.connection.check()
            if self.stopped():
                raise Stopped


def _waits(error: KafkaError) -> bool:
    return error.retriable() or error.code() in LOST | MOVING


class Stopped(Exception):
    """The run was asked to end while it waited."""
