"""What an embedded store must survive: errors, crashes, a second process, changed definitions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from pipelines.expr import Col
from pipelines.model import READINGS_SCHEMA
from pipelines.rollup import Measure, Rollup
from pipelines.streams import LINK
from sinks import migrations
from sinks.clickhouse import ClickHouseSink
from sinks.connection import Address, Connection
from sinks.ddl import rows_table
from sinks.errors import StoreDamaged, StoreError, StoreNewer, StoreOwned

SPEED = Rollup("speed", LINK, 60_000, (Measure("tt", "sum", Col("tt_ms")),))
GROWN = replace(SPEED, measures=(*SPEED.measures, Measure("low", "min", Col("n"))))
OTHER = replace(SPEED, measures=(Measure("tt", "max", Col("tt_ms")),))
SLOWER = replace(SPEED, pane_ms=120_000)
T = 1_772_323_200_000


def readings(n: int = 1) -> pl.DataFrame:
    row = ["speed", "m1", "link", "", T, T + 60_000, 1.5, "km/h", "ok", 1.0, 3, 6, 4, "", T, 1]
    frame = pl.DataFrame([row] * n, schema=READINGS_SCHEMA, orient="row")
    return frame.with_columns(place=pl.Series([f"L{i}" for i in range(n)]))


def rows(rollup: Rollup, place: str = "L1", value: int = 7) -> pl.DataFrame:
    measures = {m.name: value for m in rollup.measures}
    row = {
        "place": place,
        "pane_start": T,
        **measures,
        "n": 1,
        "as_of": T,
        "late": False,
        "part": "",
        "off": -1,
        "step": 1,
    }
    return pl.DataFrame([row], schema=rows_table(rollup).schema)


def test_a_failed_query_leaves_nothing_behind(tmp_path: Path) -> None:
    """chDB gives the rows of a failed query to the next one on the same handle; so no handle survives an error."""
    connection = Connection(Address.of(f"chdb://{tmp_path}/s"))
    try:
        asked, wrong = leaks(connection)
        print(f"queries after a failed one: {asked}, wrong: {wrong}")
        assert asked == 12
        assert wrong == 0
    finally:
        connection.close()


def test_negative_control_a_handle_that_is_kept_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(Address.of(f"chdb://{tmp_path}/s"))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "close", lambda self: None)
            assert leaks(connection)[1] > 0
    finally:
        connection.close()


def leaks(connection: Connection) -> tuple[int, int]:
    """Fails on purpose, then asks: how often, and how many answers were wrong or errors."""
    asked = wrong = 0
    for at, size in ((100, 10), (3_000, 50), (90_000, 1_000)):
        bad = f"SELECT throwIf(number = {at}) AS x, number FROM numbers(100000) SETTINGS max_block_size = {size}"
        for failing in (connection.query, connection.command) * 2:
            with pytest.raises(DatabaseError, match="throwIf"):
                failing(bad)
            asked += 1
            try:
                wrong += connection.query("SELECT 42 AS x").rows() != [(42,)]
            except Exception:
                wrong += 1
    return asked, wrong


CHILD = """
import sys, time
sys.path.insert(0, {root!r})
from sinks.clickhouse import ClickHouseSink
from tests.unit.test_store import readings
sink = ClickHouseSink("chdb://" + sys.argv[1])
sink.migrate()
sink.write("readings", readings(500))
print("written", flush=True)
time.sleep(60)
"""


def child(folder: Path) -> subprocess.Popen[str]:
    """Another process that owns the store and has written 500 readings."""
    root = str(Path(__file__).parents[2])
    script = textwrap.dedent(CHILD).format(root=root)
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def test_a_second_process_is_refused_and_told_whose_it_is(tmp_path: Path) -> None:
    process = child(tmp_path / "s")
    try:
        started = time.monotonic()
        with pytest.raises(StoreOwned, match=f"process {process.pid};.*kill {process.pid}.*--data") as caught:
            ClickHouseSink(f"chdb://{tmp_path}/s").migrate()
        assert time.monotonic() - started < 2
        assert caught.value.pid == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
        # What was acknowledged is there after kill -9, and the lock is gone with its holder.
        with ClickHouseSink(f"chdb://{tmp_path}/s") as sink:
            assert sink.migrate() == ()
            assert sink.newest_readings()["place"].n_unique() == 500
    finally:
        process.kill()
        process.wait()


def test_one_process_opens_one_store_at_a_time(tmp_path: Path) -> None:
    with ClickHouseSink(f"chdb://{tmp_path}/a") as first:
        first.migrate()
        with pytest.raises(StoreError, match=f"{tmp_path}/a open.*{tmp_path}/b"):
            ClickHouseSink(f"chdb://{tmp_path}/b").migrate()
        again = ClickHouseSink(f"chdb://{tmp_path}/a")
        assert again.migrate() == ()
        again.close()
        for use in (again.migrate, again.counts, lambda: again.write("readings", readings())):
            with pytest.raises(StoreError, match="was closed"):
                use()
    with ClickHouseSink(f"chdb://{tmp_path}/b") as second:
        assert second.migrate()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("x")
    with pytest.raises(StoreError, match="letters is not empty"):
        ClickHouseSink(f"chdb://{tmp_path}/letters").migrate()
    with pytest.raises(StoreError, match="cannot be made or read"):
        ClickHouseSink(f"chdb://{tmp_path}/letters/mine.txt").migrate()
    assert [p.name for p in (tmp_path / "letters").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "dsn", ["chdb://rel/dir", "chdb:///", "/abs/dir", "postgres://h/db", "http:///db", "chdb:///a?database=a-b"]
)
def test_an_address_that_is_none_is_explained(dsn: str) -> None:
    with pytest.raises(StoreError, match=r"no store|no kind of store|no database name"):
        Address.of(dsn)


def test_a_password_is_never_shown() -> None:
    address = Address.of("http://u:secret@127.0.0.1:1/city")
    assert address.shown == "http://127.0.0.1:1/city"
    with pytest.raises(StoreError, match=r"no ClickHouse server answers at http://127\.0\.0\.1:1:") as caught:
        ClickHouseSink("http://u:secret@127.0.0.1:1/city").migrate()
    assert "secret" not in str(caught.value)


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    with ClickHouseSink(f"chdb://{tmp_path}/s") as sink:
        sink.migrate()
        sink._writer.command("INSERT INTO schema_version SELECT 99, now64(3, 'UTC')")
        with pytest.raises(StoreNewer, match="schema version 99, this program knows up to 2; install"):
            sink.migrate()


def test_migrations_go_forward_and_once(tmp_path: Path) -> None:
    connection = Connection(Address.of(f"chdb://{tmp_path}/s"))
    try:
        first = migrations.migrations()
        more = (
            *first,
            migrations.Migration(3, "a note", ("ALTER TABLE episodes ADD COLUMN IF NOT EXISTS note String",)),
        )
        assert migrations.migrate(connection, first, ()) == tuple(
            f"schema version {m.version}: {m.what}" for m in first
        )
        assert migrations.migrate(connection, more, ()) == ("schema version 3: a note",)
        assert migrations.migrate(connection, more, ()) == ()
        with pytest.raises(StoreNewer):
            migrations.migrate(connection, first, ())
    finally:
        connection.close()


def test_measures_grow_change_and_come_back(tmp_path: Path) -> None:
    """Rule 16: rows serve the measures they carry; what has another meaning is set aside, not mixed."""

    def values(rollup: Rollup) -> list[tuple[object, ...]]:
        with ClickHouseSink(f"chdb://{tmp_path}/s", (rollup,)) as sink:
            done.append(sink.migrate())
            assert sink.migrate() == ()
            sink.write("rows_speed", rows(rollup, f"L{len(done)}", len(done)))
            frame = sink.panes(rollup, T, T + 1)
            return frame.select("place", *(m.name for m in rollup.measures)).rows()

    done: list[tuple[str, ...]] = []
    assert values(SPEED) == [("L1", 1)]
    assert values(GROWN) == [("L1", 1, None), ("L2", 2, 2)]
    assert values(OTHER) == [("L1", None), ("L2", None), ("L3", 3)]
    assert values(SLOWER) == [("L4", 4)]
    assert values(SPEED) == [("L1", 1), ("L2", 2), ("L3", None), ("L5", 5)]
    old = SPEED.measures[0].hash
    assert done[1] == ("rows_speed.low: column added; null in older rows",)
    assert f"set aside as tt__{old}" in done[2][0]
    assert f"set aside as rows_speed__{SPEED.frame_hash}" in done[3][0]
    assert "taken back" in done[4][1] and "taken back" in " ".join(done[4][2:])


def test_a_damaged_part_is_found_at_start(tmp_path: Path) -> None:
    """ClickHouse sets a truncated part aside without a word, and queries go on without its rows."""
    with ClickHouseSink(f"chdb://{tmp_path}/s") as sink:
        sink.migrate()
        sink.write("readings", readings(2000))
    (data,) = (p for p in (tmp_path / "s").rglob("data.bin") if "readings" in os.path.realpath(p) or "2026" in str(p))
    os.truncate(data, data.stat().st_size // 2)
    with (
        ClickHouseSink(f"chdb://{tmp_path}/s") as sink,
        pytest.raises(StoreDamaged, match=r"of readings.*restore a backup.*rm -r .*detached"),
    ):
        sink.migrate()


def test_inserts_are_staged_beside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ClickHouseSink(f"chdb://{tmp_path}/s") as sink:
        sink.migrate()
        staging = tmp_path / "s" / "staging"
        seen: list[str] = []
        real = tempfile.NamedTemporaryFile
        monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda **k: [f := real(**k), seen.append(f.name)][0])
        before = tempfile.gettempdir()
        sink.write("readings", readings())
        assert seen and all(Path(name).parent == staging for name in seen)
        assert tempfile.gettempdir() == before
        assert list(staging.iterdir()) == []
        (staging / "left.raw").write_text("of a killed process")
    with ClickHouseSink(f"chdb://{tmp_path}/s") as sink:
        sink.migrate()
        assert list(staging.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ClickHouseSink(f"chdb://{tmp_path}/s", patience_s=0.1) as sink:
        sink.migrate()

        def full(**_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "NamedTemporaryFile", full)
            with pytest.raises(StoreError, match=r"disk is full: writing 1 rows of readings.*may be written again"):
                sink.write("readings", readings())
        sink.write("readings", readings())
        assert sink.counts()["readings"] == 1


def test_revisions_stay_while_nothing_is_merged(tmp_path: Path) -> None:
    """For a store of one run: every insert stays a part of its own, and their number refuses none."""
    with ClickHouseSink(f"chdb://{tmp_path}/s", keep_revisions=True) as sink:
        sink.migrate()
        for revision in range(1, 21):
            sink.write("readings", readings().with_columns(revision=pl.lit(revision, pl.Int64)))
        parts = sink.query("SELECT count() FROM system.parts WHERE active AND table = 'readings'").item()
        limit = sink.query("SELECT create_table_query FROM system.tables WHERE name = 'readings'").item()
        assert parts == 20
        assert "parts_to_throw_insert = 1000000" in limit
        assert sink.page("readings", None, 99, newest=False).height == 20
        assert sink.counts()["readings"] == 1
