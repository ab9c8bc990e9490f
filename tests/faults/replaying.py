"""`citybrain replay` with small steps, as a process of its own: what is killed by the tests of this folder.

    python -m tests.faults.replaying STORE OUT COMMIT_EVENTS FILE...

Says `begun` on stderr when the first record is about to be read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from citybrain import guarded
from commands import replay as command
from commands.inputs import resolve
from pipelines import delivery
from pipelines.ingest import COUNTERS


def main() -> None:
    store, out, commit_events, *files = sys.argv[1:]
    real = delivery.Run

    class SmallSteps(real):  # type: ignore[misc, valid-type]
        def __init__(self, *given: object, **named: object) -> None:
            super().__init__(*given, **named, commit_events=int(commit_events))
            sys.stderr.write("begun\n")
            sys.stderr.flush()

    command.Run = SmallSteps  # type: ignore[misc]
    counted: dict[str, int] = {}
    summarise = command.summarise

    def counting(counts: Any, found: dict[str, int], *rest: Any) -> dict[str, Any]:
        counted.update(found)
        return summarise(counts, found, *rest)

    command.summarise = counting
    inputs = resolve([Path(f) for f in files], city=None, map_=None, stream=None, lookup=None, disorder=None)
    options = command.Options(store=store, out=Path(out) if out else None)
    summary = command.replay(inputs, options, quiet=True)
    identity = {name: summary[name] for name in COUNTERS}
    print(json.dumps({"identity": identity, "rows": counted}, sort_keys=True))


if __name__ == "__main__":
    guarded(main)
