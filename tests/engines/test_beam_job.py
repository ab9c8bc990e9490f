"""Rules 13 to 16 on Beam jobs over a real Kafka broker: their rows and manifests are those of the embedded engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import polars as pl
import pytest
from apache_beam.runners.sdf_utils import RestrictionTrackerView, ThreadsafeRestrictionTracker
from confluent_kafka import Producer

from pipelines import canonical
from pipelines.engines import beam_kafka
from pipelines.engines.beam_job import Job, run
from pipelines.engines.beam_kafka import FOREVER, Follow, Log, Read, Rest, Stamps, StampsOf, Whole, log_of, timestamp
from tests.engines import logs as made_logs
from tests.engines.kafka import create, read, sent, write
from tests.engines.logs import by_polars, compared, from_topic, logs, rollups
from tests.engines.streaming import STREAMS

LONGEST_S = 300.0


def count(made: list[made_logs.Log], city: str) -> int:
    """The records that an engine writes of these logs, each once."""
    return sum(len(x.rows) + len(x.manifests) for log in made for x in by_polars(log, city).values())


def test_local_rows_equal_the_embedded_engine(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is a turn of its own: the runner takes the rest of a partition, and its watermark, and gives it back."""
    monkeypatch.setattr(beam_kafka, "RECORDS", 700)
    monkeypatch.setattr(beam_kafka, "TURN_S", 0.0)
    made = logs(11, 3000)
    sent(broker, "local", made)
    job = Job("local", rollups(), {"bootstrap.servers": broker}, bounded=True)
    run(job)
    records = read(broker, job.rows_topic)
    found, total = from_topic(records), [0, 0, 0]
    for log in made:
        one = compared(by_polars(log, job.city), found, log.closing, orderly=False)
        total = [a + b for a, b in zip(total, one, strict=True)]
    print(f"\n{len(rollups())} rollups: {total[0]:,} rows ({total[1]:,} late), {total[2]:,} manifests equal")
    assert total[0] > 8_000 and total[1] > 300 and total[2] > 300
    assert len(records) == sum(len(x.rows) + len(x.manifests) for x in found.values()), "each once"


def test_flink_rows_equal_the_embedded_engine(broker: str) -> None:
    """A job that goes on, in two subtasks, until it is cancelled; manifests come in pane order. The last partition of each log is
    silent at first. The negative control runs beside it: where time goes on with one partition alone, panes fire without what
    the silent one brings."""
    made = [log for log in logs(12, 3000) if log.stream.name in STREAMS]
    (ahead,) = [log for log in made if log.stream.name == "link"]
    for city, written in (("flow", made), ("ahead", [ahead])):
        topics = [(canonical.topic(city, log.stream.name), len(log.partitions)) for log in written]
        create(broker, [(f"rows.{city}", 1), *topics])

    def send(silent: bool) -> None:
        for city, written in (("flow", made), ("ahead", [ahead])):
            for log in written:
                last = len(log.partitions) - 1
                parts = [records if (n == last) == silent else () for n, records in enumerate(log.partitions)]
                write(broker, canonical.topic(city, log.stream.name), parts)

    send(silent=False)
    wanted, whole, ends = (
        count(made, "flow"),
        dict(by_polars(ahead, "ahead")["link"].manifests),
        LONGEST_S + time.monotonic(),
    )

    def short() -> int:
        told = from_topic(read(broker, "rows.ahead"))["link"].manifests
        return sum(n < whole.get(pane, 0) for pane, n in told)

    command = [sys.executable, "-m", "tests.engines.streaming", "flow", "ahead", broker]
    quick = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
    with subprocess.Popen(command, env=os.environ | quick, start_new_session=True) as job:
        try:
            while not short():
                assert job.poll() is None and time.monotonic() < ends, "the other city's panes do not fire"
                time.sleep(0.5)
            assert not any(x.manifests for x in from_topic(read(broker, "rows.flow")).values()), (
                "a silent partition holds time"
            )
            send(silent=True)
            while len(read(broker, "rows.flow")) < wanted:
                assert job.poll() is None and time.monotonic() < ends, "not all came in time"
                time.sleep(0.5)
            job.send_signal(signal.SIGTERM)
            assert job.wait(60) == 143
            with pytest.raises(ProcessLookupError):
                os.killpg(job.pid, 0)
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    records = read(broker, "rows.flow")
    found, total = from_topic(records), [0, 0, 0]
    for log in made:
        total = [a + b for a, b in zip(total, compared(by_polars(log, "flow"), found, log.closing), strict=True)]
    print(
        f"\n{total[0]:,} rows ({total[1]:,} late), {total[2]:,} manifests equal; {short()} panes of the other city are short"
    )
    assert total[0] > 5_000 and total[1] > 300 and total[2] > 300 and len(records) == wanted


