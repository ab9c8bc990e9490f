"""Looks whether a store is whole: what ClickHouse set aside, what it does not find, what cannot be read.

A damaged part gives no error: when the store is opened it is set aside and its rows are simply missing. So a start asks
for what was set aside (`quick_findings`) and compares parts or rows with those that its checkpoint remembers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import polars as pl

from sinks.backup_writer import repair_by_backup
from sinks.connection import STAGING
from sinks.ddl import quoted
from sinks.errors import StoreError
from sinks.existing import ExistingStore, newest_revision
from sinks.frozen import images
from sinks.migrations import migrations
from sinks.reader import Reader
from sinks.surroundings import Finding, Room, disk, disk_room, versions

MANY_PARTS: Final = (300, 1000)
"""Active parts of one month of a table; from 1,000 on ClickHouse slows inserts down, from 3,000 on it refuses them."""
DAY_MS: Final = 86_400_000
_PART: Final = re.compile(r"(.+?)_(\d+)_(\d+)_(\d+)(?:_\d+)?\Z")
_SET_ASIDE: Final = re.compile(r"(?:(broken[a-z-]*|covered-by-broken|unexpected|ignored|noquorum|clone)_)?(.*)\Z")


def quick_findings(sink: Reader, folder: Path) -> list[Finding]:
    """What a start looks at: parts set aside, room on the disk, versions. Some hundredths of a second; only what is not
    `ok` needs to be shown."""
    return [*detached(folder, sink), disk(folder), *versions()]


# ---------------------------------------------------------------- parts and rows
def row_counts(sink: Reader, tables: Iterable[str] | None = None) -> dict[str, dict[str, int]]:
    """Distinct keys of every table by month ('202603', UTC; '' where the table is not partitioned).

    About 0.2 s a million rows in months that are still written to, next to nothing for months that were merged.
    """
    out: dict[str, dict[str, int]] = {}
    for name in sink.tables if tables is None else tables:
        table = sink.tables[name]
        month = f"toString(toYYYYMM({quoted(table.month)}))" if table.month else "''"
        frame = sink.query(
            f"SELECT {month} AS month, count() AS n FROM {quoted(name)} FINAL GROUP BY month"
            " SETTINGS do_not_merge_across_partitions_select_final = 1"
        )
        out[name] = {m: int(n) for m, n in sorted(frame.iter_rows()) if n}
    return out


def part_rows(sink: Reader) -> dict[str, dict[str, int]]:
    """The active parts of every table with their rows; some milliseconds, whatever the size of the store."""
    frame = sink.query(
        "SELECT table, name, rows FROM system.parts WHERE active AND database = {database:String} ORDER BY table, name",
        {"database": sink.address.database},
    )
    out: dict[str, dict[str, int]] = {name: {} for name in sink.tables}
    for table, name, rows in frame.iter_rows():
        if table in out:
            out[table][name] = int(rows)
    return out


def lost_parts(before: Mapping[str, Mapping[str, int]], sink: Reader) -> list[tuple[str, str]]:
    """(table, part) of `before` (an earlier `part_rows`) whose rows are gone.

    Parts go in two ways only: merged into one that covers them, or dropped with their whole month by `drop_before`
    (leave the months out of `before` that were dropped since). A merged part that broke may have been replaced by those
    that it was made of; then they have as many rows.
    """
    now = part_rows(sink)
    out = []
    for table, parts in before.items():
        held = [(*p, rows) for name, rows in now.get(table, {}).items() if (p := _part(name))]
        for name, rows in parts.items():
            if (part := _part(name)) is None:
                continue
            month, first, last, _ = part
            mine = [h for h in held if h[0] == month]
            inside = sum(h[4] for h in mine if first <= h[1] and h[2] <= last)
            if inside < rows and not any(h[1] <= first and h[2] >= last for h in mine):
                out.append((table, name))
    return out


def _part(name: str) -> tuple[str, int, int, int] | None:
    """(partition, first block, last block, level) of a part's name."""
    found = _PART.match(name)
    return (found[1], int(found[2]), int(found[3]), int(found[4])) if found else None


