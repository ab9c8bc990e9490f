"""What a row costs in the embedded store: `python -m benchmarks.store_inserts [--places N]`.

Readings at link level (places x 10 windows x 4 indicators) and rows with 23 measures, each in one `write`, with and
without fsync, interleaved; medians and minima of the runs, wall and CPU of the process. Ratios in one run only.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.expr import Col
from pipelines.rollup import Measure, Rollup
from pipelines.streams import LINK, MINUTE_MS
from sinks.clickhouse import ClickHouseSink

T = 1_772_323_200_000
WIDE = Rollup("wide", LINK, MINUTE_MS, tuple(Measure(f"m{i:02d}", "sum", Col("tt_ms")) for i in range(23)))
Make = Callable[[int], pl.DataFrame]


def readings(places: int, text: pl.DataType) -> Make:
    """Frames of places x 10 windows x 4 indicators, window by window as a brain makes them."""
    n = places * 40
    dice = np.random.default_rng(1)
    place = pl.Series([f"L{i:06d}" for i in range(places)], dtype=text)
    names = pl.Series(["traffic.speed", "traffic.tti", "traffic.delay", "traffic.cover"], dtype=text)
    window = np.tile(np.repeat(np.arange(10), places), 4)
    frame = pl.DataFrame(
        {
            "indicator": names.gather(np.repeat(np.arange(4), places * 10).astype(np.uint32)),
            "place": place.gather(np.tile(np.arange(places), 40).astype(np.uint32)),
            "window_start": T + window * MINUTE_MS,
            "window_end": T + (window + 1) * MINUTE_MS,
            "value": dice.normal(50, 10, n),
            "completeness": np.ones(n),
            "samples": dice.integers(1, 20, n),
            "num": dice.integers(1, 20_000, n),
            "den": dice.integers(1, 20_000, n),
            "as_of": T + window * MINUTE_MS + dice.integers(0, 60_000, n),
        }
    ).with_columns(
        pl.lit("gbt33171-2016").cast(text).alias("method_id"),
        pl.lit("link").cast(text).alias("place_kind"),
        pl.lit("km/h").cast(text).alias("unit"),
        pl.lit("ok").cast(text).alias("state"),
        pl.lit("").alias("detail"),
        pl.lit(1, dtype=pl.Int64).alias("revision"),
    )
    return lambda k: frame.with_columns(pl.col("window_start", "window_end", "as_of") + k * 10 * MINUTE_MS)


def rows(places: int, text: pl.DataType, panes: int = 20) -> Make:
    n = places * panes
    dice = np.random.default_rng(2)
    place = pl.Series([f"L{i:06d}" for i in range(places)], dtype=text)
    pane = np.repeat(np.arange(panes), places)
    frame = pl.DataFrame(
        {
            "place": place.gather(np.tile(np.arange(places), panes).astype(np.uint32)),
            "pane_start": T + pane * MINUTE_MS,
            **{m.name: dice.integers(0, 30_000 if i < 6 else 500, n) for i, m in enumerate(WIDE.measures)},
            "n": dice.integers(1, 20, n),
            "as_of": T + pane * MINUTE_MS + 59_999,
        }
    ).with_columns(
        pl.lit(False).alias("late"),
        pl.lit("").cast(text).alias("part"),
        pl.lit(-1, dtype=pl.Int64).alias("off"),
        pl.lit(1, dtype=pl.Int64).alias("step"),
    )
    return lambda k: frame.with_columns(pl.col("pane_start", "as_of") + k * panes * MINUTE_MS)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--places", type=int, default=6_000)
    arguments.add_argument("--runs", type=int, default=7)
    given = arguments.parse_args()
    string, category = pl.String(), pl.Categorical()
    cases: dict[str, tuple[str, Make]] = {}
    for label, text in (("String", string), ("Categorical", category)):
        cases[f"readings, {label}"] = ("readings", readings(given.places, text))
        cases[f"rows of 23 measures, {label}"] = ("rows_wide", rows(given.places, text))
    for fsync in (True, False):
        with (
            tempfile.TemporaryDirectory() as folder,
            ClickHouseSink(f"chdb://{Path(folder).resolve()}/store", (WIDE,), fsync=fsync, keep_revisions=True) as sink,
        ):
            sink.migrate()
            wall: dict[str, list[float]] = {c: [] for c in cases}
            cpu: dict[str, list[float]] = {c: [] for c in cases}
            for run in range(given.runs):
                for case, (table, make) in cases.items():
                    frame = make(run)
                    at, used = time.perf_counter(), time.process_time()
                    sink.write(table, frame)
                    wall[case].append((time.perf_counter() - at) / frame.height * 1e6)
                    cpu[case].append((time.process_time() - used) / frame.height * 1e6)
            for case, (_, make) in cases.items():
                print(
                    f"fsync {'on ' if fsync else 'off'} {case:34s} {make(0).height:8d} rows: "
                    f"wall {statistics.median(wall[case]):.2f} (min {min(wall[case]):.2f}) "
                    f"cpu {statistics.median(cpu[case]):.2f} (min {min(cpu[case]):.2f}) us/row"
                )


if __name__ == "__main__":
    main()
