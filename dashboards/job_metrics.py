"""`/metrics` of `citybrain ingest` and `citybrain run`: the same names whatever engine runs, and those of the brain where
they mean the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dashboards.metrics import CHECKPOINT_BUCKETS, Documented, Histogram
from dashboards.run_metrics import Sample
from pipelines.job_counts import JobCounts

JOB_METRICS: Final[tuple[Documented, ...]] = (
    Documented("citybrain_lag_records", "gauge", ("partition",), "Offsets of a partition that are not read yet."),
    Documented("citybrain_records_in_total", "counter", ("stream",), "Records read, ticks among them."),
    Documented(
        "citybrain_records_out_total", "counter", (), "Records written for good: of the log, or of the rows topic."
    ),
    Documented("citybrain_events_received_total", "counter", ("stream",), "Ingest: events received, and bad records."),
    Documented("citybrain_events_accepted_total", "counter", ("stream",), "Ingest: events accepted."),
    Documented("citybrain_events_duplicate_total", "counter", ("stream",), "Ingest: events whose key had been seen."),
    Documented("citybrain_events_rejected_total", "counter", ("stream",), "Ingest: records refused: dead letters."),
    Documented("citybrain_events_quarantined_total", "counter", ("stream",), "Ingest: events too far in the future."),
    Documented("citybrain_events_on_time_total", "counter", ("stream",), "Ingest: accepted events that were on time."),
    Documented("citybrain_events_late_total", "counter", ("stream",), "Events behind the watermark."),
    Documented("citybrain_watermark_delay_seconds", "gauge", ("stream",), "Wall clock minus the watermark."),
    Documented("citybrain_durable_age_seconds", "gauge", (), "How long ago what was done last became durable."),
    Documented("citybrain_checkpoint_duration_seconds", "histogram", (), "How long that took."),
    Documented("citybrain_checkpoint_last_duration_seconds", "gauge", (), "How long it took the last time."),
)
_BY_NAME: Final = {m.name: m for m in JOB_METRICS}
Samples = Mapping[str, list[Sample]]


class JobMetrics(Collector):
    """What `counts` has, and `more` where it is known elsewhere; asked on a scrape."""

    def __init__(
        self,
        counts: JobCounts,
        lags: Callable[[], Mapping[str, int]] = dict,
        counters: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
        more: Callable[[], Samples] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`counters`: those of rule 11, by stream. `more`: samples by metric, instead of those of `counts`."""
        self.counts, self._lags, self._counters, self._more, self._clock = counts, lags, counters, more, clock
        self._took = Histogram(CHECKPOINT_BUCKETS)
        counts.took = self._took.observe
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are known without asking."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric of `JOB_METRICS` that this process has a number for."""
        found = {**self._own(), **self._more()}
        for documented in JOB_METRICS:
            if samples := found.get(documented.name):
                of = CounterMetricFamily if documented.kind == "counter" else GaugeMetricFamily
                family = of(documented.name, documented.help, labels=documented.labels)
                for values, number in samples:
                    family.add_metric(values, number)
                yield family
        if self._took.count:
            yield self._took.family(_BY_NAME["citybrain_checkpoint_duration_seconds"])

    def _own(self) -> dict[str, list[Sample]]:
        counts = self.counts
        found: dict[str, list[Sample]] = {
            "citybrain_lag_records": [((part,), float(lag)) for part, lag in self._lags().items()],
            "citybrain_records_in_total": _by_stream(counts.records_in),
            "citybrain_events_late_total": _by_stream(counts.late),
            "citybrain_watermark_delay_seconds": [
                ((stream,), self._clock() - wm / 1000) for stream, wm in sorted({**counts.watermarks}.items())
            ],
        }
        if self._took.count:
            found["citybrain_records_out_total"] = [((), float(counts.records_out))]
            found["citybrain_checkpoint_last_duration_seconds"] = [((), self._took.last)]
            found["citybrain_durable_age_seconds"] = [((), time.monotonic() - counts.durable_at)]
        for stream, counters in self._counters().items():
            for name, number in counters.items():
                found.setdefault(f"citybrain_events_{name}_total", []).append(((stream,), float(number)))
        return found


def _by_stream(counter: Mapping[str, int]) -> list[Sample]:
    return [((stream,), float(number)) for stream, number in sorted({**counter}.items())]


class Serving:
    """`GET /metrics` on an address of its own. OSError where that is taken."""

    def __init__(self, metrics: JobMetrics, host: str, port: int) -> None:
        self._server, self._thread = start_http_server(port, host, metrics.registry)
        self.url = f"http://{host if ':' not in host else f'[{host}]'}:{self._server.server_port}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
