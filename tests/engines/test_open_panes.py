"""What the Polars job tells of open panes, as the brain shows it (rules 15, 16, 19)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import polars as pl

from pipelines import canonical
from pipelines.engines.polars_job import StreamJob
from pipelines.job_counts import JobCounts
from pipelines.model import PlaceRegistry
from pipelines.remote_stream import RemoteStream
from tests.engines.logs import CITY, Log, logs, rollups

CUT = 97


def objects(records: Sequence[bytes]) -> list[Mapping[str, Any]]:
    return [orjson.loads(record) for record in records]


def shown(rows: pl.DataFrame, ids: Sequence[str]) -> list[tuple[Any, ...]]:
    names = pl.Series(ids, dtype=pl.String)
    named = rows.with_columns(names.gather(rows["place"]).alias("place"))
    return sorted(named.iter_rows(), key=repr)


def told(log: Log, lost: bool = False, again: bool = False) -> tuple[int, int]:
    """The job's open panes and those of the brain after every run of records: how many rows were equal, and unequal. `lost`:
    not every telling arrives; `again`: another job begins in the middle, from the beginning of the log."""
    mine = [r for r in rollups() if r.stream == log.stream]
    registry = PlaceRegistry()
    for record in (r for records in log.partitions for r in objects(records) if "t" in r):
        registry.code(record[log.stream.place])
    brain, job = RemoteStream(log.stream, mine, (), registry), _job(log, mine)
    equal = unequal = 0
    for turn in range(max(map(len, log.partitions)) // CUT + 1):
        if again and turn == 3:
            job = _job(log, mine)
            for before in range(turn):
                _run(job, log, before)
                brain.show(objects(job.open_records(False)))
                job.records()
        _run(job, log, turn)
        final = objects(job.records())
        for rollup in mine:
            if records := [r for r in final if r["rollup"] == rollup.name]:
                brain.collected[rollup.name].add(records)
        brain.rows()
        telling = objects(job.open_records(False))
        if not (lost and turn % 2):
            brain.show(telling)
        for rollup, open_, its in zip(mine, job.engine.open_panes(), brain.open_panes(), strict=True):
            columns = open_.rows.columns
            assert brain.collected[rollup.name].merged().is_empty(), "shown rows are no rows of the run"
            a, b = shown(open_.rows, job.registry.ids), shown(its.rows.select(columns), registry.ids)
            equal, unequal = equal + (a == b) * len(a), unequal + (a != b) * len(a)
    return equal, unequal


def _job(log: Log, mine: Sequence[Any]) -> StreamJob:
    job = StreamJob(CITY, log.stream, mine, "a job")
    for number in range(len(log.partitions)):
        job.join(number)
    return job


def _run(job: StreamJob, log: Log, turn: int) -> None:
    for number, records in enumerate(log.partitions):
        if some := records[turn * CUT : (turn + 1) * CUT]:
            job.take_in(number, some, range(turn * CUT, turn * CUT + len(some)), JobCounts())


def test_open_panes_are_shown_as_they_are() -> None:
    equal = 0
    for log in logs(11, 600):
        found, unequal = told(log)
        assert not unequal, log.stream.name
        equal += found
    assert equal > 1_000


def test_a_job_that_begins_again_shows_the_same() -> None:
    for log in logs(12, 600):
        assert not told(log, again=True)[1], log.stream.name


def test_a_telling_that_is_lost_is_seen() -> None:
    """The comparison can fail."""
    assert any(told(log, lost=True)[1] for log in logs(11, 600))


def test_a_run_of_ticks_alone_has_no_events() -> None:
    """Whoever groups blocks of the log may get one without an event; its places are codes all the same."""
    log = logs(11, 50)[0]
    block = canonical.stamped(canonical.decoded([canonical.tick(5)], [0], log.stream), log.stream, "p", PlaceRegistry())
    assert block.events is not None and block.events.schema["place"] == pl.UInt32 and block.last_wm == 5
