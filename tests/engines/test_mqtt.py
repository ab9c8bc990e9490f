"""MQTT on real brokers: HiveMQ, which comes as jars, and mosquitto where it is installed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from connectors import mqtt
from connectors.mqtt import RECEIVE_MAXIMUM, MqttSource
from connectors.mqtt_options import MqttFailed
from pipelines import spool_segment as segments
from pipelines import spool_source
from pipelines.engines.java import java_home
from pipelines.failpoints import VARIABLE
from pipelines.spool_source import SpoolSource
from tests.contract.sources import keeps_its_promises
from tests.engines.mqtt import (
    KINDS,
    START,
    Server,
    began,
    guarded,
    line,
    links,
    numbers,
    publish,
    server,
    spool,
    subscriber,
    until,
)
from tools.stack.hivemq import HiveMQ

PASSWORD = "right-secret"
LAST = 7_000_000


@pytest.fixture(scope="module", params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    one = server(request.param, tmp_path_factory.mktemp(request.param))
    one.start()
    yield one.address
    one.end()


@pytest.fixture(params=KINDS)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A broker that the test may end."""
    one = server(request.param, tmp_path / "broker")
    one.start()
    yield one
    one.end()


def test_contract(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_source, "READ_BATCHES", 3)
    into = spool(tmp_path / "spool")
    one = began(subscriber(f"mqtt://{broker}/contract/%23", into, client="contract"))
    publish(broker, [("contract/a", line(n) if n % 97 else b"broken") for n in range(2_000)])
    until(lambda: one.stored >= 2_000, "all are stored")
    sought = keeps_its_promises(lambda: MqttSource(one), 2_000)
    print(f"2,000 records, read again from {sought} positions")
    assert sought >= 1
    one.close()
    with pytest.raises(MqttFailed, match=r"ends before record 2\d\d\d, and was read up to 20009 before"):
        MqttSource(one).seek(20_009)
    into.close()


def test_a_session_waits_for_its_client(broker: str, tmp_path: Path) -> None:
    """What was published while nobody was there comes once; the filters of the last start are those that count."""
    into, said = spool(tmp_path / "spool"), list[str]()
    address = f"mqtt://{broker}/waits/+/link?filter=more/%23"
    began(subscriber(address, into, said.append, "waits")).close()
    publish(broker, links(range(300), "waits"))
    publish(broker, [("more/x", line(300)), ("other/x", line(900))])
    one = began(subscriber(address, into, said.append, "waits"))
    until(lambda: into.end > 301, "all are stored")
    one.close()
    began(subscriber(f"mqtt://{broker}/waits/+/link", into, said.append, "waits")).close()
    publish(broker, [("more/x", line(901)), *links([301], "waits")])
    one = began(subscriber(f"mqtt://{broker}/waits/+/link", into, said.append, "waits"))
    until(lambda: 301 in numbers(into), "the last is stored")
    one.close()
    assert sorted(numbers(into)) == list(range(302)) and said == []
    into.close()


def test_poison_becomes_dead_letters(broker: str, tmp_path: Path) -> None:
    into = spool(tmp_path / "spool")
    one = began(subscriber(f"mqtt://{broker}/poison", into, client="poison"))
    poison = [
        b"\x00\xff\xfe", b"{", b"[1]", b"null", b"{}", b"x" * 5_000_000, b"[" * 100_000, b'{"t":1e400}',
        line(1).replace(b'"tt_ms":1001', b'"tt_ms":-1'), b"\xef\xbb\xbf\xef\xbb\xbf" + line(2), line(3) + line(4),
        b"\n".join((line(5), line(6))),
    ]  # fmt: skip
    messages = [("poison", x) for bad in poison for x in (bad, line(100))]
    publish(broker, [*messages, ("poison", b""), ("poison", b" \r\n"), ("poison", line(7).replace(b",", b",\n"))])
    publish(broker, [("poison", line(8))], qos=0)
    until(lambda: one.stored >= 2 * len(poison) + 4, "all are stored")
    one.check()
    one.close()
    source, letters = SpoolSource(into), Counter[str]()
    while (decoded := source.read()) is not None:
        letters += Counter(x.reason for x in decoded.refused)
        assert all(len(x.payload) <= 2048 for x in decoded.refused)
    print(f"{len(poison)} poison messages: {dict(letters)}")
    assert letters.total() == len(poison) and letters["too_long"] == letters["out_of_range"] == 1, letters
    assert Counter(numbers(into)) == {100: len(poison), 7: 1, 8: 1}
    into.close()


