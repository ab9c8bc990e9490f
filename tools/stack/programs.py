"""citybrain's own processes on the stack: an ingest for each simulated stream, one of them over MQTT, and the brain."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from commands.inputs import city_of
from connectors.simulator import GENERATORS
from pipelines.canonical import topic

OVER_MQTT: Final = "lvl"


def commands(city: str, kafka: str, mqtt: str, folder: Path, port: int) -> dict[str, list[str]]:
    """Name of the process -> its command line. `kafka` and `mqtt` are HOST:PORT, `port` is the brain's."""
    wanted: dict[str, list[str]] = {}
    if any(site.stream == "link" for site in city_of(city).sites):  # else there is nothing to simulate
        for stream in GENERATORS:
            to = f"kafka://{kafka}/{topic(city, stream)}"
            source = ["simulator:"]
            if stream == OVER_MQTT:
                source = [f"mqtt://{mqtt}/city/{city}/{stream}/+", "--data", str(folder / "mqtt" / "spools")]
            wanted[f"ingest {stream}"] = ["ingest", "--source", *source, "--to", to, "--city", city]
    wanted["brain"] = ["brain", "--city", city, "--kafka", kafka, "--data", str(folder / "brain"), "--port", str(port)]
    return {name: [sys.executable, "-m", "citybrain", *arguments] for name, arguments in wanted.items()}


def devices(city: str, mqtt: str) -> list[str]:
    """What sends the stream over MQTT."""
    return [sys.executable, "-m", "tools.stack.devices", mqtt, "--city", city, "--stream", OVER_MQTT]
