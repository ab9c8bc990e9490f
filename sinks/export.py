"""Writes a store's tables into a folder of Parquet files for other programs; it appears whole or not at all.

`readings.parquet, episodes.parquet, transitions.parquet, rows/<rollup>.parquet, dead_letters.ndjson, summary.json`:
columns of rule 31, sorted by key, times as UTC timestamps (ms), in pages, so that memory stays bounded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.syncing import synced
from sinks.ddl import Table
from sinks.errors import StoreError
from sinks.reader import order

Revisions = Literal["newest", "all"]
MARK: Final = ".citybrain-output"
"""Lists the files of an output: only a folder that holds nothing else is replaced."""
PAGE: Final = 1_000_000
"""Rows read at once. Opening the many small parts of a replay's store costs about a second a page."""


class Paged(Protocol):
    """What an export reads: `sinks.clickhouse.ClickHouseSink` or `sinks.memory.MemorySink`."""

    @property
    def tables(self) -> Mapping[str, Table]: ...
    def page(self, table: str, after: tuple[Any, ...] | None, limit: int, *, newest: bool = True) -> pl.DataFrame: ...


def export(
    store: Paged,
    out: Path,
    *,
    revisions: Revisions = "newest",
    summary: Mapping[str, object] | None = None,
    extra: Mapping[str, bytes] | None = None,
    page: int = PAGE,
) -> dict[str, int]:
    """Writes the output and returns the rows written per table.

    `summary` becomes `summary.json`, with the rows per table added; `extra` are further files by relative name. With
    `revisions="all"` every revision that the store still has is written; merging forgets older ones unless the sink
    was opened with `keep_revisions`. An existing folder is replaced only when it is empty or holds nothing but an
    earlier output (FileExistsError otherwise); it stays as it is until the new one is complete.
    """
    out = out.absolute()
    refuse_foreign(out)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        counts = {}
        for name, table in store.tables.items():
            if (file := file_of(table)) is not None:
                target = partial / file
                target.parent.mkdir(exist_ok=True)
                counts[name] = _write(target, table, _pages(store, table, revisions == "newest", page))
        files = {"summary.json": orjson.dumps({**(summary or {}), "rows": counts}, option=orjson.OPT_INDENT_2) + b"\n"}
        for name, content in {**files, **(extra or {})}.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        inside = sorted(str(p.relative_to(partial)) for p in partial.rglob("*") if p.is_file())
        (partial / MARK).write_text("\n".join(inside) + "\n", encoding="utf-8")
        _durable(partial)
        _put(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return counts


def file_of(table: Table) -> str | None:
    """The file of a table, None for those that are not exported (lifecycles: raw events of persons)."""
    if table.name == "dead_letters":
        return "dead_letters.ndjson"
    if table.name.startswith("rows_"):
        return f"rows/{table.name.removeprefix('rows_')}.parquet"
    return None if table.name.startswith("lifecycles_") else f"{table.name}.parquet"


def refuse_foreign(out: Path) -> None:
    """FileExistsError when `out` exists and holds anything that no export wrote. Call it before a long run."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} exists and is no folder; give another place with --out DIR")
    inside = {str(p.relative_to(out)) for p in out.rglob("*") if not p.is_dir()}
    ours = set((out / MARK).read_text(encoding="utf-8").split("\n")) | {MARK} if (out / MARK).is_file() else set()
    if foreign := sorted(inside - ours):
        raise FileExistsError(
            f"the folder {out} holds {foreign[0]!r}, which no earlier output wrote; it is not replaced. "
            f"Remove it, or give another folder with --out DIR"
        )


def _pages(store: Paged, table: Table, newest: bool, limit: int) -> Iterator[pl.DataFrame]:
    after = None
    names = order(table, newest)
    while True:
        frame = store.page(table.name, after, limit, newest=newest)
        if frame.is_empty():
            return
        yield frame
        if frame.height < limit:
            return
        after = frame.select(names).row(-1)


def _write(target: Path, table: Table, pages: Iterator[pl.DataFrame]) -> int:
    rows = 0
    if target.suffix == ".ndjson":
        with target.open("wb") as file:
            for frame in pages:
                _lines(file, frame)
                rows += frame.height
        return rows
    times = [f.name for f in table.fields if f.kind == "time"]
    empty = pl.DataFrame(schema=table.schema)
    with pq.ParquetWriter(target, _arrow(empty, times).schema, compression="zstd") as writer:
        for frame in pages:
            writer.write_table(_arrow(frame, times))
            rows += frame.height
    return rows


def _arrow(frame: pl.DataFrame, times: list[str]) -> pa.Table:
    dated = frame.with_columns(pl.col(times).cast(pl.Datetime("ms", "UTC"))) if times else frame
    return dated.to_arrow(compat_level=pl.CompatLevel.oldest())


def _lines(file: BinaryIO, frame: pl.DataFrame) -> None:
    for row in frame.iter_rows(named=True):
        file.write(orjson.dumps(row) + b"\n")


def _durable(folder: Path) -> None:
    """Every file and folder on the disk before the rename makes them visible."""
    for path in (*folder.rglob("*"), folder):
        synced(path)


def _put(partial: Path, out: Path) -> None:
    refuse_foreign(out)
    before = out.with_name(f".{out.name}.before-{os.getpid()}")
    try:
        if out.exists():
            out.rename(before)
        try:
            partial.rename(out)
        except BaseException:
            if before.exists():
                before.rename(out)
            raise
    except OSError as error:
        raise StoreError(f"the output {out} could not be put in place: {error}; check who may write there") from error
    shutil.rmtree(before, ignore_errors=True)
