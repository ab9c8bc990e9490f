"""Files of a store that were damaged while nothing ran: what the command says and does then (reliability, fault 16).

Single files of a journal and of a spool are damaged byte by byte in tests/unit; here it is the command that meets them.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.journal import generations
from tests.faults.crash import FEW, FEW_EVENTS, check, scene
from tests.faults.processes import KILLED, Ended, Replays, run
from tests.faults.test_disk_full import until_told
from tests.faults.test_push_kills import post
from tests.faults.test_up import START, up

Damage = Callable[[Path], None]
Town = tuple[Replays, Ended]


def cut(share: float) -> Damage:
    """Only that share of the file is left."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def less(n: int) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[:-n])


def flipped(share: float) -> Damage:
    """One bit is another one."""

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(share * (len(data) - 1))] ^= 16
        path.write_bytes(data)

    return flip


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """The undisturbed run, and a store after two runs that were killed mid-way: two generations, one begun step."""
    replays = scene(tmp_path_factory.mktemp("town"), FEW, FEW_EVENTS)
    for failpoint in ("checkpoint_synced:2", "plan_synced:3"):
        killed = replays.once("hurt", failpoint=failpoint)
        assert killed.code == KILLED, killed.err
    assert len(generations(replays.folder / "hurt" / "delivery")) == 2
    return replays, replays.calm()


def newest(replays: Replays, store: str, kind: str, back: int = 0) -> Path:
    folder = replays.folder / store / "delivery"
    return folder / f"{kind}-{generations(folder)[-1 - back]}"


REPAIRED: tuple[tuple[str, Damage, str], ...] = (
    ("checkpoint", cut(0.05), "before the end of its base"),
    ("checkpoint", flipped(0.0), "damaged at its first byte"),
    ("checkpoint", flipped(0.05), "before the end of its base"),
    ("checkpoint", less(9), ""),
    ("plans", less(9), ""),
    ("checkpoint", lambda path: path.write_bytes(b""), "damaged at its first byte"),
)
"""What is damaged, how, and what the warning says of it; "" where it cannot be told from a write that was cut off."""
REFUSED: tuple[tuple[tuple[str, int, Damage], ...], ...] = (
    (("checkpoint", 0, flipped(0.05)), ("checkpoint", 1, flipped(0.0))),
    (("checkpoint", 0, cut(0)), ("checkpoint", 1, cut(0))),
    (("plans", 0, flipped(0.4)),),
)


@pytest.mark.crash
def test_damage_that_the_other_generation_mends(town: Town) -> None:
    """One damage after the other to one store, each met by a run that goes on and is killed again."""
    (replays, calm), total = town, Counter[str]()
    shutil.copytree(replays.folder / "hurt", replays.folder / "mended", symlinks=True)
    for kind, damage, said in REPAIRED:
        path = newest(replays, "mended", kind)
        damage(path)
        ended = replays.once("mended", failpoint="plan_synced:2")
        assert ended.code in (0, KILLED) and "Traceback" not in ended.err, ended.err
        warned = [line for line in ended.err.splitlines() if line.startswith("warning: ")]
        assert len(warned) == bool(said) and all(str(path) in x and said in x for x in warned), (path, ended.err)
        assert len(generations(path.parent)) == 2, "the generation that was read is kept"
        total["killed again"] += ended.code == KILLED
    check("after damage", replays.after("mended", calm), total)
    assert total["killed again"] >= 2
    print(f"\ndamage mended: {len(REPAIRED)} kinds, {dict(total)}")


def test_damage_in_the_middle_of_a_generation(town: Town) -> None:
    """A record that others follow: the state before it is used, and it is named."""
    replays, calm = town
    shutil.copytree(replays.folder / "hurt", replays.folder / "middle", symlinks=True)
    path = newest(replays, "middle", "checkpoint")
    data = bytearray(path.read_bytes())
    marks = [m.start() for m in re.finditer(rb"REC\n", bytes(data))]
    assert len(marks) > 2, "a base and two records"
    data[marks[1] + 40] ^= 1
    path.write_bytes(data)
    ended = replays.once("middle")
    assert f"{path} is damaged at byte {marks[1]}; the state before it is used" in ended.err, ended.err
    assert ended.code == 0 and ended.out == calm.out and not replays.differences("middle")[0]
    replays.forget("middle")


def test_damage_that_is_refused(town: Town) -> None:
    replays, _ = town
    for n, damages in enumerate(REFUSED):
        store = f"refused{n}"
        shutil.copytree(replays.folder / "hurt", replays.folder / store, symlinks=True)
        for kind, back, damage in damages:
            damage(newest(replays, store, kind, back))
        ended = replays.once(store)
        lines = ended.err.splitlines()
        assert ended.code == 1 and len(lines) == 1 and lines[0].startswith("citybrain: "), ended.err
        assert "Restore a backup" in lines[0] and ("--fresh" in lines[0] or "start over" in lines[0]), lines
        for kind, back, _ in damages:
            assert str(newest(replays, store, kind, back)) in lines[0], lines
        replays.forget(store)
    print(f"\ndamage refused: {len(REFUSED)} kinds")


def test_a_damaged_spool(tmp_path: Path) -> None:
    """What was acknowledged and cannot be read is named, and left out only when somebody says so."""
    command = ("citybrain", "up", "--seed", 7, "--start", START, "--until", "2026-03-02T08:02:00+08:00", "--speed", 60)
    command = (*command, "--port", 0, "--data", tmp_path)
    secret = run(["citybrain", "token", "add", "vans", "--scope", "ingest:vans", "--data", tmp_path]).out.split()[-1]
    with up(*command) as running:
        assert running.stdout is not None and running.stderr is not None
        url = re.search(r"http://[^/]+", running.stdout.readline())
        assert url is not None
        until_told(running, "first number", [])
        for n in range(20):
            line = json.dumps({"t": 1_772_400_000_000 + n, "link": "pushed-1", "tt_ms": 40_000, "n": 1}).encode()
            assert post(f"{url[0]}/ingest/v1/link", secret, f"key-{n}", line) == 202
        time.sleep(1)
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=20)
    segment = next((tmp_path / "demo" / "spool").rglob("*.spool"))
    whole = segment.read_bytes()
    segment.write_bytes(whole + b"half of an append")
    ended = run(command)
    assert ended.code == 0 and f"{segment}: 17 bytes" in ended.err and "never acknowledged" in ended.err, ended.err
    for damage in (flipped(0.5), cut(0.6), flipped(0.0)):
        segment.write_bytes(whole)
        damage(segment)
        ended = run(command)
        lines = ended.err.splitlines()
        assert ended.code == 1 and len(lines) == 1 and lines[0].startswith(f"citybrain: {segment} is damaged"), (
            ended.err
        )
        assert "backup" in lines[0] and f"rename it to {segment.stem}.lost" in lines[0]
    segment.rename(segment.with_suffix(".lost"))
    ended = run(command)
    assert ended.code == 0 and "Traceback" not in ended.err, ended.err
