"""`citybrain run`: an engine over the canonical logs of a city, from Kafka to Kafka."""

from __future__ import annotations

import sys
import threading
from typing import Final

from commands.inputs import UserError, city_of
from pipelines import catalogue
from pipelines.canonical import rows_topic
from pipelines.kafka_client import Cluster, Connection
from pipelines.kafka_options import cluster_options
from sinks.kafka_log import ensured

ENGINES: Final = ("polars", "flink")


def run(city_name: str, kafka: str, engine: str, parallelism: int, stop: threading.Event) -> None:
    """Until `stop` is set, or the job fails."""
    if engine not in ENGINES:
        raise UserError(f"--engine {engine!r} is unknown; there are {', '.join(ENGINES)}")
    city = city_of(city_name)
    options = cluster_options(kafka, rows_topic(city.id))
    rollups = catalogue.rollups(catalogue.for_city(city))
    ensured(Cluster(Connection(options), stop.is_set), options.topic, 1)
    print(
        f"citybrain: {engine} groups {len(rollups)} rollups of {city.en}  (Ctrl-C ends it)", file=sys.stderr, flush=True
    )
    if engine == "polars":
        from pipelines.engines.polars_job import run as group

        written = group(city.id, rollups, options, stop)
        print(f"citybrain: ended, {written:,} rows and manifests written", file=sys.stderr, flush=True)
        return
    if options.security != "plaintext":
        raise UserError("--engine flink connects without security here; use `citybrain submit --kafka-config FILE`")
    from pipelines.engines.flink_job import Job, submitted

    job = submitted(Job(city.id, rollups, {"bootstrap.servers": options.servers}, parallelism=parallelism))
    while not stop.wait(0.5):
        status = job.get_job_client().get_job_status().result().name
        if status in ("FAILED", "CANCELED", "FINISHED"):
            raise RuntimeError(f"the Flink job ended: {status}")
    job.get_job_client().cancel().result()
