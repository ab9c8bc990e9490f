"""Stores that are broken on purpose: what doctor and a start say of them, and that the repair which they print works."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import pytest

from commands.backup import backup
from sinks import surroundings
from sinks.clickhouse import ClickHouseSink
from sinks.errors import StoreDamaged
from sinks.export import export
from sinks.migrations import migrations
from sinks.selfcheck import lost_parts, part_rows, quick_findings, row_counts
from sinks.surroundings import clock, disk, disk_room, versions
from tests.unit.test_backup import made, of_step, writing

ROOT = Path(__file__).resolve().parents[2]


def citybrain(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "citybrain", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, env=os.environ | environment)


def doctor(store: Path, *more: object, code: int = 1) -> list[str]:
    """What doctor says that is not in order."""
    done = citybrain("doctor", "--store", store, *more)
    assert done.returncode == code, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) >= 10 and all(re.match(r"(ok  |warn|FAIL)  \S", line) for line in lines), done.stdout
    # How full the disk of who runs the tests is, and which libraries are there, is another matter.
    return [
        x for x in lines if not re.match(r"ok|warn  (disk|temporary files|temporary stores|libraries|open files)", x)
    ]


def repaired(line: str) -> None:
    """Runs the first command that a line names."""
    command = line.split("`")[1].split("`")[0]
    if command.startswith("citybrain "):
        done = citybrain(*shlex.split(command)[1:])
    else:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def largest_part(store: Path, table: str = "readings") -> Path:
    with ClickHouseSink(f"chdb://{store}") as sink:
        sink.migrate()
        found = sink.query(f"SELECT path FROM system.parts WHERE active AND table = '{table}' ORDER BY rows DESC")
    return Path(found.item(0, "path"))


def damage(file: Path, *, cut: bool) -> None:
    whole = file.read_bytes()
    file.chmod(0o600)
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] if cut else whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with readings, and a backup of it beside."""
    store = made(tmp_path / "s")
    backup(tmp_path / "b", store, quiet=True)
    with ClickHouseSink(f"chdb://{store}") as sink:
        export(sink, tmp_path / "before")
    return store


def test_a_sound_store(store: Path) -> None:
    assert doctor(store, code=0) == []
    assert doctor(store, "--all", code=0) == []


def test_a_truncated_part_is_found_and_the_repair_works(store: Path, tmp_path: Path) -> None:
    """Opening sets it aside without an error, and every query answers without its rows."""
    damage(largest_part(store) / "data.bin", cut=True)
    with ClickHouseSink(f"chdb://{store}") as sink:
        assert sink.counts()["readings"] < 205, "negative control: no error, rows missing"
        started = time.perf_counter()
        found = [f for f in quick_findings(sink, store) if f.severity == "FAIL"]
        took = time.perf_counter() - started
        print(f"quick_findings took {took * 1000:.0f} ms")
        assert took < 2 and len(found) == 1
        assert re.search(
            r"damaged part: 202603_\d.* of readings \(month 202603\) was set aside as broken", found[0].what
        )
        with pytest.raises(StoreDamaged, match=rf"cannot be attached again: restore the backup .*{tmp_path}/b"):
            sink.migrate()
    (line,) = doctor(store)
    assert line.startswith("FAIL  damaged part: 202603_") and "rm -r" in line
    assert f"`citybrain restore {tmp_path}/b --store {store} --fresh`" in line
    repaired(line)
    assert doctor(store, code=0) == []
    same = citybrain("diff", tmp_path / "before", store)
    assert same.returncode == 0 and "readings: 205 compared, equal" in same.stdout, same.stdout + same.stderr


def test_going_on_without_the_rows_is_the_other_repair(store: Path, tmp_path: Path) -> None:
    damage(largest_part(store) / "data.bin", cut=True)
    shutil.rmtree(tmp_path / "b")
    (line,) = doctor(store)
    assert f"`citybrain restore BACKUP --store {store} --fresh`" in line
    assert f"`citybrain replay FILES --store {store} --fresh`" in line
    command = re.search(r"`(rm -r [^`]*)`", line)
    assert command is not None
    subprocess.run(command[1], shell=True, check=True, timeout=10)
    assert doctor(store, code=0) == []


def test_a_flipped_byte_is_found_and_the_repair_works(store: Path, tmp_path: Path) -> None:
    damage(largest_part(store) / "data.bin", cut=False)
    (line,) = doctor(store)
    assert re.search(
        r"FAIL  damaged part: 202603_\S+ of readings \(month 202603, .* rows\) cannot be read: Checksum", line
    )
    repaired(line)
    assert doctor(store, code=0) == []
    assert citybrain("diff", tmp_path / "before", store).returncode == 0


