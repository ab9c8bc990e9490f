"""Where a run's checkpoint lies, and whether what is found there is of the same run."""

from __future__ import annotations

import hashlib
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import platformdirs

from commands.inputs import UserError
from pipelines.delivery import Attached, Durable
from pipelines.epoch import next_epoch
from pipelines.journal import Journal, Recovered, recover
from sinks.clickhouse import ClickHouseSink
from sinks.connection import Address
from sinks.errors import StoreOwned
from sinks.lease import Ownership, lease_of

FOLDER: Final = "delivery"
HEAD_BYTES: Final = 1 << 16


def folder_of(dsn: str) -> Path:
    """The folder of a store's checkpoint: inside an embedded store, else among this user's data, by the store's address."""
    address = Address.of(dsn)
    if address.path is not None:
        return address.path / FOLDER
    named = hashlib.sha256(address.shown.encode()).hexdigest()[:16]
    path = Path(platformdirs.user_data_dir("citybrain")) / "servers" / named
    path.mkdir(parents=True, exist_ok=True)
    return path / FOLDER


def opened(folder: Path, identity: Mapping[str, Any], found: Recovered | None) -> Durable:
    """A run's checkpoint there; `found` is what it goes on from."""
    return Durable(Journal(folder, good=None if found is None else found.generation), found, identity)


def epoch_of(sink: ClickHouseSink, found: Recovered | None) -> tuple[int, Ownership | None]:
    """The epoch of this start, and the lease that a server's store needs (rule 38). A lease of a process of this machine
    that is gone is waited for; StoreOwned for any other."""
    if sink.address.path is not None:
        return next_epoch(sink.address.path), None
    lease = lease_of(sink)
    at_least = found.parts["run"]["epoch"] + 1 if found is not None else 1
    while True:
        try:
            return lease.acquire(at_least), lease
        except StoreOwned as error:
            gone = re.match(r"process (\d+) on (\S+)", error.owner or "")
            if gone is None or gone[2] != socket.gethostname() or Path(f"/proc/{gone[1]}").exists():
                raise
            left = max(0.5, error.lasts_s or 0.5)
            print(
                f"citybrain: process {gone[1]} of this machine ended without giving its lease back; it runs out in {left:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(left)


def replay_identity(attached: Sequence[Attached], city: str, only: Sequence[str], how: Sequence[str]) -> dict[str, Any]:
    """What a replay is of: its files with their size and the hash of their beginning, and how they are read."""
    inputs = []
    for one in attached:
        path = Path(one.source.input)
        with path.open("rb") as file:
            head = hashlib.sha256(file.read(HEAD_BYTES)).hexdigest()[:32]
        inputs.append([str(path.resolve()), one.source.stream, path.stat().st_size, head, one.input.disorder_ms])
    return {"run": "replay", "city": city, "only": sorted(only), "how": list(how), "inputs": inputs}


def interrupted_replay(folder: Path, store: str, identity: Mapping[str, Any]) -> Recovered | None:
    """The replay that a store holds, if it is this one. A finished replay of other files is history; an unfinished one is
    refused, and so are changed files."""
    found = recover(folder)
    if found is None:
        return None
    was, finished = found.parts["run"]["identity"], found.parts["run"]["finished"]
    if was == identity:
        return found
    if was.get("run") == "replay":
        before, now = ({entry[0]: entry[2:4] for entry in x["inputs"]} for x in (was, identity))
        for path in before.keys() & now.keys():
            if before[path] != now[path]:
                raise UserError(
                    f"{path} was changed since it was replayed into {store}: {before[path][0]:,} bytes then, "
                    f"{now[path][0]:,} now" + (", other content" if before[path][0] == now[path][0] else "") + ". Name "
                    "another --store for the changed file, or add --fresh to start over"
                )
    if not finished:
        what = ", ".join(Path(entry[0]).name for entry in was.get("inputs", ())) or "`citybrain up`"
        raise UserError(
            f"{store} holds an interrupted run of {what} with other options or files; type that command again to finish it, "
            "name another --store, or add --fresh to start over"
        )
    return None
