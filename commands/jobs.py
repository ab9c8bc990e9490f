"""`citybrain run`: an engine over the canonical logs of a city, from Kafka to Kafka."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Final

from commands.engines import refuse_missing
from commands.inputs import city_of
from pipelines import canonical, catalogue
from pipelines.engines.grouped_apart import JobFailed
from pipelines.kafka_client import Cluster, Connection, Stopped, say
from pipelines.kafka_options import KafkaOptions, cluster_options
from pipelines.rollup import Rollup
from sinks.kafka_log import ensured

LOOK_S: Final = 0.5


def run(city_name: str, kafka: str, engine: str, parallelism: int, stop: threading.Event) -> None:
    """Until `stop` is set, or the job fails."""
    refuse_missing(engine)
    city = city_of(city_name)
    options = cluster_options(kafka, canonical.rows_topic(city.id))
    cluster = Cluster(Connection(options), stop.is_set)
    try:
        ensured(cluster, options.topic, 1)
        known = catalogue.rollups(catalogue.for_city(city))
        there = logged(cluster, city.id, dict.fromkeys(r.stream.name for r in known), stop)
    except Stopped:
        return
    rollups = [rollup for rollup in known if rollup.stream.name in there]
    say(f"{engine} groups {', '.join(r.name for r in rollups)} of {city.en}  (Ctrl-C ends it)")
    match engine:
        case "polars":
            from pipelines.engines.polars_job import run as group

            say(f"ended, {group(city.id, rollups, options, stop):,} rows and manifests written")
        case "flink":
            _flink(city.id, rollups, options, parallelism, stop)
        case "beam":
            _beam(city.id, rollups, options, parallelism)


def logged(cluster: Cluster, city: str, streams: Iterable[str], stop: threading.Event) -> list[str]:
    """Those of the streams that have a log; waits for the first. Stopped when `stop` is set meanwhile."""
    topics, waited = {name: canonical.topic(city, name) for name in streams}, False
    while not (found := [name for name, topic in topics.items() if cluster.partitions(topic)]):
        if not waited:
            say(f"no topic {canonical.topic(city, 'STREAM')} yet; waiting for `citybrain ingest`")
        waited = True
        if stop.wait(1):
            raise Stopped
    return found


def _flink(
    city: str, rollups: Sequence[Rollup], options: KafkaOptions, parallelism: int, stop: threading.Event
) -> None:
    from py4j.protocol import Py4JError
    from pyflink.util.exceptions import JavaException

    from pipelines.engines.flink_job import Job, submitted
    from pipelines.engines.flink_kafka import java_client

    failed = list[Exception]()
    try:
        job = submitted(Job(city, rollups, java_client(options), parallelism=parallelism))
    except (Py4JError, JavaException) as error:
        raise _failed(options, error) from None

    def wait() -> None:
        try:
            job.wait()
        except Exception as error:
            failed.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    while waiting.is_alive() and not stop.wait(LOOK_S):
        pass
    if not stop.is_set():
        raise _failed(options, *failed)
    job.get_job_client().cancel().result()


def _failed(options: KafkaOptions, error: Exception | None = None) -> JobFailed:
    """With Flink's last cause, which may repeat what the job was given."""
    text = options.hidden("" if error is None else str(error))
    causes = [line.strip() for line in text.splitlines() if "Caused by" in line]
    return JobFailed(f"the Flink job ended: {causes[-1] if causes else text[:500]}")


def _beam(city: str, rollups: Sequence[Rollup], options: KafkaOptions, parallelism: int) -> None:
    """On Beam's Flink runner in Java of its own, which an exception ends."""
    from pipelines.engines.beam_job import Job
    from pipelines.engines.beam_job import run as group

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    group(Job(city, rollups, options.client(), runner="flink", parallelism=parallelism))
