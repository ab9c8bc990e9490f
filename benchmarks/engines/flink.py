"""Flink over a topic: the product's job, and what somebody writes by hand for one indicator."""

from __future__ import annotations

import time
from typing import Any, Final

import orjson

from benchmarks.engines.topics import ROLLUPS, created, end_of, facts, read
from pipelines.canonical import rows_topic, topic
from pipelines.engines.flink_job import SETTINGS, Job, executed, submitted
from pipelines.engines.jars import jars
from pipelines.streams import LINK

PARALLELISM: Final = 2
BY_HAND: Final = (
    """CREATE TEMPORARY TABLE ev (
  t BIGINT, wm BIGINT, link STRING, tt_ms BIGINT, n BIGINT,
  et AS TO_TIMESTAMP_LTZ(COALESCE(t, wm), 3), WATERMARK FOR et AS et - INTERVAL '60' SECOND
) WITH (
  'connector' = 'kafka', 'topic' = '{events}', 'properties.bootstrap.servers' = '{address}',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset', 'format' = 'json'
)""",
    """CREATE TEMPORARY TABLE tti (link STRING, pane_start TIMESTAMP_LTZ(3), veh BIGINT, veh_tt BIGINT) WITH (
  'connector' = 'kafka', 'topic' = '{rows}', 'properties.bootstrap.servers' = '{address}', 'format' = 'json'
)""",
    """INSERT INTO tti SELECT link, window_start, SUM(n), SUM(n * tt_ms)
FROM (SELECT * FROM TABLE(TUMBLE(TABLE ev, DESCRIPTOR(et), INTERVAL '5' MINUTE)) WHERE t IS NOT NULL)
GROUP BY link, window_start, window_end""",
)
"""The sums of one indicator (traffic.tti) in its pane. What comes later than 60 s is dropped."""


def product(address: str, city: str, warm: str) -> dict[str, Any]:
    """The job of the stream's whole catalogue: rows, late rows, manifests."""
    where = rows_topic(city)

    def job(of: str) -> Any:
        return submitted(Job(of, ROLLUPS, {"bootstrap.servers": address}, bounded=True, parallelism=PARALLELISM))

    seconds, planned = _timed(job, warm, city, lambda: end_of(address, where))
    return {"seconds": seconds, "planned_s": planned[0], "facts": facts(read(address, where, planned[1]))}


def by_hand(address: str, city: str, warm: str) -> dict[str, Any]:
    settings = {**SETTINGS, "parallelism.default": str(PARALLELISM)}
    settings["pipeline.jars"] = ";".join(path.as_uri() for path in jars("flink"))
    made: dict[str, str] = {}

    def job(of: str) -> Any:
        made[of] = f"by_hand.{of}.{time.time_ns()}"
        created(address, {made[of]: 1})
        *first, insert = (s.format(events=topic(of, LINK.name), rows=made[of], address=address) for s in BY_HAND)
        return executed(first, [insert], settings)

    seconds, planned = _timed(job, warm, city, lambda: 0)
    rows = [orjson.loads(record) for record in read(address, made[city], 0)]
    keys = {(row["link"], row["pane_start"]) for row in rows}
    if len(keys) != len(rows):
        raise RuntimeError(f"the job by hand wrote {len(rows)} rows of {len(keys)} groups")
    return {"seconds": seconds, "planned_s": planned[0], "rows": len(rows), "veh": sum(row["veh"] for row in rows)}


def _timed(job: Any, warm: str, city: str, start: Any) -> tuple[float, tuple[float, int]]:
    """Seconds from the job's submission to its end, in a Java that has run it before on a short log; what planning and
    submitting took, and where the rows begin."""
    job(warm).wait()
    began, first = time.perf_counter(), start()
    running = job(city)
    submitted_ = time.perf_counter()
    running.wait()
    return time.perf_counter() - submitted_, (submitted_ - began, first)
