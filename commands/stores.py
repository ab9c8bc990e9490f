"""Stores that are there already: where they lie, writing one as an output, comparing two."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import platformdirs

from commands.inputs import ROOT, UserError, city_of, made_folder
from sinks.connection import Address
from sinks.difference import Difference, NothingCompared, difference
from sinks.errors import StoreOwned
from sinks.existing import ExistingStore, is_store
from sinks.export import Revisions, export, refuse_foreign
from sinks.lock import refuse_owned

SERVERS: Final = ("http://", "https://")
"""How the address of a server's database begins."""


def folder_of(store: str) -> Path:
    """The folder that `--store` names, as a path or as chdb:///abs/dir. UserError for a server's address."""
    path = store.removeprefix("chdb://")
    if not path or "://" in path or (path != store and not path.startswith("/")):
        # Without user and password.
        shown = re.sub("//[^/]*@", "//", store)
        raise UserError(f"{shown!r} is no embedded store; write its folder or chdb:///abs/dir")
    return Path(path).absolute()


def server_of(store: str) -> Address:
    """The database that an address names; UserError when it names none."""
    address = Address.of(store)
    if not urlsplit(store).path.strip("/"):
        raise UserError(
            f"{address.shown.removesuffix('default')} names no database; write http(s)://user@host:port/database"
        )
    return address


def store_folder(store: str | None, data: Path | None, city: str | None) -> Path:
    """The folder of `--store`, or that in which `citybrain up` with these options keeps its store."""
    if store is not None:
        if data is not None:
            raise UserError("--store and --data both say where the store lies; give one of them")
        return folder_of(store)
    return (data or Path(platformdirs.user_data_dir("citybrain"))).absolute() / city_of(city or "demo").id


def existing_folder(store: str | None, data: Path | None, city: str | None) -> Path:
    """The same; UserError when no store is there."""
    folder = store_folder(store, data, city)
    if not is_store(folder):
        raise UserError(
            f"{folder} is no store: it has no folder metadata/; name one with --store, or with --data and --city"
        )
    return folder


def export_store(store: str, out: Path, revisions: Revisions) -> dict[str, Any]:
    """Writes what a store has into an output folder, as `replay --out` does; returns the summary."""
    made_folder(out.absolute().parent, "the folder above OUT")
    try:
        refuse_foreign(out.absolute())
    except OSError as error:
        raise UserError(str(error)) from None
    if store.startswith(SERVERS):
        dsn, city = server_of(store).dsn, None
    else:
        folder = folder_of(store)
        free_to_open(folder)
        dsn, city = f"chdb://{folder}", folder / "city"
    with ExistingStore(dsn) as sink:
        summary: dict[str, Any] = {"store": sink.address.shown}
        if city is not None and city.is_file():
            summary["city"] = city.read_text(encoding="utf-8", errors="replace").strip()
        summary["rows"] = export(sink, out, revisions=revisions, summary=summary)
    return summary


def difference_of(a: str, b: str) -> Difference:
    """Compares two outputs or stores; stores are exported to a temporary folder first."""
    with (
        tempfile.TemporaryDirectory(prefix="citybrain-diff-") as room,
        _output(a, Path(room) / "a") as x,
        _output(b, Path(room) / "b") as y,
    ):
        try:
            return difference(x, y)
        except NothingCompared:
            raise NothingCompared(f"{a} and {b} have no reading and no row in common; nothing was compared") from None


@contextmanager
def _output(side: str, room: Path) -> Iterator[Path]:
    """The output folder itself, or that of the store's export. One process opens one store, so another one does it."""
    if side.startswith(SERVERS):
        export_store(side, room, "newest")
        yield room
        return
    if not side.startswith("chdb://") and not is_store(Path(side)):
        yield Path(side)
        return
    folder = folder_of(side)
    if not is_store(folder):
        raise FileNotFoundError(f"{folder} is neither an output nor a store; is the name right?")
    free_to_open(folder)
    command = [sys.executable, str(ROOT / "citybrain.py"), "export", f"chdb://{folder}", str(room)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().removeprefix("citybrain: ").splitlines() or ["it ended without a word"]
        raise UserError(f"the store {folder} cannot be read: {said[-1]}")
    yield room


def free_to_open(folder: Path) -> None:
    """UserError when a running process owns the store; it says what can be done while that goes on."""
    if not is_store(folder):
        raise FileNotFoundError(f"{folder} is no store: it has no folder metadata/; is the name right?")
    try:
        refuse_owned(folder)
    except StoreOwned as owned:
        who = f"process {owned.pid}" if owned.pid else "another process"
        raise UserError(
            f"the store {folder} is in use by {who}, and one process owns an embedded store. Stop it first; or, while it "
            f"runs: `citybrain backup NEW_FOLDER --store {folder}`, `citybrain restore NEW_FOLDER --store COPY`, and use COPY"
        ) from None
