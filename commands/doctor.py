"""`citybrain doctor`: looks at everything a store needs and says what is wrong; changes nothing."""

from __future__ import annotations

import math
from pathlib import Path

from commands.inputs import ROOT
from connectors.tokens import TokenError, Tokens
from sinks import selfcheck, surroundings
from sinks.backup_writer import repair_by_backup
from sinks.errors import StoreError
from sinks.existing import ExistingStore
from sinks.lock import holder
from sinks.surroundings import Finding


def examine(folder: Path, city: str | None, everything: bool = False) -> list[Finding]:
    """Every finding about a store and the machine it is on; `city` is the one that it must belong to, if that is known."""
    found = [*surroundings.versions(ROOT / "constraints.txt"), surroundings.limits()]
    found += [surroundings.temporary_room(), surroundings.temporary_leftovers()]
    may = surroundings.rights(folder)
    found.append(may)
    if may.severity == "FAIL":
        return [*found, surroundings.disk(folder), surroundings.clock(None)]
    found.append(_tokens(folder))
    pid = holder(folder)
    found.append(surroundings.owner(folder))
    found += selfcheck.leftovers(folder, pid is not None)
    if pid is not None:
        closed = Finding(
            "warn", f"tables: not read, because process {pid} has the store open",
            f"stop it, or look at a copy: `citybrain backup DIR --store {folder}`, `citybrain restore DIR --store COPY`",
        )  # fmt: skip
        return [*found, *_closed(folder, city), closed]
    try:
        with ExistingStore(f"chdb://{folder}") as sink:
            return [*found, *_opened(sink, folder, city, math.inf if everything else 10.0)]
    except StoreError as error:
        opened = Finding("FAIL", f"store: {error}", repair_by_backup(folder))
        return [*found, *_closed(folder, city), opened]


def _tokens(folder: Path) -> Finding:
    try:
        return Finding("ok", f"tokens: {len(Tokens(folder).all())}")
    except TokenError as error:
        return Finding("FAIL", f"tokens: {error}")


def _opened(sink: ExistingStore, folder: Path, city: str | None, seconds: float) -> list[Finding]:
    """What is broken was set aside just now, by opening; and what is damaged must not keep the rest from being told."""
    out = selfcheck.detached(folder, sink)
    read = selfcheck.readable(sink, folder, seconds)
    whole = all(f.severity == "ok" for f in read)
    out += [
        *selfcheck.named_files(folder, city, sink if whole else None),
        selfcheck.schema(sink),
        selfcheck.parts(sink),
    ]
    out += read
    out.append(surroundings.disk(folder, selfcheck.growth(sink) if whole else None))
    out.append(surroundings.clock(selfcheck.newest_as_of(sink) if whole else None))
    return out


def _closed(folder: Path, city: str | None) -> list[Finding]:
    """What can be told without opening the store."""
    return [
        *selfcheck.detached(folder),
        *selfcheck.named_files(folder, city, None),
        surroundings.disk(folder),
        surroundings.clock(None),
    ]
