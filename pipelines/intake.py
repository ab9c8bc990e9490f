"""What a step takes in: files in the order of rule 9, or what live sources have at each beat; and the plan that says so,
by which a restart takes in the same again (rule 35).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import polars as pl

from pipelines.counts import Counts
from pipelines.journal import CheckpointError
from pipelines.model import Decoded, Limited, Parts, Remembering, Source, Stamped, prefixed, under
from pipelines.stream_run import InRun, StreamRun

READ_EVENTS: Final = 250_000
"""Events of a replay that are stamped and grouped in one go: few enough for the processor's cache. Of a live input no more
are taken in at a beat, nearly."""
LETTER_EVENTS: Final = 25
"""A refused record is held with its text until its step is written, and weighs as much as so many events."""
Kind = Literal["files", "close", "live"]
Opener = Callable[[str, str], Source]
"""Opens an input that joined, by its name and stream."""


@dataclass(slots=True)
class Plan:
    """All that decides what a step is. `files`: each input is read up to its position; `close`: the inputs have ended;
    `live`: the beats are done again."""

    step: int
    kind: Kind
    positions: dict[str, int]
    ended: list[str]
    now: int = 0
    beats: list[list[Any]] = field(default_factory=list)
    """In their order: ["poll", clock, positions afterwards], ["tick", clock], ["skip", clock], ["attach", clock, input,
    stream]."""
    until: int | None = None


class Now:
    """The clock of sources that make their records by time: stands at the beat that is being done."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self) -> int:
        return self.at


