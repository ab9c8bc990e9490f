"""The announcement of a Flink job by the program that submits it: with the Kafka client of the connector's jar, which takes
the very options that the job has and is there wherever Flink's client runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from pipelines.announcement import Start, announcements, new_id
from pipelines.canonical import control_topic, part_of, topic
from pipelines.engines.flink_job import Job

CLIENT: Final = "org.apache.flink.kafka.shaded.org.apache.kafka"
TEXTS: Final = {
    f"{side}.{kind}": f"{CLIENT}.common.serialization.String{kind.capitalize()}"
    for side in ("key", "value")
    for kind in ("serializer", "deserializer")
}
RECOVERY: Final = "execution.state-recovery.path"
WAIT_MS: Final = "15000"


def announced(job: Job) -> str:
    """Tells `control.<city>` of a job that is to start, and returns the id that its rows are to carry. Errors are those of the
    Java client, with its words."""
    job_id, starts = new_id("flink"), _starts(job, _from_savepoint())
    producer = _made("clients.producer.KafkaProducer", _properties(job.kafka))
    try:
        for one in announcements(job_id, "flink", job.rollups, starts, time.time_ns() // 1_000_000):
            key, value = (text.decode() for text in one.record())
            record = _made("clients.producer.ProducerRecord", control_topic(job.city), key, value)
            producer.send(record).get()
    finally:
        producer.close()
    return job_id


def _starts(job: Job, savepoint: bool) -> dict[str, Start]:
    """The oldest record of every partition, which is where the job's source begins, or what its savepoint has."""
    streams = dict.fromkeys(rollup.stream.name for rollup in job.rollups)
    topics = {topic(job.city, stream): stream for stream in streams}
    admin = _static("clients.admin.AdminClient", "create", _properties(job.kafka))
    consumer = _made("clients.consumer.KafkaConsumer", _properties(job.kafka))
    try:
        described, found = admin.describeTopics(_list(topics)).allTopicNames().get(), {}
        for name, stream in topics.items():
            about = described.get(name)
            parts = [_made("common.TopicPartition", name, number) for number in range(about.partitions().size())]
            first = consumer.beginningOffsets(_list(parts))
            offsets = {part_of(name, part.partition()): int(first.get(part)) for part in parts}
            found[stream] = Start(str(about.topicId().toString()), None if savepoint else offsets, {})
        return found
    finally:
        consumer.close()
        admin.close()


def _from_savepoint() -> bool:
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.util.java_utils import get_j_env_configuration

    environment = StreamExecutionEnvironment.get_execution_environment()
    return bool(get_j_env_configuration(environment._j_stream_execution_environment).toMap().get(RECOVERY))


def _jvm() -> Any:
    from pyflink.java_gateway import get_gateway

    return get_gateway().jvm


def _properties(client: Mapping[str, str]) -> Any:
    found = _jvm().java.util.Properties()
    waits = dict.fromkeys(("max.block.ms", "default.api.timeout.ms", "request.timeout.ms"), WAIT_MS)
    for name, value in {**waits, **client, **TEXTS}.items():
        found.setProperty(name, value)
    return found


def _list(values: Any) -> Any:
    found = _jvm().java.util.ArrayList()
    for value in values:
        found.add(value)
    return found


def _loaded(name: str) -> Any:
    from pyflink.util.java_utils import load_java_class

    return load_java_class(f"{CLIENT}.{name}")


def _array(kind: Any, values: Any) -> Any:
    from pyflink.util.java_utils import to_jarray

    return to_jarray(kind, values)


def _made(name: str, *arguments: Any) -> Any:
    """An instance of a class of the client, by the constructor that takes these."""
    from py4j.protocol import Py4JJavaError

    wrong: Py4JJavaError | None = None
    for constructor in _loaded(name).getConstructors():
        if constructor.getParameterCount() == len(arguments):
            try:
                return constructor.newInstance(_array(_jvm().Object, arguments))
            except Py4JJavaError as error:
                if error.java_exception.getClass().getSimpleName() != "IllegalArgumentException":
                    raise
                wrong = error
    raise wrong or TypeError(f"{name} has no constructor with {len(arguments)} arguments")


def _static(name: str, method: str, argument: Any) -> Any:
    found = _loaded(name).getMethod(method, _array(_jvm().Class, [argument.getClass()]))
    return found.invoke(None, _array(_jvm().Object, [argument]))
