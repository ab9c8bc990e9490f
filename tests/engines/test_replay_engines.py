"""`citybrain replay --engine polars|flink|beam`: the same summary and the same output files (rules 16, 32).

Half an hour of the simulated city, all streams, with late events, copies and bad records; the links in three files.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from commands import engines
from commands.inputs import instant, resolve
from commands.replay import Options, replay
from pipelines.engines.flink_local import FLINK
from pipelines.engines.grouped_apart import Log
from sinks.difference import difference
from tests.faults.processes import ROOT, run, transitions_hold

START, UNTIL = "2026-03-02T08:00:00+08:00", "2026-03-02T08:35:00+08:00"
SILENT_UNTIL = "2026-03-02T10:00:00+08:00"
EQUAL = ("received", "accepted", "duplicate", "rejected", "quarantined", "on_time", "late", "readings", "episodes")
"""What summaries must agree on; all of them have the same keys."""
LINK_FILES = 3


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What was sent; the links in turn over files, as if each came from a server of its own."""
    folder = tmp_path_factory.mktemp("sent")
    ended = run(["citybrain", "simulate", folder, "--start", START, "--until", UNTIL])
    assert ended.code == 0, ended.err
    whole = folder / "link.ndjson"
    lines = whole.read_bytes().splitlines(keepends=True)
    for n in range(LINK_FILES):
        (folder / f"link.{n}.ndjson").write_bytes(b"".join(lines[n::LINK_FILES]))
    whole.unlink()
    return sorted(folder.glob("*.ndjson"))


@pytest.fixture(scope="module")
def wanted(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What the engine in this process makes of them."""
    out = tmp_path_factory.mktemp("polars") / "out"
    return out, replayed("polars", files, out)


@pytest.fixture(scope="module")
def counted() -> Iterator[Counter[str]]:
    total: Counter[str] = Counter()
    yield total
    print(f"\nreplays with other engines: {dict(total)} compared")


def replayed(engine: str, files: Sequence[Path], out: Path, until: str | None = None) -> dict[str, Any]:
    """The summary. Beam runs in a process of its own: PyFlink changes what Beam does in this one."""
    if engine == "beam":
        more = () if until is None else ("--until", until)
        ended = run(["citybrain", "replay", "--quiet", *files, "--engine", engine, "--out", out, *more])
        assert ended.code == 0, ended.err
        return dict(json.loads(ended.out))
    inputs = resolve(files, city=None, map_=None, stream=None, lookup=None, disorder=None)
    ends = None if until is None else instant(until, "--until")
    return replay(inputs, Options(engine=engine, out=out, until=ends), quiet=True)


def same(
    counted: Counter[str], wanted: tuple[Path, dict[str, Any]], out: Path, summary: dict[str, Any], what: str
) -> None:
    a, before = wanted
    found = difference(a, out)
    assert found.equal, f"{what}: {found}"
    assert summary.keys() == before.keys()
    assert {k: summary[k] for k in EQUAL} == {k: before[k] for k in EQUAL}
    assert {p.relative_to(a) for p in a.rglob("*")} == {p.relative_to(out) for p in out.rglob("*")}
    counts = Counter({table.table: table.compared for table in found.tables})
    assert counts["readings"] > 10_000 and counts["rows_link"] > 1_000 and counts["dead_letters"] > 10, counts
    assert transitions_hold(out) > 5
    counted.update(counts)
    counted[what] += 1


@pytest.mark.parametrize("engine", ["flink", "beam"])
def test_same_output_as_the_embedded_engine(
    counted: Counter[str], engine: str, files: list[Path], wanted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    same(counted, wanted, tmp_path / "out", replayed(engine, files, tmp_path / "out"), engine)
    links = pl.read_parquet(tmp_path / "out" / "rows" / "link.parquet")
    assert links["part"].unique().sort().to_list() == ["", "files:link"]
    assert len(links.filter("late")) > 10, "late events of several files of a stream"


@pytest.mark.parametrize("engine", ["flink", "beam"])
def test_time_that_goes_on_after_the_last_event(
    counted: Counter[str], engine: str, files: list[Path], tmp_path: Path
) -> None:
    some = [path for path in files if path.name.split(".")[0] in ("link", "air", "case", "lvl")]
    summary = replayed("polars", some, tmp_path / "a", until=SILENT_UNTIL)
    silent = pl.read_parquet(tmp_path / "a" / "readings.parquet").filter(state="no_data")
    assert silent["window_end"].dt.epoch("ms").max() == instant(SILENT_UNTIL, "")
    more = replayed(engine, some, tmp_path / "b", until=SILENT_UNTIL)
    same(counted, (tmp_path / "a", summary), tmp_path / "b", more, f"{engine} --until")


def test_killed_while_flink_groups_and_typed_again(
    counted: Counter[str], files: list[Path], wanted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Python and its Java are gone at once; the same command starts over and ends with the same result."""
    store, out = tmp_path / "store", tmp_path / "out"
    command = [sys.executable, "-m", "citybrain", "replay", *files, "--engine", "flink", "--store", store, "--out", out]
    with subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("flink groups" in line for line in process.stderr), "it ended before its job began"
        java = child_of(process.pid)
        time.sleep(3)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    ends = time.monotonic() + 20
    while Path(f"/proc/{java}").exists():
        assert time.monotonic() < ends, f"Java {java} is still there"
        time.sleep(0.1)
    assert not out.exists()
    done = run(command[2:])
    assert done.code == 0, done.err
    same(counted, wanted, out, {**json.loads(done.out), "store": "temporary"}, "killed")
    assert "starts over" in done.err and "flink made" in done.err


def child_of(pid: int) -> int:
    """The Java of a process, once it is there."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue
            if name == "java" and int(rest.split()[1]) == pid:
                return int(path.parent.name)
        time.sleep(0.1)
    raise AssertionError(f"process {pid} started no Java")


def test_negative_control(
    files: list[Path], wanted: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that adds one vehicle to one row, and nothing else."""

    def group(logs: Sequence[Log], folder: Path) -> None:
        FLINK.group(logs, folder)
        path = next(path for path in (folder / "link").iterdir() if path.stat().st_size)
        first, *records = path.read_bytes().splitlines()
        row = json.loads(first)
        path.write_bytes(b"\n".join([json.dumps({**row, "veh": row["veh"] + 1}).encode(), *records]))

    monkeypatch.setattr(engines, "runner", lambda _: replace(FLINK, group=group))
    replayed("flink", files, tmp_path / "out")
    found = difference(wanted[0], tmp_path / "out")
    different = {table.table: table.different for table in found.tables if not table.equal}
    print(f"\none vehicle too many: {different}")
    assert different["rows_link"] == 1 and different["readings"] >= 1
