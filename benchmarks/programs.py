"""What one run of a benchmark executes, each in a process of its own: `python -m benchmarks.programs NAME JSON`.

A program gets its arguments as a JSON object and prints one JSON object, of which `seconds` is what is compared.
Imports are made before the clock starts, in the product as in its peers.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl

from benchmarks.durable import checkpoint, durable, restart
from benchmarks.live import live
from benchmarks.push import push
from benchmarks.threads import ThreadClock

PANE_MS: Final = 300_000
COLUMNS: Final = "t Int64, link LowCardinality(String), tt_ms Int64, n Int64"
AIR_COLUMNS: Final = (
    "t Int64, station LowCardinality(String), pollutant LowCardinality(String), ngm3 Int64, covered_ms Int64"
)
TOLERANT: Final = (
    ", input_format_allow_errors_num = 1000000, input_format_allow_errors_ratio = 0.01"
    f", input_format_json_max_object_size = {1 << 40}"  # a lost brace makes one object of all that follows
)
Answer = dict[str, Any]


def product(
    path: str | list[str],
    pack: str,
    dedup: bool = True,
    only: tuple[str, ...] = (),
    check: bool = False,
    threads: bool = False,
) -> Answer:
    """`citybrain replay` of a file, or of several, into an embedded store with fsync. `dedup` false declares the stream without
    a key; `check` reads the sums of the stored rows afterwards, for the comparison with the peers; `threads`: who works."""
    import commands.replay as command
    from commands.inputs import Inputs, resolve
    from connectors.files import FileSource
    from connectors.formats.arrow import ArrowIpc
    from connectors.formats.ndjson import Ndjson
    from pipelines.delivery import Attached

    paths = [path] if isinstance(path, str) else path
    inputs = resolve([Path(p) for p in paths], city=pack, map_=None, stream=None, lookup=None, disorder=None)
    if not dedup:
        assert isinstance(path, str)
        stream = replace(inputs.streams[0], dedup=None, horizon_ms=0)
        format_ = (ArrowIpc if path.endswith(".arrow") else Ndjson)(stream)
        source = FileSource(Path(path), stream, format_)
        inputs = Inputs(inputs.city, (stream,), (Attached(source, inputs.attached[0].input),))
    with tempfile.TemporaryDirectory(prefix="citybrain-bench-") as folder:
        out = Path(folder) / "out" if check else None
        with ThreadClock() if threads else nullcontext() as clock:
            summary = command.replay(inputs, command.Options(out=out, only=tuple(only)), quiet=True)
        sums = None if out is None else exported_sums(out / "rows" / "link.parquet")
    return {"seconds": summary["wall_s"], "summary": summary, "cpu": clock.seconds if clock else None, "sums": sums}


def exported_sums(path: Path) -> Answer:
    """The sums that the peers give, from the exported rows of a replay: on-time and late together."""
    rows = pl.read_parquet(path)
    return sums_of(
        rows.group_by("place", "pane_start").agg(
            pl.col("n").sum().alias("events"), pl.col("veh").sum(), pl.col("veh_tt").sum().alias("tt")
        )
    )


def sums_of(frame: pl.DataFrame) -> Answer:
    """What must be the same whoever grouped: the number of groups, the sums, and a sum that no two groups may swap."""
    mixed = frame.select((pl.col("tt") % 1_000_003 * (pl.col("veh") % 997 + 1)).sum()).item()
    total = {c: int(frame[c].sum()) for c in ("events", "veh", "tt")}
    return {"groups": len(frame)} | total | {"mixed": int(mixed)}


def chdb(path: str, tolerate: bool = False, check: bool = False) -> Answer:
    """chDB's bare GROUP BY over the file, the pane of the product's rollup, two threads."""
    engine: Any = importlib.import_module("chdb")

    engine.query("SELECT 1", "Arrow")
    kind = "Arrow" if path.endswith(".arrow") else "JSONEachRow"
    tolerant = TOLERANT if tolerate else ""
    started, used = time.perf_counter(), time.process_time()
    found = engine.query(
        f"SELECT link, intDiv(t, {PANE_MS}), count() AS events, sum(n) AS veh, sum(n * tt_ms) AS tt"
        f" FROM file('{path}', {kind}, '{COLUMNS}') GROUP BY ALL SETTINGS max_threads = 2{tolerant}",
        "Arrow",
    )
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - used
    return {"seconds": seconds, "cpu_s": cpu_s, "sums": sums_of(pl.read_ipc(found.bytes())) if check else None}


def chdb_air(path: str) -> Answer:
    engine: Any = importlib.import_module("chdb")

    engine.query("SELECT 1", "Arrow")
    started = time.perf_counter()
    engine.query(
        "SELECT station, pollutant, intDiv(t, 3600000) AS pane, count(), sum(ngm3 * covered_ms), sum(covered_ms)"
        f" FROM file('{path}', JSONEachRow, '{AIR_COLUMNS}') GROUP BY ALL SETTINGS max_threads = 2",
        "Arrow",
    )
    return {"seconds": time.perf_counter() - started}


def polars(path: str) -> Answer:
    """Polars' bare scan and group_by, streaming, two threads (POLARS_MAX_THREADS is set by the caller)."""
    schema = {"t": pl.Int64, "link": pl.String, "tt_ms": pl.Int64, "n": pl.Int64}
    started = time.perf_counter()
    pane = pl.col("t") // PANE_MS * PANE_MS
    frame = (
        pl.scan_ndjson(path, schema=schema)
        .group_by("link", pane.alias("pane"))
        .agg(
            pl.len().alias("events"), pl.col("n").sum().alias("veh"), (pl.col("n") * pl.col("tt_ms")).sum().alias("tt")
        )
        .collect(engine="streaming")
    )
    return {"seconds": time.perf_counter() - started, "sums": sums_of(frame)}


def places(path: str, pack: str, places: int) -> Answer:
    """A replay of a stream with very many sites that no pack knows, none of which becomes `__other__`."""
    from commands.inputs import resolve
    from commands.replay import Options, opened_store, summarise
    from pipelines import catalogue
    from pipelines.delivery import Run
    from sinks.writer import StoreThread

    inputs = resolve([Path(path)], city=pack, map_=None, stream="link", lookup=None, disorder=None)
    indicators = catalogue.for_city(inputs.city)
    with opened_store(Options(), inputs, indicators) as (sink, shown, epoch, _):
        started = time.perf_counter()
        store = StoreThread(sink)
        run = Run(
            inputs.city, indicators, inputs.streams, inputs.attached, store, live=False, epoch=epoch, older=sink.panes,
            max_places=places + 10,
        )  # fmt: skip
        counts = run.replay()
        store.close()
        seconds = time.perf_counter() - started
        summary = summarise(counts, sink.counts(), seconds, shown)
    return {"seconds": seconds, "summary": summary, "places": len(run.registries["link"].ids)}


PROGRAMS: Final[dict[str, Callable[..., Answer]]] = {
    "product": product, "chdb": chdb, "chdb_air": chdb_air, "polars": polars, "places": places, "live": live,
    "push": push, "durable": durable, "checkpoint": checkpoint, "restart": restart,
}  # fmt: skip


def main() -> None:
    name, given = sys.argv[1:]
    answer = PROGRAMS[name](**orjson.loads(given))
    sys.stdout.write(orjson.dumps(answer).decode() + "\n")


if __name__ == "__main__":
    main()