class Intake:
    """The sources of all streams, how far each was read, and the beats since the last plan."""

    def __init__(self, streams: Mapping[str, InRun], now: Now, counts: Counts, opener: Opener | None) -> None:
        self.streams, self.now, self._counts, self._opener = streams, now, counts, opener
        self.positions: dict[str, int] = {name: 0 for s in streams.values() for name in s.sources}
        self.beats: list[list[Any]] = []

    @property
    def sources(self) -> dict[str, Source]:
        return {name: source for stream in self.streams.values() for name, source in stream.sources.items()}

    def planned(self, step: int, kind: Kind, now: int = 0, until: int | None = None) -> Plan:
        """The plan of what was taken in since the last one."""
        ended = [name for s in self.streams.values() for name in s.ended]
        beats, self.beats = self.beats, []
        return Plan(step, kind, dict(self.positions), ended, now, beats, until)

    # ------------------------------------------------------------ files
    def read(self, stream: StreamRun, name: str, most: int) -> None:
        """One block of the file that is to be read next; several at once, up to so many events, while it is the only one."""
        source, started = stream.sources[name], time.perf_counter()
        blocks: list[Decoded] = []
        size = 0
        while size < min(READ_EVENTS, most) and not source.ended:
            decoded = source.read()
            if decoded is not None:
                blocks.append(decoded)
                size += _weight(decoded)
            if len(stream.sources) > 1 and blocks:
                break
        read = time.perf_counter()
        out: list[Stamped] = []
        if blocks:
            self.positions[name] = blocks[-1].next_position
            out += stream.stamped(_one(blocks), 0, last=source.ended)
        elif source.ended:
            out += stream.end(name)
        if source.ended:
            source.close()
        ingested = time.perf_counter()
        stream.add(out)
        stream.pending += sum(LETTER_EVENTS * len(block.refused) for block in blocks)
        self._counts.spent(read=read - started, ingest=ingested - read, engine=time.perf_counter() - ingested)

    def files_again(self, plan: Plan, most: int) -> None:
        """Reads as far as a planned step did."""
        for stream in self.streams.values():
            assert isinstance(stream, StreamRun)
            while (name := stream.wanted()) is not None and not self._at(plan, stream):
                self.read(stream, name, most)

    def _at(self, plan: Plan, stream: StreamRun) -> bool:
        """Whether the stream's files were read as far as a planned step read them."""
        for name in stream.sources:
            if self.positions[name] > plan.positions[name]:
                raise CheckpointError(
                    f"{name} was read up to record {plan.positions[name]} in the interrupted step, and is cut in another way "
                    "now: it was changed, or citybrain was; start over (--fresh)"
                )
        ended = stream.ended & stream.sources.keys()
        return ended == set(plan.ended) & stream.sources.keys() and all(
            self.positions[name] == plan.positions[name] for name in stream.sources
        )

    # ------------------------------------------------------------ live sources
    def poll(self, now: int, limits: Mapping[str, int] | None = None, most: int | None = None) -> int:
        """Takes in what the sources have now, or what they had when a plan was made; returns how many records that were.

        `most`: of a source with so many records or more (`READ_EVENTS`), the rest is left for the next call.
        """
        self.now.at = now
        taken = 0
        for stream in self.streams.values():
            for name, source in stream.sources.items():
                if isinstance(source, Limited):
                    source.limit = None if limits is None else limits[name]
                already, bound = taken, READ_EVENTS if most is None else most
                while taken - already < bound if limits is None else self.positions[name] < limits[name]:
                    decoded = source.read()
                    if decoded is None:
                        break
                    taken += decoded.records
                    self.positions[name] = decoded.next_position
                    stream.add(stream.stamped(decoded, now))
        self.beats.append(["poll", now, dict(self.positions)])
        return taken

    def tick(self, now: int) -> None:
        """Time goes on where nothing comes (rule 8)."""
        for stream in self.streams.values():
            stream.tick(now)
        self.beats.append(["tick", now])

    def skip(self, now: int) -> None:
        """What sources that make their records by time would have sent until then is left out."""
        self.now.at = now
        for source in self.sources.values():
            if isinstance(source, Remembering):
                source.skip(now)
        self.beats.append(["skip", now])

    def attach(self, source: Source, now: int) -> None:
        """An input joins."""
        self.streams[source.stream].attach(source, now)
        self.positions[source.input] = 0
        self.beats.append(["attach", now, source.input, source.stream])

    def opened(self, name: str, stream: str) -> Source:
        """The source of an input that joined an interrupted run."""
        if self._opener is None:
            raise CheckpointError(
                f"input {name!r} of stream {stream!r} belongs to the interrupted run and was not given; start it with the same "
                "inputs"
            )
        return self._opener(name, stream)

    def commit(self, positions: Mapping[str, int]) -> None:
        """What lies before these positions is never read again."""
        for name, source in self.sources.items():
            if isinstance(source, Limited) and name in positions:
                source.commit(positions[name])

    # ------------------------------------------------------------ the checkpoint
    def saved(self, whole: bool) -> Parts:
        """State by name: all, or what changed since the last call (None: gone)."""
        parts: Parts = {"at": [self.now.at, dict(self.positions)]}
        for name, stream in self.streams.items():
            parts |= prefixed(f"stream/{name}/", stream.saved(whole))
        for name, source in self.sources.items():
            if isinstance(source, Remembering):
                parts |= prefixed(f"source/{name}/", source.saved(whole))
        return parts

    def load(self, parts: Parts) -> None:
        """Into a fresh intake; inputs that joined later are opened again."""
        self.now.at, positions = parts["at"]
        self.positions |= positions
        for name, stream in self.streams.items():
            if mine := under(parts, f"stream/{name}/"):
                stream.load(mine, self.now.at)
            for joined in stream.joined:
                stream.know(self.opened(joined, name))
        for name, source in self.sources.items():
            if isinstance(source, Remembering):
                source.load(under(parts, f"source/{name}/"), self.positions[name], self.now.at)
            elif self.positions[name]:
                source.seek(self.positions[name])


def _weight(decoded: Decoded) -> int:
    return len(decoded.events) + LETTER_EVENTS * len(decoded.refused)


def _one(blocks: Sequence[Decoded]) -> Decoded:
    """Blocks of one input that follow each other, as one."""
    if len(blocks) == 1:
        return blocks[0]
    return Decoded(
        blocks[0].input,
        blocks[0].stream,
        pl.concat([b.events for b in blocks]),
        tuple(x for b in blocks for x in b.refused),
        blocks[-1].next_position,
        sum(b.records for b in blocks),
    )
