"""What `/metrics` asks of the run itself: durability, the writer, the store, the spools. Asked on a scrape, by its thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from dashboards.pulse import Pulse
from sinks.retry import Retry

Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Remote:
    """A stream that engine jobs elsewhere group: what the brain made of what they sent."""

    stream: str
    grouped: Mapping[str, tuple[int, int]]
    """By rollup the events of complete panes, and the late ones."""
    set_aside: int
    findings: Mapping[str, int]
    """By kind."""


@dataclass(slots=True)
class Watched:
    """Where a run's numbers are. None of these may block: a scrape must be answered while the store hangs."""

    pulse: Pulse
    retry: Retry
    checkpoint_bytes: Callable[[], int]
    late_unapplied: Callable[[], int]
    waiting: Callable[[], int]
    free_bytes: Callable[[], int] | None = None
    """OSError where that cannot be told."""
    spools: Callable[[], Iterable[tuple[str, int, bool]]] = tuple
    """(input, bytes held, whether it is full)."""
    refused: Callable[[], Mapping[str, int]] = dict
    """Pushes answered with 429, by input."""
    lags: Callable[[], Mapping[str, int]] = dict
    """Of each partition that is read, how many offsets are not."""
    remote: Callable[[], Iterable[Remote]] = tuple


def gathered(run: Watched | None) -> Iterator[tuple[str, list[Sample]]]:
    """Samples by metric; of a run that is not watched, none."""
    trouble = None if run is None else run.retry.trouble
    spools = [] if run is None else sorted(run.spools())
    refused = {} if run is None else {name: 0 for name, _, _ in spools} | dict(run.refused())

    remote = [] if run is None else sorted(run.remote(), key=lambda x: x.stream)

    def of(number: Callable[[Watched], float | None]) -> list[Sample]:
        value = None if run is None else number(run)
        return [] if value is None else [((), float(value))]

    yield "citybrain_stalled", of(lambda x: x.pulse.stalled() is not None)
    yield "citybrain_durable_step", of(lambda x: x.pulse.step)
    yield "citybrain_durable_age_seconds", of(lambda x: x.pulse.durable_age_s)
    yield "citybrain_checkpoint_bytes", of(lambda x: x.checkpoint_bytes())
    yield "citybrain_late_unapplied_total", of(lambda x: x.late_unapplied())
    yield "citybrain_store_queue_length", of(lambda x: x.waiting())
    yield "citybrain_store_trouble", of(lambda _: trouble is not None)
    since = None if trouble is None else trouble.since_ms / 1000
    yield "citybrain_store_trouble_since_timestamp_seconds", of(lambda _: since)
    yield "citybrain_store_resends_total", of(lambda x: x.retry.again_total)
    yield "citybrain_store_disk_free_bytes", of(_free_bytes)
    yield "citybrain_spool_bytes", [((name,), float(held)) for name, held, _ in spools]
    yield "citybrain_spool_full", [((name,), float(full)) for name, _, full in spools]
    yield "citybrain_lag_records", [] if run is None else [((x,), float(n)) for x, n in sorted(run.lags().items())]
    grouped = [(rollup, events, late) for x in remote for rollup, (events, late) in x.grouped.items()]
    yield "citybrain_grouped_on_time_total", [((rollup,), float(events)) for rollup, events, _ in grouped]
    yield "citybrain_grouped_late_total", [((rollup,), float(late)) for rollup, _, late in grouped]
    yield "citybrain_set_aside_total", [((x.stream,), float(x.set_aside)) for x in remote]
    found: list[Sample] = [((x.stream, kind), float(n)) for x in remote for kind, n in x.findings.items()]
    yield "citybrain_job_findings_total", found
    yield "citybrain_push_refused_total", [((name,), float(n)) for name, n in sorted(refused.items())]


def _free_bytes(run: Watched) -> float | None:
    try:
        return None if run.free_bytes is None else run.free_bytes()
    except OSError:
        return None
