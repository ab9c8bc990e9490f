"""Rules 13 to 16 on Beam's local runner: its rows and manifests are those of the embedded engine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import canonical
from pipelines.engines import beam_transform
from pipelines.engines.beam_transform import Block, GroupRows
from tests.engines.logs import Log, by_polars, compared, from_topic, logs, rollups

CITY = "beam"


def blocks(log: Log, rnd: random.Random) -> Iterator[Block]:
    """The partitions, cut anywhere."""
    topic = canonical.topic(CITY, log.stream.name)
    for n, records in enumerate(log.partitions):
        at = 0
        while at < len(records):
            size = rnd.choice([1, 100, 1000])
            part = records[at : at + size]
            yield Block(canonical.part_of(topic, n), tuple(range(at, at + len(part))), part)
            at += size


def grouped(made: list[Log], out: Path) -> list[bytes]:
    """What a pipeline over these logs writes."""
    rnd = random.Random(5)
    options = PipelineOptions(["--direct_num_workers=1"])
    with beam.Pipeline("apache_beam.runners.portability.fn_api_runner.FnApiRunner", options) as pipeline:
        records = [
            pipeline
            | f"log of {log.stream.name}" >> beam.Create(list(blocks(log, rnd)))
            | f"group {log.stream.name}" >> GroupRows([r for r in rollups() if r.stream == log.stream])
            for log in made
        ]
        _ = records | beam.Flatten() | beam.io.WriteToText(str(out), coder=beam.coders.BytesCoder())
    return [line for path in out.parent.glob(f"{out.name}*") for line in path.read_bytes().splitlines()]


def test_rows_equal_the_embedded_engine(tmp_path: Path) -> None:
    made = logs(1, 5000)
    records = grouped(made, tmp_path / "rows")
    found, total = from_topic(records), [0, 0, 0]
    assert len(records) == sum(len(x.rows) + len(x.manifests) for x in found.values()), "each once"
    for log in made:
        one = compared(by_polars(log, CITY), found, log.closing, orderly=False)
        total = [a + b for a, b in zip(total, one, strict=True)]
    print(f"\n{len(rollups())} rollups: {total[0]:,} rows ({total[1]:,} late), {total[2]:,} manifests equal")
    assert total[0] > 10_000 and total[1] > 500 and total[2] > 500


def test_negative_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Late events that are dropped, and panes that are told twice."""
    made = [log for log in logs(2, 600) if log.stream.name == "link"]
    real = beam_transform.row_records
    with monkeypatch.context() as patch:
        patch.setattr(
            beam_transform, "row_records", lambda rollup, rows, job: real(rollup, rows.filter(~rows["late"]), job)
        )
        found = from_topic(grouped(made, tmp_path / "dropped"))
    with pytest.raises(AssertionError, match="missing"):
        compared(by_polars(made[0], CITY), found, made[0].closing, orderly=False)
