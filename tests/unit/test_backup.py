"""Backups of a store that is written meanwhile, kills in the middle of one, damage, and restoring."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from commands.backup import backup, restore
from sinks.backup import ask, serve_requests
from sinks.clickhouse import ClickHouseSink
from sinks.errors import BackupRefused, PlaceTaken, StoreError, StoreOwned
from sinks.frozen import images
from sinks.lock import holder
from sinks.manifest import read_manifest
from tests.unit.test_store import readings

ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import polars as pl
from sinks.backup import serve_requests
from sinks.clickhouse import ClickHouseSink
from tests.unit.test_backup import LETTERS, of_step
store = Path(sys.argv[1])
sink = ClickHouseSink(f"chdb://{{store}}")
sink.migrate()
(store / "city").write_text("demo\\n")
(store / "epoch").write_text("1")
(store / "delivery").mkdir(exist_ok=True)
(store / "spool").mkdir(exist_ok=True)
journal, segment = (store / "delivery" / "a.journal").open("a"), (store / "spool" / "1.segment").open("a")
step = sink.query("SELECT max(revision) AS r FROM readings").item() or 0
slowest = 0.0
while True:
    step += 1
    sink.write("readings", of_step(step))
    sink.write("dead_letters", LETTERS(step))
    for file in (journal, segment):
        file.write(f"{{step}}\\n")
        file.flush()
    started = time.perf_counter()
    begun = serve_requests(store, sink)
    slowest = max(slowest, time.perf_counter() - started) if begun else slowest
    print(step, begun, slowest, flush=True)
"""


def of_step(step: int, rows: int = 200) -> pl.DataFrame:
    """Readings of one step: every place again, and one place that only this step has."""
    again = readings(rows).with_columns(value=pl.lit(float(step)), revision=pl.lit(step, pl.Int64))
    return pl.concat([again, again.head(1).with_columns(place=pl.lit(f"only-{step}"))])


def LETTERS(step: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "source": ["a"],
            "position": [str(step)],
            "stream": ["link"],
            "reason": ["x"],
            "detail": [""],
            "payload": [""],
            "seen_at": [0],
        }
    )


