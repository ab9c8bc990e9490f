"""The embedded engine as `citybrain run` runs it: from a topic that is full to the rows topic, beside the broker."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks.engines.topics import ROLLUPS, Watch, end_of, facts
from benchmarks.threads import ThreadClock
from pipelines.canonical import rows_topic
from pipelines.engines.job_logs import JobLogs
from pipelines.engines.polars_job import group_of
from pipelines.engines.polars_job import run as group
from pipelines.job_counts import JobCounts
from pipelines.kafka_client import Cluster, Connection
from pipelines.kafka_options import cluster_options

LONGEST_S: Final = 120.0
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
Answer = dict[str, Any]


def run(address: str, city: str, profile: str | None = None) -> Answer:
    """The job until stdin closes; CPU seconds by kind of thread. `profile`: a file for what cProfile saw of its loop."""
    stop = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait, name="stdin", daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    cluster = Cluster(Connection(cluster_options(address, rows_topic(city))), stop.is_set)
    logs = JobLogs(cluster, city, [rollup.stream.name for rollup in ROLLUPS])
    job = partial(group, city, ROLLUPS, logs, logs.starts(group_of(city)), "", JobCounts())
    with ThreadClock() as clock:
        if profile is None:
            written = job()
        else:
            import cProfile

            with cProfile.Profile() as seen:
                written = job()
            seen.dump_stats(profile)
    return {"seconds": 0.0, "written": written, "cpu": clock.seconds}


def measured(address: str, city: str, events: int, broker: int, profile: str | None = None) -> Answer:
    """Seconds from the job's start, when its imports are done, to the last manifest in the rows topic (`events` on time are
    told by then), and the CPU that the job's threads and the broker (its process) took meanwhile."""
    rows = rows_topic(city)
    watch = Watch(address, rows, end_of(address, rows), lambda w: w.told >= events)
    watch.start()
    given = orjson.dumps({"address": address, "city": city, "profile": profile}).decode()
    command = [sys.executable, "-m", "benchmarks.engines.programs", "polars_run", given]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    try:
        if child.stdout.readline() != b"ready\n":
            raise RuntimeError("the job did not start")
        began, before = time.perf_counter(), _cpu_s(broker)
        watch.join(LONGEST_S)
        used = _cpu_s(broker) - before
    finally:
        child.stdin.close()
        said = child.stdout.read()
        child.wait(30)
    watch.stopped.set()
    if watch.told < events:
        raise RuntimeError(f"{watch.told} of {events} on-time events were told in {LONGEST_S:.0f} s")
    seconds = watch.manifests[-1][0] - began
    told = orjson.loads(said.splitlines()[-1])
    return {"seconds": seconds, "cpu": told["cpu"], "broker_cpu": used, "facts": facts(watch.records)}


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S
