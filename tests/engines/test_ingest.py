"""`citybrain ingest` onto a real broker: rows as of a direct run, and each event once after any kill (rules 7, 8, 11)."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from commands.inputs import city_of, resolve
from connectors.simulator import Simulation
from connectors.simulator_source import write_files
from pipelines import canonical, catalogue
from pipelines.engines.polars_engine import PolarsEngine
from pipelines.ingest import Ingest
from pipelines.model import PlaceRegistry, Rows
from pipelines.streams import LINK, MINUTE_MS
from tests.engines.conftest import USERS
from tests.engines.kafka import create, read
from tests.engines.logs import blocks
from tools.stack.broker import Broker, free_port

START = 1_772_409_600_000
LOG = canonical.topic("demo", "link")
CITY = city_of("demo")
STREAMS = {s.name: s for s in catalogue.STREAMS}
ROLLUPS = [r for r in catalogue.rollups(catalogue.CATALOGUE) if r.stream == LINK]


@pytest.fixture
def broker(kafka_broker: Broker) -> Broker:
    return kafka_broker


@contextlib.contextmanager
def running(*arguments: str, slow: bool = False, broken: bool = False) -> Iterator[subprocess.Popen[str]]:
    module = (
        ["tests.engines.ingesting", *(["--broken"] if broken else [])] if slow or broken else ["citybrain", "ingest"]
    )
    with subprocess.Popen(
        [sys.executable, "-m", *module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    summary: dict[str, Any]
    err: str


def ended(process: subprocess.Popen[str], longest_s: float = 60) -> Ended:
    out, err = process.communicate(timeout=longest_s)
    return Ended(process.returncode, orjson.loads(out) if out.strip() else {}, err)


def once(*arguments: str) -> Ended:
    with running(*arguments) as process:
        return ended(process)


def log_of(broker: Broker, partition: int, topic: str = LOG) -> list[bytes]:
    return read(broker.address, topic, partition=partition)


def events_of(records: Sequence[bytes]) -> list[bytes]:
    return [r for r in records if b'"t":' in r]


def never_falls(records: Sequence[bytes]) -> int:
    """How many records have a watermark."""
    wm = [r["wm"] for r in map(orjson.loads, records) if r["wm"] is not None]
    assert wm == sorted(wm)
    return len(wm)


def by_rollup(taken: Sequence[Rows], places: PlaceRegistry) -> dict[str, list[Any]]:
    """Rows with places by name and without partition and offset, which a log of another kind numbers otherwise."""
    found: dict[str, list[Any]] = {}
    for rows in taken:
        for row in rows.rows.drop("part", "off").iter_rows(named=True):
            found.setdefault(rows.rollup, []).append(sorted({**row, "place": places.ids[row["place"]]}.items()))
    return {rollup: sorted(rows, key=repr) for rollup, rows in found.items()}


def test_files_give_the_rows_of_a_direct_run(broker: Broker, tmp_path: Path) -> None:
    write_files(CITY, STREAMS, START, START + 30 * MINUTE_MS, tmp_path)
    lines = (tmp_path / "link.ndjson").read_bytes().splitlines()
    files = [tmp_path / "a" / "link.ndjson", tmp_path / "b" / "link.ndjson"]
    for n, path in enumerate(files):
        path.parent.mkdir()
        path.write_bytes(b"".join(x + b"\n" for x in [*lines[n::2], lines[n], b"broken"]))
    arguments = [a for path in files for a in ("--source", str(path))]
    ended = once(*arguments, "--to", f"kafka://{broker.address}/{LOG}", "--id", "recorded")
    assert ended.code == 0, ended.err
    # The same files, ingest and engine in this process.
    direct = resolve(files, city="demo", map_=None, stream=None, lookup=None, disorder=None)
    places = PlaceRegistry()
    ingest = Ingest(
        LINK, [a.input for a in direct.attached], live=False, registry=places,
        configured=[s.id for s in CITY.sites if s.stream == "link"],
    )  # fmt: skip
    engine = PolarsEngine(ROLLUPS, {a.input.part for a in direct.attached})
    sources = {a.input.name: a.source for a in direct.attached}
    while (name := ingest.wanted()) is not None:
        decoded = sources[name].read()
        stamped = [] if decoded is None else ingest.push(decoded, 0, last=sources[name].ended)
        for block in stamped if not (decoded is None and sources[name].ended) else ingest.end(name, 0):
            engine.add(block)
    wanted = by_rollup(engine.finish(), places)
    # What is in the log.
    records, others = log_of(broker, 0), PlaceRegistry()
    again = PolarsEngine(ROLLUPS, [canonical.part_of(LOG, 0)])
    for block in blocks(LINK, canonical.part_of(LOG, 0), records, others):
        again.add(block)
    found = by_rollup(again.take(), others)  # the last tick closes all
    assert found == wanted and sum(map(len, wanted.values())) > 1_000
    assert {k: ended.summary[k] for k in ingest.counters} == ingest.counters
    assert ingest.counters["rejected"] == 2 and ingest.counters["duplicate"] >= 1
    assert b'"t":' not in records[-1] and never_falls(records) > 1_000
    dead = [orjson.loads(x) for x in read(broker.address, "dead.demo")]
    mine = [(x["reason"], x["payload"], x["source"]) for x in dead if x["source"] in map(str, files)]
    assert sorted(mine) == [("bad_json", "broken", str(path)) for path in files]
    told = [orjson.loads(x) for x in read(broker.address, "control.demo")]
    assert [x["counters"] for x in told if x["ingest"] == "recorded"][-1] == ingest.counters
    # Typed again it changes nothing; other files follow in the same partition.
    again_ended = once(*arguments, "--to", f"kafka://{broker.address}/{LOG}", "--id", "recorded")
    assert again_ended.code == 0 and "was finished before" in again_ended.err and log_of(broker, 0) == records
    later = tmp_path / "c" / "link.ndjson"
    later.parent.mkdir()
    later.write_bytes(orjson.dumps({"t": START + 90 * MINUTE_MS, "link": "l0301", "tt_ms": 9_000, "n": 3}) + b"\n")
    follows = once("--source", str(later), "--to", f"kafka://{broker.address}/{LOG}", "--id", "recorded")
    assert follows.code == 0 and follows.summary["received"] == ingest.counters["received"] + 1
    assert (
        never_falls(log_of(broker, 0)) > never_falls(records)
        and len(events_of(log_of(broker, 0))) == len(events_of(records)) + 1
    )


def filled(address: str, topic: str, minutes: int, partitions: int = 2) -> int:
    """The simulated links of so many minutes in a topic, sent when they arrive, some twice; returns how many."""
    create(address, [(topic, partitions)])
    simulation, producer, count = Simulation(CITY, "link", 1), Producer({"bootstrap.servers": address}), 0
    rnd = random.Random(1)
    for minute in range(START // MINUTE_MS, START // MINUTE_MS + minutes):
        for text, arrival in simulation.sent(minute).sort("arrival").iter_rows():
            for _ in range(1 + (rnd.random() < 0.05)):
                producer.produce(topic, text, partition=zlib.crc32(text.encode()) % partitions, timestamp=arrival)
                count += 1
        producer.poll(0)
    assert producer.flush(30) == 0
    return count


def received(broker: Broker, ingest: str) -> int:
    told = [orjson.loads(x) for x in read(broker.address, "control.demo")]
    return max((x["counters"]["received"] for x in told if x["ingest"] == ingest), default=0)


def partitions_of(err: str) -> list[int]:
    """What an ingest said when it began."""
    said = next(x for x in err.splitlines() if " begins: " in x)
    return [int(n) for n in said.rpartition("partition ")[2].split(", ")]


def finished(process: subprocess.Popen[str], broker: Broker, ingest: str, count: int, longest_s: float = 60) -> Ended:
    """Lets it read all, and ends it in order."""
    ends = time.monotonic() + longest_s
    while received(broker, ingest) < count:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < ends, "it does not get there"
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    return ended(process)


def test_killed_at_random(broker: Broker) -> None:
    """Three kills of ingest and one of the broker: each event once, stamps never fall, all as in an undisturbed run."""
    count = filled(broker.address, "source", 12)
    base = ("--source", f"kafka://{broker.address}/source", "--to", f"kafka://{broker.address}/{LOG}")
    with running(*base, "--id", "calm") as process:
        calm = finished(process, broker, "calm", count)
    assert calm.code == 0 and calm.summary["received"] == count and calm.summary["duplicate"] > 10
    rnd, said, before = random.Random(11), "", 0
    for kill in range(4):
        with running(*base, "--id", "killed", slow=True) as process:
            ends = time.monotonic() + 60
            while (now := received(broker, "killed")) <= before and time.monotonic() < ends:
                time.sleep(0.05)
            assert before < now < count, "killed on the way"
            time.sleep(rnd.uniform(0, 0.3))
            if kill == 2:
                broker.end(signal.SIGKILL)
                time.sleep(1)
                assert process.poll() is None, "it waits"
                broker.start()
                time.sleep(rnd.uniform(0.5, 1))
            process.kill()
            said += ended(process).err
            before = received(broker, "killed")
    assert "does not answer" in said
    with running(*base, "--id", "killed") as process:
        last = finished(process, broker, "killed", count)
    assert last.code == 0 and "goes on" in last.err
    counters = ("received", "accepted", "duplicate", "rejected", "quarantined", "on_time", "late")
    assert {c: last.summary[c] for c in counters} == {c: calm.summary[c] for c in counters}
    total = 0
    for one, other in zip(partitions_of(calm.err), partitions_of(said), strict=True):
        assert one != other, "each ingest has partitions of its own"
        wanted, found = log_of(broker, one), log_of(broker, other)
        assert events_of(found) == events_of(wanted)
        assert never_falls(found) > 100
        ids = [orjson.loads(r)["id"] for r in events_of(found)]
        assert len(set(ids)) == len(ids), "each event once"
        total += len(ids)
    print(f"\n{count:,} records, killed after {before:,}: {total:,} events equal")
    assert total == calm.summary["accepted"] > 1_000


def test_negative_control(broker: Broker) -> None:
    """State that is not in the transaction of its batch: a kill between both is seen."""
    count = filled(broker.address, "loose", 6)
    base = ("--source", f"kafka://{broker.address}/loose", "--to", f"kafka://{broker.address}/{LOG}", "--id", "loose")
    said = ""
    for _ in range(3):
        with running(*base, broken=True) as process:
            before, ends = received(broker, "loose"), time.monotonic() + 30
            while received(broker, "loose") <= before and time.monotonic() < ends:
                time.sleep(0.02)
            process.kill()
            said += ended(process).err
    with running(*base) as process:
        ends = time.monotonic() + 30
        while received(broker, "loose") < count and time.monotonic() < ends:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert ended(process).code == 0
    ids = [orjson.loads(r)["id"] for n in partitions_of(said) for r in events_of(log_of(broker, n))]
    assert len(set(ids)) < len(ids), "events came twice"


def test_a_second_one_ends_the_first(broker: Broker) -> None:
    count = filled(broker.address, "twice", 1)
    base = ("--source", f"kafka://{broker.address}/twice", "--to", f"kafka://{broker.address}/{LOG}", "--id", "twice")
    with running(*base) as first:
        ends = time.monotonic() + 30
        while received(broker, "twice") < count and time.monotonic() < ends:
            time.sleep(0.1)
        with running(*base) as second:
            told = ended(first, 30)
            assert told.code == 1
            assert told.err.splitlines()[-1].startswith("citybrain: ingest 'twice' of")
            assert "was started again elsewhere" in told.err
            second.send_signal(signal.SIGTERM)
            assert ended(second).code == 0


def test_bad_input(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line each, the right exit code, and no secret."""
    log = f"kafka://{broker.address}/events.demo.air"
    missing = once("--source", f"kafka://{broker.address}/nowhere", "--to", log)
    assert missing.code == 1 and missing.err.splitlines()[-1].endswith("there is no such topic; is the name right?")
    monkeypatch.setenv("CITYBRAIN_KAFKA_PASSWORD", "wrong-secret")
    query = "?security=sasl_plaintext&mechanism=PLAIN"
    wrong = once("--source", "simulator:", "--to", f"kafka://reader@{broker.guarded}/events.demo.air{query}")
    assert wrong.code == 1 and "refuses the connection as user 'reader'" in wrong.err, wrong.err
    assert len(wrong.err.splitlines()) == 1 and "secret" not in wrong.err
    monkeypatch.setenv("CITYBRAIN_KAFKA_PASSWORD", USERS["reader"])
    file = tmp_path / "air.ndjson"
    file.write_bytes(b"broken\n")
    right = once("--source", str(file), "--to", f"kafka://reader@{broker.guarded}/events.demo.air{query}")
    assert right.code == 0 and right.summary["rejected"] == 1, right.err
    for arguments, said in {
        ("--source", "mqtt://x", "--to", log): "is unknown; write a file",
        ("--source", str(file), "--to", "kafka://a:1/rows.demo"): "events.CITY.STREAM",
        ("--source", str(file), "--to", "kafka://a:1/events.demo.lnk"): "stream 'lnk' is unknown",
        ("--source", str(file), "--to", "kafka://a:1/events.nowhere.air"): "neither a path nor shipped",
        ("--source", str(file), "--source", "simulator:", "--to", log): "several times for files only",
        ("--source", "simulator:", "--to", log, "--id", "a/b"): "is no name",
        ("--source", "simulator:", "--to", log, "--until", "2026-03-02T08:00:00Z"): "--until is for files",
    }.items():
        bad = once(*arguments)
        assert bad.code == 2 and said in bad.err and len(bad.err.splitlines()) == 1, bad.err


