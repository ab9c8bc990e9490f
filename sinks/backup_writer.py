"""Writes the folder of a backup: an image of the store copied with checksums, whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from pipelines.failpoints import reached
from pipelines.syncing import synced
from sinks.errors import PlaceTaken, StoreError
from sinks.frozen import Frozen, sweep
from sinks.manifest import IMAGE, File, Manifest, Show, copied, durable, version_of

SPARE: Final = 64 << 20
"""Bytes that a backup leaves free on the disk."""
LAST: Final = "last_backup"
"""The file in a store that says where its newest backup lies, for `citybrain doctor`."""


class Freezes(Protocol):
    """`sinks.clickhouse.ClickHouseSink`."""

    def freeze(self, name: str) -> Frozen: ...


@dataclass(frozen=True, slots=True)
class Report:
    """What was copied. `frozen_ms` is how long writing waited; `rows` of every table as stored."""

    folder: str
    city: str
    revision: int
    rows: dict[str, int]
    files: int
    bytes: int
    frozen_ms: int
    seconds: float


def free_target(target: Path, store: Path) -> None:
    """PlaceTaken unless a backup of the store can be put there: a new or empty folder outside the store."""
    target, store = target.absolute(), store.absolute()
    if target == store or store in target.parents or target in store.parents:
        raise PlaceTaken(
            f"{target} and the store {store} lie in each other; name a folder elsewhere, best on another disk"
        )
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise PlaceTaken(f"{target} exists and is not empty; each backup is a folder of its own, name a new one")


def back_up(sink: Freezes, store: Path, target: Path, show: Show | None = None) -> Report:
    """Makes a backup from the process that owns the store; nothing else may write meanwhile only while it freezes."""
    free_target(target, store)
    sweep(store)
    return write_backup(sink.freeze(uuid.uuid4().hex[:12]), store, target, show)


def write_backup(frozen: Frozen, store: Path, target: Path, show: Show | None) -> Report:
    """Copies an image to its place; the image goes, whatever happens."""
    started = time.monotonic()
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        sources = [p for p in sorted(frozen.folder.rglob("*")) if p.is_file() and not p.is_symlink()]
        sizes = {p: frozen.limits.get(p, p.stat().st_size) for p in sources}
        total, done = sum(sizes.values()), 0
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_partials(target)
        if (free := shutil.disk_usage(target.parent).free) < total + SPARE:
            raise StoreError(f"{target.parent} has {free >> 20} MB free, the backup needs {(total + SPARE) >> 20} MB")
        (partial / IMAGE).mkdir(parents=True)
        partial.chmod(0o700)
        links = {str(p.relative_to(frozen.folder)): os.readlink(p) for p in frozen.folder.rglob("*") if p.is_symlink()}
        files: dict[str, File] = {}
        for source in sources:
            name = str(source.relative_to(frozen.folder))
            copy = partial / IMAGE / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            limit = frozen.limits.get(source)
            files[name] = copied(source, copy, limit, show and (lambda n, d=done: show(d + n, total)))
            done += sizes[source]
        reached("backup_copied")
        manifest = Manifest(
            city=_text(frozen.folder / "city"),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            revision=frozen.revision,
            tables=_tables(frozen.folder),
            links=links,
            files=files,
            citybrain=version_of("citybrain"),
            chdb=version_of("chdb"),
        )
        manifest.write(partial)
        durable(partial)
        if target.exists():
            target.rmdir()
        partial.rename(target)
        synced(target.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StoreError(f"the backup {target} could not be written: {error}; nothing of it was left") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        frozen.remove()
    note(store, target, manifest.made_at)
    rows, took = manifest.rows, round(time.monotonic() - started, 3)
    return Report(
        str(target), manifest.city, frozen.revision, rows, len(files), manifest.bytes, round(frozen.took_s * 1000), took
    )


def note(store: Path, backup: Path, made_at: str) -> None:
    """Writes into the store where its newest backup lies, for `citybrain doctor`."""
    tell(store / LAST, {"folder": str(backup), "made_at": made_at})


def repair_by_backup(folder: Path) -> str:
    """How rows come back: a part that broke cannot be attached again."""
    try:
        last = orjson.loads((folder / LAST).read_bytes())
        there = Path(last["folder"])
        if (there / "manifest.json").is_file():
            return f"restore the backup of {last['made_at']}: `citybrain restore {there} --store {folder} --fresh`"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return (
        f"restore a backup (`citybrain restore BACKUP --store {folder} --fresh`) or replay the input "
        f"(`citybrain replay FILES --store {folder} --fresh`)"
    )


def remove_partials(target: Path, dead: int | None = None, what: str = "partial") -> None:
    """What unfinished backups to that place left, but those of processes that still run (`dead` is known not to)."""
    for left in target.parent.glob(f".{target.name}.{what}-*"):
        pid = left.name.rpartition("-")[2]
        if not pid.isdigit() or int(pid) in (os.getpid(), dead) or not _runs(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _tables(image: Path) -> dict[str, dict[str, int]]:
    """Of every table of the image its parts with their rows, from the files that ClickHouse keeps beside the data."""
    found: dict[str, dict[str, int]] = {}
    for statement in sorted(image.glob("store/*/*/*.sql")):
        text = statement.read_text(encoding="utf-8")
        database = next(
            (p.name for p in (image / "metadata").iterdir() if p.resolve() == statement.parent.resolve()), ""
        )
        if key := re.search(r"UUID '([0-9a-f-]{36})'", text):
            parts = (image / "store" / key[1][:3] / key[1]).glob("*/count.txt")
            found[f"{database}.{statement.stem}"] = {p.parent.name: int(p.read_text()) for p in sorted(parts)}
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""


def tell(path: Path, what: dict[str, Any]) -> None:
    """Replaces the file; who reads it sees the old or the new text."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        draft.write_bytes(orjson.dumps(what))
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
