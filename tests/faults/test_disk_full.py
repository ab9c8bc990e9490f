"""The disk is full: what was written stays whole, the message says what to do, and there is nothing to do but make room.

Where the process may mount one, on a real small disk as well (a tmpfs).
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from sinks.difference import difference
from tests.faults.crash import FEW, FEW_EVENTS, check, scene
from tests.faults.processes import Ended, Replays, run, table_of
from tests.faults.test_push_kills import post
from tests.faults.test_up import START, exported, up

CROWDED = "tests.faults.crowded"
Town = tuple[Replays, Ended]
UNTIL, SPEED = "2026-03-02T08:10:00+08:00", 100
UP = ("citybrain", "up", "--seed", 7, "--start", START, "--until", UNTIL, "--speed", SPEED, "--port", 0)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "citybrain-test", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here (no root); the same cases ran with writes that fail")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Takes all the room that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    return filler


def refused(ended: Ended) -> None:
    """One clear line, warnings aside, and exit code 1."""
    assert ended.code == 1 and "Traceback" not in ended.err, ended.err
    told = [line for line in ended.err.splitlines() if re.match("citybrain: (?!warning)", line)]
    assert len(told) == 1 and told[0].startswith("citybrain: the disk is full: "), ended.err
    assert "free some space and type the same command again" in told[0], ended.err


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    made = scene(tmp_path_factory.mktemp("town"), FEW, FEW_EVENTS)
    return made, made.calm()


def test_a_replay_goes_on_when_there_is_room(tmp_path: Path, town: Town) -> None:
    (replays, calm), total, full = town, Counter[str](), tmp_path / "full"
    full.touch()
    wheres = (r"checkpoint-\d+\.draft", "plans-:2", r"checkpoint-\d+$:2", "store:6", "staging:6", "epoch")
    for where in wheres:
        refused(replays.once("tight", CROWDED, full, where))
    for left in (replays.folder / "tight" / "delivery").glob("*"):
        assert re.fullmatch(r"(checkpoint|plans)-\d+", left.name), left
    full.unlink()
    check("after full disks", replays.after("tight", calm), total)
    print(f"\nfull disks: {len(wheres)} places, {dict(total)}")


@pytest.mark.crash
def test_a_replay_on_a_small_disk(town: Town) -> None:
    """Full while it runs, then too full to start, then with room."""
    (replays, calm), total = town, Counter[str]()
    with small_disk(replays.folder / "small", 250) as disk:
        refused(replays.once("small/store", begun=lambda _: fill(disk)))
        ended = replays.once("small/store")
        assert ended.code == 1 and "under 200 MB nothing is written; free some space" in ended.err, ended.err
        (disk / "filler").unlink()
        check("on a small disk", replays.after("small/store", calm), total)
    print(f"\na small disk: {dict(total)}")


@pytest.mark.crash
def test_a_temporary_store_that_does_not_fit(tmp_path: Path, town: Town) -> None:
    """Nothing is left of it, and the message says what to do."""
    with small_disk(tmp_path / "tmp", 3) as disk:
        ended = run(["citybrain", "replay", "--quiet", *town[0].files], env={"TMPDIR": str(disk)})
        refused(ended)
        assert not [x for x in disk.iterdir() if x.name.startswith("citybrain-")], [*disk.iterdir()]


def until_told(running: subprocess.Popen[str], what: str, said: list[str]) -> str:
    assert running.stderr is not None
    for line in running.stderr:
        said.append(line)
        if what in line:
            return line
    raise AssertionError(f"it ended without saying {what!r}: {said}")


def ready(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return int(answer.status), ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def lives(data: Path, before: tuple[object, ...], full: Callable[[], object], room: Callable[[], object]) -> list[str]:
    """A live run whose disk fills up, gets room, fills up again and is ended, and one that finishes. What was said."""
    said: list[str] = []
    with up(*before, *UP, "--data", data) as running:
        assert running.stdout is not None and running.stderr is not None
        url = re.search(r"http://[^/]+", running.stdout.readline())
        assert url is not None
        until_told(running, "first number", said)
        for again in range(2):
            full()
            until_told(running, "takes nothing", said)
            status, why = ready(url[0])
            assert status == 503 and "store has failed: the disk is full" in why, why
            time.sleep(1)
            if not again:
                room()
                until_told(running, "takes what it is sent again", said)
        began = time.monotonic()
        running.send_signal(signal.SIGTERM)
        said += running.stderr
        assert running.wait(timeout=20) == 1
        took = time.monotonic() - began
    assert took < 10 and "Traceback" not in "".join(said), said
    assert "the run ended while the store could not be written to" in said[-1], said
    assert sum("takes nothing" in line for line in said) == 2, said
    room()
    ended = run([*UP, "--data", data])
    assert ended.code == 0 and "goes on from" in ended.err, ended.err
    return [f"ended in {took:.1f} s; {line.strip()}" for line in said[-1:]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calm")
    calm = run([*UP, "--data", folder])
    assert calm.code == 0, calm.err
    return exported(folder, folder / "out")


@pytest.mark.crash
@pytest.mark.parametrize("where", ["delivery/", "store"])
def test_a_live_run_waits_for_room(tmp_path: Path, undisturbed: Path, where: str) -> None:
    full = tmp_path / "full"
    said = lives(tmp_path / "data", (CROWDED, full, where), full.touch, full.unlink)
    same(undisturbed, exported(tmp_path / "data", tmp_path / "out"), said)


@pytest.mark.crash
def test_a_live_run_on_a_small_disk(tmp_path: Path, undisturbed: Path) -> None:
    with small_disk(tmp_path / "small", 200) as disk:
        said = lives(disk / "data", (), lambda: fill(disk), lambda: (disk / "filler").unlink())
        same(undisturbed, exported(disk / "data", tmp_path / "out"), said)


def same(calm: Path, out: Path, said: list[str]) -> None:
    found = difference(calm, out)
    assert found.equal, str(found)
    # What a transition says of its value depends on the corrections that its step saw, and steps on when there was room.
    assert table_of(calm, "transitions").drop("detail").equals(table_of(out, "transitions").drop("detail"))
    print(f"\n{found.compared:,} compared; {said}")
    assert found.compared > 30_000


def test_nothing_is_acknowledged_that_the_spool_has_no_room_for(tmp_path: Path) -> None:
    """503 while it is full, 202 afterwards; what was acknowledged is in the store, what was not is not."""
    secret = run(["citybrain", "token", "add", "vans", "--scope", "ingest:vans", "--data", tmp_path]).out.split()[-1]
    full, t = tmp_path / "full", 1_772_400_000_000
    statuses: list[int | None] = []
    with up(CROWDED, full, "/spool/", *UP[:-6], "--speed", 60, "--port", 0, "--data", tmp_path) as running:
        assert running.stdout is not None and running.stderr is not None
        url = re.search(r"http://[^/]+", running.stdout.readline())
        assert url is not None
        until_told(running, "first number", [])
        for n in range(9):
            full.touch() if n % 3 == 1 else full.unlink(missing_ok=True)
            line = json.dumps({"t": t + n, "link": "pushed-1", "tt_ms": 40_000, "n": 1}).encode()
            statuses.append(post(f"{url[0]}/ingest/v1/link", secret, f"key-{n}", line))
        time.sleep(2)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 0, running.stderr.read()
    assert statuses == [202, 503, 202] * 3, statuses
    assert run(["citybrain", "export", tmp_path / "demo", tmp_path / "out"]).code == 0
    rows = pl.concat([pl.read_parquet(p) for p in (tmp_path / "out" / "rows").glob("link*.parquet")])
    assert int(rows.filter(pl.col("place") == "pushed-1")["n"].sum()) == 6
