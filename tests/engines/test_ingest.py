"""`citybrain ingest` onto a real broker: rows as of a direct run, and each event once after any kill (rules 7, 8, 11)."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
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
from confluent_kafka.admin import AdminClient, NewPartitions

from citybrain import _code
from commands.ingest import ingest
from commands.ingest_inputs import Options
from commands.ingest_session import STATE_PARTITIONS
from commands.inputs import UserError, city_of, resolve
from connectors.simulator import Simulation
from connectors.simulator_source import write_files
from pipelines import canonical, catalogue, log_writer, state_records
from pipelines.address_options import AddressError
from pipelines.engines.polars_engine import PolarsEngine
from pipelines.failpoints import VARIABLE
from pipelines.ingest import COUNTERS, Ingest
from pipelines.kafka_client import Cluster, Connection
from pipelines.kafka_options import KafkaFailed, kafka_options
from pipelines.model import DEAD_LETTERS_SCHEMA, PlaceRegistry, Rows
from pipelines.streams import LINK, MINUTE_MS
from sinks.kafka_log import KafkaLog, kept
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
def running(*arguments: str, slow: bool = False, failpoint: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """In a process of its own; `slow`: in small batches."""
    module = ["tests.engines.ingesting"] if slow else ["citybrain", "ingest"]
    environment = {**os.environ, **({VARIABLE: failpoint} if failpoint else {})}
    with subprocess.Popen(
        [sys.executable, "-m", *module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    ) as process:  # fmt: skip
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


def ended(process: subprocess.Popen[str], longest_s: float = 120) -> Ended:
    out, err = process.communicate(timeout=longest_s)
    return Ended(process.returncode, orjson.loads(out) if out.strip() else {}, err)


class Here:
    """An ingest on a thread of this process. Leaving the block ends it; `error` is what ended it before."""

    def __init__(self, source: str, to: str, id_: str, **more: Any) -> None:
        self.options, self.stop = Options((source,), to, id_, **more), threading.Event()
        self.summary: dict[str, Any] = {}
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.summary = ingest(self.options, self.stop)
        except Exception as error:
            self.error = error

    def __enter__(self) -> Here:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def reads(self, broker: Broker, count: int, longest_s: float = 90) -> None:
        """Returns when so many records are counted."""
        ends = time.monotonic() + longest_s
        assert self.options.id is not None
        while received(broker, self.options.id) < count:
            assert self._thread.is_alive(), self.error
            assert time.monotonic() < ends, "it does not get there"
            time.sleep(0.2)

    def gives_up(self, longest_s: float = 60) -> str:
        """What it says."""
        self._thread.join(longest_s)
        assert isinstance(self.error, KafkaFailed), self.error
        return str(self.error)


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
    to = f"kafka://{broker.address}/{LOG}"
    with running(*arguments, "--to", to, "--id", "recorded") as process:
        done = ended(process)
    assert done.code == 0, done.err
    # The same files, ingest and engine in this process.
    direct = resolve(files, city="demo", map_=None, stream=None, lookup=None, disorder=None)
    places = PlaceRegistry()
    stamper = Ingest(
        LINK, [a.input for a in direct.attached], live=False, registry=places,
        configured=[s.id for s in CITY.sites if s.stream == "link"],
    )  # fmt: skip
    engine = PolarsEngine(ROLLUPS, {a.input.part for a in direct.attached})
    sources = {a.input.name: a.source for a in direct.attached}
    while (name := stamper.wanted()) is not None:
        decoded = sources[name].read()
        stamped = [] if decoded is None else stamper.push(decoded, 0, last=sources[name].ended)
        for block in stamped if not (decoded is None and sources[name].ended) else stamper.end(name, 0):
            engine.add(block)
    wanted = by_rollup(engine.finish(), places)
    # What is in the log.
    records, others = log_of(broker, 0), PlaceRegistry()
    again = PolarsEngine(ROLLUPS, [canonical.part_of(LOG, 0)])
    for block in blocks(LINK, canonical.part_of(LOG, 0), records, others):
        again.add(block)
    found = by_rollup(again.take(), others)  # the last tick closes all
    assert found == wanted and sum(map(len, wanted.values())) > 1_000
    assert {k: done.summary[k] for k in stamper.counters} == stamper.counters
    assert stamper.counters["rejected"] > 2 and stamper.counters["duplicate"] >= 1
    assert b'"t":' not in records[-1] and never_falls(records) > 1_000
    dead = [orjson.loads(x) for x in read(broker.address, "dead.demo")]
    mine = [{name: x[name] for name in x if name != "seen_at"} for x in dead if x["source"] in map(str, files)]
    letters = [
        {name: getattr(x, name) for name in DEAD_LETTERS_SCHEMA if name != "seen_at"} for x in stamper.dead_letters()
    ]
    assert sorted(mine, key=repr) == sorted(letters, key=repr) and len(mine) == stamper.counters["rejected"]
    assert [x["payload"] for x in mine].count("broken") == 2 and all(x["seen_at"] for x in dead)
    told = [orjson.loads(x) for x in read(broker.address, "control.demo")]
    assert [x["counters"] for x in told if x.get("ingest") == "recorded"][-1] == stamper.counters
    # Typed again it changes nothing; other files follow in the same partition.
    options = Options(tuple(map(str, files)), to, "recorded")
    assert run_ingest(options)["received"] == stamper.counters["received"] and log_of(broker, 0) == records
    later = tmp_path / "c" / "link.ndjson"
    later.parent.mkdir()
    later.write_bytes(orjson.dumps({"t": START + 90 * MINUTE_MS, "link": "l0301", "tt_ms": 9_000, "n": 3}) + b"\n")
    assert run_ingest(Options((str(later),), to, "recorded"))["received"] == stamper.counters["received"] + 1
    more = log_of(broker, 0)
    assert more[: len(records)] == records and len(events_of(more)) == len(events_of(records)) + 1 and never_falls(more)


def run_ingest(options: Options) -> dict[str, Any]:
    return ingest(options, threading.Event())


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
    return max((x["counters"]["received"] for x in told if x.get("ingest") == ingest), default=0)


def claimed(broker: Broker, ingest: str) -> list[int]:
    """The partitions of the log that an ingest writes."""
    cluster = Cluster(Connection(kafka_options(f"kafka://{broker.address}/{LOG}", {})))
    records = kept(cluster, "state.demo", state_records.partition_of("link", STATE_PARTITIONS))
    return [*log_writer.claimed(records, "link")[ingest].values()]


def killed_and_again(broker: Broker, source: str, id_: str, kills: Sequence[tuple[str, int]], *more: str) -> None:
    """Runs it once for each kill: a failpoint, and how often it is passed before."""
    arguments = ("--source", source, "--to", f"kafka://{broker.address}/{LOG}", "--id", id_)
    for point, n in kills:
        with running(*more, *arguments, slow=True, failpoint=f"{point}:{n}") as process:
            told = ended(process)
        assert told.code == -signal.SIGKILL, told.err


def test_killed_at_random(broker: Broker) -> None:
    """Three kills of ingest and one of the broker: each event once, stamps never fall, all as in an undisturbed run."""
    count = filled(broker.address, "source", 9)
    source, to = f"kafka://{broker.address}/source", f"kafka://{broker.address}/{LOG}"
    with Here(source, to, "calm") as undisturbed:
        undisturbed.reads(broker, count)
    calm = undisturbed.summary
    assert calm["received"] == count and calm["duplicate"] > 10
    rnd = random.Random(11)
    kills = [(point, rnd.randint(3, 9)) for point in ("batch_written", "batch_committed", "batch_begun")]
    killed_and_again(broker, source, "killed", kills)
    before = received(broker, "killed")
    assert 0 < before < count, "killed on the way"
    arguments = (f"--kills={broker.pid}", "--source", source, "--to", to, "--id", "killed")
    with running(*arguments, slow=True) as process:
        ends = time.monotonic() + 120
        while broker.alive and time.monotonic() < ends:
            time.sleep(0.05)
        assert not broker.alive and process.poll() is None
        time.sleep(1.5)
        broker.end()
        broker.start()
        while received(broker, "killed") < count and time.monotonic() < ends:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        last = ended(process)
    assert last.code == 0 and "goes on" in last.err and "does not answer" in last.err, last.err
    assert {c: last.summary[c] for c in COUNTERS} == {c: calm[c] for c in COUNTERS}
    total = 0
    for one, other in zip(claimed(broker, "calm")[:2], claimed(broker, "killed")[:2], strict=True):
        assert one != other, "each ingest has partitions of its own"
        wanted, found = log_of(broker, one), log_of(broker, other)
        assert events_of(found) == events_of(wanted)
        assert never_falls(found) > 100
        ids = [orjson.loads(r)["id"] for r in events_of(found)]
        assert len(set(ids)) == len(ids), "each event once"
        total += len(ids)
    print(f"\n{count:,} records, {kills} and the broker killed: {total:,} events equal")
    assert total == calm["accepted"] > 1_000


def test_negative_control(broker: Broker) -> None:
    """State that is not in the transaction of its batch: a kill between both is seen."""
    count = filled(broker.address, "loose", 3)
    source, to = f"kafka://{broker.address}/loose", f"kafka://{broker.address}/{LOG}"
    # Its first transaction claims the partitions; of each later pair the first has the events.
    killed_and_again(broker, source, "loose", [("batch_committed", 8)], "--broken")
    with Here(source, to, "loose") as one:
        one.reads(broker, count)
    ids = [orjson.loads(r)["id"] for n in claimed(broker, "loose") for r in events_of(log_of(broker, n))]
    assert len(set(ids)) < len(ids), "events came twice"


def test_a_second_one_ends_the_first(broker: Broker) -> None:
    count = filled(broker.address, "twice", 1)
    source, to = f"kafka://{broker.address}/twice", f"kafka://{broker.address}/{LOG}"
    with Here(source, to, "twice") as first:
        first.reads(broker, count)
        with Here(source, to, "twice") as second:
            assert "was started again elsewhere; this one ends" in first.gives_up()
            assert _code(first.error) == 1  # type: ignore[arg-type]
        assert second.error is None and second.summary["received"] == count


def test_a_transaction_that_was_open_too_long(broker: Broker) -> None:
    """The cluster takes nothing more from the session, and nobody else has taken over: it begins again and loses nothing."""
    create(broker.address, [("stalled", 1)])
    source, to = f"kafka://{broker.address}/stalled", f"kafka://{broker.address}/{LOG}"
    producer = Producer({"bootstrap.servers": broker.address})

    def send(first: int) -> None:
        for n in range(first, first + 100):
            record = {"t": START + n, "link": "l0301", "tt_ms": 9_000, "n": 3}
            producer.produce("stalled", orjson.dumps(record), timestamp=START + n)
        assert producer.flush(30) == 0

    with Here(source, to, "stalled") as one:
        send(0)
        one.reads(broker, 100)
        fence = KafkaLog(Connection(kafka_options(to, {})), "citybrain-ingest-demo-link-stalled")
        fence.open()
        fence.close()
        send(100)
        one.reads(broker, 200)
    assert one.error is None and one.summary["received"] == 200
    events = [orjson.loads(r) for r in events_of(log_of(broker, claimed(broker, "stalled")[0]))]
    assert [e["t"] for e in events] == [START + n for n in range(200)]


def test_a_source_that_grew(broker: Broker) -> None:
    """The next start reads the new partitions too, into partitions of their own (rule 7: from the published wm on)."""
    count = filled(broker.address, "grew", 1, partitions=1)
    source, to = f"kafka://{broker.address}/grew", f"kafka://{broker.address}/{LOG}"
    with Here(source, to, "grew") as one:
        one.reads(broker, count)
    before = claimed(broker, "grew")
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.create_partitions([NewPartitions("grew", 2)])["grew"].result(30)
    producer = Producer({"bootstrap.servers": broker.address})
    for n in range(50):
        record = {"t": START + 10 * MINUTE_MS + n, "link": "l0301", "tt_ms": 9_000, "n": 3}
        producer.produce("grew", orjson.dumps(record), partition=1, timestamp=START + 10 * MINUTE_MS)
    assert producer.flush(30) == 0
    with Here(source, to, "grew") as again:
        again.reads(broker, count + 50)
    assert again.error is None
    new = [n for n in claimed(broker, "grew") if n not in before]
    assert before and new
    records = log_of(broker, new[0])
    assert len(events_of(records)) == 50 and never_falls(records) >= 50
    assert orjson.loads(events_of(records)[0])["wm"] >= orjson.loads(events_of(log_of(broker, before[0]))[-1])["wm"]


def test_two_first_starts_at_once(broker: Broker) -> None:
    """Each claims partitions of its own."""
    count = filled(broker.address, "race", 1)
    source, to = f"kafka://{broker.address}/race", f"kafka://{broker.address}/{LOG}"
    with Here(source, to, "race1") as one, Here(source, to, "race2") as other:
        one.reads(broker, count)
        other.reads(broker, count)
    mine, theirs = claimed(broker, "race1"), claimed(broker, "race2")
    assert len(mine) >= 2 and len(theirs) >= 2 and not set(mine) & set(theirs)


def test_bad_input(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line each, the right exit code, and no secret."""
    log = f"kafka://{broker.address}/events.demo.air"
    file = tmp_path / "air.ndjson"
    file.write_bytes(b"broken\n")
    guarded = f"kafka://reader@{broker.guarded}/events.demo.air?security=sasl_plaintext&mechanism=PLAIN"
    monkeypatch.setenv("CITYBRAIN_KAFKA_PASSWORD", "wrong-secret")
    with running("--source", "simulator:", "--to", guarded) as process:
        wrong = ended(process)
    assert wrong.code == 1 and "refuses the connection as user 'reader'" in wrong.err, wrong.err
    assert len(wrong.err.splitlines()) == 1 and "secret" not in wrong.err
    monkeypatch.setenv("CITYBRAIN_KAFKA_PASSWORD", USERS["reader"])
    assert run_ingest(Options((str(file),), guarded))["rejected"] == 1
    with pytest.raises(KafkaFailed, match="nowhere: there is no such topic; is the name right"):
        run_ingest(Options((f"kafka://{broker.address}/nowhere",), log))
    for options, said in [
        (Options(("amqp://x",), log), "is unknown; write a file"),
        (Options(("mqtt://x",), log), "names no topic; write mqtt://"),
        (Options((str(file),), "kafka://a:1/rows.demo"), "events.CITY.STREAM"),
        (Options((str(file),), "kafka://a:1/events.demo.lnk"), "stream 'lnk' is unknown"),
        (Options((str(file),), "kafka://a:1/events.nowhere.air"), "neither a path nor shipped"),
        (Options((str(file),), "kafka://a:1/events.demo.air", city="harbour"), "--city is 'harbour'"),
        (Options((str(file), "simulator:"), log), "several times for files only"),
        (Options(("simulator:",), log, "a/b"), "is no name"),
        (Options(("simulator:",), log, until=START), "--until is for files"),
        (Options(("simulator:",), log, format="avro"), "'avro' is unknown"),
        (Options((log,), log), "are the same topic"),
        (Options((f"{log}?config={file}",), log), "is no TOML"),
    ]:
        with pytest.raises((UserError, AddressError), match=re.escape(said)) as error:
            run_ingest(options)
        assert _code(error.value) == 2


