"""`/metrics`: the list of names that operators may rely on, and the collector that fills them from the board.

`docs/metrics.md` is `render()`; what is asked of the run itself is in `dashboards/run_metrics.py`. A label takes at most
`LABEL_VALUES` different values per metric; what is beyond is left out and counted in `citybrain_labels_dropped_total`, so
that many places cannot flood a Prometheus server.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal, cast

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from dashboards.alerts import LEVELS, STATES
from dashboards.board import Board
from dashboards.pulse import BOUND_S
from dashboards.run_metrics import Sample, Watched, gathered
from pipelines.model import NEVER

LABEL_VALUES: Final = 200


@dataclass(frozen=True, slots=True)
class Documented:
    """A metric as operators see it: a counter's name ends in `_total`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


METRICS: Final[tuple[Documented, ...]] = (
    # What ingest did with every record (rule 11): received = accepted + duplicate + rejected + quarantined.
    Documented("citybrain_events_received_total", "counter", ("stream",), "Events received, and bad records."),
    Documented("citybrain_events_accepted_total", "counter", ("stream",), "Events accepted: on time and late ones."),
    Documented("citybrain_events_duplicate_total", "counter", ("stream",), "Events whose key had been seen."),
    Documented("citybrain_events_rejected_total", "counter", ("stream",), "Records refused: dead letters."),
    Documented("citybrain_events_quarantined_total", "counter", ("stream",), "Events too far in the future."),
    Documented("citybrain_events_on_time_total", "counter", ("stream",), "Accepted events that were on time."),
    Documented("citybrain_events_late_total", "counter", ("stream",), "Accepted events behind the watermark."),
    # How healthy a stream is; ages by the run's clock, which is the simulator's when that runs.
    Documented("citybrain_late_ratio", "gauge", ("stream",), "Late events / accepted events since the start."),
    Documented("citybrain_watermark_delay_seconds", "gauge", ("stream",), "Run's clock minus the watermark."),
    Documented("citybrain_freshness_seconds", "gauge", ("stream",), "Run's clock minus the newest event time."),
    # Indicators of the city and its districts: newest final readings. No value, no sample: no data is not zero.
    Documented(
        "citybrain_indicator_value", "gauge", ("indicator", "place_kind", "place"), "Newest final value, in its unit."
    ),
    Documented(
        "citybrain_indicator_has_value",
        "gauge",
        ("indicator", "place_kind", "place"),
        "1 when the newest final reading has a value, 0 when it has none.",
    ),
    Documented(
        "citybrain_indicator_completeness",
        "gauge",
        ("indicator", "place_kind", "place"),
        "Share of the expected input that the newest final reading has, 0 to 1.",
    ),
    # Alerts.
    Documented("citybrain_alerts_open", "gauge", ("level",), "Open episodes; I is the most severe level."),
    Documented("citybrain_alert_transitions_total", "counter", ("to_state",), "Transitions, by the state they led to."),
    # The run.
    Documented("citybrain_ready", "gauge", (), "1 when /readyz says yes, else 0."),
    Documented("citybrain_step_duration_seconds", "histogram", (), "Wall time of one step of the run."),
    Documented("citybrain_store_rows_total", "counter", ("table",), "Rows written to the store."),
    # What makes a step durable (rules 33 to 36), and the dead man's switch (rule 39). Ages by the wall clock.
    Documented("citybrain_stalled", "gauge", (), "1 while the run makes no progress: no step becomes durable."),
    Documented("citybrain_durable_step", "gauge", (), "The step last made durable; counted over restarts."),
    Documented("citybrain_durable_age_seconds", "gauge", (), "How long ago that was; grows when nothing is durable."),
    Documented("citybrain_checkpoint_duration_seconds", "histogram", (), "Plan and record of one step, with fsync."),
    Documented("citybrain_checkpoint_last_duration_seconds", "gauge", (), "The same of the last step."),
    Documented("citybrain_checkpoint_bytes", "gauge", (), "Size of the running checkpoint."),
    Documented(
        "citybrain_late_unapplied_total", "counter", (), "Late events whose windows lost their rows: in no reading."
    ),
    Documented(
        "citybrain_store_queue_length", "gauge", (), "Batches and actions that wait for the thread that writes."
    ),
    Documented("citybrain_store_trouble", "gauge", (), "1 while the store does not take what it is sent."),
    Documented(
        "citybrain_store_trouble_since_timestamp_seconds", "gauge", (), "Since when; no sample when all is well."
    ),
    Documented("citybrain_store_resends_total", "counter", (), "Writes that were sent again."),
    Documented("citybrain_store_disk_free_bytes", "gauge", (), "Free bytes of the disk of an embedded store."),
    # What is pushed: one spool an input.
    Documented("citybrain_spool_bytes", "gauge", ("input",), "Bytes that a spool holds."),
    Documented("citybrain_spool_full", "gauge", ("input",), "1 when a spool is full and pushes are answered with 429."),
    Documented("citybrain_push_refused_total", "counter", ("input",), "Pushes answered with 429: full, or too many."),
    # Ingest and engine jobs elsewhere (`citybrain brain`).
    Documented("citybrain_lag_records", "gauge", ("partition",), "Offsets of a partition that are not read yet."),
    Documented(
        "citybrain_grouped_on_time_total", "counter", ("rollup",), "Events in the panes that jobs elsewhere completed."
    ),
    Documented("citybrain_grouped_late_total", "counter", ("rollup",), "Late events that such jobs sent."),
    Documented("citybrain_set_aside_total", "counter", ("stream",), "Records of others that cannot be used."),
    Documented(
        "citybrain_job_findings_total",
        "counter",
        ("stream", "kind"),
        "What was found of jobs: gap, definition or unannounced; the log says what.",
    ),
    # Pages and other clients of /api/v1/stream.
    Documented("citybrain_sse_clients", "gauge", (), "Connected clients."),
    Documented("citybrain_sse_events_total", "counter", ("event",), "Events sent; a reset: a slow client."),
    Documented("citybrain_sse_ring_bytes", "gauge", (), "What the kept events occupy."),
    # All connections, those of pushes too.
    Documented("citybrain_http_connections_refused_total", "counter", (), "Connections refused: too many were open."),
    # The bound on labels.
    Documented("citybrain_labels_dropped_total", "counter", ("metric",), "Samples left out: too many values."),
)
NAMES: Final = tuple(m.name for m in METRICS)
_BY_NAME: Final = {m.name: m for m in METRICS}
STEP_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CHECKPOINT_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Histogram:
    """Counts by upper bound; one thread observes, another one reads."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._lock = bounds, threading.Lock()
        self._counts, self._seconds = [0] * (len(bounds) + 1), 0.0
        self.last = 0.0

    def observe(self, seconds: float) -> None:
        with self._lock:
            self._counts[bisect_left(self._bounds, seconds)] += 1
            self._seconds += seconds
            self.last = seconds

    @property
    def count(self) -> int:
        with self._lock:
            return sum(self._counts)

    def family(self, documented: Documented) -> HistogramMetricFamily:
        with self._lock:
            counts, seconds = list(accumulate(self._counts)), self._seconds
        bounds = [*(str(b) for b in self._bounds), "+Inf"]
        buckets = list(zip(bounds, counts, strict=True))
        return HistogramMetricFamily(documented.name, documented.help, buckets=buckets, sum_value=seconds)


class Metrics:
    """The registry of one run. Its threads call `step`, `stored` and `checkpoint`; the rest is read on a scrape, from the
    board and from `watched` where that is set."""

    def __init__(self, board: Board, label_values: int = LABEL_VALUES) -> None:
        self.registry = CollectorRegistry()
        self._board = board
        self._bound = label_values
        self._lock = threading.Lock()
        self._scraping = threading.Lock()
        self._seen: dict[tuple[str, str], set[str]] = {}
        self._dropped: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._steps, self._checkpoints = Histogram(STEP_BUCKETS), Histogram(CHECKPOINT_BUCKETS)
        self._refused = 0
        self.watched: Watched | None = None
        self.registry.register(_FromBoard(self))

    def step(self, seconds: float) -> None:
        """One step of the run took that long."""
        self._steps.observe(seconds)

    def checkpoint(self, seconds: float) -> None:
        """Plan and record of one step took that long."""
        self._checkpoints.observe(seconds)

    def stored(self, table: str, rows: int) -> None:
        """That many rows were written to a table."""
        with self._lock:
            self._rows[table] += rows

    def connection_refused(self) -> None:
        """A connection was closed because too many were open. Called by the thread of the server alone."""
        self._refused += 1

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) in the format that the `Accept` header asks for."""
        encoder, content_type = choose_encoder(accept)
        with self._scraping:
            return encoder(self.registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Every metric of `METRICS`, in that order."""
        for name, samples in self._gathered():
            documented = _BY_NAME[name]
            family: Metric
            if documented.kind == "counter":
                family = CounterMetricFamily(name, documented.help, labels=documented.labels)
            else:
                family = GaugeMetricFamily(name, documented.help, labels=documented.labels)
            for values, number in samples:
                if self._within(name, documented.labels, values):
                    family.add_metric(values, number)
            yield family
        yield self._steps.family(_BY_NAME["citybrain_step_duration_seconds"])
        yield self._checkpoints.family(_BY_NAME["citybrain_checkpoint_duration_seconds"])
        # Last, because the metrics above may have dropped samples just now.
        dropped = _BY_NAME["citybrain_labels_dropped_total"]
        family = CounterMetricFamily(dropped.name, dropped.help, labels=dropped.labels)
        for metric, number in sorted(self._dropped.items()):
            family.add_metric((metric,), number)
        yield family

    def _within(self, name: str, labels: tuple[str, ...], values: tuple[str, ...]) -> bool:
        """Whether a sample's label values are among the first ones of their metric; counted when not."""
        sets = [self._seen.setdefault((name, label), set()) for label in labels]
        if any(value not in seen and len(seen) >= self._bound for seen, value in zip(sets, values, strict=True)):
            self._dropped[name] += 1
            return False
        for seen, value in zip(sets, values, strict=True):
            seen.add(value)
        return True

    def _gathered(self) -> Iterator[tuple[str, Iterable[Sample]]]:
        board, now = self._board, self._board.clock()
        streams = sorted(board.streams().items())
        for counter in ("received", "accepted", "duplicate", "rejected", "quarantined", "on_time", "late"):
            yield (
                f"citybrain_events_{counter}_total",
                [((name,), float(cast(Mapping[str, int], h).get(counter, 0))) for name, h in streams],
            )
        yield (
            "citybrain_late_ratio",
            [((name,), h.get("late", 0) / h["accepted"]) for name, h in streams if h.get("accepted")],
        )
        for metric, field in (
            ("citybrain_watermark_delay_seconds", "watermark"),
            ("citybrain_freshness_seconds", "last_event_at"),
        ):
            times = [((name,), h.get(field)) for name, h in streams]
            yield metric, [(v, (now - t) / 1000) for v, t in times if isinstance(t, int) and t > NEVER]
        tiles = [((t["indicator"], t["place_kind"], t["place"]), t) for t in board.tiles() if not t["provisional"]]
        yield "citybrain_indicator_value", [(k, t["value"]) for k, t in tiles if t["value"] is not None]
        yield "citybrain_indicator_has_value", [(k, float(t["value"] is not None)) for k, t in tiles]
        yield (
            "citybrain_indicator_completeness",
            [(k, t["completeness"]) for k, t in tiles if t["completeness"] is not None],
        )
        levels = [entry["level"] for entry in board.alerts(only_open=True)]
        yield "citybrain_alerts_open", [((level,), float(levels.count(level))) for level in LEVELS]
        counted = board.transitions_counted()
        yield (
            "citybrain_alert_transitions_total",
            [((state,), float(counted.get(state, 0))) for state in dict.fromkeys((*STATES, *sorted(counted)))],
        )
        yield "citybrain_ready", [((), float(not board.not_ready()))]
        yield "citybrain_sse_clients", [((), float(board.ring.clients))]
        sent = dict(board.ring.sent)
        kinds = ("snapshot", "delta", "alert", "hb", "reset")
        yield "citybrain_sse_events_total", [((kind,), float(sent.get(kind, 0))) for kind in kinds]
        yield "citybrain_sse_ring_bytes", [((), float(board.ring.size_bytes))]
        yield "citybrain_http_connections_refused_total", [((), float(self._refused))]
        with self._lock:
            written = sorted(self._rows.items())
        yield "citybrain_store_rows_total", [((table,), float(count)) for table, count in written]
        last: list[Sample] = [((), self._checkpoints.last)] if self._checkpoints.count else []
        yield "citybrain_checkpoint_last_duration_seconds", last
        yield from gathered(self.watched)


class _FromBoard(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are known without reading the board."""
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._metrics.collect()


def table(metrics: Iterable[Documented]) -> list[str]:
    """Lines of a page."""
    rows = [f"| `{m.name}` | {m.kind} | {', '.join(m.labels) or '-'} | {m.help} |" for m in metrics]
    return ["| name | kind | labels | what it says |", "|---|---|---|---|", *rows]


def render(jobs: Iterable[Documented] = ()) -> str:
    """`docs/metrics.md`; `jobs`: what ingest and engine jobs have."""
    lines = [
        "# Metrics",
        "",
        "`GET /metrics` in the Prometheus or OpenMetrics text format. Generated from `dashboards/metrics.py`.",
        f"A label takes at most {LABEL_VALUES} different values per metric; samples beyond are left out and counted in",
        "`citybrain_labels_dropped_total`. Places below the districts are never labels. Ages are by the run's clock.",
        "",
        *table(METRICS),
        "",
        "## Ingest and engine jobs",
        "",
        "`citybrain ingest` and `citybrain run` serve theirs at `--metrics HOST:PORT`, under the same names for every engine",
        "and from the start of the process on, but for ingest's own counters, which survive restarts. What applies is there:",
        "",
        *table(jobs),
        "",
        "- Lag is told for each partition, of a source or of a log, while the cluster answers. Of Flink on a cluster it is that",
        "  of a stream; `run --engine flink` tells that of each partition.",
        "- Records refused are known to ingest, and by its counters to the brain; an engine refuses none.",
        "- `run --engine flink` keeps no checkpoints, so has no age of one; a job on a cluster has. That of Beam is the time",
        "  since rows were last acknowledged, that of Polars since positions were committed.",
        "- Whatever the engine, the brain tells from manifests and rows what was grouped: `citybrain_grouped_*`.",
        "",
        "A Flink cluster shows its own metrics to Prometheus ([deploying](deploy.md#metrics)). The recording rules in",
        "[deploy/flink.rules.yml](deploy/flink.rules.yml) give them the names above, by job. On other runners Beam's counters",
        "`records_in`, `records_late` and `records_out` of the namespace `citybrain` are shown by the runner.",
        "",
        "## When the brain itself stops",
        "",
        f"No step durable for {BOUND_S:g} s of wall time, or a loop that stands still for as long, trips the dead man's switch:",
        "`/readyz` answers 503 with the reason, the page shows a banner, heartbeats of the event stream carry `ready: false`",
        "and `stalled`, `citybrain_stalled` is 1. It clears when a step becomes durable. The thread that serves computes all",
        "of that, so a store or a loop that hangs cannot keep it quiet.",
        "",
        "`dashboards/prometheus/citybrain.rules.yml` has alert rules for a Prometheus server: a Watchdog that always fires,",
        "no progress, store away, disk nearly full, spool full. `promtool test rules citybrain.test.yml` beside it tests them.",
    ]
    return "\n".join(lines) + "\n"