class Turn:
    """One call of the source as a runner makes it."""

    def __init__(self, source: Read, log: Log, rest: Any = None, wms: Any = None) -> None:
        whole = Whole()
        self.tracker = ThreadsafeRestrictionTracker(whole.create_tracker(rest or whole.initial_restriction(log)))
        self.stamps = Stamps(wms or StampsOf().initial_estimator_state(log, self.tracker.current_restriction()))
        self.blocks = source.process(log, RestrictionTrackerView(self.tracker), self.stamps)

    def rest(self) -> Any:
        """What the runner is to give back later, after the blocks were taken."""
        self.tracker.check_done()
        return self.tracker.deferred_status()


def test_watermark_follows_the_stamps(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the smallest `wm` of the partitions; that of a block's own is the first in it before it goes out, the last after
    it; a rest goes on from all of them."""
    monkeypatch.setattr(beam_kafka, "RECORDS", 100)
    monkeypatch.setattr(beam_kafka, "TURN_S", 0.0)
    (made,) = [log for log in logs(13, 1500) if log.stream.name == "link"]
    sent(broker, "stamps", [made])
    source, blocks, rest, wms = Read({"bootstrap.servers": broker}), 0, None, None
    source.setup()
    log = log_of(source.kafka, canonical.topic("stamps", "link"), bounded=True)
    seen: list[list[bytes]] = [[] for _ in log.first]
    while True:
        turn = Turn(source, log, rest, wms)
        for timed in turn.blocks:
            block, before = timed.value, turn.stamps.current_watermark()
            frame = canonical.decoded(block.records, block.offsets, made.stream)
            number, first = int(block.part.rpartition("/")[2]), int(frame["wm"][0])
            assert turn.stamps.wms[number] == first and timed.timestamp == timestamp(first) >= before
            assert frame.filter(pl.col("t").is_not_null() & ~pl.col("late") & (pl.col("t") < first)).is_empty()
            seen[number] += block.records
            blocks += 1
        if turn.rest() is None:
            break
        (rest, _), wms = turn.rest(), turn.stamps.get_estimator_state()
        assert rest == (tuple(map(len, seen)), log.end)
    source.teardown()
    assert [tuple(x) for x in seen] == [*made.partitions] and len(seen) > 1 and blocks > 10
    assert turn.stamps.current_watermark() == timestamp(made.closing)


def test_a_rest_that_was_cut_off_is_claimed_no_more() -> None:
    tracker = Rest(((0, 5), (10, 10)))
    assert tracker.try_claim((0, 4)) and tracker.try_split(0.5) is None
    assert tracker.try_split(0) == (((0, 5), (4, 5)), ((4, 5), (10, 10)))
    assert not tracker.try_claim((1, 6)) and tracker.try_split(0) is None
    tracker.check_done()
    with pytest.raises(ValueError, match=r"read to \(0,\), not to \(1,\)"):
        Rest(((0,), (1,))).check_done()


def test_transactions(broker: str) -> None:
    """What was not committed is not read, and offsets without a record at the end do not hold up a bounded job."""
    create(broker, [("events.tx.link", 1)])
    producer = Producer({"bootstrap.servers": broker, "transactional.id": "tx"})
    producer.init_transactions(30)
    for end in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        for n in range(3):
            producer.produce("events.tx.link", b'{"wm":%d}' % n, partition=0)
        end(30)
    source = Read({"bootstrap.servers": broker})
    source.setup()
    ends = time.monotonic() + 30
    while (log := log_of(source.kafka, "events.tx.link", bounded=True)).end[0] < 4:
        assert time.monotonic() < ends, "the marker of the first transaction is not there"
        time.sleep(0.1)
    turn, seen = Turn(source, log), list[bytes]()
    seen += [r for timed in turn.blocks for r in timed.value.records]
    while (rest := turn.rest()) is not None:
        turn = Turn(source, log, rest[0])
        seen += [r for timed in turn.blocks for r in timed.value.records]
    source.teardown()
    assert seen == [b'{"wm":0}', b'{"wm":1}', b'{"wm":2}']


def test_follows_what_comes(broker: str) -> None:
    """A log without anything new is put off, not waited for, and goes on where it stopped."""
    create(broker, [("events.later.link", 2)])
    source = Follow({"bootstrap.servers": broker})
    source.setup()
    log, rest = log_of(source.kafka, "events.later.link", bounded=False), None
    seen, ends = list[bytes](), time.monotonic() + 30
    for n in range(3):
        write(broker, log.topic, [[], [b'{"wm":%d}' % n]])
        while len(seen) <= n and time.monotonic() < ends:
            turn = Turn(source, log, rest)
            seen += [r for timed in turn.blocks for r in timed.value.records]
            rest, _ = turn.rest()
    source.teardown()
    assert seen == [b'{"wm":0}', b'{"wm":1}', b'{"wm":2}'] and rest == ((0, 3), (FOREVER, FOREVER))


def test_errors_say_what_to_do(broker: str) -> None:
    with pytest.raises(ValueError, match="local runner ends with its input"):
        Job("nowhere", rollups(), {"bootstrap.servers": broker})
    with pytest.raises(LookupError, match=r"topic rows\.nowhere is not on the broker"):
        run(Job("nowhere", rollups(), {"bootstrap.servers": broker}, bounded=True))
