"""Floods: memory and checkpoint stay bounded, and what was not in the flood is exact (reliability, fault 37)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.faults.processes import run

T = 1_772_416_800_000
WIDE = 15_000
"""Places that fire in one step; 50,000 in `make crash`."""


def places(n: int) -> Callable[[int], str]:
    """Every record of another place, in two minutes."""
    rnd = random.Random(1)
    return lambda k: f'{{"t":{T + k * 120_000 // n},"link":"{rnd.getrandbits(64):016x}","tt_ms":40000,"n":1}}\n'


def bad(n: int) -> Callable[[int], str]:
    return lambda k: f'{{"t":{T + k},"link":"l{k % 100}","tt_ms":"x{k}"}}\n'


def replayed(folder: Path, n: int, lines: Callable[[int], Callable[[int], str]], out: bool = False) -> dict[str, int]:
    """The summary of a replay of so many lines."""
    path, line = folder / "link.ndjson", lines(n)
    with path.open("w") as file:
        file.writelines(line(k) for k in range(n))
    ended = run(["citybrain", "replay", "--quiet", *(("--out", folder / "out") if out else ()), path], longest_s=3600)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["received"] == n
    return dict(found)


def flood_of_places(folder: Path, few: int, many: int) -> str:
    """Beyond `max_places` (100,000) they count as one, and cost no memory of their own."""
    small, large = replayed(folder, few, places), replayed(folder, many, places, out=True)
    readings = pl.concat([pl.read_parquet(p) for p in (folder / "out").glob("readings*.parquet")])
    sites = readings.filter(pl.col("place_kind") == "site")["place"]
    rows = pl.concat([pl.read_parquet(p) for p in (folder / "out" / "rows").glob("link*.parquet")])
    assert sites.n_unique() <= 100_000 + 1 + 2_000, "the pack's own sites beside them"
    other = int(rows.filter(pl.col("place") == "__other__")["n"].sum())
    assert other == many - 100_000, "what is beyond the bound is counted, once"
    assert large["peak_rss_mb"] < 1.25 * small["peak_rss_mb"] + 100, (small, large)
    return f"{few:,} and {many:,} places: {small['peak_rss_mb']} and {large['peak_rss_mb']} MB, {other:,} as __other__"


def flood_of_letters(folder: Path, few: int, many: int) -> str:
    """Refused records are written as they come."""
    small, large = replayed(folder, few, bad), replayed(folder, many, bad)
    assert large["rejected"] == many and large["peak_rss_mb"] < 1.2 * small["peak_rss_mb"], (small, large)
    return f"{few:,} and {many:,} bad records: {small['peak_rss_mb']} and {large['peak_rss_mb']} MB"


def flood_of_episodes(folder: Path, n: int) -> str:
    """One step in which so many places fire, with restarts before, within and after it."""
    ended = run(["tests.faults.bounds", "episodes", n, folder])
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["fired"] == n and found["equal"] and found["cuts"] >= 2, found
    assert found["checkpoint_mb"] < 2 + n / 500 and found["run_mb"] < 250 + n / 50, found
    return f"{n:,} episodes at once: {found}"


@pytest.mark.crash
def test_a_flood_of_places(tmp_path: Path) -> None:
    print(f"\n{flood_of_places(tmp_path, 200_000, 600_000)}")


@pytest.mark.crash
def test_a_flood_of_bad_records(tmp_path: Path) -> None:
    print(f"\n{flood_of_letters(tmp_path, 200_000, 400_000)}")


@pytest.mark.crash
def test_a_flood_of_episodes(tmp_path: Path) -> None:
    print(f"\n{flood_of_episodes(tmp_path, WIDE)}")
