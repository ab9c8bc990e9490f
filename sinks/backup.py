"""Backups of an embedded store, asked of the process that owns it, also while it works.

Asked through files, without a network: `requests/<id>.json` in the store's folder says where to; the owner renames it to
`<id>.working`, makes an image (`sinks.frozen`) between two steps, copies it on a thread of its own and tells how far it
is in `<id>.status`.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from sinks.backup_writer import Freezes, Report, back_up, free_target, remove_partials, tell, write_backup
from sinks.errors import StoreError
from sinks.failures import disk_full
from sinks.frozen import REQUESTS, sweep
from sinks.lock import holder

STALE_S: Final = 120.0
"""A request that nobody took for so long is dropped: who asked has gone."""
TAKEN_S: Final = 60.0
"""A step may take so long until the owner looks for requests."""
_ID: Final = re.compile(r"([0-9a-f]{12})\.json\Z")
_THREAD: Final = "backup-"


def serve_requests(store: Path, sink: Freezes) -> int:
    """Looks for requests and begins the oldest; returns how many were begun (0 or 1).

    Call it between two steps, on the thread that writes. Without a request it costs some microseconds; with one, the
    time of an image (`Report.frozen_ms`); the copying goes on by itself. Never raises: who asked is told what failed.
    """
    folder = store / REQUESTS
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o770)
        return 0
    if not names:
        return 0
    alive = {t.name.removeprefix(_THREAD) for t in threading.enumerate() if t.name.startswith(_THREAD)}
    for name in names:
        _forget(folder / name, alive)
    if alive:
        return 0
    sweep(store)
    for name in names:
        if (found := _ID.match(name)) and (folder / name).is_file():
            return _begin(store, folder / name, found[1], sink)
    return 0


def _forget(path: Path, alive: set[str]) -> None:
    """What lies about for too long, and work of an owner that is no more."""
    try:
        old = time.time() - path.stat().st_mtime
        if path.suffix == ".working" and path.stem not in alive:
            tell(
                path.with_suffix(".status"), {"state": "failed", "error": "the process that made the backup was ended"}
            )
            path.unlink()
        elif (path.suffix == ".json" and old > STALE_S) or (path.suffix != ".working" and old > 3600):
            path.unlink()
    except OSError:
        pass


def _begin(store: Path, request: Path, key: str, sink: Freezes) -> int:
    status, working = request.with_suffix(".status"), request.with_suffix(".working")
    try:
        target = Path(str(orjson.loads(request.read_bytes())["folder"]))
        request.rename(working)
        if not target.is_absolute():
            raise StoreError(f"{target} is no absolute path")
        free_target(target, store)
        frozen = sink.freeze(key)
    except Exception as error:  # whatever it is, the run goes on and who asked hears of it
        tell(status, {"state": "failed", "error": str(error) or type(error).__name__})
        for path in (request, working):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        return 0

    def work() -> None:
        told = 0.0

        def show(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told > 0.25:
                told = time.monotonic()
                tell(status, {"state": "copying", "done": done, "total": total})

        try:
            tell(status, {"state": "done", **asdict(write_backup(frozen, store, target, show))})
        except Exception as error:
            tell(status, {"state": "failed", "error": str(error) or type(error).__name__})
        finally:
            working.unlink(missing_ok=True)

    tell(status, {"state": "copying", "done": 0, "total": 0})
    threading.Thread(target=work, name=f"{_THREAD}{key}", daemon=True).start()
    return 1


def ask(store: Path, target: Path, show: Callable[[int, int], None], patience_s: float = TAKEN_S) -> Report:
    """Asks the process that owns the store for a backup, and waits for it. Raises StoreError with what went wrong."""
    free_target(target, store)
    owner = holder(store)
    folder, key = store / REQUESTS, uuid.uuid4().hex[:12]
    request, status = folder / f"{key}.json", folder / f"{key}.status"
    try:
        folder.mkdir(mode=0o770, exist_ok=True)
        draft = request.with_suffix(".draft")
        draft.write_bytes(orjson.dumps({"folder": str(target.absolute())}))
        draft.rename(request)
    except OSError as error:
        todo = "free some space" if disk_full(error) else "use the account that runs citybrain"
        raise StoreError(f"no backup can be asked for in {folder}: {error}; {todo}") from error
    give_up, look = time.monotonic() + patience_s, 0.0
    gone = False
    try:
        while True:
            said = _read(status)
            match said.pop("state", None):
                case "done":
                    return Report(**said)
                case "failed":
                    raise StoreError(f"no backup was made: {said['error']}")
                case "copying":
                    give_up = float("inf")
                    show(said["done"], said["total"])
            if gone:
                remove_partials(target, owner)
                raise StoreError("the process that owned the store has ended; no backup was made, try again")
            if said and not request.with_suffix(".working").exists() and _read(status).get("state") == "copying":
                raise StoreError(f"the backup ended without an answer; see whether {target} is there and the disk full")
            if time.monotonic() > give_up:
                raise StoreError(
                    f"process {owner}, which owns the store, does not answer: it makes no backups while it runs. "
                    f"Stop it (`kill {owner}`) and back up then"
                )
            # Trying the lock now and then only: a process that opens the store in that moment would be refused.
            if time.monotonic() > look:
                look, gone = time.monotonic() + 1.0, holder(store) != owner
            time.sleep(0.05)
    finally:
        request.unlink(missing_ok=True)
        if gone or _read(status).get("state") in ("done", "failed"):
            status.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = orjson.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return said


__all__ = ["Freezes", "Report", "ask", "back_up", "free_target", "serve_requests"]
