"""Puts a backup in the place of a store: verified before anything is written, opened before it counts."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from pipelines.failpoints import reached
from pipelines.syncing import synced
from sinks.backup_writer import note, remove_partials
from sinks.errors import BackupRefused, PlaceTaken, StoreError
from sinks.existing import ExistingStore, is_store
from sinks.lock import refuse_owned
from sinks.manifest import IMAGE, Manifest, Show, copied, durable, read_manifest, verify, version_of


def restore(
    backup: Path, store: Path, *, fresh: bool = False, city: str | None = None, show: Show | None = None
) -> tuple[Manifest, Path | None]:
    """Restores a backup into a new or empty folder, with `fresh` also in place of a store that is there, which is kept
    beside it. Returns the manifest, and where the store is that was there.

    Raises BackupRefused (not whole, damaged, of another city than `city`, or not a store when it is opened), StoreOwned,
    PlaceTaken (the folder holds something) and StoreError (it could not be written); then what was there is untouched.
    """
    store = store.absolute()
    manifest = read_manifest(backup)
    if city is not None and manifest.city not in ("", city):
        raise BackupRefused(
            f"{backup} is of city {manifest.city!r}, not {city!r}; name that city, or a folder with --store"
        )
    _refuse_taken(store, fresh)
    verify(backup, manifest, show)
    store.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(store.parent).free) < manifest.bytes:
        raise StoreError(f"{store.parent} has {free >> 20} MB free, the store needs {manifest.bytes >> 20} MB")
    partial = store.with_name(f".{store.name}.restoring-{os.getpid()}")
    remove_partials(store, what="restoring")
    try:
        _copy(backup, partial, manifest)
        _open(partial, manifest)
        note(partial, backup.absolute(), manifest.made_at)
        durable(partial)
        reached("restore_copied")
        replaced = _put(partial, store, fresh)
    except OSError as error:
        raise StoreError(f"{backup} could not be restored to {store}: {error}; nothing was changed there") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest, replaced


def _refuse_taken(store: Path, fresh: bool) -> None:
    if not store.exists() or (store.is_dir() and not any(store.iterdir())):
        return
    if not is_store(store):
        raise PlaceTaken(
            f"{store} is not empty and no store of citybrain; nothing is written there, name another folder"
        )
    refuse_owned(store)
    if not fresh:
        raise PlaceTaken(f"{store} holds a store; add --fresh to replace it by the backup, or name another folder")


def _copy(backup: Path, partial: Path, manifest: Manifest) -> None:
    partial.mkdir(mode=0o700)
    for name, file in manifest.files.items():
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if copied(backup / IMAGE / name, target).sha256 != file.sha256:
            raise BackupRefused(f"{backup / IMAGE / name} changed or is damaged; use another backup")
        target.chmod(file.mode)
    for name, to in manifest.links.items():
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).symlink_to(to)


def _open(partial: Path, manifest: Manifest) -> None:
    """Opens the copy, reads every table, and compares its parts and their rows with the manifest."""
    made_by = (
        f"it was made by citybrain {manifest.citybrain} with chdb {manifest.chdb}, this is chdb {version_of('chdb')}"
    )
    try:
        with ExistingStore(f"chdb://{partial}") as sink:
            # Merging begins at once; parts that were merged are still listed for some minutes.
            there = sink.query("SELECT database, table, name, rows FROM system.parts")
            found = {(f"{d}.{t}", name): rows for d, t, name, rows in there.iter_rows()}
            wanted = {(t, name): rows for t, parts in manifest.tables.items() for name, rows in parts.items()}
            for (table, name), rows in wanted.items():
                if found.get((table, name)) != rows:
                    has = found.get((table, name), "no")
                    raise BackupRefused(f"{table} has {has} rows of its part {name} and had {rows}; {made_by}")
            sink.counts()
    except BackupRefused:
        raise
    except StoreError as error:
        raise BackupRefused(f"the backup cannot be opened: {error}; {made_by}") from error


def _put(partial: Path, store: Path, fresh: bool) -> Path | None:
    """Renames the copy into its place; a store that was there goes aside, for its spool may hold what no backup has."""
    _refuse_taken(store, fresh)
    aside = None
    if store.exists() and not any(store.iterdir()):
        store.rmdir()
    elif store.exists():
        aside = store.with_name(f"{store.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S}")
        store.rename(aside)
    try:
        partial.rename(store)
    except BaseException:
        if aside is not None:
            aside.rename(store)
        raise
    synced(store.parent)
    return aside
