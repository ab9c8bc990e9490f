"""Processes that die again and again at the same place: what is on disk does not grow, and in the end all is there.

Kills while tables are made or changed and while a backup is copied, too (reliability, fault 3).
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.delivery import Durable
from pipelines.failpoints import VARIABLE
from pipelines.journal import Journal, recover
from pipelines.streams import DAY_MS, MINUTE_MS
from sinks.difference import compare_readings, compare_rows
from sinks.memory import MemorySink
from tests.conformance.small_city import START
from tests.conformance.small_runs import How, city_run
from tests.conformance.small_runs import sink as small_store
from tests.fakes.listed import Crash, DirectStore, Record
from tests.faults.crash import FEW, FEW_EVENTS, check, scene
from tests.faults.processes import KILLED, Ended, Replays, run

TIMES = 6
"""Twenty in `make crash`."""
Town = tuple[Replays, Ended]
EARLY = ("base_drafted:1", "base_renamed:1")
"""In the first 0.3 s of the work, before anything went on."""


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    made = scene(tmp_path_factory.mktemp("town"), FEW, FEW_EVENTS)
    return made, made.calm()


def size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def crash_loop(replays: Replays, calm: Ended, times: int, total: Counter[str]) -> str:
    """A store with a step that was begun, killed so often while it starts."""
    killed = replays.once("loop", failpoint="store_between:8")
    assert killed.code == KILLED, killed.err
    sizes: list[tuple[int, int]] = []
    for n in range(times + 2):
        killed = replays.once("loop", failpoint=EARLY[n % 2])
        assert killed.code == KILLED, killed.err
        total["killed while it starts"] += 1
        sizes.append((size(replays.folder / "loop" / "delivery"), size(replays.folder / "loop" / "store")))
    # The first four make the generations that are kept at most.
    for before, after in zip(sizes[3], sizes[-1], strict=True):
        assert after <= 1.01 * before, sizes
    check("after a crash loop", replays.after("loop", calm), total)
    return f"{times} kills while it starts: checkpoints and store {sizes[3]} bytes, then {sizes[-1]}"


def test_a_crash_loop_leaves_nothing_behind(town: Town) -> None:
    total: Counter[str] = Counter()
    print(f"\n{crash_loop(*town, TIMES, total)}; {dict(total)}")


def test_killed_while_the_tables_are_made(town: Town) -> None:
    (replays, calm), total = town, Counter[str]()
    for nth in (1, 2, 5):
        killed = replays.once("made", failpoint=f"store_migrated:{nth}")
        total["killed" if killed.code == KILLED else "not passed"] += 1
        assert killed.code in (0, KILLED), killed.err
    check("killed while the tables are made", replays.after("made", calm), total)
    assert total["killed"] >= 1, total
    print(f"\n{dict(total)}")


@pytest.mark.crash
def test_killed_while_a_backup_is_copied(town: Town, tmp_path: Path) -> None:
    """The store is as it was, nothing passes for a backup, and the next one is whole."""
    replays, _ = town
    store, target = replays.folder / "calm", tmp_path / "backup"
    command = ["citybrain", "backup", "--quiet", "--store", store, target]
    for _ in range(2):
        killed = run(command, env={VARIABLE: "backup_copied:1"})
        assert killed.code == KILLED and not target.exists(), killed
    ended = run(command)
    assert ended.code == 0 and not list(tmp_path.glob(".backup.partial-*")), ended.err
    ended = run(["citybrain", "restore", "--quiet", "--store", tmp_path / "restored", target])
    assert ended.code == 0, ended.err
    for folder in (store, tmp_path / "restored"):
        compared = run(["citybrain", "diff", folder, replays.folder / "calm.out"])
        assert compared.code == 0, compared.out
    shutil.rmtree(target)


class Retiring(DirectStore):
    """Crashes when months are dropped: before the dropping of the nth, or right after it."""

    def __init__(self, kept: MemorySink, nth: int, after: bool) -> None:
        super().__init__(kept)
        self.nth, self.after = nth, after

    def call(self, action: Callable[[], None]) -> None:
        if getattr(getattr(action, "func", None), "__name__", "") != "_retire":
            return super().call(action)
        self.nth -= 1
        if self.nth == 0 and not self.after:
            raise Crash("before months are dropped")
        super().call(action)
        if self.nth == 0:
            raise Crash("after months were dropped")
        return None


def retained(folder: Path, crashes: list[tuple[int, bool]]) -> tuple[MemorySink, int]:
    """75 days of one place of which a month is kept, cut off where months are dropped; and how often it was."""
    sent: list[Record] = [
        {"t": t, "place": "l1", "tt_ms": 60_000 + n % 50, "arrival": t}
        for n, t in enumerate(range(START, START + 75 * DAY_MS, 50 * MINUTE_MS))
    ]
    kept, crashed = small_store(), 0
    for epoch, (nth, after) in enumerate([*crashes, (0, False)], 1):
        store, journal = Retiring(kept, nth, after), Journal(folder, fsync=False)
        durable = Durable(journal, recover(folder))
        run = city_run({"link": {"a": sent}}, How(200, 40), store, epoch, durable=durable, fine_for_ms=35 * DAY_MS)
        try:
            run.replay()
        except Crash:
            crashed += 1
        journal.close()
    return kept, crashed


def test_killed_where_months_are_dropped(tmp_path: Path) -> None:
    for name in ("calm", "broken"):
        (tmp_path / name).mkdir()
    calm, none = retained(tmp_path / "calm", [])
    broken, crashed = retained(tmp_path / "broken", [(1, False), (1, True), (2, False), (1, True), (2, True)])
    rows = [store.panes("link", 0, 10**15) for store in (calm, broken)]
    assert none == 0 and crashed >= 3, crashed
    assert not compare_readings(calm.newest_readings(), broken.newest_readings())
    assert not compare_rows("link", *rows) and len(rows[0]) > 500
    assert rows[0]["pane_start"].min() == rows[1]["pane_start"].min() > START + 20 * DAY_MS  # type: ignore[operator]
    print(f"\n{crashed} crashes; {len(calm.newest_readings()):,} readings and {len(rows[0]):,} rows compared")
