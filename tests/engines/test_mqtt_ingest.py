"""`citybrain ingest` from MQTT onto the canonical log, with a real broker on both sides."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.engines.mqtt import publish, until
from tests.engines.test_ingest import LOG, Here, claimed, ended, events_of, log_of, never_falls, running
from tools.stack import programs
from tools.stack.broker import Broker, free_port
from tools.stack.hivemq import HiveMQ
from tools.stack.process import Process
from tools.stack.programs import OVER_MQTT


@pytest.fixture(scope="module")
def mqtt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    one = HiveMQ(tmp_path_factory.mktemp("hivemq"))
    one.start()
    yield one.address
    one.end()


def test_each_message_is_in_the_log_once(kafka_broker: Broker, mqtt: str, tmp_path: Path) -> None:
    """Killed between the fsync and the acknowledgement: what comes again is a duplicate, what came meanwhile is there."""
    now = int(time.time() * 1000)
    lines = [orjson.dumps({"t": now + n, "link": f"l03{n % 7:02}", "tt_ms": 9_000, "n": 3}) for n in range(500)]
    messages: list[tuple[str, bytes | None]] = [(f"links/{n % 7}", line) for n, line in enumerate(lines)]
    source, to = f"mqtt://{mqtt}/links/+", f"kafka://{kafka_broker.address}/{LOG}"
    arguments = ("--source", source, "--to", to, "--id", "mqtt", "--data", str(tmp_path))
    with Here(source, to, "mqtt", data=tmp_path) as one:
        # What is published before there is a session is for nobody.
        until((tmp_path / "demo" / "ingest" / "link" / "mqtt" / "mqtt.session").exists, "it is subscribed")
        publish(mqtt, [*messages[:50], ("links/1", b"broken")])
        one.reads(kafka_broker, 51)
    with running(*arguments, failpoint="spool_synced:1") as process:
        publish(mqtt, messages[50:300])
        assert ended(process).code == -signal.SIGKILL
    publish(mqtt, messages[300:])
    partition = claimed(kafka_broker, "mqtt")[0]
    with Here(source, to, "mqtt", data=tmp_path) as again:
        until(lambda: len(events_of(log_of(kafka_broker, partition))) >= 500, "all are in the log")
    records = log_of(kafka_broker, partition)
    counted = again.summary
    print(f"500 messages, one kill: {counted['received']} received, {counted['duplicate']} duplicates")
    assert sorted(orjson.loads(r)["t"] for r in events_of(records)) == [now + n for n in range(500)]
    assert never_falls(records) > 0
    assert counted["accepted"] == 500 and counted["rejected"] == 1 and counted["duplicate"] > 0
    assert counted["received"] == 501 + counted["duplicate"]


def test_who_is_not_let_in(kafka_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, exit code 1, no secret; what is wrong with an address is told before anything is begun."""
    closed = HiveMQ(tmp_path / "closed", open_=False)
    closed.start()
    monkeypatch.setenv("CITYBRAIN_MQTT_PASSWORD", "wrong-secret")
    to = ("--to", f"kafka://{kafka_broker.address}/{LOG}", "--data", str(tmp_path))
    try:
        with running("--source", f"mqtt://reader@{closed.address}/a", *to, "--id", "closed") as process:
            told = ended(process)
    finally:
        closed.end()
    assert told.code == 1 and "secret" not in told.err and "Traceback" not in told.err, told.err
    assert "refuses the connection as user 'reader': Not authorized; look at user" in told.err.splitlines()[-1]
    with running("--source", "mqtt://h/city/a+b/link", *to) as process:
        told = ended(process)
    assert told.code == 2 and "topic filter 'city/a+b/link' cannot be used: '+' stands for a whole level" in told.err
    assert len(told.err.splitlines()) == 1


def test_a_broker_that_is_not_there_is_waited_for(kafka_broker: Broker, tmp_path: Path) -> None:
    to = ("--to", f"kafka://{kafka_broker.address}/{LOG}", "--id", "nobody", "--data", str(tmp_path))
    with running("--source", f"mqtt://127.0.0.1:{free_port()}/a", *to) as process:
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(2)]
        assert sum("does not answer" in x and "waiting" in x for x in said) == 1, said
        process.send_signal(signal.SIGTERM)
        assert ended(process).code == 0


def test_devices_of_the_stack(kafka_broker: Broker, mqtt: str, tmp_path: Path) -> None:
    """What `make stack` runs: simulated devices that publish, and an ingest that subscribes."""
    topic, name = f"events.demo.{OVER_MQTT}", f"ingest {OVER_MQTT}"
    command = programs.commands("demo", kafka_broker.address, mqtt, tmp_path, 0)[name]
    ingest, devices = Process(name, tmp_path / "ingest.log"), Process("devices", tmp_path / "devices.log")
    session = tmp_path / "mqtt" / "spools" / "demo" / "ingest" / OVER_MQTT / "mqtt" / "mqtt.session"
    try:
        ingest.start(command, session.exists, longest_s=120)
        devices.start(programs.devices("demo", mqtt), lambda: True)
        until(lambda: len(events_of(log_of(kafka_broker, 0, topic))) > 20, "they are in the log", 150)
    finally:
        devices.end()
        ingest.end()
    print((tmp_path / "ingest.log").read_text().splitlines()[-1])
    assert (tmp_path / "devices.log").read_text() == ""
