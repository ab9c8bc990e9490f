"""The simulated city as sources: what every stream sends, in the order of arrival, up to the run's clock.

Replayable: the position is the number of the event since `start`, and the same city, seed and start give the same
events. Arrival times are recorded as a broker would record them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from connectors.formats import Block
from connectors.formats.ndjson import Ndjson
from connectors.simulator import GENERATORS, Faults, Simulation
from pipelines.city import City
from pipelines.model import Decoded, Parts, numbered
from pipelines.streams import MINUTE_MS, Stream

SENT = {"line": pl.String, "arrival": pl.Int64}
SHORT_MS = 30 * MINUTE_MS
"""Longer than any event is on its way that is not one of a case."""


class SimulatorSource:
    """One simulated stream (see `pipelines.model.Source`). `clock` gives the run's now in ms; what arrives later is not
    delivered yet. With `until` the source is finite and ends with the last arrival before it."""

    def __init__(
        self,
        city: City,
        stream: Stream,
        start: int,
        clock: Callable[[], int],
        *,
        until: int | None = None,
        seed: int = 1,
        faults: Faults | None = None,
    ) -> None:
        self.input, self.stream = f"simulator:{stream.name}", stream.name
        self.finite, self._declared = until is not None, stream
        self.start, self.until, self.clock = start, until, clock
        self._simulation = Simulation(city, stream.name, seed, faults)
        self._format = Ndjson(stream)
        self.seek(0)

    def seek(self, position: int) -> None:
        """The next `read` starts with that event; the events before it are made again, and passed over."""
        self._minute = self.start // MINUTE_MS
        self._waiting = pl.DataFrame(schema=SENT)
        self._sent, self._skip = 0, position
        self._made: list[pl.DataFrame] = []
        self._saves = 0

    def saved(self, whole: bool) -> Parts:
        """What `load` needs beside the position: of a stream of cases, the events that are on their way for days."""
        if not self._declared.lifecycle:
            return {}
        frames = [self._waiting] if whole else self._made
        self._made, self._saves = [], self._saves + 1
        parts: Parts = {"made": self._minute}
        return parts | ({f"waiting/{self._saves}": pl.concat(frames)} if any(map(len, frames)) else {})

    def load(self, parts: Parts, position: int, at: int) -> None:
        """Goes on after that many events, all that arrived before `at`."""
        self.seek(0)
        first, following = self.start // MINUTE_MS, max(self.start, at) // MINUTE_MS + 1
        if self._declared.lifecycle:
            kept = numbered(parts, "waiting/")
            made, self._saves = [frame for _, frame in kept], kept[-1][0] if kept else 0
            following = parts["made"]  # not by the clock: a step that is done again stops at its last record
        else:
            first = max(first, (at - SHORT_MS) // MINUTE_MS)
            made = [self._simulation.sent(minute) for minute in range(first, following)]
        waiting = pl.concat([self._waiting, *made]).filter(pl.col("arrival") >= at)
        self._waiting = waiting.sort("arrival", maintain_order=True)
        self._minute, self._sent = following, position

    @property
    def ended(self) -> bool:
        return self.until is not None and self._minute * MINUTE_MS >= self.until and not self._due(self.until)

    def read(self) -> Decoded | None:
        """The events that have arrived since the last call, at most those of a minute; None when there are none."""
        now = self.clock() if self.until is None else min(self.clock(), self.until)
        while True:
            horizon = min(now, self._minute * MINUTE_MS)
            if count := self._due(horizon):
                sent, self._waiting = self._waiting[:count], self._waiting[count:]
                first, self._sent = self._sent + 1, self._sent + count
                if self._sent <= self._skip:
                    continue
                if first <= self._skip:
                    sent, first = sent[self._skip + 1 - first :], self._skip + 1
                return self._decode(first, sent)
            if self._minute * MINUTE_MS > now:
                return None
            self._make()

    def skip(self, now: int) -> None:
        """Events that would have arrived before that instant are never sent; cases that began before it stay unknown."""
        self._minute = max(self._minute, (now - SHORT_MS) // MINUTE_MS)
        while self._minute * MINUTE_MS <= now:
            self._make()
        self._waiting = self._waiting.filter(pl.col("arrival") >= now)

    def _make(self) -> None:
        """The next minute's events."""
        made = self._simulation.sent(self._minute)
        if self._saves and self._declared.lifecycle:
            self._made.append(made)
        self._waiting = pl.concat([self._waiting, made]).sort("arrival", maintain_order=True)
        self._minute += 1

    def _due(self, horizon: int) -> int:
        """How many waiting events arrive before an instant up to which all events were made."""
        return int(self._waiting["arrival"].search_sorted(horizon))

    def _decode(self, first: int, sent: pl.DataFrame) -> Decoded:
        payload = ("\n".join(sent["line"].to_list()) + "\n").encode()
        decoded = self._format.decode(Block(first, payload), self.input)
        arrival = sent["arrival"].gather(decoded.events["record"] - first)
        return Decoded(
            decoded.input, decoded.stream, decoded.events.with_columns(arrival.alias("arrival")), decoded.refused,
            first - 1 + len(sent), decoded.records,
        )  # fmt: skip

    def close(self) -> None:
        """Nothing is held."""


