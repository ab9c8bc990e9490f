"""A job over log files that needs no other system: the embedded engine's grouping, from the bytes to the bytes."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl

from pipelines.canonical import decoded_file
from pipelines.engines.grouped_apart import Log, Runner
from pipelines.engines.polars_engine import Grouped
from pipelines.engines.row_records import manifest_records, row_records
from pipelines.rollup import Rollup

Change = Callable[[Rollup, pl.DataFrame, list[tuple[int, int]]], tuple[pl.DataFrame, list[tuple[int, int]]]]
"""What a broken job does to the rows (places are names) and manifests of a rollup."""


def as_made(
    rollup: Rollup, rows: pl.DataFrame, told: list[tuple[int, int]]
) -> tuple[pl.DataFrame, list[tuple[int, int]]]:
    return rows, told


def plain(change: Change = as_made, events_a_file: int | None = None) -> Runner:
    """Rows in no order, a file a log and rollup, manifests among them; `change` is applied before they are written."""

    def group(logs: Sequence[Log], folder: Path) -> None:
        for log in logs:
            (folder / log.stream.name).mkdir()
            for rollup in log.rollups:
                rows, told = change(rollup, *grouped(log, rollup))
                records = row_records(rollup, rows.sample(fraction=1, shuffle=True, seed=1))
                records += manifest_records(rollup, reversed(told))
                (folder / log.stream.name / rollup.name).write_bytes(b"\n".join(records))

    return Runner("plain", group, events_a_file)


def grouped(log: Log, rollup: Rollup) -> tuple[pl.DataFrame, list[tuple[int, int]]]:
    one = Grouped(rollup)
    for frame in frames(log):
        events = frame.filter(pl.col("t").is_not_null()).rename({log.stream.place: "place"})
        if len(events):
            one.add(events, log.part)
        for wm in frame.filter(pl.col("t").is_null())["wm"]:
            one.tick(wm)
    one.no_rows = one.no_rows.with_columns(pl.col("place").cast(pl.String))
    made = one.take(None)
    return made.rows, [*made.manifests.iter_rows()]


def frames(log: Log) -> Iterator[pl.DataFrame]:
    for path in log.files:
        with gzip.open(path, "rb") as file:
            yield decoded_file(file.read(), log.stream)
