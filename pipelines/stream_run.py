"""What one stream hands to the next step of the run: ingest and engine in this process, or what others made of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from pipelines.engines.polars_engine import PolarsEngine
from pipelines.ingest import Ingest
from pipelines.model import (
    NEVER,
    DeadLetter,
    Decoded,
    Engine,
    Parts,
    PlaceRegistry,
    Rows,
    Source,
    Stamped,
    prefixed,
    under,
)
from pipelines.rollup import Rollup
from pipelines.streams import MINUTE_MS, Stream
from pipelines.watermark import Input


@dataclass(frozen=True, slots=True)
class Attached:
    """An input of the run: the source that reads it, and how ingest knows it."""

    source: Source
    input: Input


Engines = Callable[[Stream, Sequence[Rollup], Sequence[str], PlaceRegistry], Engine]
"""Makes the engine of a stream: its rollups, its partitions, the codes of its places."""


def embedded(stream: Stream, rollups: Sequence[Rollup], parts: Sequence[str], registry: PlaceRegistry) -> Engine:
    """The one in this process."""
    return PolarsEngine(rollups, parts)


class InRun(ABC):
    """A stream as the run sees it. `pending` is the weight of what came since the last step, `watermark` up to where the
    rows of its panes were handed over or are ready to be."""

    def __init__(
        self, stream: Stream, rollups: Sequence[Rollup], registry: PlaceRegistry, sources: Iterable[Source]
    ) -> None:
        self.stream, self.rollups, self.registry = stream, tuple(rollups), registry
        self.sources = {source.input: source for source in sources}
        self.kept: list[Stamped] = []
        """Blocks of a lifecycle stream, which the brain reads itself (rule 17)."""
        self.pending = 0
        self.watermark = self.last_event = NEVER

    # ------------------------------------------------------------ what comes in
    @abstractmethod
    def stamped(self, decoded: Decoded, now: int, last: bool = False) -> list[Stamped]:
        """A block of one input's next records as what of the log is certain now; `last`: nothing of the input follows."""

    @abstractmethod
    def add(self, blocks: Iterable[Stamped]) -> None:
        """Groups, or keeps, blocks of the log."""

    @abstractmethod
    def tick(self, now: int) -> None:
        """Time goes on where nothing comes (rule 8)."""

    @property
    @abstractmethod
    def ended(self) -> set[str]:
        """The inputs that will deliver nothing more."""

    @property
    @abstractmethod
    def joined(self) -> list[str]:
        """Inputs of the checkpoint that joined later and whose sources are not known yet."""

    @abstractmethod
    def attach(self, source: Source, now: int) -> None:
        """An input joins."""

    @abstractmethod
    def know(self, source: Source) -> None:
        """The source of an input that joined, now or before the checkpoint."""

    # ------------------------------------------------------------ what goes out
    @abstractmethod
    def rows(self) -> list[Rows]:
        """What became final since the last call (`Engine.take`)."""

    @abstractmethod
    def open_panes(self) -> list[Rows]:
        """What is there of panes that are still open; nothing changes."""

    @abstractmethod
    def closed(self) -> dict[str, int]:
        """By rollup, up to where its panes were handed over."""

    @abstractmethod
    def seen(self, rollup: str | None) -> pl.Expr:
        """Whether an event, by its `part` and `off`, was handed over: as a late row of a rollup, or (None) as an event of
        a lifecycle stream."""

    @abstractmethod
    def dead_letters(self) -> list[DeadLetter]:
        """Those since the last call."""

    @property
    @abstractmethod
    def counters(self) -> dict[str, int]:
        """Those of rule 11."""

    def taken(self) -> list[Stamped]:
        kept, self.kept, self.pending = self.kept, [], 0
        return kept

    # ------------------------------------------------------------ the checkpoint
    @abstractmethod
    def saved(self, whole: bool) -> Parts:
        """State by name for a checkpoint, between two steps: all, or what changed since the last call (None: gone)."""

    @abstractmethod
    def load(self, parts: Parts, now: int) -> None:
        """Into a fresh stream; inputs that joined later are known again, their sources are to be given."""


