"""`citybrain run`: an engine over the canonical logs of a city, from Kafka to Kafka."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from commands.engines import refuse_missing
from commands.inputs import city_of
from commands.job_metrics import exposed
from dashboards.flink_metrics import PLUGIN
from pipelines import canonical, catalogue
from pipelines.announcement import new_id
from pipelines.engines.grouped_apart import JobFailed
from pipelines.engines.job_logs import JobLogs
from pipelines.kafka_client import Cluster, Connection, Stopped, say
from pipelines.kafka_options import KafkaFailed, KafkaOptions, cluster_options
from pipelines.rollup import Rollup
from sinks.kafka_log import ensured

LOOK_S: Final = 0.5
LOGS_S: Final = 5.0
"""How often it looks whether the logs are still the same."""


def run(
    city_name: str, kafka: str, engine: str, parallelism: int, stop: threading.Event, metrics: str | None = None
) -> None:
    """Until `stop` is set, or the job fails. `metrics`: where to serve them."""
    refuse_missing(engine)
    city = city_of(city_name)
    options = cluster_options(kafka, canonical.rows_topic(city.id))
    cluster = Cluster(Connection(options), stop.is_set)
    try:
        ensured(cluster, options.topic, 1)
        ensured(cluster, canonical.control_topic(city.id), 1)
        known = catalogue.rollups(catalogue.for_city(city))
        there = logged(cluster, city.id, dict.fromkeys(r.stream.name for r in known), stop)
        rollups = [rollup for rollup in known if rollup.stream.name in there]
        say(f"{engine} groups {', '.join(r.name for r in rollups)} of {city.en}  (Ctrl-C ends it)")
        _run(engine, rollups, JobLogs(cluster, city.id, there), parallelism, stop, metrics)
    except Stopped:
        return


def _run(
    engine: str, rollups: Sequence[Rollup], logs: JobLogs, parallelism: int, stop: threading.Event, metrics: str | None
) -> None:
    city, job = logs.city, new_id(engine)
    with exposed(metrics, engine, logs) as shown:
        match engine:
            case "polars":
                from pipelines.engines import polars_job

                ensured(logs.cluster, canonical.open_topic(city), 1, canonical.OPEN_TOPIC)
                starts = logs.starts(polars_job.group_of(city))
                logs.announce(job, engine, rollups, starts)
                written = polars_job.run(city, rollups, logs, starts, job, shown.counts)
                say(f"ended, {written:,} rows and manifests written")
            case "flink":
                logs.announce(job, engine, rollups, logs.starts())
                _flink(job, rollups, parallelism, logs, stop, shown.flink_settings)
            case "beam":
                logs.announce(job, engine, rollups, logs.starts())
                _beam(job, rollups, parallelism, logs, stop)


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
    job_id: str,
    rollups: Sequence[Rollup],
    parallelism: int,
    logs: JobLogs,
    stop: threading.Event,
    settings: Mapping[str, str],
) -> None:
    from py4j.protocol import Py4JError
    from pyflink.util.exceptions import JavaException

    from pipelines.engines.flink_home import plugin
    from pipelines.engines.flink_job import Job, submitted
    from pipelines.engines.flink_kafka import java_client

    options, plugins = logs.cluster.connection.options, plugin(PLUGIN) if settings else ()
    failed = list[Exception]()
    try:
        job = submitted(Job(logs.city, rollups, java_client(options), False, parallelism, settings, plugins, job_id))
    except (Py4JError, JavaException) as error:
        raise _failed(options, error) from None

    def wait() -> None:
        try:
            job.wait()
        except Exception as error:
            failed.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    another = _watched(logs, stop)
    while waiting.is_alive() and not another and not stop.wait(LOOK_S):
        pass
    if waiting.is_alive():
        job.get_job_client().cancel().result()
    if another:
        raise another[0]
    if not stop.is_set():
        raise _failed(options, *failed)


def _failed(options: KafkaOptions, error: Exception | None = None) -> JobFailed:
    """With Flink's last cause, which may repeat what the job was given."""
    text = options.hidden("" if error is None else str(error))
    causes = [line.strip() for line in text.splitlines() if "Caused by" in line]
    return JobFailed(f"the Flink job ended: {causes[-1] if causes else text[:500]}")


def _watched(logs: JobLogs, stop: threading.Event, end: bool = False) -> list[KafkaFailed]:
    """Has a thread look at the logs, for an engine that goes on from the beginning of a log that was made again and says
    nothing; the list gets what it finds. `end`: it ends this process's main thread too."""
    found = list[KafkaFailed]()

    def look() -> None:
        while not stop.wait(LOGS_S):
            try:
                logs.check()
            except Stopped:
                return
            except KafkaFailed as error:
                found.append(error)
                if end:
                    os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=look, name="logs", daemon=True).start()
    return found


def _beam(job_id: str, rollups: Sequence[Rollup], parallelism: int, logs: JobLogs, stop: threading.Event) -> None:
    """On Beam's Flink runner in Java of its own, which an exception ends."""
    from pipelines.engines.beam_job import Job
    from pipelines.engines.beam_job import run as group

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    client, another = logs.cluster.connection.options.client(), _watched(logs, stop, end=True)
    try:
        group(Job(logs.city, rollups, client, runner="flink", parallelism=parallelism, id=job_id))
    except SystemExit:
        if another:
            raise another[0] from None
        raise
