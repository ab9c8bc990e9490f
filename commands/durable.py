"""Where a run's checkpoint lies, and whether what is found there is of the same run."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import platformdirs

from commands.inputs import UserError
from pipelines.delivery import Attached, Durable
from pipelines.epoch import next_epoch
from pipelines.journal import Journal, Recovered, recover
from sinks.backup_writer import repair_by_backup
from sinks.clickhouse import ClickHouseSink
from sinks.connection import Address
from sinks.errors import StoreDamaged
from sinks.lease import Ownership, lease_of
from sinks.selfcheck import quick_findings, row_counts

FOLDER: Final = "delivery"
HEAD_BYTES: Final = 1 << 16


def checkpoint_folder(dsn: str) -> Path:
    """The folder of a store's checkpoint: inside an embedded store, else among this user's data, by the store's address."""
    address = Address.of(dsn)
    if address.path is not None:
        return address.path / FOLDER
    return server_folder(address, Path(platformdirs.user_data_dir("citybrain"))) / FOLDER


def server_folder(address: Address, data: Path) -> Path:
    """Where this machine keeps what belongs to a store on a server; made if it is not there."""
    folder = data / "servers" / hashlib.sha256(address.shown.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def claim(path: Path, city: str) -> None:
    """A store belongs to one city: its tables do not name it."""
    if not path.exists():
        path.write_text(city + "\n", encoding="utf-8")
    elif (owner := path.read_text(encoding="utf-8", errors="replace").strip()) != city:
        raise UserError(
            f"{path.parent} holds city {owner!r}, not {city!r}; name another folder for the store, or replay with --fresh"
        )


def opened(folder: Path, identity: Mapping[str, Any], found: Recovered | None) -> Durable:
    """A run's checkpoint there; `found` is what it goes on from."""
    return Durable(Journal(folder, good=None if found is None else found.generation), found, identity)


def examined(sink: ClickHouseSink, found: Recovered | None, migrated: Sequence[str] = ()) -> None:
    """What a start looks at before it goes on (rule 36): parts set aside, room on the disk, and whether the store has the
    rows that the checkpoint says were written. StoreDamaged where something is missing; what is only odd is a warning.

    `migrated`: what `migrate` said it did, for tables that were set aside begin empty.
    """
    folder = sink.address.path
    if folder is not None:
        for finding in quick_findings(sink, folder):
            if finding.severity == "FAIL":
                raise StoreDamaged(f"{finding.what}; {finding.repair}")
            if finding.severity == "warn":
                print(f"citybrain: warning: {finding.what}; {finding.repair}", file=sys.stderr, flush=True)
    expected = found.parts["run"]["rows"] if found is not None else {}
    anew = {line.partition(":")[0] for line in migrated}
    held = row_counts(sink, [table for table in expected if table in sink.tables and table not in anew])
    for table, months in expected.items():
        for month, rows in months.items():
            there = held.get(table, {}).get(month, 0)
            if table in held and there < rows:
                repair = (
                    repair_by_backup(folder)
                    if folder is not None
                    else "restore it there, or replay the files with --fresh"
                )
                raise StoreDamaged(
                    f"table {table} of the store {sink.address.shown} has {there:,} rows of month {month}, {rows:,} were "
                    f"written: a part of it was lost; {repair}"
                )


def epoch_of(sink: ClickHouseSink, found: Recovered | None) -> tuple[int, Ownership | None]:
    """The epoch of this start, and the lease that a server's store needs (rule 38). StoreOwned while another process has
    it; one of this machine that is gone does not."""
    if sink.address.path is not None:
        return next_epoch(sink.address.path), None
    lease = lease_of(sink)
    return lease.acquire(found.parts["run"]["epoch"] + 1 if found is not None else 1), lease


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
