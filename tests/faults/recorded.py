"""Replays of recorded data sets, killed ten times and typed again, on chDB and on the stand-in server.

python -m tests.faults.recorded [MAP]    part of make crash; needs the data sets (../shared/data)
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sinks.difference import difference
from tests.fakes.clickhouse_process import StandIn
from tests.faults.processes import KILLED, ROOT, Ended, run, transitions_hold

DATA = ROOT.parent / "shared" / "data"
RECORDED: dict[str, tuple[str, tuple[object, ...]]] = {
    "aarhus_traffic": (
        "aarhus_citypulse/traffic_60seg_2mo/*.gz", ("--lookup", DATA / "aarhus_citypulse/trafficMetaData.csv"),
    ),
    "beijing_prsa": ("beijing_prsa/PRSA_Data_*.csv.gz", ()),
}  # fmt: skip
"""A mapping, its files and options."""
KILLS = 10


def ten_kills(folder: Path, command: Sequence[object], wall_s: float, seed: int) -> int:
    """Types the command until it was killed ten times, within about half of the work of a whole run."""
    rnd, kills, env = random.Random(seed), 0, {"XDG_DATA_HOME": str(folder / "data")}
    while kills < KILLS:
        ended = run(command, env=env, longest_s=rnd.uniform(1.5, 2.5 + wall_s / KILLS))
        if ended.code == 0:
            break
        assert ended.code == KILLED, ended.err
        kills += 1
    return kills


def killed_and_not(
    folder: Path, map_: str, files: Sequence[Path], options: Sequence[object], total: Counter[str]
) -> None:
    server = StandIn(folder / "server")
    server.start()
    try:
        read = ["citybrain", "replay", "--quiet", "--map", map_, *options, *files]
        calm = finished([*read, "--out", folder / "calm"], folder)
        wall_s = json.loads(calm.out)["wall_s"]
        print(f"{map_}: {len(files)} files undisturbed: {calm.out.strip()}", flush=True)
        for seed, store in enumerate((folder / "store", f"{server.url}/killed")):
            kills = ten_kills(folder, [*read, "--store", store], wall_s, seed)
            finished([*read, "--store", store, "--out", folder / "killed"], folder)
            found = difference(folder / "calm", folder / "killed")
            assert found.equal, f"{map_} killed {kills} times on {store}: {found}"
            assert kills == KILLS, f"it was finished after {kills} kills"
            where = "the stand-in" if "://" in str(store) else "chDB"
            told = {table.table: table.compared for table in found.tables}
            print(
                f"{map_} on {where}: {kills} kills, {transitions_hold(folder / 'killed')} transitions, {told}",
                flush=True,
            )
            total.update(told)
            total.update({"kills of recorded data": kills, "comparisons": 1})
            shutil.rmtree(folder / "killed")
            shutil.rmtree(folder / "store", ignore_errors=True)
    finally:
        server.end(signal.SIGTERM)


def finished(command: Sequence[object], folder: Path) -> Ended:
    ended = run(command, env={"XDG_DATA_HOME": str(folder / "data")}, longest_s=1800)
    assert ended.code == 0, ended.err
    return ended


def real_data(folder: Path, total: Counter[str], only: Sequence[str] = tuple(RECORDED)) -> None:
    for map_ in only:
        pattern, options = RECORDED[map_]
        files = sorted(DATA.glob(pattern))
        if not files:
            print(f"{map_}: NOT RUN, its files are not beside the project ({DATA / pattern})", flush=True)
            continue
        (folder / map_).mkdir()
        killed_and_not(folder / map_, map_, files, options, total)
        shutil.rmtree(folder / map_)


def main() -> None:
    total = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="citybrain-recorded-") as folder:
        real_data(Path(folder), total, sys.argv[1:] or tuple(RECORDED))
    print(f"recorded: {dict(total)}, 0 differences")


if __name__ == "__main__":
    main()