def test_a_cluster_that_is_not_there_is_waited_for() -> None:
    with running("--source", "simulator:", "--to", f"kafka://127.0.0.1:{free_port()}/{LOG}") as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "does not answer" in said and "waiting" in said
        process.send_signal(signal.SIGTERM)
        assert ended(process, 30).code == 0


def test_a_source_topic_that_was_made_again(broker: Broker) -> None:
    count = filled(broker.address, "remade", 1)
    base = ("--source", f"kafka://{broker.address}/remade", "--to", f"kafka://{broker.address}/{LOG}", "--id", "remade")
    with running(*base) as process:
        assert finished(process, broker, "remade", count).code == 0
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.delete_topics(["remade"])["remade"].result(30)
    time.sleep(1)
    filled(broker.address, "remade", 2)
    told = once(*base)
    assert told.code == 1 and "was deleted and made again" in told.err


def test_the_simulated_city_goes_on(broker: Broker) -> None:
    """Live: a tick a second, and a restart goes on with the next event."""
    base = ("--source", "simulator:", "--to", f"kafka://{broker.address}/{LOG}", "--id", "city")
    said, seconds = "", []
    for _ in range(2):
        with running(*base) as process:
            began, before = time.monotonic(), received(broker, "city")
            while received(broker, "city") <= before + 50 and time.monotonic() < began + 30:
                time.sleep(0.2)
            time.sleep(2)
            process.send_signal(signal.SIGTERM)
            told = ended(process)
            seconds.append(time.monotonic() - began)
        assert told.code == 0, told.err
        said += told.err
    (partition,) = partitions_of(said)
    records = log_of(broker, partition)
    events = [orjson.loads(r) for r in events_of(records)]
    ticks = len(records) - len(events)
    assert never_falls(records) > 0 and len({e["id"] for e in events}) == len(events) > 100
    assert 2 <= ticks <= sum(seconds) + 2, (ticks, seconds)


