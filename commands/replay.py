"""`citybrain replay`: recorded files through the whole path at full speed."""

from __future__ import annotations

import gc
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from commands.durable import checkpoint_folder, claim, epoch_of, examined, interrupted_replay, opened, replay_identity
from commands.engines import EMBEDDED, grouping, refuse_missing
from commands.inputs import Inputs, UserError, made_folder
from commands.progress import Progress
from commands.stores import SERVERS, folder_of, server_of
from pipelines import catalogue
from pipelines.delivery import Counts, Durable, Run
from pipelines.indicator import Indicator
from pipelines.model import NEVER
from pipelines.streams import DAY_MS
from sinks.clickhouse import ClickHouseSink
from sinks.export import export, refuse_foreign
from sinks.lock import refuse_owned
from sinks.writer import StoreThread

MOSTLY_LATE = 0.5
MANY_REFUSED = 0.05
BEGUN = frozenset(("data", "metadata", "staging", "status", "store", "tmp", "city", "epoch.new"))
"""What the folder of a store holds before its first epoch."""


@dataclass(frozen=True, slots=True)
class Options:
    store: str | None = None
    out: Path | None = None
    until: int | None = None
    fresh: bool = False
    revisions: Literal["newest", "all"] = "newest"
    only: tuple[str, ...] = ()
    map: str | None = None
    city: str | None = None
    engine: str = EMBEDDED


def replay(inputs: Inputs, options: Options, quiet: bool = False) -> dict[str, Any]:
    """Runs to the end of the files; returns the summary that is printed."""
    refuse_missing(options.engine)
    if options.out is not None:
        made_folder(options.out.absolute().parent, "the folder above --out")
        try:
            refuse_foreign(options.out.absolute())
        except OSError as error:
            raise UserError(str(error)) from None
    indicators = catalogue.for_city(inputs.city)
    if options.only:
        indicators = chosen(options.only, indicators)
    with (
        opened_store(options, inputs, indicators) as (sink, shown, epoch, durable),
        grouping(options.engine, (progress := Progress(inputs, quiet)).say) as apart,
    ):
        gc.freeze()  # what was imported is never garbage: not looked at again and again
        started = time.perf_counter()
        store = StoreThread(sink, retry=sink.retry)
        run = Run(
            inputs.city, indicators, inputs.streams, inputs.attached, store, live=False, epoch=epoch, older=sink.panes,
            cases=sink.lifecycles, durable=durable, apart=apart,
        )  # fmt: skip
        before = run.counts.counters["received"]
        tell_of_before(run, shown, quiet)
        with progress:
            counts = run.replay(options.until, progress.show)
        store.close()
        wall = time.perf_counter() - started
        found = sink.counts(since=run.born << 32)
        summary = summarise(counts, found, wall, shown, before)
        summary["seconds"] = {k: round(v, 3) for k, v in counts.seconds.items()} | {
            "store_thread": round(store.busy_s, 3)
        }
        if options.out is not None:
            if not quiet:
                print(f"replay: writing {summary['readings']:,} readings to {options.out}", file=sys.stderr, flush=True)
            began = time.perf_counter()
            export(sink, options.out, revisions=options.revisions, summary=summary)
            summary["seconds"]["out"] = round(time.perf_counter() - began, 3)
    if not counts.counters["received"]:
        print(f"warning: no record in {', '.join(str(a.source.input) for a in inputs.attached)}", file=sys.stderr)
    warn_if_late(counts, inputs)
    warn_if_refused(counts)
    warn_if_early(options, run)
    warn_if_asleep(run)
    return summary


def chosen(names: Iterable[str], among: Sequence[Indicator]) -> tuple[Indicator, ...]:
    """The named indicators, and those that they are computed from."""
    wanted, new = set[str](), list(names)
    while new:
        found = catalogue.indicator(new.pop(), among)
        if found.id not in wanted:
            wanted.add(found.id)
            new += found.inputs
    return tuple(i for i in among if i.id in wanted)


def tell_of_before(run: Run, shown: str, quiet: bool) -> None:
    """What an earlier start of the same command did already, and what was found damaged of it."""
    if run.durable is None or run.durable.recovered is None:
        return
    for note in run.durable.recovered.notes:
        print(f"warning: {note}", file=sys.stderr)
    if not quiet:
        received = run.counts.counters["received"]
        told = "goes on" if run.apart is None else "starts over"
        if run.finished:
            told = "was finished before; its result is shown"
        print(f"replay: {shown} holds {received:,} records of these files: the replay {told}", file=sys.stderr)


def summarise(counts: Counts, found: dict[str, int], wall: float, store: str, before: int = 0) -> dict[str, Any]:
    """`before`: records that were received before this process."""
    received = counts.counters["received"] - before
    return {
        **counts.counters,
        "readings": found["readings"],
        "episodes": found["episodes"],
        "wall_s": round(wall, 3),
        "events_per_s": round(received / wall) if wall else 0,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "store": store,
    }


def warn_if_late(counts: Counts, inputs: Inputs) -> None:
    late, accepted = counts.counters["late"], counts.counters["accepted"]
    if accepted and late > MOSTLY_LATE * accepted and inputs.order != "event_time":
        bound = inputs.attached[0].input.disorder_ms
        bound = inputs.streams[0].disorder_ms if bound is None else bound
        print(
            f"warning: {100 * late / accepted:.0f} % of the events came later than the disorder bound of {bound // 1000} s. "
            'If the file is not in the order of arrival, write order = "event_time" into the mapping; if its source is '
            "this late, give --disorder 300s (or `disorder` in the mapping). `citybrain profile` shows how late rows are.",
            file=sys.stderr,
        )


