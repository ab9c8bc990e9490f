"""Plain Beam on its local runner, an element an event: `python beam.py FOLDER OUT DISORDER_MS`; see benchmarks/README.md.

A bounded source has no watermark in between, so the disorder is none of its business.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path = [entry for entry in sys.path if not entry.endswith("/peers")]

import apache_beam as beam  # noqa: E402
import orjson  # noqa: E402
from apache_beam.io import ReadFromText  # noqa: E402
from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402
from apache_beam.transforms.window import FixedWindows, TimestampedValue  # noqa: E402

RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
Sums = tuple[int, int, int]


class Summed(beam.CombineFn):  # type: ignore[misc]
    def create_accumulator(self) -> Sums:
        return 0, 0, 0

    def add_input(self, sums: Sums, one: tuple[int, int]) -> Sums:
        return sums[0] + 1, sums[1] + one[0], sums[2] + one[1]

    def merge_accumulators(self, several: Iterable[Sums]) -> Sums:
        events, veh, tt = zip(*several, strict=True)
        return sum(events), sum(veh), sum(tt)

    def extract_output(self, sums: Sums) -> Sums:
        return sums


class Text(beam.DoFn):  # type: ignore[misc]
    def process(self, keyed: tuple[str, Sums], window: Any = beam.DoFn.WindowParam) -> Iterator[str]:
        link, (events, veh, tt) = keyed
        pane = window.start.micros // 1000
        yield orjson.dumps({"link": link, "pane": pane, "events": events, "veh": veh, "tt": tt}).decode()


def main() -> None:
    folder, out, _ = sys.argv[1:]
    began = time.perf_counter()
    with beam.Pipeline(RUNNER, PipelineOptions(["--direct_num_workers=1"])) as pipeline:
        _ = (
            pipeline
            | ReadFromText(str(Path(folder) / "*.ndjson"))
            | beam.Map(orjson.loads)
            | beam.Map(lambda e: TimestampedValue((e["link"], (e["n"], e["n"] * e["tt_ms"])), e["t"] / 1000))
            | beam.WindowInto(FixedWindows(300))
            | beam.CombinePerKey(Summed())
            | beam.ParDo(Text())
            | beam.io.WriteToText(out, num_shards=1, shard_name_template="")
        )
    told = {
        "seconds": time.perf_counter() - began,
        "started_s": 0.0,
        "version": f"apache-beam {version('apache-beam')}",
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
