"""Kills of a replay at every failpoint and at random, crash loops, floods; the result equals the undisturbed one.

python -m tests.faults.crash [KILLS]     all of it (make crash); a seeded selection is part of make test
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.faults.processes import KILLED, Ended, Replays, run

STEPPED = (
    "plan_made", "plan_synced", "inputs_read", "step_judged", "store_begun", "store_between", "store_written",
    "checkpoint_begun", "checkpoint_written", "checkpoint_synced", "base_drafted", "base_renamed",
)  # fmt: skip
"""The failpoints that a replay passes."""
PASSES = (1, 2, 3)
COMMIT_EVENTS = 30_000
START, UNTIL = "2026-03-02T08:00:00+08:00", "2026-03-02T09:20:00+08:00"
STREAMS = ("link", "http", "case", "inc", "air", "rain", "tkt", "lvl", "park")
FEW = ("http", "case", "inc", "air", "rain", "tkt", "lvl", "park")
"""A third of the events: for tests in which a replay is done often."""
FEW_EVENTS = 8_000


def scene(folder: Path, streams: tuple[str, ...] = STREAMS, commit_events: int = COMMIT_EVENTS) -> Replays:
    """Eighty minutes of the simulated city, late events, copies and broken records among them."""
    ended = run(["citybrain", "simulate", folder / "sent", "--start", START, "--until", UNTIL])
    assert ended.code == 0, ended.err
    return Replays(folder, tuple(folder / "sent" / f"{name}.ndjson" for name in streams), commit_events)


def every_failpoint() -> Iterator[str]:
    return (f"{name}:{nth}" for name in STEPPED for nth in PASSES)


def at_failpoints(scene: Replays, calm: Ended, points: Iterable[str], total: Counter[str]) -> None:
    """One kill at each, then the end; fails on the first difference."""
    for point in points:
        killed = scene.once("killed", failpoint=point)
        total["kills at failpoints" if killed.code == KILLED else "points not passed"] += 1
        assert killed.code in (0, KILLED), killed.err
        check(f"killed at {point}", scene.after("killed", calm), total)


def at_random(scene: Replays, calm: Ended, kills: int, seed: int, total: Counter[str]) -> None:
    """Kills 20 to 600 ms after the work began, two to six in a row over one store, then the end."""
    rnd = random.Random(seed)
    while kills > 0:
        times = [rnd.uniform(0.02, 0.6) for _ in range(min(kills, rnd.randint(2, 6)))]
        for after_s in times:
            killed = scene.once("killed", kill_after_s=after_s)
            assert killed.code in (0, KILLED), killed.err
            total["kills at random" if killed.code == KILLED else "ended before the kill"] += 1
        kills -= len(times)
        check(f"killed after {', '.join(f'{t * 1000:.0f} ms' for t in times)}", scene.after("killed", calm), total)


def check(what: str, found: tuple[list[str], Counter[str]], total: Counter[str]) -> None:
    wrong, counts = found
    assert not wrong, f"{what}: {wrong}"
    assert counts["readings"] > 10_000 and counts["transitions"] > 8, counts
    total.update(counts)
    total["comparisons"] += 1


def floods_and_loops(folder: Path) -> None:
    """What `make test` does in small, in full size."""
    from tests.faults import test_bounds as bounds
    from tests.faults.test_crash_loop import crash_loop

    for what, work in (
        ("places", lambda to: bounds.flood_of_places(to, 200_000, 1_000_000)),
        ("letters", lambda to: bounds.flood_of_letters(to, 200_000, 1_000_000)),
        ("episodes", lambda to: bounds.flood_of_episodes(to, 50_000)),
    ):
        (folder / what).mkdir()
        print(work(folder / what), flush=True)
    (folder / "loop").mkdir()
    town, total = scene(folder / "loop", FEW, FEW_EVENTS), Counter[str]()
    print(f"{crash_loop(town, town.calm(), 20, total)}; {dict(total)}", flush=True)


def main() -> None:
    kills, began, total = int(sys.argv[1]) if len(sys.argv) > 1 else 200, time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="citybrain-crash-") as folder:
        town = scene(Path(folder))
        calm = town.calm()
        at_failpoints(town, calm, every_failpoint(), total)
        print(f"failpoints: {dict(total)}", flush=True)
        at_random(town, calm, kills, 1, total)
        floods_and_loops(Path(folder))
    print(f"crash: {dict(total)} in {time.monotonic() - began:.0f} s, 0 differences")


if __name__ == "__main__":
    main()
