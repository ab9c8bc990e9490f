"""Rule 38: one owner at a time, and one that was taken for dead loses; on the stand-in server and in an embedded store.

With `CITYBRAIN_SERVER` set, what needs no fault of the server runs on that one as well (`make test-server`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.model import READINGS_SCHEMA
from sinks.claims import Claim, claims, put
from sinks.clickhouse import ClickHouseSink
from sinks.connection import Connection
from sinks.errors import LeaseLost, StoreOwned, StoreUnreachable
from sinks.lease import FolderLease, Lease, lease_of, owner_now
from sinks.retry import Retry
from tests.fakes.clickhouse_http import serving
from tests.fakes.clickhouse_process import ROOT, StandIn
from tests.fakes.servers import SERVERS, emptied

T = 1_772_323_200_000
SETTLE_S, TTL_S = 0.3, 1.5


def readings(place: str, revision: int) -> pl.DataFrame:
    row = ["speed", "m1", "link", place, T, T + 60_000, 1.5, "km/h", "ok", 1.0, 3, 6, 4, "", T, revision]
    return pl.DataFrame([row], schema=READINGS_SCHEMA, orient="row")


@pytest.fixture(params=["stand-in", *SERVERS], ids=lambda p: p if p == "stand-in" else "server")
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClickHouseSink]:
    """A migrated, empty store on a server."""
    if request.param == "stand-in":
        with (
            serving(tmp_path / "server") as server,
            ClickHouseSink(f"http://127.0.0.1:{server.server_port}/city", fsync=False) as sink,
        ):
            sink.migrate()
            yield sink
    else:
        with emptied(request.param) as dsn, ClickHouseSink(dsn) as sink:
            sink.migrate()
            yield sink


def lease(sink: ClickHouseSink, owner: str, ttl_s: float = TTL_S) -> Lease:
    return Lease(sink, owner, ttl_s, settle_s=SETTLE_S)


def test_one_owner_and_the_other_is_told_who(sink: ClickHouseSink) -> None:
    first, second = lease(sink, "process 7 on alpha (since 2026)"), lease(sink, "process 8 on beta")
    assert first.acquire() == 1
    first.check()
    started = time.monotonic()
    with pytest.raises(StoreOwned, match=r"in use by process 7 on alpha .*lease lasts another 1 s") as caught:
        second.acquire()
    assert time.monotonic() - started < 2
    assert caught.value.owner == "process 7 on alpha (since 2026)"
    assert caught.value.lasts_s is not None and 0 < caught.value.lasts_s <= TTL_S
    with pytest.raises(LeaseLost, match="never acquired"):
        second.check()
    first.release()
    started = time.monotonic()
    assert second.acquire() == 2
    assert time.monotonic() - started < SETTLE_S + 1, "a restart needs no wait"
    with pytest.raises(LeaseLost, match=r"process 7 on alpha.*was released"):
        first.check()
    second.release()
    second.release()


def test_epochs_only_grow(sink: ClickHouseSink) -> None:
    """Above every epoch that wrote a row, whatever table it is in, and above what a caller knows of."""
    sink.write("readings", readings("L1", 41 << 32 | 7))
    used = []
    for at_least in (0, 0, 100, 0):
        one = lease(sink, "a")
        used.append(one.acquire(at_least))
        one.release()
    assert used == [42, 43, 100, 101]


def test_it_is_renewed_in_the_background(sink: ClickHouseSink) -> None:
    one = lease(sink, "a", ttl_s=0.9)
    one.acquire()
    time.sleep(2.0)
    one.check()
    with pytest.raises(StoreOwned):
        lease(sink, "b").acquire()
    assert "lease" in {t.name for t in threading.enumerate()}
    one.release()
    assert "lease" not in {t.name for t in threading.enumerate()}


def idle(one: Lease) -> None:
    """As a process that is stopped: nothing renews it."""
    one._ended.set()
    assert one._renewer is not None
    one._renewer.join()


def test_who_was_taken_over_loses(sink: ClickHouseSink) -> None:
    """What it writes afterwards is of a lower epoch, and never counts where the new owner has written."""
    first, second = lease(sink, "first"), lease(sink, "second")
    old = first.acquire()
    idle(first)
    time.sleep(TTL_S + 0.2)
    new = second.acquire()
    assert new == old + 1
    for call in (first.check, first.renew, first.check):
        with pytest.raises(LeaseLost, match="taken over by second"):
            call()
    sink.write("readings", readings("L1", new << 32 | 1))
    sink.write("readings", readings("L1", old << 32 | 999))
    assert sink.newest_readings()["revision"].to_list() == [new << 32 | 1]
    first.release()
    second.check()
    second.release()


def test_what_ran_out_and_nobody_took_is_taken_back(sink: ClickHouseSink) -> None:
    """After hours without a server the run goes on, under its epoch; and then nobody else gets in."""
    one, other = lease(sink, "a"), lease(sink, "b")
    epoch = one.acquire()
    idle(one)
    time.sleep(TTL_S + 0.2)
    assert claims(one._connection)[0].left_s < 0
    one.check()
    assert claims(one._connection)[0].left_s > 0.5
    with pytest.raises(StoreOwned):
        other.acquire()
    one.release()
    assert other.acquire() == epoch + 1
    other.release()


@pytest.mark.parametrize("together", [2, 6])
def test_of_many_at_the_same_moment_one(sink: ClickHouseSink, together: int) -> None:
    """Repeated; the epochs of those that got it are all different."""
    used: list[int] = []
    for _ in range(3):
        got, refused = list[int](), list[str]()
        start = threading.Barrier(together)
        those = [lease(sink, f"o{i}", ttl_s=6) for i in range(together)]

        def run(one: Lease, start: threading.Barrier, got: list[int], refused: list[str]) -> None:
            start.wait()
            try:
                got.append(one.acquire())
                one.check()
            except StoreOwned as error:
                refused.append(str(error.owner))

        threads = [threading.Thread(target=run, args=(one, start, got, refused)) for one in those]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1 and len(refused) == together - 1, (got, refused)
        used += got
        for one in those:
            one.release()
    assert used == sorted(set(used))


def test_a_claim_that_took_too_long_withdraws(sink: ClickHouseSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first reading and the written claim lies `settle_s` at most: what the promise rests on."""
    slow = lease(sink, "slow")
    real = put
    claimed = 0

    def later(connection: Connection, claim: Claim, ttl_s: float | None) -> None:
        nonlocal claimed
        if ttl_s is not None and claimed < 1:
            claimed += 1
            time.sleep(SETTLE_S + 0.1)
        real(connection, claim, ttl_s)

    monkeypatch.setattr("sinks.lease.put", later)
    assert slow.acquire() == 1
    assert claimed == 1
    withdrawn = slow._connection.query("SELECT count() AS n FROM lease FINAL WHERE until = toDateTime64(0, 3, 'UTC')")
    assert withdrawn.item() == 1
    slow.release()


