"""A job on a real Flink cluster, by `citybrain submit`: killed TaskManagers, savepoints and starts without one change no row."""

from __future__ import annotations

import re
import signal
import tempfile
import time
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from commands.inputs import UserError
from commands.submit import Options, stop, submit
from dashboards.flink_metrics import MAPPED, translated
from pipelines import canonical, catalogue
from pipelines.announcement import Announcement
from pipelines.engines.flink_main import name_of
from pipelines.engines.flink_rest import FlinkCluster, FlinkError
from tests.engines.kafka import create, read, write
from tests.engines.logs import Grouped, Log, by_polars, compared, from_topic, logs
from tools.stack.broker import Broker
from tools.stack.flink_cluster import JOB_MANAGER, TASK_MANAGER, Cluster

ROOT = Path(__file__).resolve().parents[2]
EVENTS = 4000
"""Of a partition, at most."""
LONGEST_S = 180
LEFT_OUT = ("city", "detectors", "parking", "services", "water")
ROLLUPS = ("air", "link")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    one = Broker(tmp_path_factory.mktemp("broker"))
    one.start()
    yield one.address
    one.end()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip wheel` packs, without a build (Flink leaves the file zipped, too), of a version with fewer indicators: its job
    has the rollups `air` and `link`, those of this version have more."""
    path = tmp_path_factory.mktemp("wheel") / "citybrain-0-py3-none-any.whl"
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    left_out = [ROOT / "pipelines" / "catalogue" / f"{name}.py" for name in LEFT_OUT]
    with zipfile.ZipFile(path, "w") as file:
        for name in packed["only-include"]:
            for each in [ROOT / name, *(ROOT / name).rglob("*")]:
                if each.is_file() and "__pycache__" not in each.parts and each not in left_out:
                    file.write(each, each.relative_to(ROOT))
    return path


class Town:
    """A city whose logs come in three parts, and what the embedded engine makes of the whole."""

    def __init__(self, name: str, seed: int, broker: str, folder: Path) -> None:
        self.name, self.broker, self.pack = name, broker, folder / name
        self.pack.mkdir()
        (self.pack / "city.toml").write_text(
            f'id = "{name}"\nzh = "{name}"\nen = "{name}"\nzone = "UTC"\ndistricts = []\n'
        )
        self.logs = [log for log in logs(seed, EVENTS) if log.stream.name in ROLLUPS]
        self.wanted: list[tuple[Log, dict[str, Grouped]]] = [(log, by_polars(log, name)) for log in self.logs]
        topics = [(canonical.topic(name, log.stream.name), len(log.partitions)) for log in self.logs]
        create(broker, [(f"rows.{name}", 1), (f"control.{name}", 1), *topics])

    def send(self, part: int) -> None:
        """A third of every partition; the last one has the tick that ends the time."""
        for log in self.logs:
            bounds = [(len(p) * part // 3, len(p) * (part + 1) // 3) for p in log.partitions]
            pieces = [p[first:last] for p, (first, last) in zip(log.partitions, bounds, strict=True)]
            write(self.broker, canonical.topic(self.name, log.stream.name), pieces)

    def records(self) -> list[bytes]:
        return read(self.broker, f"rows.{self.name}")

    def until(self, more_than: int) -> None:
        """Returns when more records are there."""
        ends = time.monotonic() + LONGEST_S
        while len(self.records()) <= more_than and time.monotonic() < ends:
            time.sleep(0.2)
        assert len(self.records()) > more_than

    def all_there(self, records: list[bytes]) -> bool:
        """Whether every row and manifest came, whatever they say."""
        found = from_topic(records)
        return all(
            len(found[name].rows) >= len(want.rows)
            and {start for start, _ in found[name].manifests}
            >= {start for start, _ in want.manifests if start < log.closing}
            for log, wanted in self.wanted
            for name, want in wanted.items()
        )

    def ended(self, after: int = 0) -> list[bytes]:
        """The records from the `after`-th on, when there is nothing to wait for."""
        ends = time.monotonic() + LONGEST_S
        while not self.all_there(self.records()[after:]) and time.monotonic() < ends:
            time.sleep(0.5)
        return self.records()[after:]

    def equal(self, records: list[bytes], orderly: bool = True) -> tuple[int, int, int]:
        """Compares with the embedded engine; rows, late ones, manifests."""
        found, total = from_topic(records), [0, 0, 0]
        for log, wanted in self.wanted:
            total = [a + b for a, b in zip(total, compared(wanted, found, log.closing, orderly), strict=True)]
        assert len(self.logs) == 2 and total[0] > 1_500 and total[1] > 100 and total[2] > 100
        return total[0], total[1], total[2]


def test_handover(broker: str, cluster: Cluster, wheel: Path, tmp_path: Path) -> None:
    """Stopped with a savepoint and gone on from it with another parallelism, nothing is missing and nothing comes twice. A
    TaskManager that dies costs nothing, and another one takes over. Without a savepoint everything comes again, and is the
    same."""
    town, rest = Town("handed", 11, broker, tmp_path), FlinkCluster(cluster.address)
    town.send(0)
    options = Options(cluster.address, str(town.pack), broker, wheel=wheel)
    job = submit(options)["job"]
    town.until(more_than=0)
    with pytest.raises(UserError, match="runs already as " + job):
        submit(options)
    savepoint = stop(cluster.address, job, None)["savepoint"]
    assert savepoint.startswith("file:") and rest.running(name_of("handed")) == []
    before = len(town.records())

    town.send(1)
    job = submit(replace(options, savepoint=savepoint, parallelism=2))["job"]
    town.until(more_than=before)
    time.sleep(1)
    assert len(town.records()) == len(set(town.records())), "no row came twice"
    with pytest.raises(AssertionError):
        town.equal(town.records())

    cluster.task_manager.end(signal.SIGKILL)
    town.send(2)
    cluster.start_task_manager()
    rows, late, manifests = town.equal(town.ended(), orderly=False)
    with pytest.raises(AssertionError, match="missing"):
        town.equal(town.records()[before:], orderly=False)
    rest.cancel(job)

    records = len(town.records())
    job = submit(replace(options, parallelism=2))["job"]
    assert town.equal(town.ended(after=records)) == (rows, late, manifests), "the third job made them all again"
    assert town.equal(town.records(), orderly=False) == (rows, late, manifests)
    rest.cancel(job)
    told = [Announcement.read(orjson.loads(record)) for record in read(broker, "control.handed")]
    assert [one.first is None for one in told] == [False] * 2 + [True] * 2 + [False] * 2, "the second had a savepoint"
    assert {orjson.loads(record)["job"] for record in town.records()} == {one.job for one in told}
    assert len({one.job for one in told}) == 3
    print(
        f"\n{before:,} records before the savepoint, {records:,} with what came after; {rows:,} rows ({late:,} late) equal"
    )


def test_what_cannot_be_submitted(
    broker: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    streams = dict.fromkeys(rollup.stream.name for rollup in catalogue.rollups(catalogue.CATALOGUE))
    create(
        broker,
        [(name, 1) for name in (canonical.control_topic("demo"), *(canonical.topic("demo", s) for s in streams))],
    )
    with pytest.raises(UserError, match=r"--parallelism 9 needs as many task slots and .* has 4 free"):
        submit(Options(cluster.address, "demo", broker, parallelism=9))
    with pytest.raises(
        FlinkError,
        match=r"flink run failed: .*Could not parse value 'soon' for key 'execution\.checkpointing\.interval'",
    ):
        submit(Options(cluster.address, "demo", broker, settings=("execution.checkpointing.interval=soon",)))
    assert FlinkCluster(cluster.address).running(name_of("demo")) == []
    with pytest.raises(FlinkError, match=r"refuses /jobs/0{32}: .*Could not find Flink job"):
        stop(cluster.address, "0" * 32, None)
    assert list(tmp_path.iterdir()) == [], "what a submission needs on disk is gone"


def test_metrics_of_a_job(broker: str, cluster: Cluster, wheel: Path, tmp_path: Path) -> None:
    """Every metric that the recording rules name is there while a job runs, and under our names they say what it did."""
    town, rest = Town("measured", 12, broker, tmp_path), FlinkCluster(cluster.address)
    for part in range(3):
        town.send(part)
    options = Options(
        cluster.address, str(town.pack), broker, wheel=wheel, parallelism=2,
        settings=("execution.checkpointing.interval=1 s",),
    )  # fmt: skip
    job = submit(options)["job"]
    rows = len(town.ended())
    wanted = {log.stream.name: float(sum(map(len, log.partitions))) for log in town.logs}
    late = {log.stream.name: float(sum(b'"late":true' in r for p in log.partitions for r in p)) for log in town.logs}
    ends = time.monotonic() + LONGEST_S
    while True:
        text = "".join(_scraped(cluster, program) for program in (JOB_MANAGER, TASK_MANAGER))
        found = translated(text, time.time())
        by_stream = {name: {labels[0]: n for labels, n in samples if labels} for name, samples in found.items()}
        done = (
            by_stream.get("citybrain_records_in_total") == wanted
            and by_stream.get("citybrain_events_late_total") == late
            and by_stream.get("citybrain_lag_records") == dict.fromkeys(wanted, 0.0)
            and found.get("citybrain_records_out_total") == [((), float(rows))]
            and "citybrain_durable_age_seconds" in found
        )
        if done:
            break
        assert time.monotonic() < ends, (found, wanted, late, rows)
        time.sleep(0.5)
    assert found.keys() == {each.name for each in MAPPED}
    assert 0 <= found["citybrain_durable_age_seconds"][0][1] < 30
    assert 0 < found["citybrain_checkpoint_last_duration_seconds"][0][1] < 30
    for log in town.logs:
        delay = by_stream["citybrain_watermark_delay_seconds"][log.stream.name]
        assert abs(delay - (time.time() - log.closing / 1000)) < 30
    there = set(re.findall(r"^(flink_\w+)", text, re.M))
    named = set(re.findall(r"flink_(?:job|task)manager\w+", (ROOT / "docs" / "deploy" / "flink.rules.yml").read_text()))
    assert len(named) > 4 and not named - there, named - there
    assert {"flink_jobmanager_job_lastCheckpointTook"} - there, "the negative control: one that Flink does not have"
    rest.cancel(job)
    print(f"\n{wanted} records in, {late} late, {rows:,} out; {len(named)} metrics of Flink's")


def _scraped(cluster: Cluster, program: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.prometheus[program]}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_metrics_for_prometheus(cluster: Cluster) -> None:
    for program, metric in (
        (JOB_MANAGER, "flink_jobmanager_taskSlotsTotal"),
        (TASK_MANAGER, "flink_taskmanager_Status_JVM_Memory"),
    ):
        url = f"http://127.0.0.1:{cluster.prometheus[program]}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert metric in answer.read().decode(), url
