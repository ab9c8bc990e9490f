"""What must not grow without bound, each as a process of its own so that its memory can be told.

    python -m tests.faults.bounds episodes PLACES FOLDER

Prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import polars as pl

from pipelines import catalogue
from pipelines.alerts import Level, Rule, Threshold
from pipelines.city import City, District, Site
from pipelines.delivery import Attached, Durable, Run
from pipelines.journal import Journal, recover
from pipelines.streams import LVL, MINUTE_MS
from pipelines.watermark import Input
from sinks.memory import MemorySink
from tests.fakes.listed import Crash, DirectStore, ListedSource, Record

START = 1_772_461_800_000
FLOODED = Rule(
    "flooded", 1, "water.depth", "site", (Threshold(Level.III, 20, 15, 0),), 2 * MINUTE_MS, "hold", "above"
)  # fmt: skip


def records(places: int) -> list[Record]:
    """All gauges dry, all flooded at once, all dry again."""
    return [
        {"t": START + minute * 60_000 + n % 50_000, "place": f"g{n}", "depth_mm": 500 if 3 <= minute < 6 else 0}
        for minute in range(0, 12, 3)
        for n in range(places)
    ]


def one_life(city: City, sent: list[Record], kept: MemorySink, folder: Path, epoch: int, writes: int | None) -> Run:
    store = DirectStore(kept, writes)
    source = ListedSource("lvl", LVL, sorted(sent, key=lambda r: r["t"]))
    run = Run(
        city, [i for i in catalogue.for_city(city) if i.id == "water.depth"], [LVL],
        [Attached(source, Input("lvl", "lvl"))], store, live=False, epoch=epoch, older=kept.panes,
        commit_events=len(sent) // 4 + 1, durable=Durable(Journal(folder, fsync=False), recover(folder)),
    )  # fmt: skip
    run.replay()
    return run


def episodes(places: int, folder: Path) -> dict[str, object]:
    """One step in which every place fires; the run is cut off right after it and goes on."""
    sites = tuple(Site("lvl", f"g{n}", "north") for n in range(places))
    city = City("wide", "宽", "Wide", "Asia/Shanghai", (District("north", "北", "North"),), sites, (FLOODED,))
    sent, rollups = records(places), catalogue.rollups(catalogue.for_city(city))
    rollups = tuple(r for r in rollups if r.stream is LVL)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    calm, broken = MemorySink(rollups, []), MemorySink(rollups, [])
    one_life(city, sent, calm, folder / "calm", 1, None)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    sizes = [p.stat().st_size for p in (folder / "calm").iterdir()]
    cuts = 0
    for epoch, writes in enumerate((9, 14, 19, None), 1):
        try:
            one_life(city, sent, broken, folder / "broken", epoch, writes)
        except Crash:
            cuts += 1
    told = [x.transitions().drop("revision", "step", "seen_at", strict=False).sort(pl.all()) for x in (calm, broken)]
    return {
        "transitions": len(told[0]), "equal": told[0].equals(told[1]), "cuts": cuts,
        "checkpoint_mb": round(max(sizes) / 1e6, 1), "run_mb": round(used),
        "fired": told[0].filter(pl.col("to_state") == "firing").height,
    }  # fmt: skip


def main() -> None:
    what, places, folder = sys.argv[1:]
    assert what == "episodes"
    for name in ("calm", "broken"):
        (Path(folder) / name).mkdir(parents=True)
    print(json.dumps(episodes(int(places), Path(folder))))


if __name__ == "__main__":
    main()
