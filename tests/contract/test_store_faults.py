"""A server, or the way to it, that fails: every row is there once, nothing grows, and what needs a person stops loudly.

The server is the stand-in of `tests/fakes`; no real one is asked to fail.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import clickhouse_connect
import polars as pl
import pytest

from pipelines.model import READINGS_SCHEMA
from pipelines.streams import DAY_MS
from sinks.clickhouse import ClickHouseSink
from sinks.connection import Address, Connection
from sinks.errors import StoreError, StoreGivenUp, StoreRefused
from sinks.retry import Retry, Trouble
from sinks.writer import StoreThread
from tests.fakes import faults
from tests.fakes.clickhouse_http import Server, serving
from tests.fakes.clickhouse_process import StandIn
from tests.fakes.faults import Fault

T = 1_772_323_200_000
HANG_S = 0.25
MIX = (
    *[Fault("reset_before"), Fault("reset_after")] * 24,
    *[Fault("unavailable"), faults.TOO_MANY_PARTS, faults.MEMORY, faults.DISK_FULL] * 20,
    *[Fault("slow", seconds=0.005)] * 16,
    Fault("hang_before", seconds=2 * HANG_S),
    Fault("hang_after", seconds=2 * HANG_S),
)
FAULTS = 1000


def readings(first: int, n: int, revision: int = 1) -> pl.DataFrame:
    row = ["speed", "m1", "link", "", T, T + 60_000, 1.5, "km/h", "ok", 1.0, 3, 6, 4, "", T, revision]
    one = pl.DataFrame([row], schema=READINGS_SCHEMA, orient="row")
    many = one.select(pl.all().gather(pl.zeros(n, dtype=pl.UInt32, eager=True)))
    return many.with_columns(place=pl.Series([f"L{i:06}" for i in range(first, first + n)]))


def quick(patience_s: float | None = 60, **more: object) -> Retry:
    return Retry(patience_s, first_pause_s=0.001, longest_pause_s=0.008, **{"answer_s": HANG_S, **more})  # type: ignore[arg-type]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "server") as server:
        yield server


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    server = StandIn(tmp_path / "server")
    server.start()
    try:
        yield server
    finally:
        server.end()


def dsn(server: Server, who: str = "") -> str:
    return f"http://{who}127.0.0.1:{server.server_port}/city"


def test_a_thousand_faults_and_every_row_once(server: Server) -> None:
    with ClickHouseSink(dsn(server), fsync=False, retry=quick()) as sink:
        sink.migrate()
        server.faults.at_random(*MIX, p=0.75, seed=4)
        written, frames = 0, 0
        while server.faults.struck.total() < FAULTS:
            sink.write("readings", readings(written, 3, frames))
            written += 3
            frames += 1
        server.faults.clear()
        found = sink.newest_readings()
        assert found["place"].to_list() == [f"L{i:06}" for i in range(written)]
        assert found["revision"].to_list() == [i // 3 for i in range(written)]
        raw, keys = sink.query("SELECT count() AS n, uniqExact(place, window_start) AS k FROM readings").row(0)
        unheard = server.faults.struck["reset_after"] + server.faults.struck["hang_after"]
        assert keys == written <= raw <= written + 3 * (unheard + server.faults.struck["slow"])
        assert set(server.faults.struck) == {f.mode for f in MIX}
        assert sink.retry.trouble is None
        print(
            f"faults: {dict(server.faults.struck)}; rows: {written}, sent again: {sink.retry.again_total}, raw: {raw}"
        )


def test_negative_control_without_sending_again_rows_are_missing(server: Server) -> None:
    with ClickHouseSink(dsn(server), fsync=False, retry=quick(0.0)) as sink:
        sink.migrate()
        server.faults.at_random(*MIX[:-2], p=0.6, seed=4)
        failed = 0
        for i in range(100):
            try:
                sink.write("readings", readings(i, 1))
            except StoreError:
                failed += 1
        server.faults.clear()
        found = sink.counts()["readings"]
        assert failed > 30 and 0 < 100 - found < failed
        print(f"without sending again: {failed} errors, {100 - found} of 100 rows missing")


def test_negative_control_without_keys_rows_are_doubled(server: Server) -> None:
    connection = Connection(Address.of(dsn(server).replace("/city", "/default")))
    connection.command("CREATE TABLE plain (x Int64) ENGINE = MergeTree ORDER BY x")
    connection.command("CREATE TABLE keyed (x Int64) ENGINE = ReplacingMergeTree ORDER BY x")
    counted = {}
    for table in ("plain", "keyed"):
        server.faults.at_random(Fault("reset_after"), p=0.5, seed=1)
        for i in range(40):
            quick().until_done(lambda i=i, table=table: connection.insert(table, pl.DataFrame({"x": [i]})))  # type: ignore[misc]
        server.faults.clear()
        counted[table] = connection.query(f"SELECT count() AS n FROM {table} {'FINAL' * (table == 'keyed')}").item()
    connection.close()
    print(f"40 rows sent with half of the answers lost: {counted}")
    assert counted["keyed"] == 40
    assert counted["plain"] > 50


def test_the_driver_sends_an_arrow_insert_once(server: Server) -> None:
    """What is sent again is sent by `sinks.retry`, and nowhere else; `insert` of the driver is replayed in secret."""
    with ClickHouseSink(dsn(server), retry=quick(0.0)) as sink:
        sink.migrate()
        before = server.seen["INSERT"]
        server.faults.next(Fault("reset_after"))
        with pytest.raises(StoreError, match=r"writing 5 rows of readings.*may be written again"):
            sink.write("readings", readings(0, 5))
        assert server.seen["INSERT"] == before + 1
        assert sink.counts()["readings"] == 5
    client = clickhouse_connect.get_client(host="127.0.0.1", port=server.server_port, autogenerate_session_id=False)
    client.command("CREATE TABLE t (x Int64) ENGINE = MergeTree ORDER BY x")
    server.faults.next(Fault("reset_after"))
    client.insert("t", [[1]], column_names=["x"], column_type_names=["Int64"])
    assert client.query("SELECT count() FROM t").result_rows == [(2,)]
    client.close()


def test_an_answer_that_says_no_is_not_asked_twice(server: Server) -> None:
    with ClickHouseSink(dsn(server), retry=quick()) as sink:
        sink.migrate()
        server.faults.next(faults.TOO_MANY_PARTS, faults.MEMORY, Fault("unavailable"))
        sink.write("readings", readings(0, 5))
        assert sink.retry.again_total == 3
        for fault, says in (
            (Fault("error", 16, "No such column x"), "set the tables up"),
            (Fault("error", 49, "Logical error"), "may be written again"),
            (faults.TOO_MANY_PARTITIONS, "may be written again"),
            (faults.WRONG_PASSWORD, "user or password is wrong: check the address"),
            (faults.READ_ONLY, "the user is read-only"),
            (faults.NO_RIGHT, "lacks a right: grant it"),
        ):
            server.faults.next(fault, fault)
            started = time.monotonic()
            with pytest.raises(StoreError, match=f"writing 5 rows of readings at .*{says}"):
                sink.write("readings", readings(0, 5))
            assert time.monotonic() - started < 2
            assert len(server.faults.queued) == 1
        assert sink.counts()["readings"] == 5


def test_200_months_are_four_inserts(server: Server) -> None:
    """The permanent meaning of code 252 never comes: frames are cut by partition before they are sent."""
    with ClickHouseSink(dsn(server), fsync=False, retry=quick(answer_s=20.0)) as sink:
        sink.migrate()
        before = server.seen["INSERT"]
        frame = readings(0, 200).with_columns(window_start=T - pl.int_range(200) * 31 * DAY_MS)
        sink.write("readings", frame)
        assert server.seen["INSERT"] == before + 4
        assert sink.retry.again_total == 0
        assert sink.counts()["readings"] == 200


def test_rows_that_the_store_cannot_take_are_put_aside(server: Server) -> None:
    refused: list[tuple[str, str, str]] = []

    def put_aside(table: str, rows: pl.DataFrame, why: str) -> None:
        refused.append((table, *rows["place"].to_list(), why))

    poison = Fault("poison", 117, "L000007")
    with ClickHouseSink(dsn(server), retry=quick(), refused=put_aside) as sink:
        sink.migrate()
        server.faults.at_random(poison, p=1.0)
        sink.write("readings", readings(0, 40))
        assert sink.counts()["readings"] == 39
        assert refused == [("readings", "L000007", "Code: 117. DB::Exception: L000007 is poison")]
    with ClickHouseSink(dsn(server), retry=quick()) as sink, pytest.raises(StoreError, match="L000007 is poison"):
        sink.write("readings", readings(0, 40))


def test_a_hung_server_holds_up_for_a_bounded_time_and_leaves_nothing(stand_in: StandIn) -> None:
    answer_s, hangs = 0.03, 200
    with ClickHouseSink(f"{stand_in.url}/city", fsync=False, retry=quick()) as sink:
        sink.migrate()
    with ClickHouseSink(f"{stand_in.url}/city", fsync=False, retry=quick(answer_s=answer_s)) as sink:
        stand_in.next(*[Fault("hang_before", seconds=60)] * 2)
        sink.write("readings", readings(0, 1))
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        stand_in.next(*[Fault("hang_before", seconds=60)] * hangs)
        started = time.monotonic()
        sink.write("readings", readings(1, 1))
        stalled = time.monotonic() - started
        print(f"{hangs} hangs of a server: {stalled:.1f} s, {stalled / hangs * 1000:.0f} ms each")
        assert sink.retry.again_total >= hangs + 2
        assert stalled < hangs * (answer_s + 0.01 + 0.05)
        assert threading.active_count() <= threads
        assert len(os.listdir("/proc/self/fd")) <= files + 2
        stand_in.clear()
        sink.retry.until_done(lambda: sink.write("readings", readings(2, 1)))
        assert sink.counts()["readings"] == 3


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def tried(sink: ClickHouseSink, times: int) -> None:
    """Waits until the frame was sent so often."""
    until = time.monotonic() + 20
    while (sink.retry.trouble is None or sink.retry.trouble.tries < times) and time.monotonic() < until:
        time.sleep(0.01)


def test_a_server_that_is_away_holds_up_the_run_which_then_catches_up(stand_in: StandIn) -> None:
    told: list[Trouble | None] = []
    size, batches = 20_000, 40
    with ClickHouseSink(f"{stand_in.url}/city", fsync=False, retry=quick(told=told.append, answer_s=10.0)) as sink:
        sink.migrate()
        with StoreThread(sink, depth=2) as thread:
            thread.submit([("readings", readings(0, size))])
            thread.flush()
            stand_in.end()
            submitted = [1]

            def produce() -> None:
                for i in range(1, batches):
                    thread.submit([("readings", readings(i * size, size))])
                    submitted[0] += 1

            producer = threading.Thread(target=produce)
            producer.start()
            tried(sink, 100)
            held, before = submitted[0], rss_mb()
            tried(sink, 300)
            more = rss_mb() - before
            assert held <= 1 + 1 + 2, "one is being written, two wait"
            assert (
                sink.retry.trouble is not None
                and sink.retry.trouble.why == "the server gives no answer: Connection refused"
            )
            stand_in.start()
            started = time.monotonic()
            producer.join(60)
            thread.flush()
            caught_up = time.monotonic() - started
        rate = (batches - 1) * size / caught_up
        print(f"away: {held} of {batches} batches taken, {more:.0f} MB for 200 tries; then {rate:,.0f} rows/s")
        assert more < 60, "nothing is kept of a write that failed"
        assert submitted[0] == batches
        assert sink.retry.trouble is None and told[-1] is None
        assert sink.counts()["readings"] == batches * size


def test_the_end_of_the_run_does_not_wait_for_a_server_that_is_away(stand_in: StandIn) -> None:
    stop = threading.Event()
    with ClickHouseSink(f"{stand_in.url}/city", fsync=False, retry=Retry(None, stop=stop)) as sink:
        sink.migrate()
        thread = StoreThread(sink)
        stand_in.end()
        thread.submit([("readings", readings(0, 1))])
        threading.Timer(0.3, stop.set).start()
        started = time.monotonic()
        with pytest.raises(StoreError, match="the run ended while the store could not be written to") as caught:
            thread.close()
        assert isinstance(caught.value.__cause__, StoreGivenUp)
        assert time.monotonic() - started < 3


def test_a_server_that_restarts_between_writes(stand_in: StandIn) -> None:
    """kill -9 after every acknowledged write: what was acknowledged is there."""
    with ClickHouseSink(f"{stand_in.url}/city", retry=quick(answer_s=10.0)) as sink:
        sink.migrate()
        for i in range(2):
            sink.write("readings", readings(i * 10, 10))
            stand_in.end()
            threading.Timer(0.2, stand_in.start).start()
        sink.write("readings", readings(20, 10))
        assert sink.newest_readings()["place"].to_list() == [f"L{i:06}" for i in range(30)]


def test_who_is_not_let_in_is_told_at_once(server: Server) -> None:
    with ClickHouseSink(dsn(server), retry=quick()) as sink:
        sink.migrate()
    server.faults.next(*[faults.WRONG_PASSWORD] * 9, kinds=())
    started = time.monotonic()
    with (
        ClickHouseSink(dsn(server, "city_writer:secret@"), retry=quick()) as sink,
        pytest.raises(StoreRefused, match="user or password is wrong: check the address") as caught,
    ):
        sink.write("readings", readings(0, 1))
    assert time.monotonic() - started < 2
    assert "secret" not in str(caught.value)
    assert caught.value.code == 516


def test_faults_and_a_kill_at_once(stand_in: StandIn) -> None:
    """Random faults by the control endpoint, and the server killed and started again among them."""
    with ClickHouseSink(f"{stand_in.url}/city", fsync=False, retry=quick(answer_s=2.0)) as sink:
        sink.migrate()
        for i in range(60):
            if i % 20 == 0:
                stand_in.at_random(*MIX[:-2], p=0.5, seed=i)
            sink.write("readings", readings(i * 5, 5))
            if i == 30:
                struck = stand_in.control()["struck"]
                stand_in.end()
                threading.Timer(0.1, stand_in.start).start()
        stand_in.clear()
        assert sum(struck.values()) > 5 and sum(stand_in.control()["struck"].values()) > 5
        assert sink.newest_readings()["place"].to_list() == [f"L{i:06}" for i in range(300)]
