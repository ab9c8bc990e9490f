"""citybrain's own processes on the stack: an ingest for each simulated stream, and the brain, as far as this version has them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from citybrain import app
from commands.inputs import city_of
from connectors.simulator import GENERATORS
from pipelines.canonical import topic


def commands(known: Iterable[str], city: str, kafka: str, folder: Path, port: int) -> dict[str, list[str]]:
    """Name of the process -> its command line, of those whose command is `known`. `kafka` is HOST:PORT, `port` the brain's."""
    wanted: dict[str, list[str]] = {}
    if any(site.stream == "link" for site in city_of(city).sites):  # else there is nothing to simulate
        for stream in GENERATORS:
            to = f"kafka://{kafka}/{topic(city, stream)}"
            wanted[f"ingest {stream}"] = ["ingest", "--source", "simulator:", "--to", to, "--city", city]
    rows = f"kafka://{kafka}/rows.{city}"
    wanted["brain"] = ["brain", "--city", city, "--kafka", rows, "--data", str(folder / "brain"), "--port", str(port)]
    run = [sys.executable, "-m", "citybrain"]
    return {name: [*run, *arguments] for name, arguments in wanted.items() if arguments[0] in known}


def known() -> set[str]:
    """The commands of this version."""
    return {c.name or c.callback.__name__ for c in app.registered_commands if c.callback is not None}
