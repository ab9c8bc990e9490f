"""MQTT brokers for tests, who publishes on them, and what came of it."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import orjson
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from connectors.formats.ndjson import Ndjson
from connectors.mqtt import Subscriber
from connectors.mqtt_options import SECRET, mqtt_options
from pipelines.spool import Spool
from pipelines.spool_source import SpoolSource
from pipelines.streams import LINK
from tools.stack import mosquitto
from tools.stack.hivemq import HiveMQ

START = 1_772_409_600_000
INPUT = "mqtt:test"
KINDS = ("hivemq", "mosquitto") if mosquitto.binary() else ("hivemq",)
Server = HiveMQ | mosquitto.Mosquitto
Message = tuple[str, bytes | None]


def server(kind: str, folder: Path, port: int | None = None) -> Server:
    """A broker that lets everybody in; not started."""
    program = mosquitto.binary()
    if kind == "hivemq" or program is None:
        return HiveMQ(folder, port)
    return mosquitto.Mosquitto(folder, program, port)


def guarded(folder: Path, users: Mapping[str, str]) -> mosquitto.Mosquitto:
    """A mosquitto that asks for these passwords."""
    program = mosquitto.binary()
    assert program is not None
    made = mosquitto.Mosquitto(folder, program)
    config, salt = folder / "mosquitto.conf", b"0123456789ab"
    lines = []
    for user, password in users.items():
        of = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
        lines.append(f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(of).decode()}\n")
    (folder / "passwords").write_text("".join(lines))
    settings = config.read_text().replace("allow_anonymous true", "allow_anonymous false")
    config.write_text(f"{settings}password_file {folder / 'passwords'}\n")
    return made


def line(n: int) -> bytes:
    """A record of its own for each number."""
    return orjson.dumps({"t": START + n, "link": f"l{n % 40}", "tt_ms": 1_000 + n, "n": n % 90})


def links(ns: Iterable[int], root: str = "city") -> list[Message]:
    return [(f"{root}/{n % 7}/link", line(n)) for n in ns]


def publish(address: str, messages: Iterable[Message], *, qos: int = 1, retain: bool = False) -> int:
    """Returns how many, when the broker has acknowledged them all."""
    host, _, port = address.rpartition(":")
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.max_inflight_messages_set(10)  # brokers differ in how many they take
    client.connect(host, int(port))
    client.loop_start()
    try:
        sent = [client.publish(topic, payload, qos, retain) for topic, payload in messages]
        for each in sent:
            each.wait_for_publish(30)
            assert each.is_published(), "the broker takes no message"
    finally:
        client.disconnect()
        client.loop_stop()
    return len(sent)


def spool(folder: Path, **bounds: int) -> Spool:
    return Spool(folder, INPUT, LINK.name, **bounds)


def subscriber(
    address: str, into: Spool, said: Callable[[str], None] = print, client: str = "test", password: str | None = None
) -> Subscriber:
    """One of a whole address, or of all links of a broker at HOST:PORT; not started."""
    whole = address if "://" in address else f"mqtt://{address}/city/+/link"
    secrets = {} if password is None else {SECRET["password"]: password}
    return Subscriber(mqtt_options(whole, secrets), client, into, Ndjson(LINK), lambda: int(time.time() * 1000), said)


def began(one: Subscriber) -> Subscriber:
    """Once it is subscribed."""
    one.start()
    until(lambda: one.check() or not one.lost, "it is subscribed")
    return one


def numbers(into: Spool) -> list[int]:
    """What is in a spool, as the numbers of its lines, in order."""
    source, found = SpoolSource(into), list[int]()
    while (decoded := source.read()) is not None:
        found += [t - START for t in decoded.events["t"]]
    source.close()
    return found


def until(true: Callable[[], object], what: str, longest_s: float = 60.0) -> None:
    ends = time.monotonic() + longest_s
    while not true():
        assert time.monotonic() < ends, f"{what}: not within {longest_s} s"
        time.sleep(0.02)
