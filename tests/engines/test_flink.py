"""Rules 13 to 16 on a real Flink job over a real Kafka broker: its rows and manifests are those of the embedded engine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.engines.flink_job import Job, submitted
from tests.engines.kafka import read, sent
from tests.engines.logs import Log, by_polars, compared, from_topic, logs, rollups

EVENTS = 5000
"""Of a partition, at most."""


def grouped(job: Job, made: list[Log]) -> list[bytes]:
    """The rows topic after a bounded job over these logs."""
    sent(job.kafka["bootstrap.servers"], job.city, made)
    submitted(job).wait()
    return read(job.kafka["bootstrap.servers"], job.rows_topic)


def test_rows_equal_the_embedded_engine(broker: str) -> None:
    made = logs(1, EVENTS)
    job = Job("whole", rollups(), {"bootstrap.servers": broker}, bounded=True, parallelism=2)
    found, total = from_topic(grouped(job, made)), [0, 0, 0]
    for log in made:
        total = [a + b for a, b in zip(total, compared(by_polars(log, job.city), found, log.closing), strict=True)]
    events = sum(log.events() for log in made)
    print(
        f"\n{len(rollups())} rollups, {events:,} events: {total[0]:,} rows ({total[1]:,} late), {total[2]:,} manifests equal"
    )
    assert len(found) >= 9 and total[0] > 10_000 and total[1] > 500 and total[2] > 500


@dataclass(frozen=True, slots=True)
class Broken(Job):
    """Wrong in one way for each of three streams."""

    def statements(self) -> tuple[list[str], list[str]]:
        first, into = super(Broken, self).statements()
        # The stamp is off by a millisecond.
        first = [s.replace("FROM `events_link`", "FROM (SELECT *, `t` + 1 AS `t1` FROM `events_link`)").replace(
            "SELECT `link`, `n`, `t`,", "SELECT `link`, `n`, `t1` AS `t`,") for s in first]  # fmt: skip
        for n, statement in enumerate(into):
            if "FROM `of_lvl`" in statement:  # every other late event is dropped
                into[n] = f"{statement} AND MOD(`off`, 2) = 0"
            if "INTO `rows_http`" in statement and "TUMBLE" in statement:  # a row comes again under another key
                into[n] = statement.replace("FALSE, '', CAST(-1 AS BIGINT)", "FALSE, '', COUNT(*)")
        return first, into


def test_negative_controls(broker: str) -> None:
    """Each change is seen, and what was not changed is equal."""
    made = [log for log in logs(2, 600) if log.stream.name in ("link", "lvl", "http", "rain")]
    mine = [r for r in rollups() if r.stream in [log.stream for log in made]]
    job = Broken("broken", mine, {"bootstrap.servers": broker}, bounded=True)
    found, seen = from_topic(grouped(job, made)), []
    for log in made:
        try:
            compared(by_polars(log, job.city), found, log.closing)
        except AssertionError as error:
            seen.append(log.stream.name)
            print(f"\n{str(error)[:200]}")
    assert sorted(seen) == ["http", "link", "lvl"]


@contextlib.contextmanager
def running(city: str, broker: str, parallelism: int) -> Iterator[subprocess.Popen[bytes]]:
    """A job in a process group of its own: Python and its Java."""
    command = [sys.executable, "-m", "tests.engines.grouping", city, broker, str(parallelism)]
    with subprocess.Popen(command, start_new_session=True) as job:
        try:
            yield job
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)


def test_killed_and_started_again_without_state(broker: str) -> None:
    """At least once is enough: rows are keyed, and what comes again is the same (rule 16)."""
    made = logs(3, EVENTS)
    sent(broker, "killed", made)
    before = []
    for parallelism, share in ((1, 1_000), (2, 4_000)):
        with running("killed", broker, parallelism) as job:
            ends = time.monotonic() + 120
            while len(read(broker, "rows.killed")) < share + sum(before) and time.monotonic() < ends:
                assert job.poll() is None, "it ended before it was killed"
                time.sleep(0.2)
        before.append(len(read(broker, "rows.killed")) - sum(before))
    with running("killed", broker, 2) as job:
        assert job.wait(300) == 0
    records = read(broker, "rows.killed")
    found, total = from_topic(records), 0
    for log in made:
        total += compared(by_polars(log, "killed"), found, log.closing, orderly=False)[0]
    print(f"\n{len(before)} kills after {before} rows; {len(records):,} records make {total:,} rows, all equal")
    assert total < len(records) and min(before) > 0
