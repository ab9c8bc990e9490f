"""What runs in the engines' environment, each in a process of its own: `python -m benchmarks.engines.programs NAME JSON`.

PyFlink and Beam do not live in one process, so a program imports what it needs when it is called.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import orjson

PROGRAMS: Final = {
    "versions": "files:versions",
    "log": "files:log",
    "expected": "files:expected",
    "polars_files": "files:polars",
    "serve": "topics:serve",
    "filled": "topics:filled",
    "flink": "flink:product",
    "flink_by_hand": "flink:by_hand",
    "beam_files": "beam:engine",
    "beam_elements": "beam:by_element",
    "beam_streaming": "beam:streaming",
    "polars_kafka": "polars_job:measured",
    "polars_run": "polars_job:run",
    "live": "live:live",
    "flink_run": "live:flink_run",
}


def main() -> None:
    name, given = sys.argv[1:]
    module, _, function = PROGRAMS[name].partition(":")
    answer = getattr(importlib.import_module(f"benchmarks.engines.{module}"), function)(**orjson.loads(given))
    sys.stdout.write(orjson.dumps(answer).decode() + "\n")


if __name__ == "__main__":
    main()
