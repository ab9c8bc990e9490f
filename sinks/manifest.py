"""What a backup says of itself: who made it, of what, and the SHA-256 of every file. Without it a folder is no backup."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import orjson

from pipelines.syncing import synced
from sinks.errors import BackupRefused

FORMAT: Final = 1
NAME: Final = "manifest.json"
IMAGE: Final = "image"
"""The folder in a backup that holds the files: a level below, so that nothing takes the backup for a store and writes."""
BLOCK: Final = 1 << 20
Show = Callable[[int, int], None]
"""Progress: bytes done, bytes in all."""


@dataclass(frozen=True, slots=True)
class File:
    size: int
    sha256: str
    mode: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """`tables`: of every `database.table` its parts with the rows in them; `links`: symbolic links in the folder."""

    city: str
    made_at: str
    revision: int
    tables: dict[str, dict[str, int]]
    links: dict[str, str]
    files: dict[str, File]
    citybrain: str
    chdb: str
    format: int = FORMAT

    @property
    def bytes(self) -> int:
        return sum(f.size for f in self.files.values())

    @property
    def rows(self) -> dict[str, int]:
        """Rows of every table as they are stored: of keys that were written again the older rows too."""
        return {table.partition(".")[2]: sum(parts.values()) for table, parts in self.tables.items()}

    def write(self, folder: Path) -> None:
        """Writes it durably. Its first line is the SHA-256 of the rest, so that damage to it is found as well."""
        body = orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"
        with (folder / NAME).open("wb") as file:
            file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            file.flush()
            os.fsync(file.fileno())


def version_of(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def read_manifest(folder: Path) -> Manifest:
    """Raises BackupRefused: no backup, an unfinished one, a damaged or a newer manifest."""
    path = folder / NAME
    if not path.is_file():
        raise BackupRefused(
            f"{folder} is no backup: it has no {NAME}. An unfinished backup has none either; name a whole one"
        )
    seal, _, body = path.read_bytes().partition(b"\n")
    if seal.decode(errors="replace") != hashlib.sha256(body).hexdigest():
        raise BackupRefused(f"{path} is damaged: its checksum is not that of its text; use another backup")
    try:
        said: dict[str, Any] = orjson.loads(body)
        if said["format"] > FORMAT:
            raise BackupRefused(
                f"{folder} has format {said['format']}, this program knows up to {FORMAT}; it was written by citybrain "
                f"{said['citybrain']}: install that one or a newer one"
            )
        found = Manifest(**{**said, "files": {name: File(**f) for name, f in said["files"].items()}})
    except (ValueError, TypeError, KeyError) as error:
        raise BackupRefused(f"{path} cannot be read as a manifest: {error}; use another backup") from error
    for name, target in found.links.items():
        _inside(path, name)
        _inside(path, os.path.normpath(PurePosixPath(name).parent / target))
    for name in found.files:
        _inside(path, name)
    return found


def verify(folder: Path, manifest: Manifest, show: Show | None = None) -> None:
    """Reads every file; raises BackupRefused with the first that is missing, of another size, or damaged."""
    done = 0
    for name, file in manifest.files.items():
        path = folder / IMAGE / name
        if not path.is_file():
            raise BackupRefused(f"the backup {folder} has lost {name}; use another backup")
        if (size := path.stat().st_size) != file.size:
            raise BackupRefused(f"{path} has {size} bytes and had {file.size}: the backup is damaged; use another one")
        if copied(path, None, show=show and (lambda n, d=done: show(d + n, manifest.bytes))).sha256 != file.sha256:
            raise BackupRefused(f"{path} is damaged: its SHA-256 is not that of the manifest; use another backup")
        done += file.size


def copied(
    source: Path, target: Path | None, limit: int | None = None, show: Callable[[int], None] | None = None
) -> File:
    """Copies a file, or its first `limit` bytes (not at all without a target), and says what was copied."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        out = None if target is None else os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode | stat.S_IWUSR)
        try:
            while block := file.read(BLOCK if limit is None else min(BLOCK, limit - size)):
                digest.update(block)
                size += len(block)
                if out is not None:
                    view = memoryview(block)
                    while view:
                        view = view[os.write(out, view) :]
                if show is not None:
                    show(size)
        finally:
            if out is not None:
                os.close(out)
    return File(size, digest.hexdigest(), mode)


def durable(folder: Path) -> None:
    """Every file and folder below, and the folder's own name, on the disk. At the end, because the first fsync then takes
    the others along: of a thousand small files one by one it would be seconds."""
    for path in (*(p for p in folder.rglob("*") if not p.is_symlink()), folder, folder.parent):
        synced(path)


def _inside(manifest: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise BackupRefused(f"{manifest} names {name!r}, which lies outside the backup; it was not made by citybrain")
