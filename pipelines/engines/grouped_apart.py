"""An engine for finite runs that groups apart: the canonical log goes to files, a job of another system groups them once
every input has ended, and its rows come back in the order of their panes.

Nothing is final before the job has run, so the streams' watermarks stand still until then, and a run of such an engine is
kept in the checkpoint when it is finished only. What comes back is checked against its manifests (rule 15).
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

import polars as pl

from pipelines.canonical import encoded_file
from pipelines.engines.row_records import manifests_of, rows_of
from pipelines.model import NEVER, NO_MANIFESTS, Parts, PlaceRegistry, Rows, Stamped
from pipelines.rollup import Rollup
from pipelines.streams import Stream

ROWS_A_PIECE: Final = 500_000
"""So many rows are handed over together, or those of one pane if it has more."""
MANIFESTS: Final = "manifests"
"""The folder of manifests that are written apart from the rows; those have one a stream."""


class JobFailed(RuntimeError):
    """The job ended without all rows, or with others than were asked for."""


@dataclass(frozen=True, slots=True)
class Log:
    """The canonical log of a stream in files, one after the other in its order; what is to be made of it."""

    stream: Stream
    rollups: tuple[Rollup, ...]
    part: str
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Runner:
    """`group(logs, folder)` runs a job to its end, which writes the records of rows into files of `folder`/STREAM and those
    of manifests there or into `folder`/manifests. `events_a_file`: how a log is cut; None: a log is one file."""

    name: str
    group: Callable[[Sequence[Log], Path], None]
    events_a_file: int | None = None


class GroupedApart:
    """The job of a run and the engines of its streams; a context manager that removes the files."""

    def __init__(self, runner: Runner, told: Callable[[str], None] = lambda _: None) -> None:
        self.runner, self._told = runner, told
        self.folder = Path(tempfile.mkdtemp(prefix="citybrain-")).resolve()
        self.engines: list[LogEngine] = []
        self.done = False

    def __enter__(self) -> GroupedApart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for engine in self.engines:
            engine.writer.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def engine(
        self, stream: Stream, rollups: Sequence[Rollup], parts: Sequence[str], registry: PlaceRegistry
    ) -> LogEngine:
        """That of a stream. A job may read partitions side by side and their watermarks with them, so there is one."""
        if len(parts) != 1:
            raise ValueError(f"stream {stream.name!r} has {len(parts)} partitions, {self.runner.name} groups one here")
        one = LogEngine(self, stream, tuple(rollups), parts[0], registry)
        self.engines.append(one)
        return one

    def run(self) -> None:
        """Has all logs grouped, once."""
        if self.done:
            return
        self.done = True
        for engine in self.engines:
            engine.writer.close()
        logs = [e.log for e in self.engines if e.log.files]
        events = sum(e.events for e in self.engines)
        rows = self.folder / "rows"
        rows.mkdir()
        if logs:
            self._told(
                f"{self.runner.name} groups {events:,} events; there is no checkpoint in the middle of such a run"
            )
            self.runner.group(logs, rows)
        named = manifests_of([p.read_bytes() for p in files_of(rows / MANIFESTS)])
        for engine in self.engines:
            engine.read(rows / engine.stream.name, named)
        if logs:
            made = sum(len(found.rows) for engine in self.engines for found in engine.found.values())
            self._told(f"{self.runner.name} made {made:,} rows")
        shutil.rmtree(self.folder, ignore_errors=True)

    def pieces(self, closing: Mapping[str, int]) -> Iterator[None]:
        """Runs the job; after each turn the engines hand over as many panes as are good for a step, and their watermarks
        are there. `closing`: where the streams end."""
        self.run()
        found = [found for engine in self.engines for found in engine.found.values()]
        ends = [one.rows.select(pl.col("pane_start") + one.rollup.pane_ms) for one in found]
        counts = pl.concat([pl.DataFrame(schema={"pane_start": pl.Int64}), *ends])["pane_start"].value_counts()
        size, bounds = 0, list[int]()
        for end, rows in counts.sort("pane_start").iter_rows():
            size += rows
            if size >= ROWS_A_PIECE:
                bounds.append(end)
                size = 0
        for bound in (*bounds, -NEVER):
            for engine in self.engines:
                engine.watermark = max(engine.watermark, min(bound, closing[engine.stream.name]))
            yield


@dataclass(slots=True)
class Found:
    """What a job made of a rollup: rows and manifests in the order of their panes, and up to where they were taken."""

    rollup: Rollup
    rows: pl.DataFrame
    manifests: pl.DataFrame = field(default_factory=NO_MANIFESTS.clone)
    closed: int = NEVER

    def take(self, watermark: int) -> Rows:
        """The panes that end at or before the watermark and were not taken yet."""
        pane = self.rollup.pane_ms
        until = max(self.closed, watermark // pane * pane)
        mine = pl.col("pane_start").is_between(self.closed - pane, until - pane, closed="right")
        rows, manifests = self.rows.filter(mine), self.manifests.filter(mine)
        self.closed = until
        return Rows(self.rollup.name, rows, manifests, until)


class LogEngine:
    """Groups the log of one stream apart; promises what `pipelines.model.Engine` does, all of it at the end."""

    def __init__(
        self, job: GroupedApart, stream: Stream, rollups: tuple[Rollup, ...], part: str, registry: PlaceRegistry
    ) -> None:
        self.stream, self.rollups, self.part, self.registry = stream, rollups, part, registry
        self.watermark = NEVER
        """Up to where rows may be taken."""
        self.events = 0
        self.found = {rollup.name: Found(rollup, rows_of([], [rollup], registry)[rollup.name]) for rollup in rollups}
        self.writer = _Writer(job.folder / stream.name, job.runner.events_a_file)
        self._job = job

    @property
    def log(self) -> Log:
        return Log(self.stream, self.rollups, self.part, tuple(self.writer.files))

    def add(self, block: Stamped) -> None:
        """Appends a run to the log. After the job only time may go on."""
        events = 0 if block.events is None else len(block.events)
        if self._job.done:
            if events:
                raise ValueError(f"{self._job.runner.name} has grouped stream {self.stream.name!r}; nothing can follow")
            return
        places = pl.Series(self.registry.ids, dtype=pl.String)
        self.writer.write(encoded_file(block, self.stream, places), events)
        self.events += events

    def join(self, part: str) -> None:
        raise ValueError(f"input {part!r} cannot join: {self._job.runner.name} groups finite runs here")

    def take(self) -> list[Rows]:
        return [found.take(self.watermark) for found in self.found.values()] if self._job.done else []

    def open_panes(self) -> list[Rows]:
        return []

    def finish(self) -> list[Rows]:
        self._job.run()
        ends = [self.watermark, *(_last_end(f.rollup, f.rows, f.manifests) for f in self.found.values())]
        self.watermark = max(ends)
        return self.take()

    def closed(self) -> dict[str, int]:
        return {name: found.closed for name, found in self.found.items()}

    def saved(self, whole: bool) -> Parts:
        """Where a run stands that has not begun or is finished."""
        rollups = {name: {"frame_hash": f.rollup.frame_hash, "closed": f.closed} for name, f in self.found.items()}
        return {"at": {"rollups": rollups}}

    def load(self, parts: Parts) -> None:
        for name, saved in parts["at"]["rollups"].items():
            if name in self.found:
                self.found[name].closed = saved["closed"]

    def read(self, folder: Path, named: pl.DataFrame) -> None:
        """Takes in what the job wrote; `named`: manifests that came apart."""
        records = [path.read_bytes() for path in files_of(folder)]
        rows = rows_of(records, self.rollups, self.registry)
        named = pl.concat([named, manifests_of(records)])
        for name, found in self.found.items():
            found.rows = rows[name].sort("pane_start")
            mine = named.filter(rollup=name, frame=found.rollup.frame_hash)
            found.manifests = mine.select(NO_MANIFESTS.columns).sort("pane_start")
            self._check(found)

    def _check(self, found: Found) -> None:
        """Every pane has the rows that its manifest counts, and no event is missing in both."""
        who, rows = f"{self._job.runner.name}, rollup {found.rollup.name!r}", found.rows
        on_time = rows.filter(~pl.col("late")).group_by("pane_start").agg(pl.col("n").sum())
        both = found.manifests.join(on_time, on="pane_start", how="full", suffix="_rows", coalesce=True)
        wrong = both.filter(
            pl.col("n").ne_missing(pl.col("n_rows")) & ((pl.col("n") > 0) | pl.col("n_rows").is_not_null())
        )
        if len(wrong):
            start, told, there = wrong.sort("pane_start").row(0)
            raise JobFailed(f"{who}: {there or 0} events in the rows of pane {start}, its manifest says {told or 0}")
        total = int(rows["n"].sum())
        if found.rollup.where is None and total != self.events:
            raise JobFailed(f"{who}: {total:,} events in its rows, {self.events:,} were given to it")


def _last_end(rollup: Rollup, *frames: pl.DataFrame) -> int:
    return max((int(f["pane_start"].max()) + rollup.pane_ms for f in frames if len(f)), default=NEVER)  # type: ignore[arg-type]


def files_of(folder: Path) -> list[Path]:
    """What a job wrote into a folder; JobFailed when a file there was not finished, which its system hides by a dot."""
    there = sorted(path for path in folder.rglob("*") if path.is_file())
    if unfinished := [path for path in there if path.name.startswith(".") and not path.name.endswith(".crc")]:
        raise JobFailed(f"{unfinished[0]} was not finished by the job that wrote it")
    return [path for path in there if not path.name.startswith((".", "_"))]


class _Writer:
    """A log as files of whole records: one that no reader can split, or several of about so many events."""

    def __init__(self, folder: Path, events_a_file: int | None) -> None:
        self._folder, self._most = folder, events_a_file
        self.files: list[Path] = []
        self._file: gzip.GzipFile | None = None
        self._events = 0

    def write(self, records: bytes, events: int) -> None:
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            self.files.append(self._folder / f"{len(self.files):06d}.ndjson.gz")
            self._file, self._events = gzip.GzipFile(self.files[-1], "wb", compresslevel=1), 0
        self._file.write(records)
        self._events += events
        if self._most is not None and self._events >= self._most:
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
