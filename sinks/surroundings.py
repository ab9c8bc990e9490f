"""What a store needs of the machine it is on: room, rights, versions, a clock, open files. Looks only, changes nothing."""

from __future__ import annotations

import importlib.metadata
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from sinks.connection import STAGING
from sinks.lock import holder

MB: Final = 1_000_000
GB: Final = 1_000 * MB
FULL: Final = 200 * MB
"""With less room than this nothing is written any more: a merge or a checkpoint could fail half way."""
SCARCE: Final = 1 * GB
SCARCE_SHARE: Final = 0.05
FILES_FREE: Final = 1_000
"""Inodes; an insert makes about ten files."""
AHEAD_MS: Final = 5 * 60_000
OPEN_FILES: Final = (256, 1024)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what, with its value, and the command that repairs it."""

    severity: Literal["ok", "warn", "FAIL"]
    what: str
    repair: str = ""

    def __str__(self) -> str:
        return f"{self.severity:<4}  {self.what}" + (f"; {self.repair}" if self.repair else "")


@dataclass(frozen=True, slots=True)
class Room:
    """What is free on the disk of a folder; `enough` says whether writing should go on."""

    free_bytes: int
    enough: bool
    text: str


def disk_room(folder: Path) -> Room:
    """Some microseconds: one system call. OSError when the folder is not there."""
    found = os.statvfs(folder)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    files = found.f_favail if found.f_files else FILES_FREE
    text = f"{_size(free)} of {_size(total)} are free"
    if files < FILES_FREE:
        text += f", but only {files} more files can be made"
    return Room(free, free >= FULL and files >= FILES_FREE, text)


def disk(folder: Path, grows_per_day: int | None = None) -> Finding:
    """Free space against the limits and against what the store grows by in a day of event time (bytes)."""
    room = disk_room(folder)
    total = shutil.disk_usage(folder).total
    text = f"disk of {folder}: {room.text}"
    if grows_per_day:
        days = room.free_bytes / grows_per_day
        text += f"; the store grows by about {_size(grows_per_day)} a day, which is room for {days:,.0f} days"
    repair = (
        f"free some space, or move the store: `citybrain backup DIR --store {folder}`, then restore it on another disk"
    )
    if not room.enough:
        return Finding("FAIL", f"{text}; under {_size(FULL)} nothing is written", repair)
    short = grows_per_day is not None and room.free_bytes < 2 * grows_per_day
    if room.free_bytes < SCARCE or room.free_bytes < SCARCE_SHARE * total or short:
        return Finding("warn", text, repair)
    return Finding("ok", text)


def temporary_room() -> Finding:
    """The folder for temporary stores of replays and of `citybrain diff`."""
    try:
        folder = Path(tempfile.gettempdir())
        room = disk_room(folder)
    except OSError as error:
        return Finding("FAIL", f"temporary files: {error}", "name a folder that can be written: export TMPDIR=/var/tmp")
    if room.free_bytes < SCARCE:
        return Finding("warn", f"temporary files in {folder}: {room.text}", "name a larger one: export TMPDIR=/var/tmp")
    return Finding("ok", f"temporary files in {folder}: {room.text}")


def temporary_leftovers(now_s: float | None = None) -> Finding:
    """Temporary stores of replays that were killed: nobody has them open, and for an hour nothing was made in them."""
    now = time.time() if now_s is None else now_s
    left = [
        folder
        for folder in sorted(Path(tempfile.gettempdir()).glob("citybrain-*"))
        if re.fullmatch(r"citybrain-[a-z0-9_]{8}", folder.name)
        and [p.name for p in folder.glob("*")] == ["store"]
        and folder.stat().st_uid == os.geteuid()
        and max(p.stat().st_mtime for p in (folder, *folder.glob("*"))) < now - 3600
        and holder(folder / "store") is None
    ]
    if not left:
        return Finding("ok", "temporary stores: none was left")
    size = sum(p.lstat().st_size for folder in left for p in folder.rglob("*") if p.is_file())
    remove = f"repair: `rm -r {' '.join(map(str, left))}`"
    return Finding("warn", f"temporary stores: {len(left)} of replays that were killed, {_size(size)}", remove)


def rights(folder: Path) -> Finding:
    """Whether this account may read and write the store: tried, because a file system may refuse what the rights allow."""
    who = f"chown -R $(id -un) {folder} && chmod -R u+rwX {folder}"
    try:
        for inside in (folder, folder / "metadata", folder / "store", folder / STAGING):
            if inside.is_dir():
                os.listdir(inside)
                tempfile.TemporaryDirectory(dir=inside, prefix=".try-").cleanup()
    except OSError as error:
        at = error.filename or folder
        return Finding("FAIL", f"rights: {error.strerror} at {at} for user {os.geteuid()}", f"repair: `{who}`")
    return Finding("ok", f"rights: user {os.geteuid()} may read and write {folder}")


def owner(folder: Path) -> Finding:
    """Which process has the store open; a status file of one that is no more does no harm."""
    pid = holder(folder)
    if pid is not None:
        return Finding("ok", f"owner: process {pid or 'unknown'} has the store open ({_command(pid)})")
    if (folder / "status").is_file():
        return Finding("ok", "owner: none; the last one was ended without closing the store, which it survives")
    return Finding("ok", "owner: none")


def versions(pins: Path | None = None, requirements: Iterable[str] | None = None) -> list[Finding]:
    """Python, and the libraries against what the package requires (FAIL) and against a file of pins (warn)."""
    out = [Finding("ok", f"Python {'.'.join(map(str, sys.version_info[:3]))}")]
    try:
        wanted = importlib.metadata.requires("citybrain") or [] if requirements is None else list(requirements)
    except importlib.metadata.PackageNotFoundError:
        wanted = []
    wrong = [f"{name} {have or 'is missing'}, {rule} is needed" for name, rule, have in _unmet(wanted)]
    if wrong:
        names = " ".join(f"'{name}{rule}'" for name, rule, _ in _unmet(wanted))
        return [
            *out,
            Finding("FAIL", f"libraries: {'; '.join(wrong)}", f"repair: `{sys.executable} -m pip install {names}`"),
        ]
    if pins is not None and pins.is_file():
        lines = [line for line in pins.read_text(encoding="utf-8").splitlines() if "==" in line]
        other = [f"{name} {have}, tested with {rule[2:]}" for name, rule, have in _unmet(lines) if have]
        if other:
            text = f"libraries: {'; '.join(other[:3])}" + (f"; and {len(other) - 3} more" if len(other) > 3 else "")
            return [
                *out,
                Finding("warn", text, f"repair: `{sys.executable} -m pip install -c {pins} -e {pins.parent}`"),
            ]
    return [*out, Finding("ok", f"libraries: {len(wanted)} as required")]


def clock(newest_ms: int | None, now_s: float | None = None, built_s: float | None = None) -> Finding:
    """The wall clock against the newest reading's `as_of` and against the program's own files."""
    now = time.time() if now_s is None else now_s
    built = Path(__file__).stat().st_mtime if built_s is None else built_s
    shown = _instant(now)
    repair = "set it: `timedatectl set-ntp true`"
    if now < built - 3600:
        return Finding("FAIL", f"clock: it is {shown} here, but the program was installed at {_instant(built)}", repair)
    if newest_ms is not None and newest_ms > now * 1000 + AHEAD_MS:
        newest = _instant(newest_ms / 1000)
        return Finding(
            "warn", f"clock: it is {shown} here, but the newest reading has data of {newest}",
            f"{repair}; a simulated city that was started at a later time has this too",
        )  # fmt: skip
    return Finding("ok", f"clock: {shown}")


def limits() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"open files: {soft} are allowed"
    repair = f"repair: `ulimit -n {min(65536, hard) if hard > 0 else 65536}`, in a systemd unit LimitNOFILE=65536"
    if soft < OPEN_FILES[1]:
        return Finding("FAIL" if soft < OPEN_FILES[0] else "warn", f"{text}, {OPEN_FILES[1]} are needed", repair)
    return Finding("ok", text)


def _unmet(lines: Iterable[str]) -> list[tuple[str, str, str]]:
    """(name, rule, installed version) of those that do not fit; rules are `==`, `~=` or none."""
    out = []
    for line in lines:
        found = re.match(r"([A-Za-z0-9_.-]+)\s*((?:==|~=)\s*[0-9][\w.]*)?\s*\Z", line.partition(";")[0])
        if not found or "extra ==" in line:
            continue
        name, rule = found[1], (found[2] or "").replace(" ", "")
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            have = ""
        if not have or not _fits(have, rule):
            out.append((name, rule, have))
    return out


def _fits(have: str, rule: str) -> bool:
    wanted = rule[2:]
    if rule.startswith("~="):
        x, y = _numbers(have), _numbers(wanted)
        return x[: len(y) - 1] == y[:-1] and x >= y
    return not rule or have == wanted


def _numbers(version: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version)]


def _command(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "its command is not to be seen from here"
    return " ".join(text.split())[:80]


def _size(n: float) -> str:
    return f"{n / GB:,.1f} GB" if n >= GB else f"{n / MB:,.0f} MB"


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
