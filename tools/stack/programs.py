"""citybrain's own processes on the stack: an ingest for each simulated stream, and the brain."""

from __future__ import annotations

import sys
from pathlib import Path

from commands.inputs import city_of
from connectors.simulator import GENERATORS
from pipelines.canonical import topic


def commands(city: str, kafka: str, folder: Path, port: int) -> dict[str, list[str]]:
    """Name of the process -> its command line. `kafka` is HOST:PORT, `port` the brain's."""
    wanted: dict[str, list[str]] = {}
    if any(site.stream == "link" for site in city_of(city).sites):  # else there is nothing to simulate
        for stream in GENERATORS:
            to = f"kafka://{kafka}/{topic(city, stream)}"
            wanted[f"ingest {stream}"] = ["ingest", "--source", "simulator:", "--to", to, "--city", city]
    wanted["brain"] = ["brain", "--city", city, "--kafka", kafka, "--data", str(folder / "brain"), "--port", str(port)]
    return {name: [sys.executable, "-m", "citybrain", *arguments] for name, arguments in wanted.items()}
