"""A stream of the simulated city as devices send it over MQTT: each record to `city/CITY/STREAM/PLACE` when it is due.

python -m tools.stack.devices HOST:PORT [--city demo] [--stream lvl] [--seed 1]
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from typing import Final
from urllib.parse import quote

import orjson
import polars as pl
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from commands.inputs import city_of
from connectors.simulator import GENERATORS, Simulation
from connectors.simulator_source import SENT
from pipelines import catalogue
from pipelines.streams import MINUTE_MS

PAUSE_S: Final = 0.2
IN_FLIGHT: Final = 10
"""Brokers differ in how many unacknowledged messages they take."""


def topic(city: str, stream: str, line: bytes, place_key: str) -> str:
    """Of a record that is broken nobody knows the place."""
    try:
        place = orjson.loads(line)[place_key]
    except (ValueError, LookupError, TypeError):
        place = "unknown"
    return f"city/{city}/{stream}/{quote(str(place), safe='')}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.stack.devices", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("broker", help="HOST:PORT")
    parser.add_argument("--city", default="demo")
    parser.add_argument("--stream", default="lvl", choices=[*GENERATORS])
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    place_key = next(s.place for s in catalogue.STREAMS if s.name == given.stream)
    simulation, waiting = Simulation(city_of(given.city), given.stream, given.seed), pl.DataFrame(schema=SENT)
    host, _, port = given.broker.rpartition(":")
    client = Client(CallbackAPIVersion.VERSION2, f"devices-{given.city}-{given.stream}", protocol=MQTTv5)
    client.max_inflight_messages_set(IN_FLIGHT)
    client.connect_async(host, int(port), clean_start=False)
    client.loop_start()
    began = int(time.time() * 1000)
    minute = began // MINUTE_MS
    while not stop.is_set():
        now = int(time.time() * 1000)
        while minute * MINUTE_MS <= now:
            waiting = pl.concat([waiting, simulation.sent(minute)]).filter(pl.col("arrival") >= began).sort("arrival")
            minute += 1
        for line in waiting.filter(pl.col("arrival") <= now)["line"]:
            client.publish(topic(given.city, given.stream, line.encode(), place_key), line, qos=1)
        waiting = waiting.filter(pl.col("arrival") > now)
        stop.wait(PAUSE_S)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
