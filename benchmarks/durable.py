"""What it costs that nothing is lost: a replay with and without, the checkpoint of a live step, a restart after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from pipelines.streams import HOUR_MS, MINUTE_MS

START: Final = 1_772_416_800_000
DAY: Final = 1_772_380_800_000
"""Midnight in the demo city."""
BEAT_MS: Final = 600
STRIDE: Final = 10
"""Minutes of a step while the past is caught up, as in `citybrain up`."""
Answer = dict[str, Any]


def durable(path: str, pack: str, on: bool) -> Answer:
    """A replay into a kept embedded store: with fsync and checkpoint, or with neither."""
    from commands.durable import opened
    from commands.inputs import resolve
    from pipelines import catalogue
    from pipelines.delivery import Run
    from sinks.clickhouse import ClickHouseSink
    from sinks.writer import StoreThread

    inputs = resolve([Path(path)], city=pack, map_=None, stream=None, lookup=None, disorder=None)
    indicators = catalogue.for_city(inputs.city)
    with tempfile.TemporaryDirectory(prefix="citybrain-bench-") as folder:
        store = f"chdb://{folder}/store"
        with ClickHouseSink(store, catalogue.rollups(indicators), (), fsync=on) as sink:
            sink.migrate()
            held = opened(Path(folder) / "delivery", {"run": "bench"}, None) if on else None
            started = time.perf_counter()
            with StoreThread(sink) as writer:
                run = Run(
                    inputs.city, indicators, inputs.streams, inputs.attached, writer, live=False, epoch=1,
                    older=sink.panes, durable=held,
                )  # fmt: skip
                counts = run.replay()
            seconds = time.perf_counter() - started
    return {"seconds": seconds, "accepted": counts.counters["accepted"], "readings": counts.readings}


class _Directly:
    """A store that takes everything, and does at once what it is called with: what is measured is the checkpoint."""

    def submit(self, batch: object) -> None:
        """Nothing is kept."""

    def call(self, action: Callable[[], None]) -> None:
        action()

    def flush(self) -> None:
        """Nothing waits."""


def checkpoint(minutes: int, warm: int, horizon_h: int) -> Answer:
    """The demo city, live, a step every 0.6 s of its clock without waiting: milliseconds that the checkpoint takes of a step
    (collecting what changed; plan and record with their fsync), its CPU alone, and what two bare fsyncs of as many bytes
    take on the same disk right after. The dedup state is filled to what `horizon_h` hours hold."""
    from commands.durable import opened
    from commands.inputs import city_of
    from connectors.simulator import GENERATORS
    from connectors.simulator_source import sources
    from pipelines import catalogue
    from pipelines.delivery import Attached, Now, Run
    from pipelines.watermark import Input

    city, beat, watch = city_of("demo"), Now(START), _Stopwatch()
    declared = {
        s.name: replace(s, horizon_ms=horizon_h * HOUR_MS if s.dedup else s.horizon_ms) for s in catalogue.STREAMS
    }
    wall_s, cpu_s, alone_s, sizes = list[float](), list[float](), list[float](), list[int]()
    with tempfile.TemporaryDirectory(prefix="citybrain-bench-") as folder:
        held = opened(Path(folder) / "delivery", {"run": "bench"}, None)
        journal = held.journal
        made = sources(city, declared, START, beat)
        run = Run(
            city, catalogue.for_city(city), [declared[name] for name in GENERATORS],
            [Attached(s, Input(s.input, f"simulator:{s.stream}")) for s in made], _Directly(), live=True, epoch=1,
            start=START, now=beat, durable=held,
        )  # fmt: skip
        run.resume()
        at = START
        for turn in range(1, warm + 1):
            at += MINUTE_MS
            run.poll(at)
            run.tick(at)
            if turn % STRIDE == 0:
                run.step(at)
        keys = _filled(run, horizon_h * HOUR_MS, warm * MINUTE_MS)
        for of, name in ((run, "_saved"), (journal, "plan"), (journal, "step"), (journal, "begin")):
            setattr(of, name, watch.around(getattr(of, name)))
        with (Path(folder) / "bare").open("wb", buffering=0) as bare:
            while at < START + (warm + minutes) * MINUTE_MS:
                at += BEAT_MS
                run.poll(at)
                run.tick(at)
                watch.wall_s = watch.cpu_s = 0.0
                before = journal.size
                run.step(at)
                wall_s.append(watch.wall_s)
                cpu_s.append(watch.cpu_s)
                sizes.append(max(0, journal.size - before))
                began = time.perf_counter()
                for size in (500, sizes[-1]):
                    bare.write(b"r" * size)
                    os.fsync(bare.fileno())
                alone_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        journal.begin(run._saved(True))
        base_s, base = time.perf_counter() - began, journal.size
    shares = {"whole": wall_s, "cpu": cpu_s, "alone": alone_s}
    quantiles = {f"{name}_p{p}": float(np.quantile(x, p / 100)) * 1000 for name, x in shares.items() for p in (50, 95)}
    return {
        "seconds": sum(wall_s), "steps": len(wall_s), "bytes": float(np.mean(sizes)), "keys": keys,
        "base_mb": base / 1e6, "base_s": base_s, **quantiles,
    }  # fmt: skip


class _Stopwatch:
    """Adds up what the calls of some functions take: seconds of wall time, and of CPU of their thread."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*given)
            finally:
                self.wall_s += time.perf_counter() - wall
                self.cpu_s += time.thread_time() - cpu

        return watched


