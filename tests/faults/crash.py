"""Kills at every failpoint and at random, on chDB and on the stand-in server, of replays and of live runs, crash loops,
floods; the result equals the undisturbed one.

python -m tests.faults.crash [KILLS]     all of it (make crash); a seeded selection is part of make test
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from sinks.difference import difference
from tests.fakes.clickhouse_process import StandIn
from tests.faults.processes import KILLED, Ended, Replays, killed_after, run
from tests.faults.recorded import real_data

STEPPED = (
    "plan_made", "plan_synced", "inputs_read", "step_judged", "store_begun", "store_between", "store_written",
    "checkpoint_begun", "checkpoint_written", "checkpoint_synced", "base_drafted", "base_renamed", "inputs_committed",
)  # fmt: skip
"""The failpoints that a replay passes."""
SPOOLED = ("spool_written", "spool_synced")
"""Those that what is pushed passes; `test_spool`, `test_crash_loop` and `test_backup` have those beside the steps."""
PASSES = (1, 2, 3)
COMMIT_EVENTS = 30_000
START, UNTIL = "2026-03-02T08:00:00+08:00", "2026-03-02T09:20:00+08:00"
STREAMS = ("link", "http", "case", "inc", "air", "rain", "tkt", "lvl", "park")
FEW = ("http", "case", "inc", "air", "rain", "tkt", "lvl", "park")
"""A third of the events: for tests in which a replay is done often."""
FEW_EVENTS = 8_000


def scene(
    folder: Path, streams: tuple[str, ...] = STREAMS, commit_events: int = COMMIT_EVENTS, server: str = ""
) -> Replays:
    """Eighty minutes of the simulated city, late events, copies and broken records among them."""
    ended = run(["citybrain", "simulate", folder / "sent", "--start", START, "--until", UNTIL])
    assert ended.code == 0, ended.err
    return Replays(folder, tuple(folder / "sent" / f"{name}.ndjson" for name in streams), commit_events, server)


def half_a_year(folder: Path) -> Replays:
    """One station that reports six times a day, a file a month; rows are kept for ten days, then whole months of them go."""
    first, each, files = 1_767_542_400_000, 4 * 3_600_000, []
    for month in range(6):
        files.append(folder / f"air.{month}.ndjson")
        lines = (
            f'{{"t":{first + n * each},"station":"st01","pollutant":"no2","ngm3":{50_000 + 7 * n},"covered_ms":3600000}}\n'
            for n in range(month * 180, (month + 1) * 180)
        )
        files[-1].write_text("".join(lines))
    return Replays(folder, tuple(files), 100, fine_for_days=10)


def every_failpoint(names: Iterable[str] = STEPPED) -> Iterator[str]:
    return (f"{name}:{nth}" for name in names for nth in PASSES)


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
            killed = scene.once("killed", begun=killed_after(after_s))
            assert killed.code in (0, KILLED), killed.err
            total["kills at random" if killed.code == KILLED else "ended before the kill"] += 1
        kills -= len(times)
        check(f"killed after {', '.join(f'{t * 1000:.0f} ms' for t in times)}", scene.after("killed", calm), total)


def while_it_starts(scene: Replays, calm: Ended, kills: int, total: Counter[str]) -> None:
    """Kills while Python loads and the store is made, before anything is read."""
    rnd = random.Random(3)
    for _ in range(kills):
        killed = scene.once("killed", longest_s=rnd.uniform(0.8, 3.0))
        assert killed.code in (0, KILLED), killed.err
        total["kills while it starts" if killed.code == KILLED else "ended before the kill"] += 1
    check(f"killed {kills} times while it starts", scene.after("killed", calm), total)


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
        ("letters", lambda to: bounds.flood_of_letters(to, 1_000_000, 10_000_000)),
        ("episodes", lambda to: bounds.flood_of_episodes(to, 50_000)),
    ):
        (folder / what).mkdir()
        print(work(folder / what), flush=True)
    (folder / "loop").mkdir()
    town, total = scene(folder / "loop", FEW, FEW_EVENTS), Counter[str]()
    print(f"{crash_loop(town, town.calm(), 20, total)}; {dict(total)}", flush=True)


def on_the_server(folder: Path, kills: int, points: Iterable[str], total: Counter[str]) -> None:
    """A third of the events, so that a replay passes every point and takes no longer."""
    server = StandIn(folder / "server")
    server.start()
    try:
        town = scene(folder, FEW, FEW_EVENTS, server.url)
        calm = town.calm()
        at_failpoints(town, calm, points, total)
        at_random(town, calm, kills, 2, total)
    finally:
        server.end(signal.SIGTERM)


def while_months_are_dropped(folder: Path, total: Counter[str]) -> None:
    town = half_a_year(folder)
    calm = town.calm()
    for point in every_failpoint(("rows_dropped",)):
        killed = town.once("killed", failpoint=point)
        assert killed.code == KILLED, f"{point} is not passed: {killed.err}"
        total["kills while months are dropped"] += 1
        wrong, counts = town.after("killed", calm)
        assert not wrong and counts["readings"] > 1_000, f"{point}: {wrong or counts}"
        total.update(counts)
        total["comparisons"] += 1


def live(folder: Path, total: Counter[str]) -> None:
    """A live run killed where it has told what it stored, and one that is pushed to where its spool is written."""
    from tests.faults.test_push_kills import pushed
    from tests.faults.test_up import RUN, exported

    calm = run([*RUN, "--data", folder / "calm"])
    assert calm.code == 0, calm.err
    before = exported(folder / "calm", folder / "calm.out")
    for point in every_failpoint(("step_published",)):
        killed = run([*RUN, "--data", folder / point], failpoint=point)
        ended = run([*RUN, "--data", folder / point])
        assert (killed.code, ended.code) == (KILLED, 0), (killed.err, ended.err)
        found = difference(before, exported(folder / point, folder / "out"))
        assert found.equal, f"up killed at {point}: {found}"
        total.update({table.table: table.compared for table in found.tables})
        total.update({"kills of live runs": 1, "comparisons": 1})
        shutil.rmtree(folder / "out")
    points = tuple(every_failpoint(SPOOLED))
    (folder / "pushed").mkdir()
    killed_at, told = pushed(folder / "pushed", points)
    print(told, flush=True)
    assert {name.partition(":")[0] for name in killed_at} == set(SPOOLED), killed_at
    total["kills of live runs"] += len(killed_at)


def main() -> None:
    kills, began, total = int(sys.argv[1]) if len(sys.argv) > 1 else 200, time.monotonic(), Counter[str]()

    def told(what: str) -> None:
        print(f"{what}, after {time.monotonic() - began:.0f} s: {dict(total)}", flush=True)

    with tempfile.TemporaryDirectory(prefix="citybrain-crash-") as name:
        rooms = {room: Path(name) / room for room in ("embedded", "server", "months", "live", "floods")}
        for room in rooms.values():
            room.mkdir()
        floods_and_loops(rooms["floods"])
        told("floods and loops")
        town = scene(rooms["embedded"])
        calm = town.calm()
        at_failpoints(town, calm, every_failpoint(), total)
        told("failpoints on chDB")
        at_random(town, calm, kills, 1, total)
        while_it_starts(town, calm, 20, total)
        told("random kills on chDB")
        on_the_server(rooms["server"], kills // 4, every_failpoint(), total)
        told("failpoints and random kills on the stand-in")
        while_months_are_dropped(rooms["months"], total)
        live(rooms["live"], total)
        told("months that are dropped, and live runs")
        real_data(rooms["floods"], total)
    told("crash: 0 differences")


if __name__ == "__main__":
    main()
