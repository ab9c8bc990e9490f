"""The canonical log on Kafka: batches of records, each in one transaction; and what was committed before.

A batch is in the log whole or not at all, with the state that goes with it. A second process with the same transactional
id fences the first (rule 7: a partition has one writer).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import ConfigResource, NewPartitions, NewTopic, OffsetSpec

from pipelines.failpoints import reached
from pipelines.kafka_client import FORBIDDEN, Cluster, Connection, Stopped, Topic, refused
from pipelines.kafka_options import KafkaFailed
from pipelines.log_writer import Records

TRANSACTION_S: Final = 60
"""The cluster ends a transaction that stays open for longer: its process is gone."""
WAIT_S: Final = 5.0
FENCED: Final = frozenset(
    {
        KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_ID_MAPPING, KafkaError.INVALID_TXN_STATE,
    }
)  # fmt: skip
LASTING: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, *FORBIDDEN})
"""What the cluster would say of the same batch again."""
COMPACTED: Final = {
    "cleanup.policy": "compact", "segment.bytes": str(32 << 20), "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.2",
}  # fmt: skip
"""Of a topic that keeps the newest record of each key: soon, for it is read whole at every start."""


class Fenced(RuntimeError):
    """The cluster takes nothing more from this producer: another one has its id, or its transaction was open too long."""


class KafkaLog:
    """Writes transactions under one id. `stopped` is asked while it waits for the cluster."""

    def __init__(
        self, connection: Connection, transactional_id: str, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self.connection, self._stopped, self._id = connection, stopped, transactional_id
        self._producer: Producer | None = None

    def open(self) -> None:
        """Fences whoever has the id; what that one left open is aborted when this returns."""
        self._producer = Producer(
            {
                **self.connection.settings(),
                "transactional.id": self._id,
                "transaction.timeout.ms": TRANSACTION_S * 1000,
                "queue.buffering.max.messages": 2_000_000,
                "queue.buffering.max.kbytes": 1 << 20,
                "linger.ms": 5,
                "compression.type": "lz4",
                "reconnect.backoff.max.ms": 2_000,
            }
        )
        try:
            self._done(lambda: self._made().init_transactions(WAIT_S))
        except KafkaException as error:
            if error.args[0].code() in FENCED:
                raise Fenced(error.args[0].str()) from None
            raise refused(error.args[0], f"producer {self._id!r} cannot begin") from None

    def commit(self, runs: Sequence[Records]) -> None:
        """Returns when all of it is committed. Raises Fenced where it is not known whether it was; Stopped when the run is
        to end before the cluster answers."""
        while not self._committed(runs):
            self.connection.gone("a transaction had to be begun again")

    def _committed(self, runs: Sequence[Records]) -> bool:
        """Whether the cluster took the batch; False where it is to be written again, of which nothing is in the log."""
        producer, what = self._made(), f"a batch of {self.connection.options.shown} cannot be written"
        try:
            producer.begin_transaction()
            reached("batch_begun")
            for run in runs:
                self._produce(producer, run)
            reached("batch_written")
            self._done(lambda: producer.commit_transaction(WAIT_S))
            reached("batch_committed")
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.code() in LASTING:
                raise refused(reason, what) from None
            if not reason.txn_requires_abort():
                raise Fenced(reason.str()) from None
            self._abort(producer)
            return False
        return True

    def _abort(self, producer: Producer) -> None:
        try:
            self._done(lambda: producer.abort_transaction(WAIT_S))
        except KafkaException as error:
            raise Fenced(error.args[0].str()) from None

    def _produce(self, producer: Producer, run: Records) -> None:
        messages: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in run.records]
        queued = producer.produce_batch(run.topic, messages, partition=run.partition)
        if queued != len(messages):
            first = next(m["_error"] for m in messages if "_error" in m)
            raise KafkaFailed(
                f"{run.topic}, partition {run.partition}: {len(messages) - queued} records are refused: {first}"
            )

    def _done(self, action: Callable[[], Any]) -> None:
        """Until the cluster has answered; errors that waiting does not mend are raised as they are."""
        while True:
            try:
                action()
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                self._made().poll(0)
                self.connection.check()
                if reason.fatal() or reason.txn_requires_abort() or not reason.retriable():
                    raise
                self.connection.gone(reason.str())
            else:
                self.connection.answered()
                return
            if self._stopped():
                raise Stopped

    def _made(self) -> Producer:
        if self._producer is None:
            raise RuntimeError("the log is not open")
        return self._producer

    def close(self) -> None:
        """What was not committed is aborted by whoever opens the id next."""
        if self._producer is not None:
            self._producer.purge()
            self._producer = None


def ensured(cluster: Cluster, name: str, partitions: int, config: Mapping[str, str] | None = None) -> Topic:
    """The topic, with at least so many partitions; made, or given more, where it has not. KafkaFailed, with what to make, where
    the cluster does not let us."""
    host = cluster.connection.options.servers
    topic = cluster.topic(name)
    if topic is not None and topic.partitions >= partitions:
        return topic
    settings = "".join(f" --config {k}={v}" for k, v in (config or {}).items())
    make = f"make it yourself (kafka-topics.sh --create --topic {name} --partitions {partitions}{settings})"

    def create() -> None:
        new = NewTopic(name, partitions, -1, config=dict(config or {}))
        try:
            cluster.admin.create_topics([new], request_timeout=10)[name].result(15)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    def add() -> None:
        try:
            cluster.admin.create_partitions([NewPartitions(name, partitions)], request_timeout=10)[name].result(15)
        except KafkaException as error:  # another ingest was there first: how many there are is looked at below
            if error.args[0].code() != KafkaError.INVALID_PARTITIONS:
                raise

    if topic is None:
        cluster.asked(create, f"topic {name!r} of {host} is missing and cannot be made; {make}")
    else:
        cluster.asked(
            add, f"topic {name!r} of {host} has {topic.partitions} partitions, needs {partitions}, and cannot get them"
        )
    ends = time.monotonic() + 30
    while (topic := cluster.topic(name)) is None or topic.partitions < partitions:
        if time.monotonic() > ends:
            raise KafkaFailed(f"topic {name!r} of {host} was made and does not appear; look at the cluster")
        time.sleep(0.1)
    return topic


def compacted(cluster: Cluster, name: str) -> bool:
    """Whether a topic keeps the newest record of every key."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)

    def ask() -> bool:
        settings = cluster.admin.describe_configs([resource], request_timeout=10)[resource].result(15)
        return str(settings["cleanup.policy"].value) == "compact"

    return cluster.asked(ask, f"the settings of topic {name!r} cannot be read")