# ---------------------------------------------------------------- the folder
def detached(folder: Path, sink: Reader | None = None) -> list[Finding]:
    """Parts that ClickHouse set aside because they were broken: their rows are missing from every answer. Read from the
    folder, so that it can be asked while another process owns the store."""
    names = _tables_by_key(sink) if sink is not None else {}
    out = []
    for path in sorted(folder.glob("store/*/*/detached/*")):
        found = _SET_ASIDE.match(path.name)
        why, part = (found[1] or "detached", found[2]) if found else ("detached", path.name)
        key = path.parents[1].name
        table = names.get(key) or _declared(folder, key)
        month = part.partition("_")[0]
        of = f" (month {month})" if month.isdigit() else ""
        count = path / "count.txt"
        rows = f"{int(count.read_text()):,} rows" if count.is_file() else "its rows"
        text = f"damaged part: {part} of {table}{of} was set aside as {why}, {rows} are missing"
        back = repair_by_backup(folder)
        out.append(
            Finding("FAIL", text, f"{back}; it cannot be attached again: to go on without its rows `rm -r {path}`")
        )
    return out or [Finding("ok", "damaged parts: none was set aside")]


def _tables_by_key(sink: Reader) -> dict[str, str]:
    frame = sink.query("SELECT table, any(path) AS path FROM system.parts GROUP BY table")
    return {Path(path).parts[-2]: table for table, path in frame.iter_rows()}


def _declared(folder: Path, key: str) -> str:
    for statement in folder.glob("store/*/*/*.sql"):
        if key in statement.read_text(encoding="utf-8", errors="replace"):
            return statement.stem
    return "a table that is no more"


def named_files(folder: Path, city: str | None, sink: Reader | None) -> list[Finding]:
    """The files `epoch` and `city`. With `sink` the newest epoch that wrote is looked up, so that the repair names it."""
    out = []
    epoch, used = folder / "epoch", None if sink is None else newest_revision(sink) >> 32
    number = "a number larger than any epoch used so far" if used is None else str(used)
    write = f"repair: `echo {number if used is not None else 'NUMBER'} > {epoch}`" + (
        f" with {number}" if used is None else ""
    )
    try:
        value = int(epoch.read_text())
        if used is not None and value < used:
            out.append(
                Finding(
                    "FAIL",
                    f"epoch: the file says {value}, but epoch {used} wrote already; new readings would lose",
                    write,
                )
            )
        else:
            out.append(Finding("ok", f"epoch: {value}"))
    except FileNotFoundError:
        bad = used != 0
        out.append(Finding("FAIL" if bad else "ok", f"epoch: {epoch} is missing", write if bad else ""))
    except (ValueError, OSError) as error:
        out.append(Finding("FAIL", f"epoch: {epoch} cannot be read as a number: {error}", write))
    name, claimed = (
        folder / "city",
        f"repair: `echo {city or 'CITY'} > {folder / 'city'}`" + ("" if city else " with the id of its city"),
    )
    try:
        text = name.read_text(encoding="utf-8").strip()
        if not text or (city and text != city):
            out.append(Finding("FAIL", f"city: {name} says {text!r}" + (f", not {city!r}" if city else ""), claimed))
        else:
            out.append(Finding("ok", f"city: {text}"))
    except FileNotFoundError:
        out.append(Finding("FAIL", f"city: {name} is missing, so any city could write into this store", claimed))
    except (ValueError, OSError) as error:
        out.append(Finding("FAIL", f"city: {name} cannot be read: {error}", claimed))
    return out


def leftovers(folder: Path, owned: bool) -> list[Finding]:
    """What ended processes left: inserts that were under way, images of backups."""
    if owned:
        return [Finding("ok", "leftovers: not looked for while a process works with the store")]
    staged = list((folder / STAGING).glob("*")) if (folder / STAGING).is_dir() else []
    out = []
    if staged:
        out.append(
            Finding(
                "warn",
                f"leftovers: {len(staged)} inserts were under way in {folder / STAGING}; the next start removes them",
            )
        )
    if left := images(folder):
        what = f"leftovers: {len(left)} images of backups that were ended; the next backup removes them"
        out.append(Finding("warn", what, f"to do it now: `rm -r {' '.join(map(str, left))}`"))
    return out or [Finding("ok", "leftovers: none")]


