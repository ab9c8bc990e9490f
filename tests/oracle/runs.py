"""The runs that are compared: what the product is asked to do with which files, and the batch of the same files.

`small` runs are parts of the files for `make test`; the whole ones are `make oracle` (`python -m tests.oracle`).
"""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from tests.oracle import raw
from tests.oracle.batch import Read, canonical, everything
from tests.oracle.grid import MINUTE
from tests.oracle.told import STREAMS, Facts
from tests.oracle.town import Town, add_aarhus, read_town
from tests.oracle.versus import Verdict, compare

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


class Missing(Exception):
    """A data set is not here; the text says which."""


@dataclass
class Prepared:
    """Files by stream, what the product is told beside them, and what the batch needs to know."""

    files: Mapping[str, Sequence[Path]]
    options: Sequence[str]
    read: Mapping[str, Read]
    town: Town
    until: int | None = None
    facts: Mapping[str, Facts] = field(default_factory=dict)


Prepare = Callable[[Path, bool], Prepared]


def citybrain(*arguments: object) -> str:
    """The command line as a user has it; its stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "citybrain", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"citybrain {arguments[0]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def data(*names: str) -> list[Path]:
    paths = [DATA / name for name in names]
    for path in paths:
        if not path.exists():
            raise Missing(f"{path.name} is not here: {DATA} has no {path.relative_to(DATA)}")
    return paths


def simulated(city: str, start: str, until: str, folder: Path) -> Prepared:
    """All ten streams of a simulated city, with what comes late, twice and broken."""
    citybrain("simulate", folder / "sent", "--city", city, "--start", start, "--until", until)
    names = tuple(STREAMS)
    files = {name: [folder / "sent" / f"{name}.ndjson"] for name in names}
    return Prepared(files, ("--city", city), canonical(names), read_town(ROOT / "cities" / city))


def demo(folder: Path, small: bool) -> Prepared:
    """A day of the demo city from one local midnight to the next; in small two hours around a midnight."""
    if small:
        return simulated("demo", "2026-03-01T15:00:00+00:00", "2026-03-01T17:00:00+00:00", folder)
    return simulated("demo", "2026-03-01T16:00:00+00:00", "2026-03-02T16:00:00+00:00", folder)


def harbour(folder: Path, small: bool) -> Prepared:
    """Another zone, weights, thresholds and parameters; the 23-hour day of 29 March 2026."""
    until = "2026-03-30T00:00:00+00:00" if small else "2026-04-01T00:00:00+00:00"
    return simulated("harbour", "2026-03-28T22:00:00+00:00", until, folder)


def aarhus(seconds: int) -> Prepare:
    def prepare(folder: Path, small: bool) -> Prepared:
        week, side = data(
            "aarhus_citypulse/traffic_all449_20140901_20140907_arrival_order.csv.gz",
            "aarhus_citypulse/trafficMetaData.csv",
        )
        if small:
            week = cut(week, folder / "aarhus.csv", islice, 100_000)
        facts = replace(STREAMS["link"], disorder=seconds * 1000, period=5 * MINUTE)
        options = ("--map", "aarhus_traffic", "--lookup", side, "--disorder", f"{seconds}s")
        return Prepared(
            {"link": [week]},
            tuple(map(str, options)),
            {"link": raw.aarhus},
            add_aarhus(Town("UTC"), side),
            facts={"link": facts},
        )

    return prepare


def beijing(folder: Path, small: bool) -> Prepared:
    """Twelve files of one stream, read by the smallest M."""
    data("beijing_prsa")
    paths = sorted((DATA / "beijing_prsa").glob("PRSA_Data_*.csv.gz"))
    if small:
        paths = [cut(p, folder / p.name.removesuffix(".gz"), islice, 900) for p in paths]
    return Prepared({"air": paths}, ("--map", "beijing_prsa"), {"air": raw.beijing}, Town("Asia/Shanghai"))


NASA_UNTIL = 807_307_200_000
"""1995-08-01T20:00:00Z, 68 min after the server was shut down."""


def nasa(folder: Path, small: bool) -> Prepared:
    """The log whose end is an outage, judged by the demo city's rules; time goes on after its last record."""
    options = ("--map", "nasa_http", "--city", "demo", "--until", "1995-08-01T20:00:00Z")
    return Prepared(
        {"http": data("nasa_http/nasa_19950801.tsv.gz")},
        options,
        {"http": raw.nasa},
        read_town(ROOT / "cities" / "demo"),
        NASA_UNTIL,
    )


def fines(folder: Path, small: bool) -> Prepared:
    """Cases of years, their times a day exact, sorted by case in the file."""
    (path,) = data("process_logs/traffic_fines.csv.gz")
    if small:
        path = cut(path, folder / "fines.csv", _spring_2007, None)
    return Prepared({"case": [path]}, ("--map", "traffic_fines"), {"case": raw.fines}, Town("UTC"))


def _spring_2007(rows: Iterator[list[str]], _: None) -> Iterator[list[str]]:
    return (row for row in rows if "2007-02" <= row[4] < "2007-05")


def cut(path: Path, to: Path, keep: Callable[[Iterator[list[str]], Any], Iterator[list[str]]], how: Any) -> Path:
    """Some rows of a CSV file, its header kept."""
    with (
        gzip.open(path, "rt", encoding="utf-8", newline="") as source,
        to.open("w", encoding="utf-8", newline="") as target,
    ):
        rows, write = csv.reader(source), csv.writer(target)
        write.writerow(next(rows))
        write.writerows(keep(rows, how))
    return to


RUNS: dict[str, Prepare] = {
    "demo": demo, "harbour": harbour, "aarhus-60s": aarhus(60), "aarhus-300s": aarhus(300), "beijing": beijing,
    "nasa": nasa, "fines": fines,
}  # fmt: skip


@dataclass
class Outcome:
    verdict: Verdict
    prepared: Prepared
    out: Path
    summary: dict[str, Any]


def run(name: str, folder: Path, small: bool) -> Outcome:
    """Replays with the product, recomputes in batch, compares every cell and the counters."""
    prepared = RUNS[name](folder, small)
    out = folder / "out"
    files = [path for paths in prepared.files.values() for path in paths]
    summary = json.loads(citybrain("replay", *files, *prepared.options, "--out", out, "--quiet"))
    batch = everything(prepared.files, prepared.read, prepared.town, prepared.until, prepared.facts)
    return Outcome(compare(pl.read_parquet(out / "readings.parquet"), batch, summary), prepared, out, summary)
