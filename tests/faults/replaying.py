"""`citybrain replay` with small steps, as a process of its own: what is killed by the tests of this folder.

    python -m tests.faults.replaying [--fine-for-days N] STORE OUT COMMIT_EVENTS FILE...

Says `begun` on stderr when the first record is about to be read. With `--fine-for-days` rows are dropped after so many
days, as a live run does it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from citybrain import guarded
from commands import replay as command
from commands.inputs import resolve
from pipelines import delivery
from pipelines.ingest import COUNTERS
from pipelines.streams import DAY_MS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fine-for-days", type=int)
    parser.add_argument("store")
    parser.add_argument("out", type=Path)
    parser.add_argument("commit_events", type=int)
    parser.add_argument("files", type=Path, nargs="+")
    given = parser.parse_args()
    real = delivery.Run

    class SmallSteps(real):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: object, **named: Any) -> None:
            if given.fine_for_days is not None:
                named |= {"fine_for_ms": given.fine_for_days * DAY_MS, "drop": named["older"].__self__.drop_before}
            super().__init__(*arguments, **named, commit_events=given.commit_events)
            sys.stderr.write("begun\n")
            sys.stderr.flush()

    command.Run = SmallSteps  # type: ignore[misc]
    counted: dict[str, int] = {}
    summarise = command.summarise

    def counting(counts: Any, found: dict[str, int], *rest: Any) -> dict[str, Any]:
        counted.update(found)
        return summarise(counts, found, *rest)

    command.summarise = counting
    inputs = resolve(given.files, city=None, map_=None, stream=None, lookup=None, disorder=None)
    options = command.Options(store=given.store, out=given.out)
    summary = command.replay(inputs, options, quiet=True)
    identity = {name: summary[name] for name in COUNTERS}
    print(json.dumps({"identity": identity, "rows": counted}, sort_keys=True))


if __name__ == "__main__":
    guarded(main)
