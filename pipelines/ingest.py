"""Ingest: one place decides what an event is and when it is (rules 1 to 11).

Decoders hand over blocks of validated, converted, redacted events of one input partition; ingest quarantines those
from the future, drops duplicates, and writes the rest to their partition of the canonical log with `part, off, wm,
late`. Blocks are computed as columns; no rule costs Python per event on good input.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Unpack

import numpy as np
import orjson
import polars as pl

from pipelines.bounds import Bounds, Overrides, unknown
from pipelines.dedup import Index
from pipelines.file_order import FileOrder, Taken, merge_order
from pipelines.input_clock import InputClock, Mask
from pipelines.model import NEVER, DeadLetter, Decoded, Parts, PlaceRegistry, Stamped, numbered
from pipelines.places import Codes, Places
from pipelines.reasons import REASONS, Reason
from pipelines.redact import redact
from pipelines.streams import Stream
from pipelines.watermark import Feed, Input, LiveWatermark, Partition, file_stamps

PAYLOAD_BYTES: Final = 2048
COUNTERS: Final = ("received", "accepted", "duplicate", "rejected", "quarantined", "on_time", "late")
"""Rule 11: received = accepted + duplicate + rejected + quarantined; accepted = on_time + late."""


class Ingest:
    """Stamps the events of one stream. Calls come in the order in which things happen; state is arrays and integers.

    `live`: blocks are stamped as they come, `now` is the run's clock at which they were read. Files (not `live`): a
    block is held until its place in the order of rule 9 is certain; read on from `wanted()`.
    """

    def __init__(
        self,
        stream: Stream,
        inputs: Iterable[Input],
        *,
        live: bool,
        registry: PlaceRegistry,
        configured: Iterable[str] = (),
        max_places: int = 100_000,
        start: int = 0,
        unfed: Iterable[str] = (),
        **overrides: Unpack[Overrides],
    ) -> None:
        """`configured`: the sites of the city pack, which get their codes first, in order. `start`: the run's clock. `unfed`:
        partitions of the log that are ours whether an input feeds them or not."""
        self.stream, self.live = stream, live
        self.bounds = bounds = Bounds.of(stream, overrides)
        self.places = Places(registry, configured, max_places)
        self.feeds: dict[str, Feed] = {}
        self.partitions: dict[str, Partition] = {}
        for source in inputs:
            if source.name in self.feeds:
                raise ValueError(f"input {source.name!r} of stream {stream.name!r} is declared twice")
            feed = self._made(source, start)
            self.partitions.setdefault(source.part, Partition(source.part)).feeds.append(feed)
        for part in unfed:
            self.partitions.setdefault(part, Partition(part))
        if not self.partitions:
            raise ValueError(f"stream {stream.name!r} has no input; name at least one")
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._live = LiveWatermark(bounds.disorder_ms, bounds.max_lag_ms, bounds.idle_timeout_ms)
        self._files = FileOrder(() if live else self.feeds.values())
        self._letters: list[DeadLetter] = []
        self._named = self._saves = 0

    @property
    def watermark(self) -> int:
        """The published wm of the stream: the smallest of its partitions'."""
        return min(partition.wm for partition in self.partitions.values())

    @property
    def largest(self) -> int:
        """The largest M of the inputs."""
        return max((feed.clock.m for feed in self.feeds.values()), default=NEVER)

    def wanted(self) -> str | None:
        """Files: the input to read on from (rule 9); None when all have ended, and for live inputs."""
        return self._files.wanted()

    def dead_letters(self) -> list[DeadLetter]:
        """The refused records since the last call: the decoders' and the quarantined. Duplicates are only counted."""
        letters, self._letters = self._letters, []
        return letters

    def push(self, decoded: Decoded, now: int, last: bool = False) -> list[Stamped]:
        """A block of one input's next records; returns what of the log is certain now, one run a partition.

        `last`: nothing of the input follows. Where files of one partition have different D this has to be said with the
        file's last block: a file that may go on holds the watermark, one that ended does not (rule 7).
        """
        feed = self._feed(decoded.input)
        if decoded.stream != self.stream.name:
            raise ValueError(f"events of stream {decoded.stream!r} were given to the ingest of {self.stream.name!r}")
        if feed.ended and not self.live:
            raise ValueError(f"input {feed.name!r} has ended; it cannot deliver more records")
        self._refuse(decoded.refused, now)
        events = decoded.events
        if self.live and events.height:
            events = self._quarantine(events, feed, now)
        t, ids = events["t"].to_numpy(), events["id"].to_numpy()
        before, duplicate = feed.clock.read(t, ids) if len(t) else (t, None)
        refused_last = _refused_last(decoded, duplicate)
        if duplicate is not None:
            n = int(np.count_nonzero(duplicate))
            self._count(received=n, duplicate=n)
            before, events = before[~duplicate], events.filter(~duplicate)
        if not self.live:
            self._files.add(feed, before, events, refused_last)
            return self.end(feed.name, now) if last else self._emit()
        if not events.height:
            return []
        partition = self.partitions[feed.part]
        wm = self._live.stamps(partition, feed, before, now)
        feed.last = now
        return [
            self._write(
                partition, events, before - feed.disorder_ms, wm, self.places.encode([events["place"]], [before])[0]
            )
        ]

    def end(self, name: str, now: int) -> list[Stamped]:
        """That input will deliver nothing more; returns what of the log that makes certain."""
        feed = self._feed(name)
        if self.live:
            feed.ended = True
            return []
        self._files.end(feed)
        if feed.clock.m == NEVER and feed.clock.ahead:
            feed.clock.settle()
        return self._emit()

    def join(self, name: str, now: int) -> None:
        """An input that was declared as one that joins counts from now on, from the stream's published wm (rule 7)."""
        feed = self._feed(name)
        feed.known, feed.ended, feed.last, feed.floor = True, False, now, self.watermark

    def tick(self, now: int) -> list[Stamped]:
        """Rule 8: a record with only a wm into each partition, to be written once a second. Files have none."""
        if not self.live:
            return []
        self._live.tick(list(self.partitions.values()), now)
        return [self._tick(partition) for partition in self.partitions.values()]

    def unread(self, ms: int, names: Iterable[str] | None = None) -> None:
        """For so long these inputs (all) could not be read: what came meanwhile is to be read yet, so it was no silence."""
        for feed in self.feeds.values() if names is None else map(self._feed, names):
            feed.last += ms

    def close_at(self, until: int) -> list[Stamped]:
        """`--until`, and the end of a run for a remote engine: one last tick in every partition, not before `until`."""
        if self._files.wanted() is not None:
            raise ValueError(f"input {self._files.wanted()!r} has not ended; time goes on only after the last record")
        for partition in self.partitions.values():
            partition.wm = max(partition.wm, until)
        return [self._tick(partition) for partition in self.partitions.values()]

    def attach(self, source: Input, now: int) -> None:
        """An input that was not there at the start joins now (rule 7); its partition may be new."""
        if source.name in self.feeds:
            raise ValueError(f"input {source.name!r} of stream {self.stream.name!r} is there already")
        wm = self.watermark
        feed = self._made(source, now)
        self.partitions.setdefault(source.part, Partition(source.part, wm=wm)).feeds.append(feed)
        feed.floor = wm

    def _made(self, source: Input, start: int) -> Feed:
        disorder_ms = self.bounds.disorder_ms if source.disorder_ms is None else source.disorder_ms
        clock = InputClock(None if self.live else self.bounds.jump_ms, self.bounds.horizon_ms)
        feed = Feed(
            source.name, source.part, len(self.feeds), disorder_ms, clock, known=not source.joins, last=start
        )  # fmt: skip
        self.feeds[source.name] = feed
        return feed

    def saved(self, whole: bool) -> Parts:
        """State by name for a checkpoint, between two steps: all, or what changed since the last call."""
        assert not self._letters, "dead letters that were not taken yet would be lost"
        clocks = {name: feed.clock.saved(whole) for name, feed in self.feeds.items()}
        feeds = {
            name: [feed.part, feed.known, feed.last, feed.floor, feed.ended, *clocks[name][0]]
            for name, feed in self.feeds.items()
        }
        partitions = {p.name: [p.wm, p.base, p.next] for p in self.partitions.values()}
        held = {} if self.live else self._files.saved()
        parts: Parts = {
            "ingest": {"counters": dict(self.counters), "feeds": feeds, "partitions": partitions, "held": held}
        }
        self._saves += 1
        if keys := {name: keys for name, (_, keys) in clocks.items() if len(keys)}:
            parts[f"seen/{self._saves}"] = keys
        since = 0 if whole else self._named
        if since < len(self.places.registry.ids):
            parts[f"places/{since}"] = self.places.registry.ids[since:]
        self._named = len(self.places.registry.ids)
        return parts

    def load(self, parts: Parts, now: int) -> None:
        """Into a fresh ingest with the same inputs; those that joined later are attached. The registry has the saved
        places already (`saved_places`): codes are in the rows that others keep."""
        saved = parts["ingest"]
        self._named = len(self.places.registry.ids)
        self.counters |= saved["counters"]
        seen = numbered(parts, "seen/")
        self._saves = seen[-1][0] if seen else 0
        for name, (part, known, last, floor, ended, *clock) in saved["feeds"].items():
            if name not in self.feeds:
                self.attach(Input(name, part), now)
            feed = self.feeds[name]
            feed.known, feed.last, feed.floor, feed.ended = known, last, floor, ended
            feed.clock.load(clock, [keys[name] for _, keys in seen if name in keys])
        for name, (wm, base, following) in saved["partitions"].items():
            partition = self.partitions[name]
            partition.wm, partition.base, partition.next = wm, base, following
        if not self.live:
            self._files.load(saved["held"])

    def _feed(self, name: str) -> Feed:
        if name not in self.feeds:
            raise LookupError(unknown(f"input of stream {self.stream.name!r}", name, self.feeds))
        return self.feeds[name]

    def _count(self, **more: int) -> None:
        for name, n in more.items():
            self.counters[name] += n

    def _refuse(self, letters: Iterable[DeadLetter], now: int) -> None:
        for letter in letters:
            self._count(received=1, **{letter.kind: 1})
            self._letters.append(letter if letter.seen_at else replace(letter, seen_at=now))

    def _quarantine(self, events: pl.DataFrame, feed: Feed, now: int) -> pl.DataFrame:
        """Rule 6: takes out what is more than F ahead of its arrival, which is `now` where the source records none."""
        arrival: pl.Expr = pl.col("arrival") if "arrival" in events.columns else pl.lit(now)
        if "arrival" not in events.columns and events["t"].max() - now <= self.bounds.future_ms:  # type: ignore[operator]
            return events
        future = events.select(pl.col("t") - arrival > self.bounds.future_ms).to_series()
        if not future.any():
            return events
        for event in events.filter(future).iter_rows(named=True):
            record, index, came = event.pop("record"), event.pop("index"), event.pop("arrival", now)
            event.pop("id")
            detail = (
                f"t is {event['t']}, arrival {came}: {event['t'] - came} ms ahead, allowed are {self.bounds.future_ms}"
            )
            payload = bounded(redact(orjson.dumps(event, option=orjson.OPT_SORT_KEYS).decode()))
            position = f"{record}:{index}" if index else str(record)
            letter = DeadLetter(
                feed.name, position, self.stream.name, "future", detail, payload, kind="quarantined", seen_at=now
            )
            self._refuse([letter], now)
        return events.filter(~future)

    def _emit(self) -> list[Stamped]:
        """Files: writes what is certain, partition by partition."""
        taken = self._files.take()
        runs = [run for file in taken for run in file.runs]
        codes = iter(self.places.encode([events["place"] for _, events in runs], [before for before, _ in runs]))
        coded = {file.feed.name: [next(codes) for _ in file.runs] for file in taken}
        out = []
        for partition in self.partitions.values():
            mine = [file for file in taken if file.feed.part == partition.name]
            if any(file.runs for file in mine):
                out.append(self._merge(partition, mine, [code for file in mine for code in coded[file.feed.name]]))
        return out

    def _merge(self, partition: Partition, files: list[Taken], codes: list[Codes]) -> Stamped:
        shares = [file.share for file in files]
        names = ["t", "id", *(column.name for column in self.stream.columns)]
        events = pl.concat([events.select(names) for file in files for _, events in file.runs])
        before = np.concatenate([share.before for share in shares])
        disorder = [share.disorder_ms for share in shares]
        low, place = before - disorder[0], np.concatenate(codes)
        if len(set(disorder)) > 1:
            low = before - np.repeat(disorder, [len(share.before) for share in shares])
        order = merge_order(shares)
        if order is not None:
            before, low, place, events = before[order], low[order], place[order], events[order]
        return self._write(partition, events, low, file_stamps(partition, shares, before), place)

    def _write(self, partition: Partition, events: pl.DataFrame, low: Index, wm: Index, codes: Codes) -> Stamped:
        """Events of one partition in the order of the log; `low` is M - D of the input of each."""
        t = events["t"].to_numpy()
        late: Mask = t < np.maximum(low, wm)
        n, n_late = len(t), int(np.count_nonzero(late))
        self._count(received=n, accepted=n, on_time=n - n_late, late=n_late)
        stamped = pl.DataFrame(
            [
                pl.Series("off", np.arange(partition.next, partition.next + n)),
                events["t"],
                pl.Series("wm", wm),
                pl.Series("late", late),
                events["id"],
                pl.Series("place", codes),
                *(events[column.name] for column in self.stream.columns),
            ]
        )
        run = Stamped(self.stream.name, partition.name, stamped, partition.next, int(wm[-1]))
        partition.next += n
        return run

    def _tick(self, partition: Partition) -> Stamped:
        """A tick takes an offset too (c5)."""
        partition.next += 1
        return Stamped(self.stream.name, partition.name, None, partition.next - 1, partition.wm)


def saved_places(parts: Parts) -> list[str]:
    """The ids of the places in what `Ingest.saved` gave, in the order of their codes."""
    return [name for _, names in numbered(parts, "places/") for name in names]


def bounded(payload: str) -> str:
    """The first 2 KiB of a payload."""
    raw = payload.encode()
    return payload if len(raw) <= PAYLOAD_BYTES else raw[:PAYLOAD_BYTES].decode(errors="ignore")


def _refused_last(decoded: Decoded, duplicate: Mask | None) -> bool | None:
    """Whether the last record of a block was refused; None for a block without records."""
    if not decoded.refused:
        return None if not decoded.events.height else duplicate is not None and bool(duplicate[-1])
    refused = max(_position(letter) for letter in decoded.refused)
    if not decoded.events.height:
        return True
    last = decoded.events.select("record", "index").row(-1)
    return refused > last or (duplicate is not None and bool(duplicate[-1]))


def _position(letter: DeadLetter) -> tuple[int, int]:
    record, _, index = letter.position.partition(":")
    return int(record), int(index or 0)


__all__ = ["COUNTERS", "REASONS", "Bounds", "Ingest", "Input", "Reason", "bounded", "saved_places"]
