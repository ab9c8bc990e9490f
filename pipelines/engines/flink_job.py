"""A Flink job that groups the canonical logs of a city: `flink_sql` in one STATEMENT SET, from Kafka to the rows topic."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipelines.canonical import topic
from pipelines.engines import flink_sql
from pipelines.engines.jars import jars
from pipelines.engines.java import java_home
from pipelines.rollup import Rollup
from pipelines.streams import Stream

SETTINGS: Final = {
    "table.local-time-zone": "UTC",
    "pipeline.object-reuse": "true",
    # Local mode's defaults are too small for a source and three sinks a rollup.
    "taskmanager.memory.network.min": "192m",
    "taskmanager.memory.network.max": "192m",
    "taskmanager.memory.managed.size": "512m",
}


@dataclass(frozen=True, slots=True)
class Job:
    """What a job reads and writes. `kafka` are client options (`bootstrap.servers`, security); `bounded` ends it where
    the logs end now, which only ticks after the last event make complete; `settings` are Flink's own."""

    city: str
    rollups: Sequence[Rollup]
    kafka: Mapping[str, str]
    bounded: bool = False
    parallelism: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    plugins: Sequence[Path] = ()
    """Jars of Flink's own that a job in this process needs beside the connector."""
    id: str = ""
    """What it announced itself as, which its rows carry."""

    @property
    def rows_topic(self) -> str:
        return f"rows.{self.city}"

    def statements(self) -> tuple[list[str], list[str]]:
        """What is executed first, one by one, and the inserts."""
        client = {f"properties.{name}": value for name, value in self.kafka.items()}
        sink = {"connector": "kafka", "topic": self.rows_topic, **client, "format": "json"}

        def source(stream: Stream) -> flink_sql.Options:
            return {
                "connector": "kafka", "topic": topic(self.city, stream.name), **client,
                "properties.isolation.level": "read_committed", "scan.startup.mode": "earliest-offset",
                **({"scan.bounded.mode": "latest-offset"} if self.bounded else {}), "format": "json",
            }  # fmt: skip

        return flink_sql.statements(self.rollups, source, lambda _: sink, flink_sql.OF_KAFKA, self.id)

    def text(self) -> str:
        """The statements as Flink's SQL client takes them."""
        first, into = self.statements()
        together = ";\n\n".join(into)
        return ";\n\n".join([*first, f"EXECUTE STATEMENT SET\nBEGIN\n\n{together};\n\nEND"]) + ";\n"


def submitted(job: Job, local: bool = True) -> Any:
    """Starts a job; returns PyFlink's TableResult, whose `wait` ends with a bounded job. `local`: in this process's own
    Java, with the connector's jar; on a cluster `flink run --jarfile` gives it."""
    settings = {**SETTINGS, "parallelism.default": str(job.parallelism), **job.settings}
    if local:
        settings["pipeline.jars"] = ";".join(path.as_uri() for path in [*jars("flink"), *job.plugins])
    return executed(*job.statements(), settings)


def executed(first: Sequence[str], into: Sequence[str], settings: Mapping[str, str]) -> Any:
    """Starts the inserts as one STATEMENT SET under Flink's own settings; returns PyFlink's TableResult."""
    os.environ.setdefault("JAVA_HOME", str(java_home()))
    from pyflink.common import Configuration
    from pyflink.table import EnvironmentSettings, TableEnvironment

    configuration = Configuration()
    for name, value in settings.items():
        configuration.set_string(name, value)
    environment = EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(configuration).build()
    tables = TableEnvironment.create(environment)
    for statement in first:
        tables.execute_sql(statement)
    together = tables.create_statement_set()
    for statement in into:
        together.add_insert_sql(statement)
    return together.execute()
