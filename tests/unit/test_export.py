"""The output folder: sorted, typed, whole or not there, and never in the place of something else."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from pipelines.expr import Col
from pipelines.model import READINGS_SCHEMA
from pipelines.rollup import Measure, Rollup
from pipelines.streams import INC, LINK
from sinks import export as module
from sinks.clickhouse import ClickHouseSink
from sinks.difference import difference
from sinks.export import export, refuse_foreign
from sinks.memory import MemorySink

SPEED = Rollup("speed", LINK, 60_000, (Measure("tt", "sum", Col("tt_ms")),))
T = 1_772_323_200_000


def readings(n: int, revision: int = 1) -> pl.DataFrame:
    rows = [
        [f"i{i % 3}", "m1", "link", f"L{i}", T, T + 60_000, None, "u", "ok", None, i, None, None, "", None, revision]
        for i in range(n)
    ]
    return pl.DataFrame(rows, schema=READINGS_SCHEMA, orient="row")


def filled(n: int = 50) -> MemorySink:
    store = MemorySink((SPEED,), (INC,))
    store.write("readings", readings(n))
    letter = {
        "source": "f",
        "position": "3",
        "stream": "link",
        "reason": "bad",
        "detail": "d",
        "payload": "é\n",
        "seen_at": T,
    }
    store.write("dead_letters", pl.DataFrame([letter]))
    return store


def test_the_files_and_their_order(tmp_path: Path) -> None:
    counts = export(filled(), tmp_path / "out", summary={"received": 7}, extra={"notes/a.txt": b"x"}, page=7)
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert files == [
        ".citybrain-output", "dead_letters.ndjson", "episodes.parquet", "notes/a.txt", "readings.parquet",
        "rows/speed.parquet", "summary.json", "transitions.parquet",
    ]  # fmt: skip
    assert counts == {"readings": 50, "episodes": 0, "transitions": 0, "dead_letters": 1, "rows_speed": 0}
    read = pl.read_parquet(tmp_path / "out" / "readings.parquet")
    assert read.columns == list(READINGS_SCHEMA)
    assert read.schema["window_start"] == pl.Datetime("ms", "UTC")
    assert read["window_start"][0] == datetime.fromtimestamp(T / 1000, UTC)
    key = ["indicator", "method_id", "place_kind", "place", "window_start", "window_end"]
    assert read.equals(read.sort(key))
    assert json.loads((tmp_path / "out" / "dead_letters.ndjson").read_text())["payload"] == "é\n"
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == {"received": 7, "rows": counts}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_both_stores_export_the_same(tmp_path: Path) -> None:
    with ClickHouseSink(f"chdb://{tmp_path}/s", (SPEED,), keep_revisions=True) as store:
        store.migrate()
        store.write("readings", readings(50))
        store.write("readings", readings(10, revision=2))
        export(store, tmp_path / "a", page=9)
        everything = export(store, tmp_path / "all", revisions="all", page=9)
    memory = filled()
    memory.write("readings", readings(10, revision=2))
    export(memory, tmp_path / "b")
    found = difference(tmp_path / "a", tmp_path / "b")
    assert {t.table for t in found.tables if not t.equal} == {"dead_letters"}
    assert found.compared == 50
    assert everything["readings"] == 60
    both = pl.read_parquet(tmp_path / "all" / "readings.parquet").filter(pl.col("place") == "L3")
    assert both["revision"].to_list() == [1, 2]


def test_an_earlier_output_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(filled(5), out)
    export(filled(6), out)
    assert pl.read_parquet(out / "readings.parquet").height == 6
    (out / "mine.txt").write_text("precious")
    for attempt in (lambda: export(filled(7), out), lambda: refuse_foreign(out)):
        with pytest.raises(FileExistsError, match=r"mine\.txt.*--out DIR"):
            attempt()
    assert (out / "mine.txt").read_text() == "precious"
    assert pl.read_parquet(out / "readings.parquet").height == 6
    with pytest.raises(FileExistsError, match="no folder"):
        export(filled(1), out / "mine.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_a_failing_export_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    export(filled(5), out)

    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_durable", fail)
    with pytest.raises(OSError, match="No space"):
        export(filled(6), out)
    assert pl.read_parquet(out / "readings.parquet").height == 5
    assert os.listdir(tmp_path) == ["out"]