def test_a_log_that_was_made_again(broker: Broker, tmp_path: Path) -> None:
    topic, file = canonical.topic("demo", "rain"), tmp_path / "rain.ndjson"
    file.write_bytes(b"broken\n")
    options = Options((str(file),), f"kafka://{broker.address}/{topic}")
    assert run_ingest(options)["rejected"] == 1
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.delete_topics([topic])[topic].result(30)
    time.sleep(1)
    with pytest.raises(KafkaFailed, match="was deleted and made again: what ingest 'files' wrote there is gone"):
        run_ingest(options)


def test_a_state_that_was_deleted(broker: Broker, tmp_path: Path) -> None:
    """Without it all would be read again, and written twice."""
    source, log = tmp_path / "link.ndjson", canonical.topic("forgotten", "link")
    write_files(CITY, STREAMS, START, START + 2 * MINUTE_MS, tmp_path)
    pack = tmp_path / "forgotten"
    pack.mkdir()
    (pack / "city.toml").write_text('id = "forgotten"\nzh = "f"\nen = "f"\nzone = "UTC"\ndistricts = []\n')
    options = Options((str(source),), f"kafka://{broker.address}/{log}", "one", city=str(pack))
    assert ingest(options, threading.Event())["accepted"] > 100
    there, admin, state = log_of(broker, 0, log), AdminClient({"bootstrap.servers": broker.address}), "state.forgotten"
    admin.delete_topics([state])[state].result(30)
    ends = time.monotonic() + 60
    while Cluster(Connection(kafka_options(f"kafka://{broker.address}/x"))).topic(state) is not None:
        assert time.monotonic() < ends
    with pytest.raises(
        KafkaFailed, match=r"partition 0 of .* has records, and topic 'state.forgotten' knows of nobody"
    ):
        ingest(options, threading.Event())
    assert log_of(broker, 0, log) == there


