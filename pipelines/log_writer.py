"""One stream's ingest onto a log that others read: the records of a batch, and the state that is committed with them.

Events and ticks go to `events.<city>.<stream>`, dead letters to `dead.<city>`, the counters of rule 11 to `control.<city>`, and
what a restart goes on from to `state.<city>` (`pipelines/state_records.py`). Whoever commits these in one transaction has
rule 7 after any crash: stamps never fall, and nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import polars as pl

from pipelines import canonical, state_records
from pipelines.counts import Counts
from pipelines.intake import Intake, Now, Opener
from pipelines.model import (
    DEAD_LETTERS_SCHEMA,
    NEVER,
    DeadLetter,
    Parts,
    PlaceRegistry,
    Source,
    Stamped,
    numbered,
    under,
)
from pipelines.rollup import Rollup
from pipelines.state_records import StateRecords
from pipelines.stream_run import Attached, StreamRun
from pipelines.streams import MINUTE_MS, Stream
from pipelines.watermark import Input

ABOUT: Final = "about"
"""The part that says whose state it is and which partitions it writes."""


@dataclass(frozen=True, slots=True)
class Records:
    """Records for one partition of a topic, in order: (key, value)."""

    topic: str
    partition: int
    records: Sequence[tuple[bytes | None, bytes | None]]


class LogStream(StreamRun):
    """A stream whose stamped blocks become records of the log; no rollup is computed here.

    `parts`: the partitions of the log that this ingest writes. Those that no input feeds get ticks (rule 8); inputs that come
    later feed the first one.
    """

    def __init__(
        self,
        stream: Stream,
        attached: Sequence[Attached],
        parts: Sequence[str],
        registry: PlaceRegistry,
        *,
        live: bool,
        start: int,
        max_places: int,
        configured: Sequence[str],
    ) -> None:
        super().__init__(
            stream, (), attached, registry, live=live, start=start, max_places=max_places, configured=configured,
            unfed=parts,
        )  # fmt: skip
        self._later = parts[0]
        self._written: dict[str, list[bytes]] = {}
        self._places = pl.Series(dtype=pl.String)

    def add(self, blocks: Iterable[Stamped]) -> None:
        blocks = list(blocks)
        super().add(blocks)
        self.taken()
        for block in blocks:
            records = self._written.setdefault(block.part, [])
            if block.events is not None:
                if len(self._places) < len(self.registry.ids):
                    self._places = pl.Series(self.registry.ids, dtype=pl.String)
                records += canonical.encoded(block.events, self.stream, self._places)
            elif block.last_wm != NEVER:  # a tick without a watermark says nothing
                records.append(canonical.tick(block.last_wm))

    def attach(self, source: Source, now: int) -> None:
        self.ingest.attach(Input(source.input, self._later), now)
        self.know(source)

    def know(self, source: Source) -> None:
        self.sources[source.input] = source

    @property
    def unwritten(self) -> int:
        """How many records the next batch has so far."""
        return sum(map(len, self._written.values()))

    def written(self) -> dict[str, list[bytes]]:
        """The records of each partition since the last call."""
        written, self._written = self._written, {}
        return written


class LogWriter:
    """The stream's inputs, and batches of what they gave. `targets`: the partition of the log by the name of its part."""

    def __init__(
        self,
        city: str,
        ingest: str,
        stream: Stream,
        attached: Sequence[Attached],
        targets: Mapping[str, int],
        *,
        owner: str,
        identity: Mapping[str, Any],
        live: bool,
        start: int,
        configured: Sequence[str],
        places: Iterable[str] = (),
        max_places: int = 100_000,
        opener: Opener | None = None,
    ) -> None:
        """`owner`: this start of the ingest; `identity`: what it reads; `places`: the saved ones, in the order of their codes."""
        self.city, self.ingest_id, self.owner = city, ingest, owner
        self.identity, self.targets, self.start = dict(identity), dict(targets), start
        registry = PlaceRegistry()
        for place in places:
            registry.code(place)
        self.stream = LogStream(
            stream, attached, [*targets], registry, live=live, start=start, max_places=max_places, configured=configured
        )
        self.ingest = self.stream.ingest
        self.intake = Intake({stream.name: self.stream}, Now(start), Counts(), opener)
        self.finished = False
        self.step = self.letters = 0
        self._records = StateRecords(state_records.prefix(stream.name, ingest))
        self._horizons: dict[str, dict[str, int]] = {}
        """By part of the dedup keys, M of the inputs that they are of, when it was written or later."""
        self._told: dict[str, int] = {}
        self._largest = NEVER
        """The largest M of all inputs there ever were."""
        self._whole = self._about = True

    def load(self, parts: Parts, records: StateRecords) -> None:
        """What an earlier start committed; `records` read it."""
        run = parts["run"]
        self.step, self.finished, self.letters = run["step"], run["finished"], run["letters"]
        self._largest = run.get("largest", NEVER)
        self.intake.load(parts)
        self._records = records
        self._horizons = self._dated({name: part for name, part in parts.items() if _holds_keys(name)})
        self._told = dict(self.ingest.counters)
        self._whole = False
        # Partitions that are new start where the stream is (rule 7).
        before = parts[f"stream/{self.stream.stream.name}/ingest"]["partitions"]
        published = min(self.ingest.partitions[name].wm for name in before)
        for name, partition in self.ingest.partitions.items():
            if name not in before:
                partition.wm = published

    def follow(self, parts: Parts, records: StateRecords) -> None:
        """Other files after those that were finished: their partitions of the log go on where they are."""
        self.step, self.letters, self._records = parts["run"]["step"], parts["run"]["letters"], records
        saved = parts[f"stream/{self.stream.stream.name}/ingest"]
        self._largest = parts["run"].get("largest", NEVER)
        self.ingest.counters |= saved["counters"]
        for name, (wm, base, following) in saved["partitions"].items():
            partition = self.ingest.partitions[name]
            partition.wm, partition.base, partition.next = wm, base, following

    def attach(self, source: Source, part: str, now: int) -> None:
        """An input that an earlier start did not have joins, with this partition of the log (rule 7)."""
        self.ingest.attach(Input(source.input, part), now)
        self.stream.know(source)
        self.intake.positions[source.input] = 0

    def closing(self, rollups: Iterable[Rollup], until: int | None = None) -> None:
        """All inputs have ended: time goes on to the end of the pane of the largest M, or to `until` where that is later
        (rules 8, 9). Two ticks in every partition: the first makes the last pane one that is counted, the second ends it."""
        largest = self.ingest.largest
        pane = max((r.pane_ms for r in rollups if r.stream.name == self.stream.stream.name), default=MINUTE_MS)
        ends = largest // pane * pane + pane if largest > NEVER else NEVER
        last = max(ends, NEVER if until is None else until)
        for at in (last - 1, last):
            self.stream.add(self.ingest.close_at(at))
        self.finished = True

    def batch(self, now: int, state_partition: int) -> list[Records]:
        """All that was read since the last batch, as one transaction."""
        self.step += 1
        self.stream.taken()
        self.intake.planned(self.step, "live")
        events = canonical.topic(self.city, self.stream.stream.name)
        out = [
            Records(events, self.targets[part], [(None, record) for record in records])
            for part, records in self.stream.written().items()
            if records
        ]
        if letters := self.ingest.dead_letters():
            self.letters += len(letters)
            out.append(Records(canonical.dead_topic(self.city), 0, [_dead(letter, now) for letter in letters]))
        self._largest = max(self._largest, self.ingest.largest)
        if self.ingest.counters != self._told:
            self._told = dict(self.ingest.counters)
            out.append(Records(canonical.control_topic(self.city), 0, [self._counters(now)]))
        out.append(Records(state_records.topic(self.city), state_partition, self._state()))
        return out

    def _counters(self, now: int) -> tuple[bytes, bytes]:
        stream = self.stream.stream.name
        told = {"kind": "counters", "ingest": self.ingest_id, "stream": stream, "counters": self._told, "at": now}
        if self._largest > NEVER:
            told["largest"] = self._largest
        return f"{stream}/{self.ingest_id}".encode(), orjson.dumps(told)

    def _state(self) -> list[state_records.Change]:
        """What changed of the state, and the parts that nothing needs any more."""
        whole, self._whole = self._whole or self._records.long, False
        before = self._records.parts
        parts = self.intake.saved(whole)
        parts["run"] = {"step": self.step, "finished": self.finished, "letters": self.letters, "owner": self.owner}
        parts["run"]["largest"] = self._largest
        if whole or self._about:
            self._about = False
            parts[ABOUT] = {"identity": self.identity, "targets": self.targets, "start": self.start}
        gone = before - parts.keys() if whole else self._beyond(before)
        for name in gone:
            self._horizons.pop(name, None)
        self._horizons |= self._dated({name: part for name, part in parts.items() if _holds_keys(name)})
        return self._records.changes(parts, gone)

    def _dated(self, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
        feeds = self.ingest.feeds
        return {name: {i: feeds[i].clock.m for i in keys} for name, keys in parts.items()}

    def _beyond(self, parts: frozenset[str]) -> list[str]:
        """The parts of dedup keys that are all older than the horizon (rule 5)."""
        horizon = self.ingest.bounds.horizon_ms
        feeds = self.ingest.feeds
        return [
            name
            for name, then in self._horizons.items()
            if name in parts and all(feeds[i].clock.m - m >= (horizon or 0) for i, m in then.items() if m > NEVER)
        ]


def _holds_keys(part: str) -> bool:
    return "/seen/" in part


def _dead(letter: DeadLetter, now: int) -> tuple[bytes, bytes]:
    record = {name: getattr(letter, name) for name in DEAD_LETTERS_SCHEMA}
    record["seen_at"] = letter.seen_at or now
    return f"{letter.source}/{letter.position}".encode(), orjson.dumps(record)


def saved_places(parts: Parts, stream: str) -> list[str]:
    """The places in a state that was loaded, in the order of their codes."""
    return [name for _, names in numbered(under(parts, f"stream/{stream}/"), "places/") for name in names]


def claimed(records: Mapping[bytes, bytes], stream: str) -> dict[str, dict[str, int]]:
    """The partitions of the log that each ingest of a stream writes, by its id."""
    mark = f"/{ABOUT}#".encode()
    found: dict[str, dict[bytes, bytes]] = {}
    for key, value in records.items():
        head, _, _ = key.partition(mark)
        if mark in key and head.startswith(f"{stream}/".encode()):
            found.setdefault(head.decode().removeprefix(f"{stream}/"), {})[key] = value
    return {
        ingest: StateRecords(state_records.prefix(stream, ingest)).load(mine)[ABOUT]["targets"]
        for ingest, mine in found.items()
    }
