"""The embedded engine over the log in files, and what all engines have to find in it."""

from __future__ import annotations

import gzip
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import polars as pl

from benchmarks.engines.log import CITY, Log, written
from benchmarks.engines.topics import ROLLUPS, facts
from pipelines import canonical
from pipelines.engines.java import java_home, version_of
from pipelines.engines.polars_engine import PolarsEngine
from pipelines.engines.polars_job import StreamJob
from pipelines.engines.row_records import manifest_records, row_records
from pipelines.job_counts import JobCounts
from pipelines.model import PlaceRegistry
from pipelines.streams import LINK

CUT: Final = 100_000
Answer = dict[str, Any]


def versions() -> Answer:
    """Of what the engines' environment has."""
    home = java_home()
    names = ("apache-flink", "apache-beam", "confluent-kafka", "polars")
    return {"seconds": 0.0, "versions": [*(f"{name} {version(name)}" for name in names), f"Java {version_of(home)}"]}


def log(paths: list[str], pack: str, folder: str) -> Answer:
    """Makes the log of these files, once."""
    return {"seconds": 0.0, "partitions": len(written(paths, pack, folder).topics)}


def polars(folder: str, check: bool = False) -> Answer:
    """The plain engine: from the files of a log of one partition to a file of rows."""
    files = Log(Path(folder)).files(0)
    part = canonical.part_of(canonical.topic(CITY, LINK.name), 0)
    with tempfile.TemporaryDirectory(prefix="citybrain-bench-") as out:
        began = time.perf_counter()
        records = list(_grouped(files, part))
        (Path(out) / "rows.ndjson").write_bytes(b"\n".join(records))
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "facts": facts(records) if check else None}


def _grouped(files: Iterable[Path], part: str) -> Iterator[bytes]:
    registry, engine = PlaceRegistry(), PolarsEngine(ROLLUPS, [part])
    for path in files:
        with gzip.open(path, "rb") as file:
            frame = canonical.decoded_file(file.read(), LINK)
        engine.add(canonical.stamped(frame, LINK, part, registry))
    names = pl.Series(registry.ids, dtype=pl.String)
    for rollup, taken in zip(ROLLUPS, engine.take(), strict=True):
        yield from row_records(rollup, taken.rows.with_columns(names.gather(taken.rows["place"]).alias("place")))
        yield from manifest_records(rollup, taken.manifests.iter_rows())


def expected(folder: str, city: str) -> Answer:
    """What every engine has to make of the topic that `filled` writes from this log."""
    log, job = Log(Path(folder)), StreamJob(city, LINK, ROLLUPS, "")
    for number, path in enumerate(log.topics):
        job.join(number)
        records = path.read_bytes().splitlines()
        for start in range(0, len(records), CUT):
            some = records[start : start + CUT]
            job.take_in(number, some, range(start, start + len(some)), JobCounts())
    return {"seconds": 0.0, "facts": facts(job.records())}
