"""`python -m benchmarks [--quick] [CASE...]`: runs the cases and prints one table. Nothing here is a test."""

from __future__ import annotations

import argparse
import difflib
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.cases import CASES, Bench
from benchmarks.data import Data
from benchmarks.results import Found, write
from benchmarks.runs import RunFailed, pin
from benchmarks.table import table

FULL, QUICK = 30_000_000, 3_000_000
BYTES_AN_EVENT = 300
"""NDJSON clean and broken, Arrow, and a tenth for the memory case."""
RESULTS = Path(__file__).parent / "RESULTS.md"


def arguments() -> argparse.Namespace:
    lines = [f"  {name:11s}{case.__doc__}" for name, case in CASES.items()]
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, epilog="cases:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("case", nargs="*", help="cases to run (default: all)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:,} events instead of {FULL:,}")
    parser.add_argument("--events", type=int, help="so many link events instead")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs of each program (default: 5)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()), help="folder of the generated files")
    parser.add_argument(
        "--engines", type=Path, default=Path(".venv-engines/bin/python"), help="Python of the engines' environment"
    )
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"), help="folder of the peers' environments")
    parser.add_argument("--results", type=Path, help="file that gets the results (default: RESULTS.md, of a full run)")
    given = parser.parse_args()
    for name in given.case:
        if name not in CASES:
            near = difflib.get_close_matches(name, CASES, 1)
            parser.error(
                f"case {name!r} is unknown; cases are {', '.join(CASES)}."
                + (f" Did you mean {near[0]!r}?" if near else "")
            )
    return given


def main() -> int:
    given = arguments()
    events = given.events or (QUICK if given.quick else FULL)
    free = shutil.disk_usage(given.cache).free
    if free < events * BYTES_AN_EVENT:
        print(
            f"{given.cache} has {free >> 30} GiB free; {events * BYTES_AN_EVENT >> 30} are needed: name another --cache",
            file=sys.stderr,
        )
        return 2
    pin()
    bench = Bench(Data(given.cache), events, given.rounds, given.quick)
    bench.engines, bench.peers = given.engines.absolute(), given.peers.absolute()
    if given.quick:
        bench.air_events, bench.places = 200_000, 200_000
    found: list[Found] = []
    for name in given.case or CASES:
        print(f"{name}: {CASES[name].__doc__}", file=sys.stderr, flush=True)
        one, began, before = Found(name, CASES[name].__doc__ or "", (), ()), time.monotonic(), len(bench.remarks)
        try:
            one.rows = CASES[name](bench)
        except (RunFailed, RuntimeError) as error:
            one.failed = str(error)
            print(f"{name} failed: {error}", file=sys.stderr, flush=True)
        one.remarks, one.took_s = bench.remarks[before:], time.monotonic() - began
        one.how = f"up to {events:,} link events, at most {given.rounds} rounds"
        found.append(one)
    results = given.results or (RESULTS if events >= FULL else None)
    if results is not None:
        write(results, found, [*CASES])
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(
        f"\n{events:,} link events, {given.rounds} interleaved runs each, {platform.machine()}, {cores} cores, load {load:.1f}"
    )
    print("ratio: how many times as fast as the reference of its case (1.00), unless said otherwise\n")
    print(table([row for one in found for row in one.rows]))
    failed = [f"{one.case} failed: {one.failed}" for one in found if one.failed is not None]
    print("\n" + "\n".join([*bench.remarks, *failed]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
