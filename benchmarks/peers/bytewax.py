"""Bytewax: two processes of `python bytewax.py FOLDER OUT DISORDER_MS NUMBER PORT PORT`; see benchmarks/README.md."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path = [entry for entry in sys.path if not entry.endswith("/peers")]  # this file has the name of the package

import bytewax.operators as op  # noqa: E402
import bytewax.operators.windowing as win  # noqa: E402
import orjson  # noqa: E402
from bytewax.connectors.files import DirSource, FileSink  # noqa: E402
from bytewax.dataflow import Dataflow  # noqa: E402

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PANE = timedelta(minutes=5)
FROZEN = datetime(2030, 1, 1, tzinfo=UTC)
"""Bytewax adds the time that passes to its watermark; for files that is no time of theirs."""


def parsed(line: str) -> tuple[str, tuple[int, int, int]]:
    event = orjson.loads(line)
    return event["link"], (event["t"], event["n"], event["n"] * event["tt_ms"])


def fold(sums: list[int], one: tuple[int, int, int]) -> list[int]:
    return [sums[0] + 1, sums[1] + one[1], sums[2] + one[2]]


def merge(a: list[int], b: list[int]) -> list[int]:
    return [x + y for x, y in zip(a, b, strict=True)]


def text(keyed: tuple[str, tuple[int, list[int]]]) -> tuple[str, str]:
    link, (window, (events, veh, tt)) = keyed
    group = {"link": link, "pane": window * 300_000, "events": events, "veh": veh, "tt": tt}
    return link, orjson.dumps(group).decode()


def flow(folder: str, out: str, disorder_ms: int) -> Dataflow:
    made = Dataflow("groups")
    lines = op.input("files", made, DirSource(Path(folder), glob_pat="*.ndjson", batch_size=1000))
    keyed = op.map("parse", lines, parsed)
    clock: Any = win.EventClock(
        ts_getter=lambda e: EPOCH + timedelta(milliseconds=e[0]),
        wait_for_system_duration=timedelta(milliseconds=disorder_ms),
        now_getter=lambda: FROZEN,
        to_system_utc=lambda _: None,
    )
    windower = win.TumblingWindower(align_to=EPOCH, length=PANE)
    groups = win.fold_window("sums", keyed, clock, windower, lambda: [0, 0, 0], fold, merge, ordered=False)
    op.output("write", op.map("text", groups.down, text), FileSink(Path(out)))
    return made


def worker(folder: str, out: str, disorder_ms: str, number: str, *ports: str) -> None:
    from bytewax._bytewax import cluster_main

    made = flow(folder, out, int(disorder_ms))
    began = time.perf_counter()
    cluster_main(made, [f"localhost:{port}" for port in ports], int(number))
    print(time.perf_counter() - began)


def main() -> None:
    if len(sys.argv) > 4:
        worker(*sys.argv[1:])
        return
    import socket

    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        ports: Iterable[str] = [str(s.getsockname()[1]) for s in (a, b)]
    began = time.perf_counter()
    workers = [
        subprocess.Popen([sys.executable, *sys.argv, str(number), *ports], stdout=subprocess.PIPE)
        for number in range(2)
    ]
    said = [one.communicate()[0] for one in workers]
    if any(codes := [one.returncode for one in workers]):
        sys.exit(f"the workers ended with {codes}")
    whole, seconds = time.perf_counter() - began, max(float(text.split()[-1]) for text in said)
    told = {"seconds": seconds, "started_s": whole - seconds, "version": f"bytewax {version('bytewax')}"}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