def warn_if_refused(counts: Counts) -> None:
    received, accepted = counts.counters["received"], counts.counters["accepted"]
    refused = counts.counters["rejected"] + counts.counters["quarantined"]
    for cut in counts.cut_short[:3]:
        print(f"warning: {cut.source} breaks off at record {cut.position}: {cut.detail}", file=sys.stderr)
    if (letter := counts.first_letter) is not None and refused > MANY_REFUSED * received:
        nothing = "" if accepted else ", so nothing could be computed"
        print(
            f"warning: {100 * refused / received:.3g} % of the records were refused{nothing}. The first one, record "
            f"{letter.position} of {letter.source}: {letter.reason}: {letter.detail}. If these files are of another stream, "
            "give --stream; if they have columns of their own, give --map; `citybrain profile FILE` shows what is in one.",
            file=sys.stderr,
        )


def warn_if_early(options: Options, run: Run) -> None:
    last = max((s.largest for s in run.files.values()), default=NEVER)
    if options.until is not None and options.until <= last:
        print(f"warning: --until is not after the last event, {iso(last)}; it changes nothing", file=sys.stderr)


def warn_if_asleep(run: Run) -> None:
    """A wrong clock shows as decades without an event; so do files of two seasons, which is why it is no error."""
    for name, runs in run.brain.spans().items():
        if runs and runs[0][0] < 31 * DAY_MS:
            print(
                f"warning: stream {name} has events of January 1970: are they times in seconds? `t` is in milliseconds",
                file=sys.stderr,
            )
        gaps = [(first - last, last, first) for (_, last), (first, _) in pairwise(runs)]
        if gaps:
            length, last, first = max(gaps)
            more = f" (the longest of {len(gaps)} such gaps)" if len(gaps) > 1 else ""
            print(
                f"warning: stream {name} has no event between {iso(last)} and {iso(first)}, {length // DAY_MS} days{more}; "
                "its configured sites have no readings there but at its beginning. If a clock was wrong, leave its "
                "records out: what comes after a time in the future counts as late.",
                file=sys.stderr,
            )


def iso(t: int) -> str:
    """UTC ms as a text."""
    return datetime.fromtimestamp(t / 1000, UTC).isoformat(timespec="milliseconds")


@contextmanager
def opened_store(
    options: Options, inputs: Inputs, indicators: tuple[Indicator, ...]
) -> Iterator[tuple[ClickHouseSink, str, int, Durable | None]]:
    """The store of the run, what the summary calls it, and where its checkpoint is: the one asked for, or a temporary one
    that goes with the run."""
    rollups = catalogue.rollups(indicators)
    streams = tuple(s for s in catalogue.STREAMS if s.lifecycle)
    temporary = None
    if options.store is None:
        if options.fresh:
            raise UserError("--fresh needs --store: without a store every replay starts afresh")
        temporary = Path(tempfile.mkdtemp(prefix="citybrain-"))
        dsn, shown = f"chdb://{temporary / 'store'}", "temporary"
        (temporary / "store").mkdir()
    else:
        dsn, shown = persistent(options)
    lease = None
    sink = ClickHouseSink(dsn, rollups, streams, keep_revisions=temporary is not None)
    try:
        migrated = sink.migrate()
        # The embedded store refuses a folder that holds anything else, so the epoch comes when it is there.
        local = dsn.startswith("chdb://")
        if local:
            claim(Path(dsn.removeprefix("chdb://")) / "city", inputs.city.id)
        if temporary is not None:
            yield sink, shown, 1, None
            return
        folder = checkpoint_folder(dsn)
        if options.fresh and not local:
            sink.empty()
            shutil.rmtree(folder, ignore_errors=True)
        how = [str(options.map), str(options.city)]
        if options.engine != EMBEDDED:
            how.append(options.engine)
        identity = replay_identity(inputs.attached, inputs.city.id, options.only, how)
        found = interrupted_replay(folder, shown, identity)
        examined(sink, found, migrated)
        epoch, lease = epoch_of(sink, found)
        durable = replace(opened(folder, identity, found), guard=None if lease is None else lease.check)
        yield sink, shown, epoch, durable
    finally:
        if lease is not None:
            lease.release()
        sink.close()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def persistent(options: Options) -> tuple[str, str]:
    """The address of a store to keep, and how the summary shows it."""
    assert options.store is not None
    if options.store.startswith(SERVERS):
        address = server_of(options.store)
        return address.dsn, address.shown
    path = folder_of(options.store)
    made_folder(path, "--store")
    inside = {entry.name for entry in path.iterdir()}
    ours = (path / "metadata").is_dir() and (path / "epoch").is_file()
    if not ours and inside <= BEGUN:
        # A start that was killed before the store had an epoch leaves a part of this; before it had metadata, no file.
        ours = (path / "metadata").is_dir() or {f.name for f in path.rglob("*") if not f.is_dir()} <= {"status"}
    if inside and not ours:
        what = "--fresh would empty it" if options.fresh else "nothing is written into it"
        raise UserError(f"{path} is not empty and no store of citybrain, {what}; name another folder for --store")
    if options.fresh:
        refuse_owned(path)
        shutil.rmtree(path)
        path.mkdir()
    return f"chdb://{path}", f"chdb://{path}"
