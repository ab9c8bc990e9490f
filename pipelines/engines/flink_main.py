"""The program that a Flink client runs to submit the job of a city; `citybrain submit` and the Flink operator name it.

flink run -d --jarfile CONNECTOR.jar -pym pipelines.engines.flink_main -pyfs citybrain.whl --pack CITY --kafka HOST:PORT
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from pipelines import catalogue
from pipelines.engines.flink_announce import announced
from pipelines.engines.flink_job import Job, submitted
from pipelines.engines.flink_kafka import java_client
from pipelines.kafka_options import cluster_options
from pipelines.pack import read_city

RUNNING: Final = {
    "execution.checkpointing.interval": "30 s",
    "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
    "restart-strategy.type": "exponential-delay",
    "restart-strategy.exponential-delay.initial-backoff": "1 s",
    "restart-strategy.exponential-delay.max-backoff": "30 s",
}
"""What a job on a cluster has beside `flink_job.SETTINGS`; the cluster says where checkpoints go."""


def name_of(city: str) -> str:
    """The job's name, by which a cluster shows it."""
    return f"citybrain {city}"


def job_of(
    pack: Path,
    kafka: Mapping[str, str],
    parallelism: int = 1,
    settings: Mapping[str, str] | None = None,
) -> Job:
    """The job of all rollups that a city's indicators need. PackError or CatalogueError says what is wrong with a pack."""
    city = read_city(pack, catalogue.IDS, catalogue.STREAMS)
    given = {**RUNNING, "pipeline.name": name_of(city.id), **(settings or {})}
    return Job(city.id, catalogue.rollups(catalogue.for_city(city)), kafka, False, parallelism, given)


def client_options(bootstrap: str, file: Path | None) -> dict[str, str]:
    """The Kafka client's options: the servers, and those of a file: TOML as all of citybrain reads it (`kafka_options`), or lines
    `name=value` of the Java client's own (security.protocol, sasl.jaas.config ...)."""
    if file is not None and file.suffix == ".toml":
        return java_client(cluster_options(f"kafka://{bootstrap}?{urlencode({'config': file})}", "rows"))
    options = {"bootstrap.servers": bootstrap}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file else (), 1):
        name, equal, value = line.partition("=")
        if line.strip() and not line.lstrip().startswith("#"):
            if not equal:
                raise ValueError(f"{file}, line {number} is no option of a Kafka client; write name=value")
            options[name.strip()] = value.strip()
    return options


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="pipelines.engines.flink_main", description="Submits the job of a city.")
    parser.add_argument("--pack", type=Path, required=True, help="folder of the city pack")
    parser.add_argument("--kafka", required=True, help="HOST:PORT,... of the brokers")
    parser.add_argument("--kafka-config", type=Path, help="TOML, or name=value lines for the Java client")
    parser.add_argument("--parallelism", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of Flink's")
    return parser.parse_args(arguments)


def main() -> None:
    given = read()
    settings = dict(entry.split("=", 1) for entry in given.set)
    kafka = client_options(given.kafka, given.kafka_config)
    job = job_of(given.pack, kafka, given.parallelism, settings)
    submitted(replace(job, id=announced(job)), local=False)


if __name__ == "__main__":
    main()
