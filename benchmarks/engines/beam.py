"""Beam: the product's transform and an idiomatic pipeline, both on the local runner over the log in files, and the product's
job on Beam's Flink runner in streaming."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import apache_beam as beam
import orjson
from apache_beam.io import ReadFromText
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows, GlobalWindows, TimestampedValue

from benchmarks.engines.log import CITY, Log
from benchmarks.engines.topics import ROLLUP, ROLLUPS, Watch, end_of, facts
from pipelines import canonical
from pipelines.engines.beam_job import Job, run
from pipelines.engines.beam_local import FN_API_RUNNER, WriteRecords, group
from pipelines.engines.grouped_apart import Log as OneLog
from pipelines.engines.grouped_apart import files_of
from pipelines.streams import LINK

LONGEST_S: Final = 240.0
OWN: Final = {"rollup": ROLLUP.name, "frame": ROLLUP.frame_hash}
Answer = dict[str, Any]
Sums = tuple[int, int, int, int]


def engine(folder: str) -> Answer:
    """The product on the local runner."""
    part = canonical.part_of(canonical.topic(CITY, LINK.name), 0)
    log = OneLog(LINK, ROLLUPS, part, Log(Path(folder)).files(0))
    return _timed(lambda out: group([log], out))


def by_element(folder: str) -> Answer:
    """The same records as one would write it: an element an event."""
    pattern = str(Path(folder) / "0" / "*.ndjson.gz")

    def whole(out: Path) -> None:
        with beam.Pipeline(FN_API_RUNNER, PipelineOptions(["--direct_num_workers=1"])) as pipeline:
            events = pipeline | ReadFromText(pattern) | beam.Map(orjson.loads) | beam.Filter(lambda e: "t" in e)
            rows = (
                events
                | "on time" >> beam.Filter(lambda e: not e["late"])
                | beam.Map(
                    lambda e: TimestampedValue((e["link"], (e["n"], e["n"] * e["tt_ms"], e["t"])), e["t"] / 1000)
                )
                | beam.WindowInto(FixedWindows(ROLLUP.pane_ms / 1000))
                | beam.CombinePerKey(Summed())
                | beam.ParDo(WithPane())
                | "rows everywhere" >> beam.WindowInto(GlobalWindows())
            )
            manifests = rows | beam.Map(lambda r: (r["pane_start"], r["n"])) | beam.CombinePerKey(sum)
            late = events | "late" >> beam.Filter(lambda e: e["late"]) | beam.Map(late_row)
            _ = (
                (rows, late, manifests | beam.Map(lambda m: {**OWN, "manifest": True, "pane_start": m[0], "n": m[1]}))
                | beam.Flatten()
                | beam.Map(orjson.dumps)
                | beam.ParDo(WriteRecords(str(out)))
            )

    return _timed(whole)


class Summed(beam.CombineFn):  # type: ignore[misc]
    """Vehicles, their travel time, events, and the last event's time."""

    def create_accumulator(self) -> Sums:
        return 0, 0, 0, 0

    def add_input(self, sums: Sums, one: tuple[int, int, int]) -> Sums:
        return sums[0] + one[0], sums[1] + one[1], sums[2] + 1, max(sums[3], one[2])

    def merge_accumulators(self, several: Iterable[Sums]) -> Sums:
        veh, tt, n, last = zip(*several, strict=True)
        return sum(veh), sum(tt), sum(n), max(last)

    def extract_output(self, sums: Sums) -> Sums:
        return sums


class WithPane(beam.DoFn):  # type: ignore[misc]
    def process(self, keyed: tuple[str, Sums], window: Any = beam.DoFn.WindowParam) -> Iterator[dict[str, Any]]:
        link, (veh, tt, n, last) = keyed
        yield {
            **OWN, "place": link, "pane_start": window.start.micros // 1000, "veh": veh, "veh_tt": tt, "n": n,
            "as_of": last, "late": False, "part": "", "off": -1,
        }  # fmt: skip


def late_row(e: dict[str, Any]) -> dict[str, Any]:
    return {
        **OWN, "place": e["link"], "pane_start": e["t"] // ROLLUP.pane_ms * ROLLUP.pane_ms, "veh": e["n"],
        "veh_tt": e["n"] * e["tt_ms"], "n": 1, "as_of": e["t"], "late": True, "part": e["part"], "off": e["off"],
    }  # fmt: skip


def _timed(made: Any) -> Answer:
    with tempfile.TemporaryDirectory(prefix="citybrain-bench-") as folder:
        began = time.perf_counter()
        made(Path(folder))
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "facts": facts([p.read_bytes() for p in files_of(Path(folder))])}


def streaming(address: str, city: str, events: int, parallelism: int = 1) -> Answer:
    """The job from a topic that is full, until every on-time event is in a manifest (`events` of them). `seconds`: from the
    first pane's manifest to the last one's, which leaves out the start of Java and of the job."""
    rows = canonical.rows_topic(city)
    watch = Watch(address, rows, end_of(address, rows), lambda w: w.told >= events)
    began = time.perf_counter()

    def guard() -> None:
        watch.start()
        watch.join(LONGEST_S)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=guard, daemon=True).start()
    try:
        run(Job(city, ROLLUPS, {"bootstrap.servers": address}, runner="flink", parallelism=parallelism))
    except SystemExit:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if watch.told < events:
        raise RuntimeError(f"{watch.told} of {events} on-time events were told in {LONGEST_S:.0f} s")
    (first, n), (last, _) = watch.manifests[0], watch.manifests[-1]
    return {
        "seconds": last - first, "rate": (watch.told - n) / (last - first), "first_s": first - began,
        "facts": facts(watch.records),
    }  # fmt: skip