def test_lost_parts_and_rows_are_seen_by_comparison(store: Path) -> None:
    """A part that was removed leaves no trace in the store; what a checkpoint remembers shows it (rule 36)."""
    with ClickHouseSink(f"chdb://{store}") as sink:
        sink.migrate()
        parts, rows = part_rows(sink), row_counts(sink)
        assert rows["readings"] == {"202603": 205} and rows["transitions"] == {}
        for step in range(6, 12):
            sink.write("readings", of_step(step))
        sink._writer.command("OPTIMIZE TABLE readings FINAL")
        assert lost_parts(parts, sink) == [], "merged into others is not lost"
        assert row_counts(sink)["readings"] == {"202603": 211}
        later = part_rows(sink)
    merged = largest_part(store)
    shutil.rmtree(merged)
    with ClickHouseSink(f"chdb://{store}") as sink:
        sink.migrate()
        assert lost_parts(later, sink) == [], "those that it was merged from took its place"
    for part in merged.parent.glob("202603_*"):
        shutil.rmtree(part)
    with ClickHouseSink(f"chdb://{store}") as sink:
        sink.migrate()
        assert [table for table, _ in lost_parts(later, sink)] == ["readings"]
        assert row_counts(sink)["readings"] != {"202603": 211}
        assert [f.severity for f in quick_findings(sink, store) if "damaged" in f.what] == ["ok"], "negative control"


def test_row_counts_are_the_distinct_keys(tmp_path: Path) -> None:
    with ClickHouseSink(f"chdb://{tmp_path}/s") as sink:
        sink.migrate()
        month = 31 * 86_400_000
        for step in range(1, 9):
            frame = of_step(step)
            later = frame.with_columns(pl.col("window_start", "window_end") + month)
            sink.write("readings", pl.concat([frame, later.head(50)]))
            counts = row_counts(sink)
            assert counts["readings"] == {"202603": 200 + step, "202604": 50}
            assert {t: sum(m.values()) for t, m in counts.items()} == sink.counts()


def test_a_damaged_epoch(store: Path) -> None:
    with ClickHouseSink(f"chdb://{store}") as sink:
        sink.migrate()
        sink.write("readings", of_step((7 << 32) | 1))
    for text, says in (("se\0ven", "cannot be read as a number"), ("3", "says 3, but epoch 7 wrote already")):
        (store / "epoch").write_text(text)
        (line,) = doctor(store)
        assert says in line and f"`echo 7 > {store}/epoch`" in line
    (store / "epoch").unlink()
    (line,) = doctor(store)
    assert "is missing" in line
    repaired(line)
    assert doctor(store, code=0) == []


def test_damaged_tokens(store: Path) -> None:
    (store / "tokens.json").write_text('{"version": 1, "tok')
    (store / "tokens.json").chmod(0o600)
    (line,) = doctor(store)
    assert line.startswith(f"FAIL  tokens: {store}/tokens.json is not understood")
    repaired(line)
    assert doctor(store, code=0) == []


def test_the_file_city(store: Path) -> None:
    (store / "city").unlink()
    (line,) = doctor(store)
    assert "any city could write into this store" in line and f"`echo CITY > {store}/city` with the id" in line
    (line,) = doctor(store, "--city", "demo")
    repaired(line)
    assert doctor(store, "--city", "demo", code=0) == []
    (store / "city").write_text("oldtown\n")
    (line,) = doctor(store, "--city", "demo")
    assert "says 'oldtown', not 'demo'" in line


def test_leftovers(store: Path) -> None:
    (store / "staging" / "tmp123").write_text("half an insert")
    (store / "shadow" / "citybrain_0123456789ab").mkdir(parents=True)
    staged, image = doctor(store, code=0)
    assert "1 inserts were under way" in staged and "the next start removes them" in staged
    assert "1 images of backups" in image
    repaired(image)
    assert doctor(store, code=0) == []


def test_a_newer_store(store: Path) -> None:
    with ClickHouseSink(f"chdb://{store}") as sink:
        sink.migrate()
        sink._writer.command("INSERT INTO schema_version SELECT 99, now64(3, 'UTC')")
    (line,) = doctor(store)
    assert (
        f"schema: version 99, this program knows up to {migrations()[-1].version}; install the newer citybrain" in line
    )


