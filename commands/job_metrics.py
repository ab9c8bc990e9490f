"""`--metrics HOST:PORT` of `citybrain ingest` and `citybrain run`."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Final

from commands.ingest_session import Session
from commands.inputs import UserError
from commands.submit import address_of
from connectors.kafka import KafkaSource
from dashboards import flink_metrics
from dashboards.job_metrics import JobMetrics, Samples, Serving
from pipelines import canonical
from pipelines.engines.job_logs import JobLogs
from pipelines.job_counts import Ends, JobCounts
from pipelines.kafka_client import Cluster, Connection, say
from pipelines.kafka_options import KafkaOptions

ASK_S: Final = 5.0
ENDLESS: Final = 2**62


@dataclass(frozen=True, slots=True)
class Shown:
    """What a job fills, and what Flink has to be told so that it shows its own numbers."""

    counts: JobCounts
    flink_settings: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def exposed(address: str | None, engine: str, logs: JobLogs) -> Iterator[Shown]:
    """Serves the metrics of a job over these logs; nothing where there is no address."""
    counts = JobCounts()
    if engine == "beam":  # its readers and writers are threads of this process
        from pipelines.engines.beam_kafka import COUNTS as counts
    if address is None:
        yield Shown(counts)
        return
    apart = JobLogs(_quiet(logs.cluster.connection.options), logs.city, logs.topics.values())
    with closing(Ends(apart.ends)) as ends:
        settings = dict[str, str]()
        if engine == "flink":
            port = _free_port()
            settings = {**flink_metrics.REPORTER, "metrics.reporter.prometheus.port": str(port)}
            metrics = JobMetrics(counts, more=lambda: _of_flink(port, logs, ends))
        else:
            metrics = JobMetrics(counts, lambda: ends.lags({**counts.positions}))
        with closing(_served(metrics, address)):
            yield Shown(counts, settings)


def _of_flink(port: int, logs: JobLogs, ends: Ends) -> Samples:
    """What its reporter tells; nothing before it is there. It names the partitions of a source without their lag, and the lag
    of the source: where that is none, none of them has one."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=ASK_S) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    found, positions = flink_metrics.translated(text, time.time()), flink_metrics.positions(text)
    behind = {stream for (stream,), lag in found.get("citybrain_lag_records", ()) if lag}
    read = {
        canonical.part_of(topic, number): (offset if stream in behind else ENDLESS)
        for topic, stream in logs.topics.items()
        for (of, number), offset in positions.items()
        if of == stream
    }
    return {**found, "citybrain_lag_records": [((part,), float(lag)) for part, lag in ends.lags(read).items()]}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def exposed_ingest(address: str | None, counts: JobCounts, session: Callable[[], Session | None]) -> Iterator[None]:
    """The same of an ingest, whose running session `session` tells."""
    if address is None:
        yield
        return
    clusters: dict[KafkaOptions, Cluster] = {}

    def sources() -> list[KafkaSource]:
        now = session()
        return [] if now is None else [source for source in now.sources if isinstance(source, KafkaSource)]

    def ends() -> dict[str, int]:
        found = dict[str, int]()
        for options in {source.options for source in sources()}:
            cluster = clusters.setdefault(options, _quiet(options))
            found |= {f"{options.topic}/{number}": end for number, end in cluster.ends(options.topic).items()}
        return found

    def counters() -> dict[str, dict[str, int]]:
        now = session()
        writer = None if now is None else now.writer
        if writer is None:
            return {}
        counts.watermarks = {writer.stream.stream.name: writer.ingest.watermark}
        return {writer.stream.stream.name: dict(writer.ingest.counters)}

    with closing(Ends(ends)) as known:
        metrics = JobMetrics(
            counts, lambda: known.lags({f"{s.options.topic}/{s.partition}": s.position for s in sources()}), counters
        )
        with closing(_served(metrics, address)):
            yield


def _nothing() -> Samples:
    return {}


def _quiet(options: KafkaOptions) -> Cluster:
    """One that gives up at once and says nothing: the process itself waits, and says so."""
    return Cluster(Connection(options, lambda _: None), lambda: True)


def _served(metrics: JobMetrics, address: str) -> Serving:
    host, _, port = address_of(address, "--metrics").rpartition(":")
    try:
        serving = Serving(metrics, host.strip("[]"), int(port))
    except (OSError, OverflowError) as error:
        raise UserError(f"--metrics {address}: cannot listen there ({error}); name another HOST:PORT") from None
    say(f"metrics at {serving.url}")
    return serving
