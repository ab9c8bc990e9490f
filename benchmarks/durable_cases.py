"""The cases of `benchmarks/durable.py` and their bars."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.durable import day
from benchmarks.runs import Program, interleaved, once
from benchmarks.table import Row

if TYPE_CHECKING:
    from benchmarks.cases import Bench

EVENTS: Final = 3_000_000


def durable(bench: Bench) -> list[Row]:
    """3 M events into a kept store: everything durable against no fsync and no checkpoint."""
    path = bench.data.links(min(bench.events, EVENTS))
    given = {"path": str(path), "pack": str(bench.data.pack())}
    off = Program("durable: no fsync, no checkpoint", "durable", given | {"on": False})
    on = Program("durable: everything", "durable", given | {"on": True})
    runs = interleaved([off, on], bench.rounds)
    if len({(a["accepted"], a["readings"]) for r in runs.values() for a in r.answers}) != 1:
        raise RuntimeError("durable: the runs did not read or compute the same")
    ratio = statistics.median(a / b for a, b in zip(runs[on.name].seconds, runs[off.name].seconds, strict=True))
    bench.remarks.append("durable: ratio = seconds with everything durable / seconds without")
    return [
        Row(off.name, "s", runs[off.name].seconds),
        Row(on.name, "s", runs[on.name].seconds, ratio, 1.15, bar="at most"),
    ]


def checkpoint(bench: Bench) -> list[Row]:
    """What the checkpoint takes of a live step of the demo city, with a dedup horizon of one hour and of 24."""
    minutes, warm = (2, 20) if bench.quick else (5, 60)
    one, long = (
        once(Program(f"checkpoint, H = {h} h", "checkpoint", {"minutes": minutes, "warm": warm, "horizon_h": h}))
        for h in (1, 24)
    )
    for hours, a in ((1, one), (24, long)):
        bench.remarks.append(
            f"checkpoint, H = {hours} h: {a['steps']} steps, {a['bytes'] / 1000:.0f} kB each, {a['keys']:,} keys remembered; "
            f"p50 {a['whole_p50']:.2f} ms, CPU p50 {a['cpu_p50']:.2f} p95 {a['cpu_p95']:.2f} ms, two bare "
            f"fsyncs of as many bytes p50 {a['alone_p50']:.2f} p95 {a['alone_p95']:.2f} ms; a base is {a['base_mb']:.1f} MB "
            f"and takes {a['base_s']:.2f} s"
        )
    return [
        Row("checkpoint: p95 of a step", "ms", [one["whole_p95"]], required=5, bar="at most"),
        Row("checkpoint: p95 of its CPU", "ms", [one["cpu_p95"]], goal=5, bar="at most"),
        Row("checkpoint: p95 of the disk alone", "ms", [one["alone_p95"]]),
        Row("checkpoint: H = 24 h, CPU p50", "ms", [long["cpu_p50"]], long["cpu_p50"] / one["cpu_p50"],
            1.25, bar="at most"),
        Row("checkpoint: H = 24 h, bytes", "B", [long["bytes"]], long["bytes"] / one["bytes"], 1.05, bar="at most"),
    ]  # fmt: skip


def restart(bench: Bench) -> list[Row]:
    """`citybrain up` killed with a day of data: from its start to the first reading newer than the kill."""
    hours = 1 if bench.quick else 24
    folder = bench.data.folder / f"citybrain-bench-day-{hours}"
    if not (folder / "made").exists():
        print(f"  making {hours} h of data in {folder}", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        day(folder, hours)
        (folder / "made").touch()
    told = once(Program("restart", "restart", {"folder": str(folder), "kills": max(bench.rounds, 5)}))
    took = told["took"]
    bench.remarks.append(
        f"restart: {hours} h of data, {len(took)} kills, p50 {statistics.median(took):.2f} s; the server answered after "
        f"{statistics.median(told['listening']):.2f} s; until the reading it took {statistics.median(told['cpu']):.2f} s of CPU"
    )
    p95 = float(np.quantile(took, 0.95))
    return [
        Row("restart: to a reading newer than the kill", "s", took),
        Row("restart: p95", "s", [p95], required=5, bar="at most"),
    ]