def pushed(port: int, secret: str, lines: Sequence[bytes]) -> None:
    """Returns when they are acknowledged."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/ingest/v1/link", b"\n".join(lines),
        {"Authorization": f"Bearer {secret}", "Content-Type": "application/x-ndjson"},
    )  # fmt: skip
    ends = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.status == 202
                return
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:  # it does not listen yet
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)


def test_pushes_go_through_the_spool(broker: Broker, tmp_path: Path) -> None:
    """What was acknowledged is in the log once, also when the process is killed right after."""
    added = subprocess.run(
        [sys.executable, "-m", "citybrain", "token", "add", "s1", "--scope", "ingest:s1", "--data", str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    secret, port, now = added.stdout.split()[0], free_port(), int(time.time() * 1000)
    base = ("--source", f"http://127.0.0.1:{port}", "--to", f"kafka://{broker.address}/{LOG}", "--id", "push")
    lines = [orjson.dumps({"t": now + n, "link": "l0301", "tt_ms": 9_000, "n": 3}) for n in range(300)]
    said = ""
    for kill in range(3):
        with running(*base, "--data", str(tmp_path)) as process:
            for n in range(kill * 100, kill * 100 + 100, 20):
                pushed(port, secret, lines[n : n + 20])
            if kill == 2:
                told = finished(process, broker, "push", len(lines))
                assert told.code == 0, told.err
            else:
                process.kill()
                told = ended(process)
            said += told.err
    (partition,) = partitions_of(said)
    records = log_of(broker, partition)
    assert sorted(orjson.loads(r)["t"] for r in events_of(records)) == [now + n for n in range(300)]
    assert never_falls(records) > 0
