"""A wall clock that jumps by hours (reliability, fault 23): nothing that is stored follows it, and event time never goes
back."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.request
from pathlib import Path

from sinks.difference import difference
from tests.faults.processes import run, table_of
from tests.faults.test_disk_full import until_told
from tests.faults.test_up import exported, up

JUMPING = "tests.faults.jumping"
START, UNTIL = "2026-03-02T08:00:00+08:00", "2026-03-02T08:10:00+08:00"
RUN = ("citybrain", "up", "--seed", 7, "--start", START, "--until", UNTIL, "--speed", 100, "--port", 0)


def jumps(err: str) -> int:
    found = re.search(r"jumps: (\d+)", err)
    assert found is not None, err
    return int(found[1])


def test_nothing_stored_follows_the_wall_clock(tmp_path: Path) -> None:
    calm, off = run([*RUN, "--data", tmp_path / "calm"]), run([JUMPING, 3, *RUN, "--data", tmp_path / "off"])
    assert calm.code == off.code == 0, (calm.err, off.err)
    a, b = (exported(tmp_path / name, tmp_path / f"{name}.out") for name in ("calm", "off"))
    found = difference(a, b)
    assert found.equal, str(found)
    assert table_of(a, "transitions").equals(table_of(b, "transitions"))
    print(f"\n{jumps(off.err)} jumps; {found.compared:,} compared")
    assert found.compared > 30_000 and jumps(off.err) > 5


def test_a_run_by_the_wall_clock_goes_on(tmp_path: Path) -> None:
    """Without --start the run's clock begins at the wall clock and goes on by itself; watermarks never fall."""
    seen: dict[str, list[str]] = {}
    with up(JUMPING, 5, "citybrain", "up", "--port", 0, "--data", tmp_path) as running:
        assert running.stdout is not None and running.stderr is not None
        url = re.search(r"http://[^/]+", running.stdout.readline())
        assert url is not None
        until_told(running, "first number", [])
        ends = time.monotonic() + 8
        while time.monotonic() < ends:
            with urllib.request.urlopen(f"{url[0]}/api/v1/snapshot", timeout=5) as answer:
                for name, stream in json.load(answer)["streams"].items():
                    if stream["watermark"]:
                        seen.setdefault(name, []).append(stream["watermark"])
            time.sleep(0.2)
        running.send_signal(signal.SIGTERM)
        err = running.stderr.read()
        assert running.wait(timeout=20) == 0, err
    for name, marks in seen.items():
        assert marks == sorted(marks), (name, marks)
    moved = sum(len(set(marks)) > 2 for marks in seen.values())
    print(f"\n{jumps(err)} jumps; {sum(map(len, seen.values()))} watermarks of {len(seen)} streams, {moved} went on")
    assert moved >= 3 and jumps(err) > 5