def test_negative_control_without_settling_two_get_in(sink: ClickHouseSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both read, then both write: without the second reading each believes that it is alone."""
    monkeypatch.setattr(Lease, "_settled", lambda *_: True)
    read = threading.Barrier(2)
    real = claims

    def together(connection: Connection, since: int = 0) -> list[Claim]:
        found = real(connection, since)
        read.wait(5)
        return found

    monkeypatch.setattr("sinks.lease.claims", together)
    got: list[int] = []
    those = [lease(sink, name) for name in "ab"]
    threads = [threading.Thread(target=lambda one=one: got.append(one.acquire())) for one in those]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [1, 1]


def test_a_lease_that_is_too_short_is_refused(sink: ClickHouseSink) -> None:
    with pytest.raises(ValueError, match=r"ttl_s is 0\.5; a lease lasts at least 0\.6"):
        Lease(sink, "a", 0.5, settle_s=0.2)


PROCESS = """
import sys, time
import polars as pl
from sinks.clickhouse import ClickHouseSink
from sinks.errors import LeaseLost, StoreError
from sinks.lease import Lease, owner_now
from tests.contract.test_lease import readings

sink = ClickHouseSink(sys.argv[1])
lease = Lease(sink, owner_now(), float(sys.argv[2]), settle_s=0.3)
try:
    epoch = lease.acquire()
    print("epoch", epoch, flush=True)
    for step in range(1, 100000):
        sink.write("readings", readings("L1", epoch << 32 | step))
        lease.check()
        print("step", step, flush=True)
        time.sleep(0.02)
except LeaseLost as error:
    sink.write("readings", readings("L1", epoch << 32 | 999999))
    print("lost", error, flush=True)
except StoreError as error:
    print("refused", error, flush=True)
"""


def started(dsn: str, ttl_s: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", textwrap.dedent(PROCESS), dsn, str(ttl_s)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def until(process: subprocess.Popen[str], word: str) -> str:
    """The next line that begins with the word."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line.strip()
    raise AssertionError(f"the process ended without saying {word!r}")


def test_a_paused_process_that_wakes_after_a_takeover_loses(tmp_path: Path) -> None:
    """SIGSTOP for longer than the lease, with two real processes; the late writes are there and do not count."""
    server = StandIn(tmp_path / "server")
    server.start()
    dsn = f"{server.url}/city"
    running: list[subprocess.Popen[str]] = []
    try:
        with ClickHouseSink(dsn, fsync=False) as sink:
            sink.migrate()
            running.append(first := started(dsn, 1.5))
            assert until(first, "epoch") == "epoch 1"
            until(first, "step 5")
            running.append(second := started(dsn, 1.5))
            refused = until(second, "refused")
            assert f"in use by process {first.pid} on " in refused
            second.wait(10)
            first.send_signal(signal.SIGSTOP)
            time.sleep(1.8)
            running.append(third := started(dsn, 1.5))
            assert until(third, "epoch") == "epoch 2"
            until(third, "step 5")
            first.send_signal(signal.SIGCONT)
            lost = until(first, "lost")
            assert f"taken over by process {third.pid} on " in lost
            first.wait(10)
            until(third, "step")
            third.send_signal(signal.SIGKILL)
            third.wait(10)
            late = sink.query("SELECT count() AS n FROM readings WHERE revision = {r:UInt64}", {"r": 1 << 32 | 999_999})
            newest = sink.newest_readings()["revision"].to_list()
            assert len(newest) == 1 and newest[0] >> 32 == 2
            print(f"late rows of the first owner in the table: {late.item()}; the newest is of epoch {newest[0] >> 32}")
            # Its lease still lasts, but it is known to be gone: the next one gets in at once.
            connection = Connection(sink.address)
            dead = claims(connection)[0]
            assert dead.epoch == 2 and dead.left_s > 0
            fourth = lease(sink, "fourth")
            assert fourth.acquire() == 3
            fourth.check()
            fourth.release()
            # Of a process of another machine nothing is known: its lease has to run out.
            put(connection, Claim(4, dead.claim.replace(" ", " x"), "elsewhere", 0.0, 0), 1.2)
            with pytest.raises(StoreOwned, match="in use by elsewhere"):
                lease(sink, "fifth").acquire()
            time.sleep(1.3)
            fifth = lease(sink, "fifth")
            assert fifth.acquire() == 5
            fifth.release()
    finally:
        for process in running:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        server.end()


def test_a_server_that_is_away_is_waited_for(tmp_path: Path) -> None:
    server = StandIn(tmp_path / "server")
    server.start()
    try:
        retry = Retry(60, first_pause_s=0.01, longest_pause_s=0.05)
        with ClickHouseSink(f"{server.url}/city", fsync=False, retry=retry) as sink:
            sink.migrate()
            one = lease(sink, "a")
            epoch = one.acquire()
            server.end()
            with pytest.raises(StoreUnreachable, match="no ClickHouse server answers"):
                lease(sink, "b").acquire()
            threading.Timer(TTL_S + 0.5, server.start).start()
            one.check()
            assert one._mine is not None and one._mine.epoch == epoch
            one.release()
    finally:
        server.end()


def test_an_embedded_store_has_the_same_lease(tmp_path: Path) -> None:
    used: list[int] = []
    for _ in range(2):
        with ClickHouseSink(f"chdb://{tmp_path}/s") as sink:
            sink.migrate()
            one: Any = lease_of(sink, "a")
            assert isinstance(one, FolderLease)
            with pytest.raises(LeaseLost):
                one.check()
            used.append(one.acquire())
            one.check()
            one.renew()
            sink.write("readings", readings("L1", 9 << 32))
            if len(used) == 2:
                os.rename(tmp_path / "s" / "status", tmp_path / "s" / "status.gone")
                with pytest.raises(LeaseLost, match="nobody holds it"):
                    one.check()
                os.rename(tmp_path / "s" / "status.gone", tmp_path / "s" / "status")
            one.release()
    assert used == [1, 10]


def test_an_owner_says_who_it_is() -> None:
    assert f"process {os.getpid()} on " in owner_now()