def test_a_store_that_is_in_use(tmp_path: Path) -> None:
    with writing(tmp_path / "s") as process:
        (line,) = doctor(tmp_path / "s", code=0)
        assert f"process {process.pid} has the store open" in line and "citybrain backup DIR" in line
        refused = citybrain("diff", tmp_path / "s", tmp_path / "s")
        assert refused.returncode == 2 and f"in use by process {process.pid}" in refused.stderr
        assert "citybrain backup NEW_FOLDER" in refused.stderr and refused.stderr.count("\n") == 1
        assert citybrain("export", tmp_path / "s", tmp_path / "out").returncode == 2


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    """As an account that the rights count for: they do not for root."""
    folder = Path(tempfile.mkdtemp(prefix="citybrain-test-"))
    try:
        store = folder / "s"
        shutil.copytree(made(tmp_path / "s"), store, symlinks=True)
        folder.chmod(0o755)
        store.chmod(0o555)
        code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from commands.doctor import examine
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
for line in examine(Path({str(store)!r}), None):
    print(line)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        (line,) = [x for x in done.stdout.splitlines() if x.startswith("FAIL")]
        assert re.search(rf"FAIL  rights: Permission denied at {store}/\.try-\S+ for user \d+; repair: `chown", line), (
            line
        )
        repaired(line)
        assert doctor(store, code=0) == []
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=False, timeout=10)
        shutil.rmtree(folder)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    for command in (["doctor"], ["backup", tmp_path / "b"]):
        done = citybrain(*command, "--store", tmp_path)
        assert done.returncode == 2 and "is no store" in done.stderr and done.stderr.count("\n") == 1
    done = citybrain("doctor", "--store", "https://u:secret@host/db")
    assert done.returncode == 2 and "no embedded store" in done.stderr


def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk_room(tmp_path).free_bytes > 0

    def free(n: int, total: int = 100_000_000_000, files: int = 1 << 20) -> None:
        found = os.statvfs_result((4096, 4096, total // 4096, n // 4096, n // 4096, files, files, files, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _: found)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(total, total - n, n))  # type: ignore[attr-defined]

    for n, severity, enough in (
        (50_000_000_000, "ok", True),
        (4_000_000_000, "warn", True),
        (900_000_000, "warn", True),
        (190_000_000, "FAIL", False),
    ):
        free(n)
        assert (disk(tmp_path).severity, disk_room(tmp_path).enough) == (severity, enough), n
    free(50_000_000_000)
    assert disk(tmp_path, 30_000_000_000).severity == "warn", "less than two days"
    assert "room for 500 days" in disk(tmp_path, 100_000_000).what
    free(50_000_000_000, files=10)
    assert disk(tmp_path).severity == "FAIL" and "only 10 more files" in disk(tmp_path).what


def test_the_clock() -> None:
    now = 1_772_323_200.0
    assert clock(int(now * 1000), now, now - 9).severity == "ok"
    assert clock(int((now + 600) * 1000), now, now - 9).severity == "warn"
    assert clock(None, now, now + 7200).severity == "FAIL"


def test_temporary_stores_of_killed_replays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "citybrain-abcd0_12" / "store").mkdir(parents=True)
    (tmp_path / "citybrain-mine").mkdir()
    now = time.time()
    assert surroundings.temporary_leftovers(now).severity == "ok", "it may be just beginning"
    found = surroundings.temporary_leftovers(now + 7200)
    assert found.severity == "warn" and "citybrain-mine" not in str(found)
    repaired(str(found))
    assert surroundings.temporary_leftovers(now + 7200).severity == "ok" and (tmp_path / "citybrain-mine").is_dir()


def test_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"chdb": "4.4.0", "polars": "2.3.1", "orjson": "3.13.0"}

    def version(name: str) -> str:
        if name not in have:
            raise importlib.metadata.PackageNotFoundError(name)
        return have[name]

    monkeypatch.setattr(surroundings.importlib.metadata, "version", version)
    fits = ["chdb==4.4.0", "polars~=2.1", "orjson", 'pytest; extra == "dev"']
    assert [f.severity for f in versions(None, fits)] == ["ok", "ok"]
    for wrong in ("chdb==4.5.0", "polars~=2.4", "polars~=3.0", "rich"):
        (_, found) = versions(None, [wrong])
        assert found.severity == "FAIL" and f"-m pip install '{wrong}'" in found.repair
    (tmp_path / "constraints.txt").write_text("chdb==4.4.0\npolars==2.1.0\nnot-installed==1\n")
    (_, found) = versions(tmp_path / "constraints.txt", fits)
    assert found.severity == "warn" and found.what == "libraries: polars 2.3.1, tested with 2.1.0"
