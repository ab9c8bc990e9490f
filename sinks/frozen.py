"""An image of an embedded store at one instant: hard links to the parts of every table, copies of what lies beside them.

Parts are never changed, so the image stays as it is while the store goes on, merges included. It lies in the store's
folder `shadow`, as what ClickHouse freezes does, and is a store itself once it is copied elsewhere. FREEZE makes the same
links in two to ten times the time, a statement a table; BACKUP is not configured in the embedded engine.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sinks.connection import VOLATILE, Connection
from sinks.ddl import quoted

SHADOW: Final = "shadow"
REQUESTS: Final = "requests"
SPOOL: Final = "spool"
PREFIX: Final = "citybrain_"
"""What the names of our images begin with."""
ATTEMPTS: Final = 5
SYSTEM: Final = "'system', 'INFORMATION_SCHEMA', 'information_schema'"


@dataclass(frozen=True, slots=True)
class Frozen:
    """An image. `limits`: files that grow at their end and are linked, with the bytes that belong to the instant."""

    folder: Path
    revision: int
    took_s: float
    limits: dict[Path, int] = field(default_factory=dict)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def freeze(connection: Connection, store: Path, name: str, revision: int = 0) -> Frozen:
    """Makes the image; call it while nothing is written. `revision` is the newest one, looked up in the store when 0."""
    started = time.perf_counter()
    image = store / SHADOW / f"{PREFIX}{name}"
    image.mkdir(parents=True)
    try:
        _parts(connection, store, image)
        _declarations(store, image)
        limits = _beside(store, image)
        if not revision:
            revision = _newest(connection)
    except BaseException:
        shutil.rmtree(image, ignore_errors=True)
        raise
    return Frozen(image, revision, time.perf_counter() - started, limits)


def images(store: Path) -> list[Path]:
    """The images that lie in a store: of a backup that is under way, or left by one that was killed."""
    return sorted((store / SHADOW).glob(f"{PREFIX}*"))


def sweep(store: Path, used: Collection[str] = ()) -> int:
    """Removes what killed backups left, but the images of those names; returns how many."""
    left = [image for image in images(store) if image.name.removeprefix(PREFIX) not in used]
    for image in left:
        shutil.rmtree(image, ignore_errors=True)
    return len(left)


def _parts(connection: Connection, store: Path, image: Path) -> None:
    """Links to the files of all active parts. One that is merged away meanwhile stays on the disk for some minutes; if it
    went nevertheless, the parts are listed again."""
    for attempt in range(ATTEMPTS):
        active = connection.query(f"SELECT path FROM system.parts WHERE active AND database NOT IN ({SYSTEM})")
        try:
            for (path,) in active.iter_rows():
                # The path as ClickHouse has it: .../store/<3 digits>/<table>/<part>/
                part = Path(*Path(path).parts[-4:])
                for folder, _, files in os.walk(store / part, onerror=_raise):
                    target = image / Path(folder).relative_to(store)
                    target.mkdir(parents=True)
                    for file in files:
                        os.link(os.path.join(folder, file), target / file)
            return
        except FileNotFoundError:
            if attempt == ATTEMPTS - 1:
                raise
            shutil.rmtree(image / "store", ignore_errors=True)


def _raise(error: OSError) -> None:
    raise error


def _newest(connection: Connection) -> int:
    tables = connection.query(
        f"SELECT database, name, engine_full FROM system.tables WHERE database NOT IN ({SYSTEM})"
        " AND engine = 'ReplacingMergeTree'"
    )
    newest = 0
    for database, table, engine in tables.iter_rows():
        if version := re.match(r"ReplacingMergeTree\((revision|step)\)", engine):
            sql = f"SELECT max({version[1]}) AS newest FROM {quoted(database)}.{quoted(table)}"
            newest = max(newest, int(connection.query(sql).item() or 0))
    return newest


def _declarations(store: Path, image: Path) -> None:
    """The CREATE statements of tables and databases, and the links between their folders."""
    shutil.copytree(store / "metadata", image / "metadata", symlinks=True)
    for database in (store / "metadata").iterdir():
        if database.is_symlink():
            folder = Path(os.path.normpath(Path("metadata") / database.readlink()))
            (image / folder).mkdir(parents=True, exist_ok=True)
            for statement in (store / folder).glob("*.sql"):
                shutil.copy2(statement, image / folder / statement.name)


def _beside(store: Path, image: Path) -> dict[Path, int]:
    """What else lies in the folder: epoch, city, checkpoints. Segments of the spool only grow, so they are linked."""
    limits: dict[Path, int] = {}
    for entry in store.iterdir():
        if entry.name in VOLATILE or entry.name in ("metadata", "store", SHADOW, REQUESTS):
            continue
        if entry.name == SPOOL:
            for segment in (p for p in entry.rglob("*") if p.is_file()):
                target = image / segment.relative_to(store)
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(segment, target)
                except OSError:
                    shutil.copy2(segment, target)
                limits[target] = target.stat().st_size
        elif entry.is_dir():
            shutil.copytree(entry, image / entry.name)
        else:
            shutil.copy2(entry, image / entry.name)
    return limits