class StreamRun(InRun):
    """Ingest and engine of one stream, and what they hand to the next step."""

    def __init__(
        self,
        stream: Stream,
        rollups: Sequence[Rollup],
        attached: Sequence[Attached],
        registry: PlaceRegistry,
        *,
        live: bool,
        start: int,
        max_places: int,
        configured: Sequence[str],
        unfed: Sequence[str] = (),
        engines: Engines = embedded,
    ) -> None:
        super().__init__(stream, rollups, registry, [a.source for a in attached])
        self.ingest = Ingest(
            stream, [a.input for a in attached], live=live, registry=registry, configured=configured,
            max_places=max_places, start=start, unfed=unfed,
        )  # fmt: skip
        self.parts = tuple(self.ingest.partitions)
        self.engine = engines(stream, rollups, self.parts, registry)
        self._wm = dict.fromkeys(self.parts, NEVER)

    def stamped(self, decoded: Decoded, now: int, last: bool = False) -> list[Stamped]:
        return self.ingest.push(decoded, now, last)

    def end(self, name: str) -> list[Stamped]:
        """A file has ended."""
        return self.ingest.end(name, 0)

    def tick(self, now: int) -> None:
        self.add(self.ingest.tick(now))

    def close_at(self, until: int) -> None:
        """Time goes on to that instant in every partition."""
        for part in self.parts:
            self.engine.add(Stamped(self.stream.name, part, None, 0, until))

    def add(self, blocks: Iterable[Stamped]) -> None:
        for block in blocks:
            self.engine.add(block)
            if block.events is not None:
                self.pending += len(block.events)
                if len(block.events):
                    self.last_event = max(self.last_event, int(block.events["t"].max()))  # type: ignore[arg-type]
                if self.stream.lifecycle:
                    self.kept.append(block)
            self._wm[block.part] = max(self._wm[block.part], block.last_wm)
        self._advance()

    def _advance(self) -> None:
        """Up to where everything is known once the engine's rows are taken; it never falls."""
        self.watermark = max(self.watermark, min(self.engine.watermark, *self._wm.values()))

    def wanted(self) -> str | None:
        """The file to read on from (rule 9)."""
        return self.ingest.wanted()

    @property
    def ended(self) -> set[str]:
        return {name for name, feed in self.ingest.feeds.items() if feed.ended}

    @property
    def joined(self) -> list[str]:
        return [name for name in self.ingest.feeds if name not in self.sources]

    def rows(self) -> list[Rows]:
        rows = self.engine.take()
        self._advance()
        return rows

    def all_rows(self) -> list[Rows]:
        """The end of a finite input: every pane."""
        return self.engine.finish()

    def open_panes(self) -> list[Rows]:
        return self.engine.open_panes()

    def dead_letters(self) -> list[DeadLetter]:
        return self.ingest.dead_letters()

    @property
    def counters(self) -> dict[str, int]:
        return self.ingest.counters

    @property
    def largest(self) -> int:
        """The largest event time."""
        return self.ingest.largest

    def closed(self) -> dict[str, int]:
        return self.engine.closed()

    def seen(self, rollup: str | None) -> pl.Expr:
        following = {partition.name: partition.next for partition in self.ingest.partitions.values()}
        return pl.col("off") < pl.col("part").replace_strict(following, default=0, return_dtype=pl.Int64)

    def attach(self, source: Source, now: int) -> None:
        """An input joins, with a partition of its own, from the stream's published watermark on (rule 7)."""
        self.ingest.attach(Input(source.input, source.input), now)
        self.know(source)

    def know(self, source: Source) -> None:
        self.sources[source.input] = source
        self._wm.setdefault(source.input, self.ingest.partitions[source.input].wm)
        self.engine.join(source.input)
        self.parts = tuple(self._wm)

    def saved(self, whole: bool) -> Parts:
        assert not self.kept and not self.pending, "events that were not taken yet would be lost"
        own = {"watermark": self.watermark, "wm": dict(self._wm), "last_event": self.last_event}
        return {"own": own, **prefixed("engine/", self.engine.saved(whole)), **self.ingest.saved(whole)}

    def load(self, parts: Parts, now: int) -> None:
        self.ingest.load(parts, now)
        self.engine.load(under(parts, "engine/"))
        own = parts["own"]
        self.watermark, self.last_event = own["watermark"], own["last_event"]
        self._wm |= own["wm"]
        self.parts = tuple(self._wm)

    def closing(self) -> int:
        """The end of the pane of the largest M (rule 9)."""
        largest = self.largest
        pane = max((r.pane_ms for r in self.rollups), default=MINUTE_MS)
        return largest // pane * pane + pane if largest > NEVER else NEVER
