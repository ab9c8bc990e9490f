"""An event in the canonical log on Kafka until it is in a number on the page: a steady rate, an engine, the brain, and a client.

Everything is a process of its own and runs as `citybrain run` and `citybrain brain` do. A writer stamps events as ingest does,
with D = `DISORDER_MS`; it moves their time so that a window ends `LEAD_S` after the start. Beside the broker's, no file of
the run outlives it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from benchmarks.data import LINKS, link_ids
from benchmarks.engines.topics import ROLLUP, ROLLUPS, Watch, created
from benchmarks.live import DISORDER_MS, START
from pipelines import canonical
from pipelines.canonical import control_topic, dead_topic, open_topic, rows_topic, topic
from pipelines.streams import LINK

LEAD_S: Final = 25
AFTER_S: Final = 20
WARM_S: Final = 8
"""Of the seconds before the window ends, so many are left out."""
SLICE_MS: Final = 20
PARTS: Final = 2
JOB_S: Final = 90
Answer = dict[str, Any]


def live(address: str, pack: str, engine: str, rate: int, checkpoint_s: int = 0) -> Answer:
    """Seconds from an event's append to the log until a client has a provisional number with it (p50, p99), and from the end of
    the window + D until it has the final number. `checkpoint_s`: the interval of Flink's checkpoints."""
    city = _city(pack)
    created(
        address,
        {
            topic(city, LINK.name): PARTS,
            rows_topic(city): 1,
            open_topic(city): 1,
            dead_topic(city): 1,
            control_topic(city): 1,
        },
    )
    with tempfile.TemporaryDirectory(prefix="citybrain-bench-") as folder:
        writer = _Writer(address, city, rate)
        with _job(address, city, engine, checkpoint_s, Path(folder)) as alive, _brain(address, pack, folder) as url:
            client = subprocess.Popen([sys.executable, "-m", "benchmarks.live", url], stdout=subprocess.PIPE)
            seen: list[Answer] = []
            reader = threading.Thread(target=_collect, args=(client, seen), daemon=True)
            reader.start()
            try:
                writer.warm(alive)
                writer.run(LEAD_S + AFTER_S, LEAD_S)
                time.sleep(2)
            finally:
                client.terminate()
                reader.join(10)
    return _measured(seen, writer) | {"seconds": float(LEAD_S + AFTER_S), "rate": writer.sent / writer.took_s}


def _city(pack: str) -> str:
    from commands.inputs import city_of

    return city_of(pack).id


