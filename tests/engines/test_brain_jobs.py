"""What a brain says of the jobs that send it rows, process by process: what they grouped, a gap between two of them, and a
log that was made again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipelines import canonical
from tests.engines.kafka import create, read
from tests.engines.test_brain import citybrain, running
from tests.engines.test_jobs import Samples, free_port, scraped
from tools.stack.broker import Broker

START = "2026-03-02T08:00:00+08:00"
STEPS = [f"2026-03-02T0{8 + n // 6}:{n % 6}0:00+08:00" for n in range(1, 5)]
"""Ends of ten minutes each."""
LOG = canonical.topic("demo", "http")
LONGEST_S = 240


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """One of its own: the demo city has one set of topics."""
    one = Broker(tmp_path / "kafka")
    one.start()
    yield one.address
    one.end()


class Town:
    """The demo city's service log, ingested ten minutes at a time."""

    def __init__(self, broker: str, folder: Path) -> None:
        self.broker, self.folder, self.admin = broker, folder, AdminClient({"bootstrap.servers": broker})
        citybrain("simulate", folder / "sim", "--start", START, "--until", STEPS[-1])
        lines = (folder / "sim" / "http.ndjson").read_bytes().splitlines(keepends=True)
        self.pieces = [
            lines[len(lines) * n // len(STEPS) : len(lines) * (n + 1) // len(STEPS)] for n in range(len(STEPS))
        ]
        create(broker, [(LOG, 1), ("rows.demo", 1)])

    def ingest(self, n: int) -> dict[str, int]:
        """The nth piece; time goes on to its end. Returns the counters."""
        path = self.folder / f"http{n}.ndjson"
        path.write_bytes(b"".join(self.pieces[n]))
        to = f"kafka://{self.broker}/{LOG}"
        said = citybrain("ingest", "--source", path, "--to", to, "--id", "log", "--until", STEPS[n])
        return {k: v for k, v in orjson.loads(said).items() if isinstance(v, int)}

    def end(self) -> int:
        at = TopicPartition(LOG, 0)
        return int(self.admin.list_offsets({at: OffsetSpec.latest()})[at].result(10).offset)

    def forget(self, offset: int) -> None:
        """As retention does: what lies before that offset is gone."""
        (done,) = self.admin.delete_records([TopicPartition(LOG, 0, offset)]).values()
        done.result(30)


def told(port: int, log: Path, process: subprocess.Popen[bytes], wanted: Mapping[str, Samples]) -> dict[str, Any]:
    """The brain's metrics once they have these samples."""
    ends = time.monotonic() + LONGEST_S
    while True:
        found = scraped(port)
        if all(found.get(name, {}).get(k) == v for name, samples in wanted.items() for k, v in samples.items()):
            return found
        shown = {name: found.get(name) for name in wanted}
        assert process.poll() is None and time.monotonic() < ends, (
            f"{shown}, wanted {wanted}\n{log.read_text()[-3000:]}"
        )
        time.sleep(0.5)


def test_what_the_brain_says_of_jobs(broker: str, tmp_path: Path) -> None:
    town, log, port = Town(broker, tmp_path), tmp_path / "log", free_port()
    brain = ("brain", "--kafka", broker, "--city", "demo", "--port", port, "--data", tmp_path / "data")
    job = ("run", "--kafka", broker, "--city", "demo")
    gaps = {"citybrain_job_findings_total": {("gap", "http"): 0.0, ("unannounced", "http"): 0.0}}

    def grouped(counters: Mapping[str, int]) -> dict[str, Samples]:
        """What the brain says when all of it was grouped: equal to what ingest accepted, whoever grouped it."""
        on_time, late = float(counters["on_time"]), float(counters["late"])
        lag = {(canonical.part_of(topic, 0),): 0.0 for topic in ("rows.demo", "control.demo", "dead.demo")}
        return {
            "citybrain_grouped_on_time_total": {("http",): on_time},
            "citybrain_grouped_late_total": {("http",): late},
            "citybrain_events_late_total": {("http",): late},
            "citybrain_events_rejected_total": {("http",): float(counters["rejected"])},
            "citybrain_lag_records": lag,
        }

    counters = town.ingest(0)
    assert counters["on_time"] > 500 and counters["late"] > 0
    with running(log, *brain) as process:
        with running(log, *job):
            told(port, log, process, grouped(counters))
        counters = town.ingest(1)
        with running(log, *job):  # goes on where the one before was
            told(port, log, process, grouped(counters) | gaps)
        time.sleep(6)  # the brain notes how far the log had got
        town.ingest(2)
        town.forget(town.end() - 200)
        with running(log, *job):
            gaps["citybrain_job_findings_total"] = {("gap", "http"): 1.0, ("unannounced", "http"): 0.0}
            found = told(port, log, process, gaps)
        short = found["citybrain_grouped_on_time_total"]["http",]
        assert short < counters["on_time"] + 500
        said = log.read_text()
        assert said.count("starts at record") == 1 and f"of {LOG}/0, and up to" in said, said[-2000:]
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONGEST_S) == 0, log.read_text()[-3000:]
    with running(log, *brain) as process:
        told(port, log, process, gaps)
        time.sleep(3)
        assert log.read_text().count("starts at record") == 1, "said once, over restarts"
        town.admin.delete_topics([LOG])[LOG].result(30)
        create(broker, [(LOG, 1)])
        assert process.wait(LONGEST_S) == 1
    line = f"topic {LOG!r} of {broker} was deleted"
    assert line in log.read_text()
    with running(log, *brain) as process:
        assert process.wait(LONGEST_S) == 1
    assert log.read_text().count(line) == 2 and "Traceback" not in log.read_text()
    jobs = {orjson.loads(record)["job"] for record in read(broker, "rows.demo")}
    print(f"\n{counters['on_time']:,} events on time and {counters['late']} late, by {len(jobs)} jobs")