def kept(cluster: Cluster, topic: str, partition: int) -> dict[bytes, bytes]:
    """The newest committed value of every key in one partition, up to what it holds now.

    Transactions of others that are open now are waited for: behind them may be records of ours.
    """
    at = TopicPartition(topic, partition)

    def end() -> int:
        # Of all records, also of those in open transactions.
        found = cluster.admin.list_offsets({at: OffsetSpec.latest()}, request_timeout=10)[at].result(15)
        return int(found.offset)

    last = cluster.asked(end, f"topic {topic!r} cannot be read")
    connection = cluster.connection
    consumer = Consumer(
        {
            **connection.settings(), "group.id": "citybrain-state", "enable.auto.commit": False,
            "isolation.level": "read_committed", "auto.offset.reset": "earliest", "fetch.queue.backoff.ms": 10,
            "enable.partition.eof": True,
        }
    )  # fmt: skip
    found: dict[bytes, bytes] = {}
    try:
        consumer.assign([TopicPartition(topic, partition, 0)])
        told, position = time.monotonic() + WAIT_S, 0
        while position < last:
            for message in consumer.consume(10_000, 0.2):
                error = message.error()
                if error is None or error.code() == KafkaError._PARTITION_EOF:
                    # The end of the partition: markers of transactions are no messages.
                    position = message.offset() + (error is None)
                if error is None:
                    connection.answered()
                    if message.value() is None:
                        found.pop(message.key(), None)
                    else:
                        found[message.key()] = message.value()
                elif error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                    raise refused(error, f"topic {topic!r} cannot be read")
            connection.check()
            if cluster.stopped():
                raise Stopped
            if time.monotonic() > told:
                told = float("inf")
                connection.gone(f"waiting for the end of a transaction in {topic!r}")
    finally:
        consumer.close()
    return found
