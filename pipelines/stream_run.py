"""Ingest and engine of one stream, and what they hand to the next step of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipelines.engines.polars_engine import PolarsEngine
from pipelines.ingest import Ingest
from pipelines.model import NEVER, Engine, Parts, PlaceRegistry, Source, Stamped, prefixed, under
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


class StreamRun:
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
        engines: Engines = embedded,
    ) -> None:
        self.stream, self.rollups, self.registry = stream, rollups, registry
        self.sources = {a.input.name: a.source for a in attached}
        self.ingest = Ingest(
            stream, [a.input for a in attached], live=live, registry=registry, configured=configured,
            max_places=max_places, start=start,
        )  # fmt: skip
        self.parts = tuple(dict.fromkeys(a.input.part for a in attached))
        self.engine = engines(stream, rollups, self.parts, registry)
        self.kept: list[Stamped] = []
        """Blocks of a lifecycle stream, which the brain reads itself (rule 17)."""
        self.pending = 0
        self._watermark = NEVER
        self._wm = dict.fromkeys(self.parts, NEVER)
        self.last_event = NEVER

    @property
    def watermark(self) -> int:
        """Up to where everything is known once the engine's rows are taken; it never falls."""
        self._watermark = max(self._watermark, min(self.engine.watermark, *self._wm.values()))
        return self._watermark

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

    def attach(self, source: Source, now: int) -> None:
        """An input joins, with a partition of its own, from the stream's published watermark on (rule 7)."""
        self.ingest.attach(Input(source.input, source.input), now)
        self.know(source)

    def know(self, source: Source) -> None:
        """The source of an input that joined, now or before the checkpoint."""
        self.sources[source.input] = source
        self._wm.setdefault(source.input, self.ingest.partitions[source.input].wm)
        self.engine.join(source.input)
        self.parts = tuple(self._wm)

    def taken(self) -> list[Stamped]:
        kept, self.kept, self.pending = self.kept, [], 0
        return kept

    def saved(self, whole: bool) -> Parts:
        """State by name for a checkpoint, between two steps."""
        assert not self.kept and not self.pending, "events that were not taken yet would be lost"
        own = {"watermark": self.watermark, "wm": dict(self._wm), "last_event": self.last_event}
        return {"own": own, **prefixed("engine/", self.engine.saved(whole)), **self.ingest.saved(whole)}

    def load(self, parts: Parts, now: int) -> None:
        """Into a fresh stream; inputs that joined later are known again, their sources are to be given."""
        self.ingest.load(parts, now)
        self.engine.load(under(parts, "engine/"))
        own = parts["own"]
        self._watermark, self.last_event = own["watermark"], own["last_event"]
        self._wm |= own["wm"]
        self.parts = tuple(self._wm)

    def closing(self) -> int:
        """The end of the pane of the largest M (rule 9)."""
        largest = self.ingest.largest
        pane = max((r.pane_ms for r in self.rollups), default=MINUTE_MS)
        return largest // pane * pane + pane if largest > NEVER else NEVER
