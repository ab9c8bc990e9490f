"""Stores that are there already: their tables as the store itself tells them, files made of them, comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.inputs import UserError, city_of
from commands.stores import difference_of, export_store, store_folder
from pipelines import catalogue
from sinks.clickhouse import ClickHouseSink
from sinks.ddl import tables_of
from sinks.difference import NothingCompared, difference
from sinks.existing import ExistingStore, newest_revision
from sinks.export import export
from sinks.migrations import migrations
from tests.unit.test_backup import made, of_step
from tests.unit.test_store import SLOWER, SPEED, rows


def test_the_store_tells_its_tables_as_they_were_declared(tmp_path: Path) -> None:
    rollups, streams = catalogue.rollups(catalogue.CATALOGUE), catalogue.STREAMS
    with ClickHouseSink(f"chdb://{tmp_path}/s", rollups, streams) as sink:
        sink.migrate()
    with ExistingStore(f"chdb://{tmp_path}/s") as store:
        declared = tables_of(rollups, streams)
        assert set(store.tables) == {*declared, "lease"} and len(declared) > 10
        for name, table in declared.items():
            found = store.tables[name]
            assert (found.key, found.version, found.month) == (table.key, table.version, table.month)
            assert [(f.name, f.kind, f.nullable) for f in found.fields] == [
                (f.name, f.kind, f.nullable) for f in table.fields
            ]
        assert store.schema_version == migrations()[-1].version and newest_revision(store) == 0
    print(f"{len(declared)} tables compared with their declarations")


def test_what_was_set_aside_is_no_table(tmp_path: Path) -> None:
    for rollup in (SPEED, SLOWER):
        with ClickHouseSink(f"chdb://{tmp_path}/s", (rollup,)) as sink:
            sink.migrate()
            sink.write("rows_speed", rows(rollup))
    with ExistingStore(f"chdb://{tmp_path}/s") as store:
        assert [t for t in store.tables if t.startswith("rows")] == ["rows_speed"]
        assert store.counts()["rows_speed"] == 1


def test_an_export_of_a_store_is_the_output_of_its_run(tmp_path: Path) -> None:
    store = made(tmp_path / "s")
    with ClickHouseSink(f"chdb://{store}", (SPEED,)) as sink:
        sink.migrate()
        sink.write("rows_speed", rows(SPEED))
        export(sink, tmp_path / "a")
    done = export_store(str(store), tmp_path / "b", "newest")
    assert done["city"] == "demo" and done["rows"]["readings"] == 205 and done["rows"]["rows_speed"] == 1
    assert not difference(tmp_path / "a", tmp_path / "b")
    for a in sorted((tmp_path / "a").rglob("*.parquet")):
        assert a.read_bytes() == (tmp_path / "b" / a.relative_to(tmp_path / "a")).read_bytes(), a.name
    assert export_store(f"chdb://{store}", tmp_path / "b", "all")["rows"]["readings"] >= 205, (
        "an output may be replaced"
    )
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").write_text("")
    with pytest.raises(UserError, match="is not replaced"):
        export_store(str(store), tmp_path / "c", "newest")


def test_outputs_and_stores_are_compared(tmp_path: Path) -> None:
    one, other = made(tmp_path / "s"), made(tmp_path / "t")
    export_store(str(one), tmp_path / "out", "newest")
    for a, b in ((one, other), (one, tmp_path / "out"), (f"chdb://{one}", tmp_path / "out")):
        found = difference_of(str(a), str(b))
        assert found.equal and found.compared == 205
    empty = tmp_path / "empty"
    with ClickHouseSink(f"chdb://{empty}") as sink:
        sink.migrate()
    for a, b in ((one, empty), (empty, tmp_path / "out")):
        with pytest.raises(NothingCompared, match=f"^{a} and {b} have no reading"):
            difference_of(str(a), str(b))
    with ClickHouseSink(f"chdb://{other}") as sink:
        sink.migrate()
        sink.write("readings", of_step(6))
    found = difference_of(str(one), str(other))
    readings = next(t for t in found.tables if t.table == "readings")
    assert (readings.different, readings.only_b) == (200, 1), "negative control"


def test_what_is_no_store_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no store"):
        ExistingStore(f"chdb://{tmp_path}/nothing")
    assert not (tmp_path / "nothing").exists()


def test_where_a_store_lies(tmp_path: Path) -> None:
    assert store_folder(None, tmp_path, None) == tmp_path / city_of("demo").id
    assert store_folder("chdb:///a/b", None, None) == store_folder("/a/b", None, None) == Path("/a/b")
    with pytest.raises(UserError, match="give one of them"):
        store_folder("/a", tmp_path, None)
    with pytest.raises(UserError, match="no embedded store"):
        store_folder("http://host/db", None, None)
