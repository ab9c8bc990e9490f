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
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.runners.sdf_utils import RestrictionTrackerView, ThreadsafeRestrictionTracker
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp
from confluent_kafka import Producer

from pipelines import canonical
from pipelines.engines import beam_kafka
from pipelines.engines.beam_job import Job, run
from pipelines.engines.beam_kafka import FOREVER, Follow, Offsets, Partition, Read, Stamps, partitions
from pipelines.model import NEVER
from tests.engines.kafka import create, read, sent, write
from tests.engines.logs import Log, by_polars, compared, from_topic, logs, rollups

LONGEST_S = 180.0


def count(made: list[Log], city: str) -> int:
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
    """A job that goes on, in two subtasks, until it is cancelled; manifests come in pane order. The negative control runs
    beside it: with a watermark ahead of its blocks Beam drops what it takes for late."""
    made = logs(12, 3000)
    early = [log for log in made if log.stream.name == "link"]
    sent(broker, "flow", made)
    sent(broker, "early", early)
    wanted, ends = count(made, "flow"), time.monotonic() + LONGEST_S
    command = [sys.executable, "-m", "tests.engines.streaming", "flow", "early", broker]
    with subprocess.Popen(command, start_new_session=True) as job:
        try:
            while len(read(broker, "rows.flow")) < wanted and time.monotonic() < ends:
                assert job.poll() is None, "it ended by itself"
                time.sleep(0.5)
            job.send_signal(signal.SIGTERM)
            assert job.wait(60) == 143
            with pytest.raises(ProcessLookupError):
                os.killpg(job.pid, 0)
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    found, total = from_topic(read(broker, "rows.flow")), [0, 0, 0]
    for log in made:
        total = [a + b for a, b in zip(total, compared(by_polars(log, "flow"), found, log.closing), strict=True)]
    print(f"\n{len(rollups())} rollups: {total[0]:,} rows ({total[1]:,} late), {total[2]:,} manifests equal")
    assert total[0] > 8_000 and total[1] > 300 and total[2] > 300
    broken = from_topic(read(broker, "rows.early"))
    assert broken["link"].rows, "it ran"
    with pytest.raises(AssertionError, match="missing"):
        compared(by_polars(early[0], "early"), broken, early[0].closing)


class Turn:
    """One call of the source as a runner makes it."""

    def __init__(self, source: Read, partition: Partition, start: int, watermark: Timestamp = MIN_TIMESTAMP) -> None:
        self.tracker = ThreadsafeRestrictionTracker(Offsets(OffsetRange(start, partition.end)))
        self.stamps = Stamps().create_watermark_estimator(watermark)
        self.blocks = source.process(partition, RestrictionTrackerView(self.tracker), self.stamps)

    def rest(self) -> Any:
        """What the runner is to give back later, after the blocks were taken."""
        self.tracker.check_done()
        return self.tracker.deferred_status()


def test_watermark_follows_the_stamps(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a block goes out it is the first `wm` in it, after it the last; a rest goes on from both."""
    monkeypatch.setattr(beam_kafka, "RECORDS", 100)
    (log,) = [log for log in logs(13, 1500) if log.stream.name == "link"]
    topic = canonical.topic("stamps", "link")
    sent(broker, "stamps", [log])
    source, blocks = Read({"bootstrap.servers": broker}), 0
    source.setup()
    for partition in partitions(source.kafka, topic, bounded=True):
        start, watermark, seen = partition.first, MIN_TIMESTAMP, list[bytes]()
        monkeypatch.setattr(beam_kafka, "TURN_S", 0.0)
        while True:
            turn = Turn(source, partition, start, watermark)
            for timed in turn.blocks:
                block = timed.value
                frame = canonical.decoded(block.records, block.offsets, log.stream)
                first, last = int(frame["wm"][0]), int(frame["wm"][-1])
                assert turn.stamps.current_watermark() == timed.timestamp == at(first)
                assert (
                    frame.filter(~pl.col("late"))["t"].min() is None
                    or frame.filter(~pl.col("late"))["t"].min() >= first
                )
                seen += block.records
                blocks += 1
            if not turn.rest():
                break
            assert turn.stamps.current_watermark() == at(last)
            (rest, _), watermark = turn.rest(), turn.stamps.get_estimator_state()
            assert rest.start == start + len(block.records) and rest.stop == partition.end
            start = rest.start
        assert tuple(seen) == log.partitions[partition.number] and turn.stamps.current_watermark() == at(log.closing)
    source.teardown()
    assert blocks > 10


def at(wm: int) -> Timestamp:
    return MIN_TIMESTAMP if wm == NEVER else Timestamp(micros=wm * 1000)


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
    (partition,) = partitions(source.kafka, "events.tx.link", bounded=True)
    turn = Turn(source, partition, partition.first)
    assert [r for timed in turn.blocks for r in timed.value.records] == [b'{"wm":0}', b'{"wm":1}', b'{"wm":2}']
    assert turn.rest() is None and partition.end > 3
    source.teardown()


def test_follows_what_comes(broker: str) -> None:
    """A partition without anything new is put off, not waited for, and goes on where it stopped."""
    create(broker, [("events.later.link", 1)])
    source = Follow({"bootstrap.servers": broker})
    source.setup()
    (partition,) = partitions(source.kafka, "events.later.link", bounded=False)
    start, seen, ends = partition.first, list[bytes](), time.monotonic() + 20
    for n in range(3):
        write(broker, "events.later.link", [[b'{"wm":%d}' % n]])
        while len(seen) <= n and time.monotonic() < ends:
            turn = Turn(source, partition, start)
            seen += [r for timed in turn.blocks for r in timed.value.records]
            rest, _ = turn.rest()
            start = rest.start
            assert rest.stop == FOREVER
    source.teardown()
    assert seen == [b'{"wm":0}', b'{"wm":1}', b'{"wm":2}'] and start == 3


def test_errors_say_what_to_do(broker: str) -> None:
    with pytest.raises(ValueError, match="local runner ends with its input"):
        Job("nowhere", rollups(), {"bootstrap.servers": broker})
    with pytest.raises(LookupError, match=r"topic rows\.nowhere is not on the broker"):
        run(Job("nowhere", rollups(), {"bootstrap.servers": broker}, bounded=True))
