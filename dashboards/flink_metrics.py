"""Flink's own metrics under the names of `dashboards/job_metrics.py`: as recording rules for a Prometheus server that scrapes
a cluster, and computed here for a job in this process.

`docs/deploy/flink.rules.yml` is `rules()`. Flink's reporter writes `_` for what no name of Prometheus has, so that the
source of stream `link` is the operator `Source:_KafkaSource_default_catalog_default_database_events_link`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from prometheus_client.parser import text_string_to_metric_families

from dashboards.run_metrics import Sample

REPORTER: Final[Mapping[str, str]] = {
    "metrics.reporters": "prometheus",
    "metrics.reporter.prometheus.factory.class": "org.apache.flink.metrics.prometheus.PrometheusReporterFactory",
}
"""What Flink has to be told, beside `metrics.reporter.prometheus.port`."""
PLUGIN: Final = "metrics-prometheus"
SOURCE: Final = "Source:_KafkaSource_.*_events_([a-z0-9]+)"
WITHIN: Final = "Source:_KafkaSource_.*?_events_([a-z0-9]+)___.*"
"""A task that begins with a source."""
ROW_WRITER: Final = "rows_.*_[0-9]+_:_Writer"
WRITER: Final = "(rows_.*|manifests)_[0-9]+_:_Writer"
TASK: Final = "flink_taskmanager_job_task_operator_"
POSITION: Final = f"{TASK}KafkaSourceReader_topic_partition_currentOffset"
JOB: Final = "flink_jobmanager_job_"
Fold = Literal["sum", "min", "max"]


@dataclass(frozen=True, slots=True)
class Mapped:
    """One of ours from one of Flink's: over the series whose labels match `where`, first folded within an operator, then
    over all. `label`: ours, with what the group of the regular expression of `by` finds. `unit`: of Flink's number, a time
    is told as how long ago it is."""

    name: str
    flink: str
    where: Mapping[str, str]
    label: str | None
    by: str | None
    within: Fold
    over: Fold
    unit: Literal["number", "ms", "time_ms"] = "number"


MAPPED: Final = (
    Mapped(
        "citybrain_lag_records", f"{TASK}pendingRecords", {"operator_name": SOURCE}, "partition", "operator_name",
        "sum", "sum",
    ),
    Mapped(
        "citybrain_records_in_total", f"{TASK}numRecordsOut", {"operator_name": SOURCE}, "stream", "operator_name",
        "sum", "sum",
    ),
    Mapped("citybrain_records_out_total", f"{TASK}numRecordsSend", {"operator_name": WRITER}, None, None, "sum", "sum"),
    # Late rows are written where they are read; those of panes after a shuffle. Each rollup has all late events of its stream.
    Mapped(
        "citybrain_events_late_total", f"{TASK}numRecordsSend", {"operator_name": ROW_WRITER, "task_name": WITHIN},
        "stream", "task_name", "sum", "max",
    ),
    Mapped(
        "citybrain_watermark_delay_seconds", f"{TASK}currentOutputWatermark", {"operator_name": SOURCE}, "stream",
        "operator_name", "min", "min", "time_ms",
    ),
    Mapped(
        "citybrain_durable_age_seconds", f"{JOB}lastCheckpointCompletedTimestamp", {}, None, None, "max", "max",
        "time_ms",
    ),
    Mapped(
        "citybrain_checkpoint_last_duration_seconds", f"{JOB}lastCheckpointDuration", {}, None, None, "max", "max", "ms"
    ),
)  # fmt: skip
FOLDS: Final[Mapping[Fold, Any]] = {"sum": sum, "min": min, "max": max}


def rules() -> str:
    """The recording rules, one a metric of ours."""
    lines = [
        "# Flink's own metrics under citybrain's names, by job. Generated from dashboards/flink_metrics.py; do not edit.",
        "# `partition` is the stream here: Flink tells the lag of a source, not of its partitions.",
        "groups:",
        "  - name: citybrain-flink",
        "    rules:",
    ]
    for each in MAPPED:
        lines += [f"      - record: {each.name}", f"        expr: '{expression(each)}'"]
    return "\n".join(lines) + "\n"


def expression(each: Mapped) -> str:
    """In PromQL."""
    where = ",".join(f'{label}=~"{pattern}"' for label, pattern in each.where.items())
    found = f"{each.flink}{{{where}}}" if where else each.flink
    if each.unit != "number":
        found = f"{found} >= 0"  # below it there is none yet
    labels = ["job_name"]
    if each.label is not None:
        pattern = each.where[str(each.by)]
        found = f'label_replace({found}, "{each.label}", "$1", "{each.by}", "{pattern}")'
        labels.append(each.label)
    kept, inner = ", ".join(labels), ", ".join([*labels, "operator_name"])
    folded = f"{each.over} by ({kept}) ({each.within} by ({inner}) ({found}))"
    match each.unit:
        case "number":
            return folded
        case "ms":
            return f"{folded} / 1000"
        case "time_ms":
            return f"time() - {folded} / 1000"


def translated(text: str, now_s: float) -> dict[str, list[Sample]]:
    """The same of what a reporter answers; by metric of ours, what there is of it."""
    series: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series.setdefault(sample.name, []).append((sample.labels, float(sample.value)))
    return {each.name: found for each in MAPPED if (found := _folded(each, series.get(each.flink, ()), now_s))}


def positions(text: str) -> dict[tuple[str, int], int]:
    """By stream and partition the offset after the last record that was read."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples if family.name == POSITION else ():
            source = re.fullmatch(SOURCE, sample.labels.get("operator_name", ""))
            if source is not None and sample.value >= 0:
                found[source[1], int(sample.labels["partition"])] = int(sample.value) + 1
    return found


def _folded(each: Mapped, series: Iterable[tuple[Mapping[str, str], float]], now_s: float) -> list[Sample]:
    within: dict[tuple[tuple[str, ...], str], list[float]] = {}
    for labels, number in series:
        matches = {label: re.fullmatch(pattern, labels.get(label, "")) for label, pattern in each.where.items()}
        if not all(matches.values()) or (each.unit != "number" and number < 0):
            continue
        by = matches.get(str(each.by))
        own: tuple[str, ...] = () if by is None else (by[1],)
        within.setdefault((own, labels.get("operator_name", "")), []).append(number)
    over: dict[tuple[str, ...], list[float]] = {}
    for (own, _), numbers in within.items():
        over.setdefault(own, []).append(FOLDS[each.within](numbers))
    found = {own: FOLDS[each.over](numbers) for own, numbers in over.items()}
    match each.unit:
        case "number":
            return sorted(found.items())
        case "ms":
            return sorted((own, number / 1000) for own, number in found.items())
        case "time_ms":
            return sorted((own, now_s - number / 1000) for own, number in found.items())