class _Writer:
    """Events of now, moved in time, as ingest stamps them: `wm` is the largest time before - D, none is late."""

    def __init__(self, address: str, city: str, rate: int) -> None:
        from confluent_kafka import Producer

        self._producer = Producer({"bootstrap.servers": address, "linger.ms": 5, "enable.idempotence": True})
        self._address, self._city = address, city
        self._topic, self._links = topic(city, LINK.name), link_ids().to_list()
        self.rate, self.sent, self.took_s, self._shift = rate, 0, 0.0, 0
        self.began = self.ends = 0.0
        """Of the measured run, on the wall clock: its start, and the end of the window."""
        self._dice = np.random.default_rng(1)

    def warm(self, alive: Any) -> None:
        """Ends an empty pane, by ticks, and waits until its manifest is there: the first event meets an engine that runs."""
        for wm in (START - 900_000, START - 900_000 + ROLLUP.pane_ms):
            for part in range(PARTS):
                self._producer.produce(self._topic, canonical.tick(wm), partition=part)
        self._producer.flush(10)
        watch = Watch(self._address, rows_topic(self._city), 0, lambda w: bool(w.manifests))
        watch.start()
        ends = time.monotonic() + JOB_S
        while watch.is_alive():
            alive()
            if time.monotonic() > ends:
                raise RuntimeError(f"the job told no pane in {JOB_S} s")
            time.sleep(0.2)
        time.sleep(2)

    def run(self, seconds: int, lead_s: int) -> None:
        self.began = time.time()
        self.ends = self.began + lead_s
        self._shift = START - int(self.ends * 1000)
        count = self.rate * SLICE_MS // 1000
        began = time.perf_counter()
        for turn in range(seconds * 1000 // SLICE_MS):
            # A slice is due when the time of its last event is over.
            time.sleep(max(0.0, began + (turn + 1) * SLICE_MS / 1000 - time.perf_counter()))
            self._slice(turn, count)
        self.took_s = time.perf_counter() - began
        if left := self._producer.flush(30):
            raise RuntimeError(f"{left} events were not taken by the broker")

    def _slice(self, turn: int, count: int) -> None:
        first = int(self.began * 1000) + self._shift + turn * SLICE_MS
        tt, n = self._dice.integers(10_000, 90_000, count).tolist(), self._dice.integers(1, 20, count).tolist()
        wm = first - DISORDER_MS
        for k in range(count):
            number = turn * count + k
            record = b'{"t":%d,"wm":%d,"late":false,"id":%d,"link":"%s","tt_ms":%d,"n":%d}' % (
                first + k * SLICE_MS // count, wm, number, self._links[number % LINKS * 2_657 % LINKS].encode(), tt[k], n[k],
            )  # fmt: skip
            self._producer.produce(self._topic, record, partition=number % PARTS)
        self._producer.poll(0)
        self.sent += count


@contextmanager
def _job(address: str, city: str, engine: str, checkpoint_s: int, folder: Path) -> Iterator[Any]:
    """The engine as a process; gives what raises when it has ended."""
    said = folder / "job.log"
    given = {"address": address, "city": city} | ({} if engine == "polars" else {"checkpoint_s": checkpoint_s})
    program = "polars_run" if engine == "polars" else "flink_run"
    command = [sys.executable, "-m", "benchmarks.engines.programs", program, orjson.dumps(given).decode()]
    with said.open("wb") as log:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
    assert child.stdin is not None

    def alive() -> None:
        if child.poll() is not None:
            raise RuntimeError(f"the job ended: {said.read_text(errors='replace')[-1500:]}")

    try:
        yield alive
    finally:
        child.stdin.close()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()


@contextmanager
def _brain(address: str, pack: str, folder: str) -> Iterator[str]:
    """`citybrain brain`; gives the address of its page."""
    command = [
        sys.executable, "-m", "citybrain", "brain", "--kafka", address, "--city", pack, "--port", "0", "--data", folder,
    ]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert child.stdout is not None
    try:
        line = child.stdout.readline().decode()
        if "http://" not in line:
            raise RuntimeError(f"the brain did not start: {line}")
        yield "http://" + line.partition("http://")[2].split()[0]
    finally:
        child.terminate()
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()


def _collect(client: subprocess.Popen[bytes], seen: list[Answer]) -> None:
    assert client.stdout is not None
    for line in client.stdout:
        seen.append(orjson.loads(line))


def _measured(seen: list[Answer], writer: _Writer) -> Answer:
    """Event number k was due at `began` + k / rate; a number with so many samples shows all before it. One that no provisional
    number shows is shown by the final one, and its latency counts; but not those of the last second of the window, after
    which the page shows the next window."""
    boundary = LEAD_S * writer.rate
    shown = np.full(boundary, np.nan)
    finals = [one["at"] for one in seen if one["window_end"] == START and not one["provisional"]]
    for one in seen:
        if one["provisional"] and one["window_end"] == START:
            fresh = shown[: min(one["samples"], boundary)]
            fresh[np.isnan(fresh)] = one["at"]
    watched = slice(WARM_S * writer.rate, boundary - writer.rate)
    provisional = int((~np.isnan(shown[watched])).sum())
    shown[np.isnan(shown)] = min(finals, default=np.nan)
    latency = (shown - (writer.began + np.arange(boundary) / writer.rate))[watched]
    final = min(finals) - writer.ends - DISORDER_MS / 1000 if finals else None
    told = [one["samples"] for one in seen if one["window_end"] == START and not one["provisional"]]
    return {
        "provisional_p50": float(np.quantile(latency, 0.5)) if provisional else None,
        "provisional_p99": float(np.quantile(latency, 0.99)) if provisional else None,
        "shown": provisional, "watched": len(latency), "final_after": final, "final_samples": told[0] if told else None,
        "numbers_seen": len(seen), "expected": boundary,
    }  # fmt: skip


def flink_run(address: str, city: str, checkpoint_s: int) -> Answer:
    """The Flink job until stdin closes, with checkpoints in that interval (0: none)."""
    from pipelines.engines.flink_job import Job, submitted

    with tempfile.TemporaryDirectory(prefix="citybrain-bench-") as folder:
        settings = {
            "execution.checkpointing.interval": f"{checkpoint_s} s", "execution.checkpointing.dir": Path(folder).as_uri(),
        } if checkpoint_s else {}  # fmt: skip
        job = submitted(Job(city, ROLLUPS, {"bootstrap.servers": address}, settings=settings))
        job.get_job_client()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()
        job.get_job_client().cancel().result()
    return {"seconds": 0.0}
