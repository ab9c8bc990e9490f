"""The whole path over Kafka, process by process: ingest -> log -> engine job -> rows -> brain, against one replay."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from sinks.difference import difference

ROOT = Path(__file__).resolve().parents[2]
STREAMS = ("http", "lvl", "park", "inc", "case")
START, UNTIL, CLOSED = "2026-03-02T08:00:00+08:00", "2026-03-02T08:20:00+08:00", 1_772_411_400_000
"""Time goes on to 08:30, which is `CLOSED`."""
CLOSING = "2026-03-02T08:30:00+08:00"
LONGEST_S = 240


def citybrain(*command: object) -> bytes:
    done = subprocess.run([sys.executable, "-m", "citybrain", *map(str, command)], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout


@contextlib.contextmanager
def running(log: Path, *command: object) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own, so that its Java goes with it."""
    with (
        log.open("ab") as said,
        subprocess.Popen(
            [sys.executable, "-m", "citybrain", *map(str, command)], cwd=ROOT, stdout=said, stderr=said,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty minutes of the simulated city, late events, copies and broken records among them; what one replay makes of
    them is in `embedded`."""
    folder = tmp_path_factory.mktemp("recorded")
    citybrain("simulate", folder, "--start", START, "--until", UNTIL)
    files = [folder / f"{name}.ndjson" for name in STREAMS]
    citybrain("replay", "--quiet", "--city", "demo", "--until", CLOSING, "--out", folder / "embedded", *files)
    return folder


def sent(address: str, recorded: Path) -> None:
    """Every stream into its log, one ingest after the other."""
    for name in STREAMS:
        citybrain(
            "ingest", "--source", recorded / f"{name}.ndjson", "--to", f"kafka://{address}/events.demo.{name}",
            "--until", CLOSING,
        )  # fmt: skip


def exported(data: Path, out: Path) -> Path:
    citybrain("export", data / "demo", out)
    return out


def judged(data: Path, out: Path) -> bool:
    """Whether the stopped brain has judged the last windows of every stream."""
    exported(data, out)
    ends = pl.read_parquet(out / "readings.parquet", columns=["indicator", "window_end"])
    last = ends.group_by("indicator").agg(pl.col("window_end").max().cast(pl.Int64))["window_end"]
    return len(last) == 9 and bool((last > CLOSED - 900_000).all())


def same_rows(a: Path, b: Path) -> int:
    """Rows are the same but for the name of the partition; returns how many there are."""
    compared = 0
    for path in sorted((a / "rows").glob("*.parquet")):
        mine, other = (pl.read_parquet(x / "rows" / path.name).drop("part", "step") for x in (a, b))
        keys = [c for c in ("place", "pane_start", "bucket", "late", "off") if c in mine.columns]
        assert mine.sort(keys).equals(other.select(mine.columns).sort(keys)), path.name
        compared += len(mine)
    return compared


def test_brain_over_kafka_with_kills(broker: str, recorded: Path, tmp_path: Path) -> None:
    """Job and brain are killed and started again in the middle, the job by another engine each time."""
    sent(broker, recorded)
    log, data = tmp_path / "log", tmp_path / "data"
    brain = ("brain", "--kafka", broker, "--city", "demo", "--port", 0, "--data", data)
    kills = 0
    for engine, seconds in (("flink", 22), ("beam", 25), ("polars", 4)):
        with running(log, "run", "--kafka", broker, "--city", "demo", "--engine", engine) as job, running(log, *brain):
            time.sleep(seconds)
            assert job.poll() is None, log.read_text()[-3000:]
            kills += 2
    ends, out = time.monotonic() + LONGEST_S, tmp_path / "first"
    n = 0
    with running(log, "run", "--kafka", broker, "--city", "demo"):
        while True:
            with running(log, *brain) as process:
                time.sleep(10)
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0, log.read_text()[-3000:]
            out = tmp_path / f"out{n}"
            if judged(data, out):
                break
            n += 1
            assert time.monotonic() < ends, log.read_text()[-3000:]
    found = difference(recorded / "embedded", out)
    tables = {table.table: table for table in found.tables if not table.table.startswith("rows_")}
    compared = {name: table.compared for name, table in tables.items()}
    rows = same_rows(recorded / "embedded", out)
    print(f"\n{kills} kills: {compared}, {rows} rows compared")
    assert all(table.equal for table in tables.values()), found
    assert compared["readings"] > 5000 and compared["episodes"] > 10 and compared["dead_letters"] > 5 and rows > 5000