def test_a_topic_with_wildcards_in_its_name(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker takes no message on one, and nobody else is harmed."""
    into = spool(tmp_path / "spool")
    one = began(subscriber(f"mqtt://{broker}/wild/%23", into, client="wild"))
    monkeypatch.setattr(Client, "_raise_for_invalid_topic", staticmethod(lambda topic: None))
    sender, gone = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5), list[object]()
    sender.on_disconnect = lambda *told: gone.append(told[3])
    host, _, port = broker.rpartition(":")
    sender.connect(host, int(port))
    ends = time.monotonic() + 20
    sender.loop(0.5)
    for topic in ("wild/+/link", "wild/#"):
        sender.publish(topic, line(1), 1)
    while not gone and time.monotonic() < ends:
        sender.loop(0.1)
    assert gone, "the broker ends that connection"
    publish(broker, [("wild/a", line(2))])
    until(lambda: into.end > 1, "the good one is stored")
    assert numbers(into) == [2]
    one.close()
    into.close()


def test_retained_messages(broker: str, tmp_path: Path) -> None:
    """They come with a new subscription, not with each connection; an empty one, which deletes it, is no record."""
    into = spool(tmp_path / "spool")
    publish(broker, [("kept/a", line(1)), ("kept/b", line(2))], retain=True)
    one = began(subscriber(f"mqtt://{broker}/kept/%23", into, client="kept"))
    until(lambda: one.stored >= 2, "what was retained is stored")
    one.close()
    one = began(subscriber(f"mqtt://{broker}/kept/%23", into, client="kept"))
    publish(broker, [("kept/a", b"")], retain=True)
    publish(broker, [("kept/a", line(3))])
    until(lambda: one.stored >= 2, "the others came")
    assert sorted(numbers(into)) == [1, 2, 3]
    one.close()
    into.close()


def test_a_full_spool_holds_the_broker_back(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is acknowledged, nothing is lost, and what is held in memory is bounded."""
    monkeypatch.setattr(mqtt, "RETRY_S", 0.05)
    into, said, count = spool(tmp_path / "spool", max_bytes=1 << 14, segment_bytes=1 << 13), list[str](), 2_000
    one = began(subscriber(f"mqtt://{broker}/full/+/link", into, said.append, "full"))
    publish(broker, links(range(count), "full"))
    until(lambda: said, "it says so")
    time.sleep(1)
    # mosquitto 2.0 sends somewhat more than it is allowed.
    assert one.lost and len(one._held) <= 2 * RECEIVE_MAXIMUM and one.stored < count
    assert len(said) == 1 and "nothing is acknowledged for the moment (the spool of 'mqtt:test' holds" in said[0]
    publish(broker, links([count], "full"), qos=0)
    source, found = MqttSource(one), list[int]()
    ends = time.monotonic() + 60
    while len(set(found)) < count and time.monotonic() < ends:
        decoded = source.read()
        if decoded is None:
            time.sleep(0.01)
            continue
        found += [t - START for t in decoded.events["t"]]
        source.commit(decoded.next_position)
    print(f"{len(found)} records through a spool of {into.max_bytes} bytes, full {len(said) // 2} times or more")
    assert sorted(set(found) - {count}) == list(range(count)) and len(found) <= count + 1
    until(lambda: not one.lost and len(said) > 1, "it goes on")
    assert "stored and acknowledged again" in said[1]
    one.close()
    into.close()


def test_a_broker_that_is_away_is_waited_for(own: Server, tmp_path: Path) -> None:
    into, said = spool(tmp_path / "spool"), list[str]()
    one = began(subscriber(own.address, into, said.append))
    publish(own.address, links(range(50)))
    until(lambda: one.stored >= 50, "those before are stored")
    own.end()
    until(lambda: said, "it says so")
    assert one.lost and len(said) == 1 and "does not answer" in said[0] and "waiting" in said[0]
    own.start()
    until(lambda: not one.lost, "it is back")
    publish(own.address, links(range(50, 100)))
    until(lambda: one.stored >= 100, "those after are stored")
    assert set(numbers(into)) == set(range(100)), "some twice, if their acknowledgement did not arrive"
    assert len(said) == 2 and "answers again" in said[1], said
    one.check()
    one.close()
    into.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_lost_session_is_said(own: Server, tmp_path: Path, restarted: bool) -> None:
    """By a client that was there meanwhile, and by one that was started again."""
    into, said = spool(tmp_path / "spool"), list[str]()
    one = began(subscriber(own.address, into, said.append))
    assert said == []
    if restarted:
        one.close()
    own.end()
    kind = "hivemq" if isinstance(own, HiveMQ) else "mosquitto"
    empty = server(kind, tmp_path / "empty", own.port)
    empty.start()
    try:
        if restarted:
            one = began(subscriber(own.address, into, said.append))
        until(lambda: any("has no session of client 'test' any more" in x for x in said), "it says so")
        until(lambda: not one.lost, "it is subscribed again")
        publish(own.address, links(range(10)))
        until(lambda: one.stored >= 10, "it goes on")
        assert sum("has no session" in x for x in said) == 1
        one.close()
    finally:
        empty.end()
    into.close()


def test_another_client_of_that_name(broker: str, tmp_path: Path) -> None:
    first, second = spool(tmp_path / "first"), spool(tmp_path / "second")
    said: list[str] = []
    one = began(subscriber(broker, first, said.append, "twice"))
    two = subscriber(broker, second, said.append, "twice")
    two.start()
    # mosquitto 2.0 tells the first one nothing, so that they take turns.
    until(lambda: one._failure is not None or said, "one of them says so")
    if one._failure is not None:
        with pytest.raises(MqttFailed, match=r"another client connected to mqtt://.* as 'twice'; this one ends"):
            MqttSource(one).read()
        two.check()
    else:
        assert "ends the connection again and again" in said[0] and "client connect there as 'twice'?" in said[0]
    for each in (one, two):
        each.close()
        each.spool.close()


def refused(address: str, folder: Path, password: str | None = None) -> str:
    """What a client that is not let in says."""
    into = spool(folder)
    one = subscriber(address, into, password=password)
    one.start()
    until(lambda: one._failure is not None, "it gives up")
    with pytest.raises(MqttFailed) as error:
        one.check()
    one.close()
    into.close()
    said = str(error.value)
    assert "secret" not in said and "\n" not in said
    return said


def test_who_is_not_let_in(tmp_path: Path) -> None:
    one = HiveMQ(tmp_path / "closed", open_=False)
    one.start()
    try:
        said = refused(f"mqtt://reader@{one.address}/a", tmp_path / "spool", "wrong-secret")
    finally:
        one.end()
    assert said.startswith(
        f"mqtt://{one.address} refuses the connection as user 'reader': Not authorized; look at user"
    )


@pytest.mark.skipif(
    "mosquitto" not in KINDS, reason="mosquitto is not installed; HiveMQ without extensions knows no passwords"
)
def test_a_wrong_password(tmp_path: Path) -> None:
    one = guarded(tmp_path / "guarded", {"reader": PASSWORD})
    one.start()
    try:
        address = f"mqtt://reader@{one.address}/a"
        assert "as user 'reader': " in refused(address, tmp_path / "wrong", "wrong-secret")
        assert "refuses the connection: " in refused(f"mqtt://{one.address}/a", tmp_path / "nobody")
        into = spool(tmp_path / "right")
        began(subscriber(address, into, password=PASSWORD)).close()
        into.close()
    finally:
        one.end()


def test_tls(tmp_path: Path) -> None:
    """The authority of the address is believed and no other; a port without TLS is told from one with it."""
    store, ca = tmp_path / "store.jks", tmp_path / "ca.pem"
    keytool, secret = str(java_home() / "bin" / "keytool"), "store-secret"
    about = ("-alias", "broker", "-keystore", str(store), "-storepass", secret)
    made = (
        "-keyalg",
        "RSA",
        "-dname",
        "CN=127.0.0.1",
        "-ext",
        "san=ip:127.0.0.1",
        "-validity",
        "2",
        "-keypass",
        secret,
    )
    subprocess.run([keytool, "-genkeypair", *about, *made], check=True, capture_output=True)
    subprocess.run([keytool, "-exportcert", "-rfc", *about, "-file", str(ca)], check=True, capture_output=True)
    one = HiveMQ(tmp_path / "broker", tls=(store, secret))
    one.start()
    try:
        into = spool(tmp_path / "spool")
        two = began(subscriber(f"mqtts://{one.secured}/a?ca={ca}", into))
        publish(one.address, [("a", line(n)) for n in range(500)])
        until(lambda: two.stored >= 500, "all came encrypted")
        two.close()
        assert len(numbers(into)) == 500
        into.close()
        unknown = refused(f"mqtts://{one.secured}/a", tmp_path / "unknown")
        assert "TLS fails (self-signed certificate" in unknown and "look at ca, certificate, key" in unknown
        plain = refused(f"mqtts://{one.address}/a", tmp_path / "plain")
        assert "TLS fails" in plain
    finally:
        one.end()


# Kills and power cuts --------------------------------------------------------------------------------------------------


def killed(address: str, folder: Path, *how: str, failpoint: str | None = None, after_s: float | None = None) -> None:
    """A process that subscribes, until it kills itself, or is killed so long after it stored something."""
    command = [sys.executable, "-m", "tests.engines.subscribing", address, str(folder), *how]
    environment = {**os.environ, **({VARIABLE: failpoint} if failpoint else {})}

    def size() -> int:
        return sum(path.stat().st_size for path in folder.glob("*.spool"))

    before = size()
    with subprocess.Popen(command, env=environment) as process:
        if after_s is not None:
            until(lambda: size() > before, "it stores something")
            time.sleep(after_s)
            process.kill()
        assert process.wait(120) == -signal.SIGKILL


def rest(broker: str, address: str, folder: Path, root: str) -> list[int]:
    """What is in the spool when the broker has delivered the rest: it keeps the order, so that the last ones come last."""
    last = range(LAST, LAST + 7)  # one for each topic
    publish(broker, links(last, root))
    into = spool(folder)
    one = began(subscriber(address, into))
    until(lambda: {*last} <= {*numbers(into)}, "the last ones are there", 120)
    one.close()
    found = [n for n in numbers(into) if n < LAST]
    into.close()
    return found


def test_kills(broker: str, tmp_path: Path) -> None:
    """Wherever it is killed, each message that the broker took is in the spool, and those that are there twice are few."""
    address, folder = f"mqtt://{broker}/kills/+/link?client=kills", tmp_path / "spool"
    into = spool(folder)
    began(subscriber(address, into)).close()
    into.close()
    sent, rnd = 0, random.Random(7)
    lives: list[str | float] = ["spool_written:1", "spool_written:3", "spool_synced:1", "spool_synced:2"]
    lives += [rnd.uniform(0, 0.3) for _ in range(2)]
    for life in lives:
        sent += publish(broker, links(range(sent, sent + 600), "kills"))
        if isinstance(life, str):
            killed(address, folder, failpoint=life)
        else:
            killed(address, folder, after_s=life)
    found = rest(broker, address, folder, "kills")
    twice = len(found) - len(set(found))
    print(f"{sent} messages, {len(lives)} kills: {len(set(found))} in the spool, {twice} of them twice")
    assert sorted(set(found)) == list(range(sent)) and 0 < twice < len(lives) * 4 * RECEIVE_MAXIMUM


@pytest.mark.parametrize("at_once", [False, True])
def test_negative_control_acknowledged_at_once(broker: str, tmp_path: Path, at_once: bool) -> None:
    """Acknowledged when they come instead of when they are stored, messages are lost by a kill, and it is seen."""
    name, folder = f"once-{at_once}", tmp_path / "spool"
    address = f"mqtt://{broker}/{name}/+/link?client={name}"
    into = spool(folder)
    began(subscriber(address, into)).close()
    into.close()
    sent = publish(broker, links(range(500), name))
    killed(address, folder, "--dies=2", *(["--at-once"] if at_once else []))
    lost = set(range(sent)) - set(rest(broker, address, folder, name))
    print(f"{len(lost)} of {sent} lost")
    assert bool(lost) == at_once


@pytest.mark.parametrize("with_sync", [True, False])
def test_a_power_cut(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_sync: bool) -> None:
    """What no fsync reached is gone from the file: nothing that was acknowledged, unless (the negative control) the fsync is
    left out."""
    name, folder, real, durable = f"cut-{with_sync}", tmp_path / "spool", os.fdatasync, dict[int, int]()
    address = f"mqtt://{broker}/{name}/+/link?client={name}"

    def watched(fd: int) -> None:
        real(fd)
        durable[os.fstat(fd).st_ino] = os.fstat(fd).st_size

    monkeypatch.setattr(os, "fdatasync", watched)
    into = spool(folder)
    one = began(subscriber(address, into))
    sent = publish(broker, links(range(100), name))
    until(lambda: one.stored >= sent, "the first are stored")
    if not with_sync:
        monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    sent += publish(broker, links(range(100, 200), name))
    until(lambda: one.stored >= sent, "the others are stored")
    one.close()
    into.close()
    monkeypatch.setattr(os, "fdatasync", real)
    for path in folder.glob("*.spool"):
        length = durable[path.stat().st_ino]
        with path.open("r+b") as file:
            file.truncate(length)
            # The mark is written after the fsync and becomes durable with the next one.
            segments.write_mark(file.fileno(), segments.START)
    lost = set(range(sent)) - set(rest(broker, address, folder, name))
    print(f"{len(lost)} of {sent} acknowledged messages lost")
    assert lost == (set() if with_sync else set(range(100, 200)))