# ---------------------------------------------------------------- the store, opened
def schema(sink: ExistingStore) -> Finding:
    have, known = sink.schema_version, migrations()[-1].version
    if have > known:
        return Finding(
            "FAIL", f"schema: version {have}, this program knows up to {known}", "install the newer citybrain"
        )
    if have < known:
        return Finding("warn", f"schema: version {have}; the next start brings it to {known}")
    return Finding("ok", f"schema: version {have}")


def parts(sink: Reader) -> Finding:
    """How many parts a month of a table has."""
    frame = sink.query(
        "SELECT table, partition, count() AS n FROM system.parts WHERE active AND database = {database:String}"
        " GROUP BY table, partition ORDER BY n DESC",
        {"database": sink.address.database},
    )
    total = int(frame["n"].sum())
    if not len(frame) or (most := frame.row(0))[2] < MANY_PARTS[0]:
        return Finding("ok", f"parts: {total} active")
    table, partition, n = most
    return Finding(
        "FAIL" if n >= MANY_PARTS[1] else "warn", f"parts: {n} active in {partition} of {table}: merging does not keep up",
        "let it run for some minutes without input; if they stay, see whether the disk is slow or full",
    )  # fmt: skip


def growth(sink: Reader) -> int | None:
    """Bytes that the store grows by in a day of event time; None when it holds less than an hour."""
    span = (
        sink.query("SELECT min(window_start) AS low, max(window_start) AS high FROM readings")
        if "readings" in sink.tables
        else None
    )
    if span is None or not isinstance(low := span.item(0, "low"), int) or span.item(0, "high") - low < DAY_MS // 24:
        return None
    size = sink.query("SELECT sum(bytes_on_disk) AS n FROM system.parts WHERE active").item()
    return int(int(size or 0) * DAY_MS / (span.item(0, "high") - low))


def newest_as_of(sink: Reader) -> int | None:
    """The largest event time in the readings of the last day, UTC ms."""
    if "readings" not in sink.tables:
        return None
    recent = "window_start >= (SELECT max(window_start) FROM readings) - INTERVAL 1 DAY"
    frame: pl.DataFrame = sink.query(f"SELECT max(as_of) AS newest, count(as_of) AS n FROM readings WHERE {recent}")
    return frame.item(0, "newest") if frame.item(0, "n") else None


def readable(sink: Reader, folder: Path, seconds: float = 10.0) -> list[Finding]:
    """Reads parts with their checksums, the newest first, until the time is over (inf: all)."""
    frame = sink.query(
        "SELECT table, name, partition, rows FROM system.parts WHERE active AND database = {database:String}"
        " ORDER BY modification_time DESC, name",
        {"database": sink.address.database},
    )
    started, done, out = time.monotonic(), 0, []
    for table, name, partition, rows in frame.iter_rows():
        if time.monotonic() - started > seconds:
            break
        done += 1
        try:
            check = sink.query(
                f"CHECK TABLE {quoted(table)} PART '{name}' SETTINGS check_query_single_value_result = 0", seconds=3600
            )
        except StoreError as error:
            # It may have been merged into another one meanwhile, which has its turn at the next look.
            if name in part_rows(sink).get(table, {}):
                out.append(
                    Finding(
                        "FAIL", f"damaged part: {name} of {table} cannot be checked: {error}", repair_by_backup(folder)
                    )
                )
            continue
        for _, passed, message in check.iter_rows():
            if not passed:
                text = f"damaged part: {name} of {table} (month {partition}, {rows:,} rows) cannot be read: {_short(message)}"
                out.append(Finding("FAIL", text, repair_by_backup(folder)))
    took = time.monotonic() - started
    if out:
        return out
    if done < len(frame):
        text = f"tables: the newest {done} of {len(frame)} parts can be read"
        return [Finding("ok", text + f" ({took:.1f} s; `citybrain doctor --all` reads the others too)")]
    return [Finding("ok", f"tables: all {done} parts of {frame['table'].n_unique()} tables can be read ({took:.1f} s)")]


def _short(message: str) -> str:
    return message.partition("DB::Exception: ")[2].partition(" (")[0] or message


__all__ = ["Finding", "Room", "disk_room", "lost_parts", "part_rows", "quick_findings", "row_counts"]