def test_a_mapping_reads_messages(broker: Broker, tmp_path: Path) -> None:
    """Foreign JSON on a topic, with its units, through the same mapping as files."""
    mapping = tmp_path / "sensors.toml"
    mapping.write_text(
        'stream = "link"\nsource = "sensors"\nformat = "ndjson"\n[place]\ncolumn = "id"\n[time]\ncolumn = "at"\n'
        'format = "unix_s"\nstamp = "instant"\n[fields.tt_ms]\ncolumn = "seconds"\nunit = "s"\n[fields.n]\ncolumn = "cars"\n'
    )
    create(broker.address, [("sensors", 1)])
    producer = Producer({"bootstrap.servers": broker.address})
    for n in range(20):
        text = orjson.dumps({"id": "l0301", "at": START // 1000 + n, "seconds": 9.5, "cars": n, "more": {"x": [1]}})
        producer.produce("sensors", text if n else b"{", timestamp=START + 1000 * n)
    assert producer.flush(30) == 0
    source, to = f"kafka://{broker.address}/sensors", f"kafka://{broker.address}/{LOG}"
    with Here(source, to, "mapped", map=str(mapping)) as one:
        one.reads(broker, 20)
    partition = claimed(broker, "mapped")[0]
    events = [orjson.loads(r) for r in events_of(log_of(broker, partition))]
    assert [(e["t"], e["link"], e["tt_ms"], e["n"]) for e in events] == [
        (START + 1000 * n, "l0301", 9_500, n) for n in range(1, 20)
    ]


def test_a_cluster_that_is_not_there_is_waited_for() -> None:
    with running("--source", "simulator:", "--to", f"kafka://127.0.0.1:{free_port()}/{LOG}") as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "does not answer" in said and "waiting" in said
        process.send_signal(signal.SIGTERM)
        assert ended(process).code == 0


def test_a_source_topic_that_was_made_again(broker: Broker) -> None:
    count = filled(broker.address, "remade", 1)
    source, to = f"kafka://{broker.address}/remade", f"kafka://{broker.address}/{LOG}"
    with Here(source, to, "remade") as one:
        one.reads(broker, count)
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.delete_topics(["remade"])["remade"].result(30)
    time.sleep(1)
    filled(broker.address, "remade", 1)
    with Here(source, to, "remade") as again:
        assert "was deleted and made again" in again.gives_up()


def test_the_simulated_city_goes_on(broker: Broker) -> None:
    """Live: a tick a second, and a restart goes on with the next event."""
    seconds, to = 0.0, f"kafka://{broker.address}/{LOG}"
    for _ in range(2):
        began, before = time.monotonic(), received(broker, "city")
        with Here("simulator:", to, "city") as one:
            one.reads(broker, before + 50)
            time.sleep(1.5)
        seconds += time.monotonic() - began
        assert one.error is None
    partition = claimed(broker, "city")[0]
    records = log_of(broker, partition)
    events = [orjson.loads(r) for r in events_of(records)]
    ticks = len(records) - len(events)
    assert never_falls(records) > 0 and len({e["id"] for e in events}) == len(events) > 100
    assert 2 <= ticks <= seconds + 2, (ticks, seconds)


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
    address, to = f"http://127.0.0.1:{port}", f"kafka://{broker.address}/{LOG}"
    lines = [orjson.dumps({"t": now + n, "link": "l0301", "tt_ms": 9_000, "n": 3}) for n in range(200)]
    with running("--source", address, "--to", to, "--id", "push", "--data", str(tmp_path)) as process:
        for n in range(0, 100, 20):
            pushed(port, secret, lines[n : n + 20])
        process.kill()
    with Here(address, to, "push", data=tmp_path) as one:
        for n in range(100, 200, 20):
            pushed(port, secret, lines[n : n + 20])
        one.reads(broker, len(lines))
    partition = claimed(broker, "push")[0]
    records = log_of(broker, partition)
    assert sorted(orjson.loads(r)["t"] for r in events_of(records)) == [now + n for n in range(200)]
    assert never_falls(records) > 0
    elsewhere = Here(address, to, "push", data=tmp_path / "elsewhere")
    with elsewhere:
        elsewhere._thread.join(60)
    assert "has read push:s1:link before, which is not there now" in str(elsewhere.error), elsewhere.error
