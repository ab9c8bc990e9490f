"""`make oracle`: the whole runs, or those that are named."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.oracle.runs import RUNS, Missing, run
from tests.oracle.silence import check_silence


def main(names: list[str]) -> int:
    unknown = [n for n in names if n not in RUNS]
    if unknown:
        print(f"{unknown[0]!r} is no run; runs are {', '.join(RUNS)}", file=sys.stderr)
        return 2
    wrong = compared = 0
    for name in names or list(RUNS):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="oracle-") as folder:
            try:
                outcome = run(name, Path(folder), small=False)
            except Missing as missing:
                print(f"oracle {name}: SKIPPED: {missing}", flush=True)
                continue
            print(outcome.verdict.report(name), flush=True)
            compared += outcome.verdict.compared
            wrong += outcome.verdict.wrong.total() + (not outcome.verdict.compared)
            if name == "nasa":
                print(check_silence(outcome), flush=True)
            print(f"  {time.perf_counter() - started:.0f} s", flush=True)
    print(f"oracle: {compared} cells compared, {wrong} differences")
    return 1 if wrong or not compared else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
