"""Pathway: `pathway spawn --threads 2 python pathway.py FOLDER OUT DISORDER_MS`; see benchmarks/README.md."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

sys.path = [entry for entry in sys.path if not entry.endswith("/peers")]  # this file has the name of the package

import pathway as pw  # noqa: E402


class Event(pw.Schema):  # type: ignore[misc]
    t: int
    link: str
    tt_ms: int
    n: int


def main() -> None:
    folder, out, disorder_ms = sys.argv[1:]
    events = pw.io.jsonlines.read(folder, schema=Event, mode="static")
    weighed = events.select(pw.this.t, pw.this.link, pw.this.n, tt=pw.this.n * pw.this.tt_ms)
    groups = weighed.windowby(
        weighed.t,
        window=pw.temporal.tumbling(duration=300_000),
        instance=weighed.link,
        behavior=pw.temporal.exactly_once_behavior(shift=int(disorder_ms)),
    ).reduce(
        link=pw.this._pw_instance,
        pane=pw.this._pw_window_start,
        events=pw.reducers.count(),
        veh=pw.reducers.sum(pw.this.n),
        tt=pw.reducers.sum(pw.this.tt),
    )
    pw.io.jsonlines.write(groups, out)
    began = time.perf_counter()
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    told = {"seconds": time.perf_counter() - began, "started_s": 0.0, "version": f"pathway {version('pathway')}"}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