def _filled(run: Any, horizon_ms: int, seen_ms: int) -> int:
    """Adds made-up keys to the dedup state until it holds what a horizon has at the rate so far; returns how many it holds."""
    dice, total = np.random.default_rng(1), 0
    for stream in run.streams.values():
        for feed in stream.ingest.feeds.values():
            seen = feed.clock.seen
            if seen is None:
                continue
            wanted = stream.ingest.counters["accepted"] * horizon_ms // min(seen_ms, horizon_ms)
            more = max(0, int(wanted) - seen.used)
            pairs = np.empty((more, 2), dtype=np.int64)
            pairs[:, 0] = dice.integers(1, 1 << 62, more)
            pairs[:, 1] = feed.clock.m - dice.integers(0, horizon_ms, more)
            seen.add(pairs, feed.clock.m)
            total += seen.used
    return total


# --- restart ----------------------------------------------------------------------------------------------------------


def day(folder: Path, hours: int) -> None:
    """So many hours of the demo city in a store, made by `citybrain up` at 300 times the speed of time."""
    ends = _iso(DAY + hours * HOUR_MS)
    command = [*_up(folder), "--until", ends, "--speed", "300"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=3600)


def restart(folder: str, kills: int) -> Answer:
    """Seconds from the start of `citybrain up` to the first reading that is newer than its kill, for each of so many kills."""
    took, listening, cpu = list[float](), list[float](), list[float]()
    running, url = _started(Path(folder))
    _reading_after(url, "", time.monotonic() + 120)
    for _ in range(kills):
        time.sleep(3)
        newest = _newest(url)
        running.send_signal(signal.SIGKILL)
        running.wait()
        began = time.monotonic()
        running, url = _started(Path(folder))
        listening.append(time.monotonic() - began)
        _reading_after(url, newest, began + 120)
        took.append(time.monotonic() - began)
        cpu.append(_cpu_s(running.pid))
    running.kill()
    running.wait()
    return {"seconds": sum(took), "took": took, "listening": listening, "cpu": cpu}


def _up(folder: Path) -> list[str]:
    here = [sys.executable, "-m", "citybrain", "up", "--seed", "7", "--start", _iso(DAY)]
    return [*here, "--port", "0", "--data", str(folder)]


def _cpu_s(pid: int) -> float:
    """What a process has taken so far, in user and system (Linux)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _started(folder: Path) -> tuple[subprocess.Popen[str], str]:
    running = subprocess.Popen(_up(folder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert running.stdout is not None
    for line in running.stdout:
        if " at http" in line:
            return running, line.split(" at ")[1].split()[0]
    raise RuntimeError(f"citybrain up ended before it served, with {running.wait()}")


def _newest(url: str) -> str:
    """The newest event that a reading of the page is made of."""
    with urllib.request.urlopen(f"{url}api/v1/snapshot", timeout=10) as answer:
        readings = orjson.loads(answer.read())["readings"]
    return max((r["as_of"] for r in readings if r["as_of"] and r["value"] is not None), default="")


def _reading_after(url: str, as_of: str, deadline: float) -> None:
    while _newest(url) <= as_of:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no reading is newer than {as_of} after two minutes")
        time.sleep(0.05)


def _iso(t: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(t // 1000))
