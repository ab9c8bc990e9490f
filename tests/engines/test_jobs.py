"""`citybrain run` as its operators see it: what it announces, its `/metrics` while it runs, and logs that were made again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson
import pytest
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families

from commands import jobs
from commands.inputs import city_of
from connectors.simulator_source import write_files
from pipelines import canonical, catalogue
from pipelines.announcement import Announcement, definition
from pipelines.engines import polars_job
from pipelines.ingest import COUNTERS
from pipelines.kafka_client import Cluster, Connection
from pipelines.kafka_options import KafkaFailed, cluster_options
from pipelines.streams import MINUTE_MS
from tests.engines.kafka import create, read, write
from tests.engines.logs import Log, logs, rollups
from tools.stack.broker import free_port

ROOT = Path(__file__).resolve().parents[2]
STREAMS = ("air", "link")
LONGEST_S = 240
Samples = Mapping[tuple[str, ...], float]


class Town:
    """A city with two logs, of which a part is sent at first."""

    def __init__(self, name: str, seed: int, broker: str, folder: Path) -> None:
        self.name, self.broker, self.pack = name, broker, folder / name
        self.pack.mkdir()
        (self.pack / "city.toml").write_text(
            f'id = "{name}"\nzh = "{name}"\nen = "{name}"\nzone = "UTC"\ndistricts = []\n'
        )
        self.logs: list[Log] = [log for log in logs(seed, 1500) if log.stream.name in STREAMS]
        self.parts = {
            canonical.part_of(canonical.topic(name, log.stream.name), n): len(records)
            for log in self.logs
            for n, records in enumerate(log.partitions)
        }
        create(broker, [(canonical.topic(name, log.stream.name), len(log.partitions)) for log in self.logs])

    def send(self, first: bool) -> dict[str, int]:
        """Half of every partition; returns how many records there are then, by stream."""
        there = {}
        for log in self.logs:
            halves = [(p[: len(p) // 2], p[len(p) // 2 :]) for p in log.partitions]
            write(self.broker, canonical.topic(self.name, log.stream.name), [h[not first] for h in halves])
            there[log.stream.name] = sum(len(a) + (0 if first else len(b)) for a, b in halves)
        return there

    def late(self) -> dict[str, int]:
        return {
            log.stream.name: sum(bool(orjson.loads(r).get("late")) for p in log.partitions for r in p)
            for log in self.logs
        }

    def rows(self) -> list[bytes]:
        return read(self.broker, canonical.rows_topic(self.name))

    def announced(self) -> list[Announcement]:
        return [Announcement.read(orjson.loads(r)) for r in read(self.broker, canonical.control_topic(self.name))]


@contextlib.contextmanager
def running(town: Town, engine: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`citybrain run` in a process group of its own, so that its Java goes with it."""
    command = [
        sys.executable, "-m", "citybrain", "run", "--kafka", town.broker, "--city", str(town.pack), "--engine", engine,
        "--metrics", f"127.0.0.1:{port}",
    ]  # fmt: skip
    quick = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
    with (
        log.open("ab") as said,
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | quick, stdout=said, stderr=said, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def scraped(port: int) -> dict[str, Samples]:
    """By metric its samples by the values of their labels; nothing while nobody serves them."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def until(port: int, process: subprocess.Popen[bytes], log: Path, wanted: Mapping[str, Samples]) -> dict[str, Samples]:
    """The metrics once they are those; fails with the last ones when they do not come to be."""
    ends = time.monotonic() + LONGEST_S
    while True:
        found = scraped(port)
        if all(found.get(name) == samples for name, samples in wanted.items()):
            return found
        assert process.poll() is None, log.read_text()[-3000:]
        shown = {name: found.get(name) for name in wanted}
        assert time.monotonic() < ends, f"{shown}\nand wanted are {wanted}\n{log.read_text()[-2000:]}"
        time.sleep(0.5)


@pytest.mark.parametrize("engine", ["polars", "flink", "beam"])
def test_metrics_and_announcement(engine: str, broker: str, tmp_path: Path) -> None:
    town, port, log = Town(f"seen{engine}", 21, broker, tmp_path), free_port(), tmp_path / "log"
    there = town.send(first=True)
    no_lag = {(part,): 0.0 for part in town.parts}
    with running(town, engine, port, log) as process:
        by_stream = {(name,): float(n) for name, n in there.items()}
        until(port, process, log, {"citybrain_records_in_total": by_stream, "citybrain_lag_records": no_lag})
        whole = town.send(first=False)
        late = town.late()
        assert sum(late.values()) > 50 and whole != there
        wanted = {
            "citybrain_records_in_total": {(name,): float(n) for name, n in whole.items()},
            "citybrain_lag_records": no_lag,
            "citybrain_events_late_total": {(name,): float(n) for name, n in late.items()},
        }
        until(port, process, log, wanted)
        count, ends = 0, time.monotonic() + LONGEST_S
        while count != (rows := len(town.rows())) or not rows or time.monotonic() < ends - LONGEST_S + 5:
            count = rows
            time.sleep(2)
        found = until(port, process, log, {**wanted, "citybrain_records_out_total": {(): float(count)}})
        for each in town.logs:
            told = found["citybrain_watermark_delay_seconds"][each.stream.name,]
            assert abs(told - (time.time() - each.closing / 1000)) < 60
        if engine != "flink":  # whose job keeps none here
            assert 0 <= found["citybrain_durable_age_seconds"][()] < 60
            assert 0 < found["citybrain_checkpoint_last_duration_seconds"][()] < 60
            assert found["citybrain_checkpoint_duration_seconds_count"][()] >= 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-3000:]
    announced = {one.stream: one for one in town.announced()}
    assert announced.keys() == set(STREAMS) and len({one.job for one in announced.values()}) == 1
    known = Cluster(Connection(cluster_options(broker, "rows.x")))
    for name, one in announced.items():
        assert one.engine == engine and one.first == {p: 0 for p in town.parts if p.split("/")[0].endswith(name)}
        assert one.rollups == {r.name: definition(r) for r in rollups() if r.stream.name == name}
        topic = known.topic(canonical.topic(town.name, name))
        assert topic is not None and one.log == topic.id
    jobs_of_rows = {orjson.loads(record)["job"] for record in town.rows()}
    assert jobs_of_rows == {one.job for one in announced.values()}
    print(f"\n{engine}: {sum(whole.values()):,} records in, {sum(late.values())} late, {count:,} out")


def test_metrics_of_an_ingest(broker: str, tmp_path: Path) -> None:
    """Counters as of rule 11, and the lag of its source, while it runs."""
    streams, city, start = {s.name: s for s in catalogue.STREAMS}, city_of("demo"), 1_772_409_600_000
    write_files(city, streams, start, start + 2 * MINUTE_MS, tmp_path)
    lines = (tmp_path / "link.ndjson").read_bytes().splitlines()
    town, port, log = Town("ingested", 23, broker, tmp_path), free_port(), tmp_path / "log"
    create(broker, [("sensors.ingested", 2)])
    write(broker, "sensors.ingested", [[*lines[::2], lines[0]], [*lines[1::2], b"broken", b"[]"]])
    command = [
        sys.executable, "-m", "citybrain", "ingest", "--city", str(town.pack), "--source",
        f"kafka://{broker}/sensors.ingested", "--to", f"kafka://{broker}/events.ingested.link",
        "--metrics", f"127.0.0.1:{port}",
    ]  # fmt: skip
    with log.open("wb") as said, subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said) as process:
        try:
            wanted = {
                "citybrain_events_received_total": {("link",): len(lines) + 3.0},
                "citybrain_lag_records": {(f"sensors.ingested/{n}",): 0.0 for n in range(2)},
            }
            found = until(port, process, log, wanted)
            told = {name: found[f"citybrain_events_{name}_total"]["link",] for name in COUNTERS}
            assert told["received"] == sum(told[x] for x in ("accepted", "duplicate", "rejected", "quarantined"))
            assert told["accepted"] == told["on_time"] + told["late"] > 100
            ends = time.monotonic() + LONGEST_S
            while (found := scraped(port)).get("citybrain_records_out_total", {}).get((), 0) < told["accepted"]:
                assert time.monotonic() < ends
                time.sleep(0.5)
            letters = len(read(broker, canonical.dead_topic("ingested")))
            assert told["rejected"] + told["quarantined"] == letters and told["rejected"] > 2
            assert found["citybrain_checkpoint_last_duration_seconds"][()] > 0
            assert 0 <= found["citybrain_durable_age_seconds"][()] < 60
            assert found["citybrain_watermark_delay_seconds"]["link",] > 0
        finally:
            process.terminate()
            process.wait(60)
    print(f"\ningest: {told}")


def test_metrics_have_an_address(broker: str, tmp_path: Path) -> None:
    town, log = Town("taken", 21, broker, tmp_path), tmp_path / "log"
    with running(town, "polars", int(broker.rpartition(":")[2]), log) as process:
        assert process.wait(60) == 2
    assert "cannot listen there" in log.read_text() and "name another HOST:PORT" in log.read_text()


def test_a_log_that_is_made_again_ends_the_job(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it has fewer records then or more, and although the client finds nothing wrong."""
    monkeypatch.setattr(polars_job, "LOOK_S", 0.5)
    town, stop, said = Town("again", 22, broker, tmp_path), threading.Event(), list[Exception]()
    town.send(first=True)

    def work() -> None:
        try:
            jobs.run(str(town.pack), broker, "polars", 1, stop)
        except Exception as error:
            said.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        ends = time.monotonic() + LONGEST_S
        while not town.rows():
            assert thread.is_alive() and time.monotonic() < ends, said
            time.sleep(0.5)
        topic = canonical.topic(town.name, "link")
        admin = AdminClient({"bootstrap.servers": broker})
        admin.delete_topics([topic])[topic].result(30)
        thread.join(LONGEST_S)
    finally:
        stop.set()
        thread.join(60)
    assert isinstance(said[0], KafkaFailed) and f"topic {topic!r}" in str(said[0]) and "was deleted" in str(said[0])