def sources(
    city: City,
    streams: dict[str, Stream],
    start: int,
    clock: Callable[[], int],
    until: int | None = None,
    seed: int = 1,
    faults: Faults | None = None,
) -> Iterator[SimulatorSource]:
    """A source for every stream that the simulated city sends."""
    for name in GENERATORS:
        yield SimulatorSource(city, streams[name], start, clock, until=until, seed=seed, faults=faults)


def write_files(
    city: City, streams: dict[str, Stream], start: int, until: int, folder: Path, seed: int = 1
) -> dict[str, int]:
    """A recorded run: `<stream>.ndjson` as sent, `truth/<stream>.ndjson` as it happened, `scenario.json` with the faults.

    The files appear when all are written. Returns the number of lines by stream."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".simulated-", dir=folder) as partial:
        lines = _write(city, streams, start, until, Path(partial), seed)
        (folder / "truth").mkdir(exist_ok=True)
        for path in sorted(Path(partial).rglob("*.*json")):
            path.replace(folder / path.relative_to(partial))
    return lines


def _write(city: City, streams: dict[str, Stream], start: int, until: int, folder: Path, seed: int) -> dict[str, int]:
    (folder / "truth").mkdir()
    lines = {}
    for name in GENERATORS:
        simulation = Simulation(city, name, seed)
        minutes = range(start // MINUTE_MS, -(-until // MINUTE_MS))
        sent = pl.concat([simulation.sent(m) for m in minutes]).filter(pl.col("arrival") < until)
        sent = sent.sort("arrival", maintain_order=True)
        (folder / f"{name}.ndjson").write_text("".join(f"{line}\n" for line in sent["line"]), encoding="utf-8")
        truth = [simulation.truth(m) for m in minutes]
        happened = [t for t in truth if len(t)]
        whole = pl.concat(happened, how="diagonal_relaxed") if happened else pl.DataFrame()
        whole.write_ndjson(folder / "truth" / f"{name}.ndjson")
        lines[name] = len(sent)
    scenario = Simulation(city, "link", seed).scenario
    minutes = range(start // MINUTE_MS, until // MINUTE_MS)
    faults = {
        "accident": [[m, *scenario.accident(m)] for m in minutes if scenario.accident(m)[1] < 1],
        "rain_um": [[m, scenario.rain_um(m)] for m in minutes if scenario.rain_um(m)],
        "dead_gauge": [m for m in minutes if scenario.dead_gauge(m)],
        "outage": [m for m in minutes if scenario.outage(m)],
    }
    (folder / "truth" / "scenario.json").write_text(json.dumps(faults))
    return lines