@contextmanager
def writing(store: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the store and writes step after step."""
    script = WRITER.format(root=str(ROOT))
    log = store.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(store)], stdout=out, text=True, cwd=ROOT, env=os.environ | environment
        )
    try:
        give_up = time.monotonic() + 30
        while len(log.read_text().splitlines()) < 5:
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def made(store: Path, steps: int = 5) -> Path:
    """A closed store with so many steps."""
    with ClickHouseSink(f"chdb://{store}") as sink:
        sink.migrate()
        for step in range(1, steps + 1):
            sink.write("readings", of_step(step))
    (store / "city").write_text("demo\n")
    (store / "epoch").write_text("1")
    (store / "delivery").mkdir()
    (store / "delivery" / "a.journal").write_bytes(b"1\n2\n")
    (store / "tokens.json").write_text('{"version": 1, "tokens": []}')
    (store / "tokens.json").chmod(0o600)
    return store


def told(folder: Path) -> pl.DataFrame:
    with ClickHouseSink(f"chdb://{folder}") as sink:
        assert sink.migrate() == ()
        return sink.newest_readings()


def test_a_restored_backup_is_the_store(tmp_path: Path) -> None:
    store = made(tmp_path / "s")
    report = backup(tmp_path / "b", store, quiet=True)
    assert report["revision"] == 5 and report["city"] == "demo" and report["rows"]["readings"] >= 205
    assert images(store) == []
    before = told(store)
    restore(tmp_path / "b", tmp_path / "r", "demo", fresh=False, quiet=True)
    after = told(tmp_path / "r")
    print(f"{after.height} readings of a restored store compared")
    assert after.height == 205 and after.equals(before)
    for name in ("city", "epoch", "delivery/a.journal", "tokens.json"):
        assert (tmp_path / "r" / name).read_bytes() == (store / name).read_bytes()
    assert (tmp_path / "r" / "tokens.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "b").stat().st_mode & 0o077 == 0


def test_a_restored_store_is_written_on(tmp_path: Path) -> None:
    store = made(tmp_path / "s")
    backup(tmp_path / "b", store, quiet=True)
    restore(tmp_path / "b", tmp_path / "r", None, fresh=False, quiet=True)
    with ClickHouseSink(f"chdb://{tmp_path / 'r'}") as sink:
        sink.migrate()
        sink.write("readings", of_step(6))
        assert sink.newest_readings(place="L7")["value"].to_list() == [6.0]
        assert sink.counts()["readings"] == 206


def test_a_backup_of_a_store_that_is_written_is_of_one_instant(tmp_path: Path) -> None:
    store = tmp_path / "s"
    with writing(store):
        found = [ask(store, tmp_path / f"b{n}", lambda *_: None) for n in range(3)]
        time.sleep(0.3)
        slowest = max(float(line.split()[2]) for line in store.with_suffix(".log").read_text().splitlines()[:-1])
        assert images(store) == [] and list((store / "requests").iterdir()) == []
    print(f"three backups while steps went on; the slowest held a step up for {slowest * 1000:.0f} ms")
    assert slowest < 5, "some tens of ms on a machine that is not busy"
    assert len({r.revision for r in found}) == 3
    for n, report in enumerate(found):
        r = report.revision
        restore(tmp_path / f"b{n}", tmp_path / f"r{n}", "demo", fresh=False, quiet=True)
        with ClickHouseSink(f"chdb://{tmp_path / f'r{n}'}") as sink:
            sink.migrate()
            rows = sink.newest_readings()
            assert rows.filter(pl.col("place").str.starts_with("L"))["value"].unique().to_list() == [float(r)]
            only = rows.filter(pl.col("place").str.starts_with("only-"))["place"].str.slice(5).cast(pl.Int64)
            assert sorted(only) == list(range(1, r + 1)), "every step up to it and none after it"
            letters = sink.page("dead_letters", None, 10_000)["position"].cast(pl.Int64)
            assert sorted(letters) == list(range(1, r + 1))
        for name in ("delivery/a.journal", "spool/1.segment"):
            lines = (tmp_path / f"r{n}" / name).read_text().split()
            assert list(map(int, lines)) == list(range(1, r + 1)), name


def test_the_owner_is_killed_in_a_backup(tmp_path: Path) -> None:
    store = tmp_path / "s"
    with writing(store, CITYBRAIN_FAILPOINT="backup_copied:1") as process:
        with pytest.raises(StoreError, match="has ended; no backup was made"):
            ask(store, tmp_path / "b", lambda *_: None)
        assert process.wait(10) == -signal.SIGKILL
    assert not (tmp_path / "b").exists() and images(store), "the image was left"
    assert list(tmp_path.glob(".b.partial-*")) == [], "and the half backup removed"
    with pytest.raises(BackupRefused, match="is no backup"):
        restore(tmp_path / "b", tmp_path / "r", None, fresh=False, quiet=True)
    with writing(store):
        time.sleep(0.2)
        assert not list((store / "requests").glob("*.working")) and images(store) == [], "the next owner cleans up"
        assert ask(store, tmp_path / "b", lambda *_: None).revision > 5
    restore(tmp_path / "b", tmp_path / "r", None, fresh=False, quiet=True)


def test_a_half_backup_is_none(tmp_path: Path) -> None:
    """The command is killed while it copies itself: no owner, no one who cleans up."""
    store = made(tmp_path / "s")
    command = [sys.executable, "-m", "citybrain", "backup", str(tmp_path / "b"), "--store", str(store)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"CITYBRAIN_FAILPOINT": "backup_copied:1"}, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".b.partial-*")
    with pytest.raises(BackupRefused, match=r"no manifest\.json"):
        restore(left, tmp_path / "r", None, fresh=False, quiet=True)
    assert not (tmp_path / "r").exists() and images(store)
    assert told(store).height == 205
    backup(tmp_path / "b", store, quiet=True)
    assert list(tmp_path.glob(".b.partial-*")) == [] and images(store) == []
    restore(tmp_path / "b", tmp_path / "r", None, fresh=False, quiet=True)


def test_the_command_is_killed_while_the_owner_works(tmp_path: Path) -> None:
    store = tmp_path / "s"
    with writing(store):
        request = store / "requests" / "0123456789ab.json"
        request.with_suffix(".draft").write_text(json.dumps({"folder": str(tmp_path / "b")}))
        request.with_suffix(".draft").rename(request)
        give_up = time.monotonic() + 20
        while not (tmp_path / "b").exists() and time.monotonic() < give_up:
            time.sleep(0.05)
    restore(tmp_path / "b", tmp_path / "r", None, fresh=False, quiet=True)


def test_every_damaged_byte_is_found_before_anything_is_written(tmp_path: Path) -> None:
    store = made(tmp_path / "s")
    backup(tmp_path / "b", store, quiet=True)
    files = sorted(p for p in (tmp_path / "b").rglob("*") if p.is_file() and p.stat().st_size)
    for path in files:
        whole, mode = path.read_bytes(), path.stat().st_mode
        path.chmod(0o600)
        path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
        with pytest.raises(BackupRefused, match=r"damaged|manifest"):
            restore(tmp_path / "b", tmp_path / "r", None, fresh=False, quiet=True)
        assert not (tmp_path / "r").exists()
        path.write_bytes(whole)
        path.chmod(mode)
    print(f"{len(files)} files damaged one by one")
    assert len(files) > 20
    files[0].unlink()
    with pytest.raises(BackupRefused, match=r"has lost|no manifest"):
        restore(tmp_path / "b", tmp_path / "r", None, fresh=False, quiet=True)


def test_what_a_restore_refuses(tmp_path: Path) -> None:
    store = made(tmp_path / "s")
    backup(tmp_path / "b", store, quiet=True)
    with pytest.raises(StoreError, match="not empty and holds no store"):
        told(tmp_path / "b")
    with pytest.raises(PlaceTaken, match="add --fresh"):
        restore(tmp_path / "b", store, "demo", fresh=False, quiet=True)
    with pytest.raises(BackupRefused, match="is of city 'demo', not 'oldtown'"):
        restore(tmp_path / "b", tmp_path / "r", "oldtown", fresh=False, quiet=True)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("x")
    with pytest.raises(StoreError, match="no store of citybrain"):
        restore(tmp_path / "b", tmp_path / "letters", None, fresh=True, quiet=True)
    with ClickHouseSink(f"chdb://{store}") as sink:
        sink.migrate()
        sink.write("readings", of_step(99))
    done = restore(tmp_path / "b", store, "demo", fresh=True, quiet=True)
    assert told(store)["value"].max() == 5.0
    assert told(Path(done["replaced"]))["value"].max() == 99.0, "what was there is kept beside it"
    with writing(tmp_path / "w") as process, pytest.raises(StoreOwned, match=str(process.pid)):
        restore(tmp_path / "b", tmp_path / "w", None, fresh=True, quiet=True)


def test_a_restore_is_killed(tmp_path: Path) -> None:
    """What was there stays until the copy is complete and was opened; what the killed one left goes with the next."""
    store = made(tmp_path / "s")
    backup(tmp_path / "b", store, quiet=True)
    with ClickHouseSink(f"chdb://{store}") as sink:
        sink.migrate()
        sink.write("readings", of_step(99))
    command = [sys.executable, "-m", "citybrain", "restore", str(tmp_path / "b"), "--store", str(store), "--fresh"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"CITYBRAIN_FAILPOINT": "restore_copied"}, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert told(store)["value"].max() == 99.0 and len(list(tmp_path.glob(".s.restoring-*"))) == 1
    restore(tmp_path / "b", store, None, fresh=True, quiet=True)
    assert told(store)["value"].max() == 5.0 and not list(tmp_path.glob(".s.restoring-*"))


def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    import hashlib

    backup(tmp_path / "b", made(tmp_path / "s"), quiet=True)
    path = tmp_path / "b" / "manifest.json"
    body = path.read_bytes().partition(b"\n")[2]
    for old, new in ((b'"epoch": {', b'"../epoch": {'), (b'"../store/', b'"/etc/')):
        forged = body.replace(old, new, 1)
        assert forged != body
        path.write_bytes(hashlib.sha256(forged).hexdigest().encode() + b"\n" + forged)
        with pytest.raises(BackupRefused, match="outside the backup"):
            read_manifest(tmp_path / "b")


def test_what_a_backup_refuses(tmp_path: Path) -> None:
    store = made(tmp_path / "s")
    for target in (store / "b", store, tmp_path, tmp_path / "s" / "delivery"):
        with pytest.raises(PlaceTaken, match="lie in each other"):
            backup(target, store, quiet=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(PlaceTaken, match="not empty"):
        backup(tmp_path / "full", store, quiet=True)
    with ClickHouseSink(f"chdb://{store}") as sink:
        sink.migrate()
        assert holder(store) == os.getpid()
        with pytest.raises(StoreError, match=f"process {os.getpid()}, which owns the store, does not answer"):
            ask(store, tmp_path / "b", lambda *_: None, patience_s=0.2)
        assert not (tmp_path / "b").exists() and list((store / "requests").iterdir()) == []


def test_who_asks_is_told_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the run goes on: serving a request never raises."""
    store = made(tmp_path / "s")
    with ClickHouseSink(f"chdb://{store}") as sink:
        sink.migrate()
        assert serve_requests(store, sink) == 0
        for target, why in ((tmp_path / "file" / "b", "could not be written"), (store / "b", "lie in each other")):
            (tmp_path / "file").write_text("")
            (store / "requests" / "0123456789ab.json").write_text(json.dumps({"folder": str(target)}))
            status, give_up = store / "requests" / "0123456789ab.status", time.monotonic() + 5
            while not status.exists() and time.monotonic() < give_up:
                serve_requests(store, sink)
            while (said := json.loads(status.read_text()))["state"] == "copying" and time.monotonic() < give_up:
                time.sleep(0.02)
            assert said["state"] == "failed" and why in said["error"]
            status.unlink()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match="MB free, the backup needs"):
            backup_here(sink, store, tmp_path / "b")
        assert images(store) == []
        (store / "requests" / "0123456789ac.json").write_text("no json")
        assert serve_requests(store, sink) == 0
        sink.write("readings", of_step(6))


def backup_here(sink: ClickHouseSink, store: Path, target: Path) -> None:
    from sinks.backup import back_up

    back_up(sink, store, target)
