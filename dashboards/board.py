"""The board: what the run knows now, for everyone who looks. One thread updates it, any number of threads read it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

import orjson
import polars as pl

from dashboards.alerts import AlertBook, Change
from dashboards.panels import charted
from dashboards.pulse import Pulse, Stalled
from dashboards.ring import Ring
from dashboards.series import KEPT_MS, Series
from dashboards.tiles import Key, Sites, Tile, iso, newest, rows, tile
from pipelines.model import EPISODES_SCHEMA, READINGS_SCHEMA

SCREEN_KINDS: Final = ("city", "district")
"""Place kinds that are pushed to pages; what lies below is asked for explicitly."""
PROTOCOL: Final = 1
"""`v` of every payload."""


class StreamHealth(TypedDict, total=False):
    """What ingest knows of one stream: times in UTC ms (NEVER and null are shown as no time), and its counters."""

    watermark: int
    last_event_at: int | None
    received: int
    accepted: int
    duplicate: int
    rejected: int
    quarantined: int
    on_time: int
    late: int
    notes: list[str]
    """What was found of the engine jobs that group it elsewhere; absent where there is nothing to say."""


@dataclass(slots=True)
class Advance:
    """When, by the run's clock, a stream's watermark last moved."""

    watermark: int
    at: int


class Board:
    """Newest final reading of each (indicator, place_kind, place), the provisional one where newer, alerts, health.

    `epoch` names this server start in event ids. `clock` is the run's clock in ms (rule 1): ages are computed against
    it; `speed` is how fast it runs against the wall clock. Memory is bounded: one tile per cell, `AlertBook`, `Ring`.
    """

    def __init__(
        self,
        epoch: str,
        clock: Callable[[], int],
        *,
        speed: float = 1.0,
        stuck_after_ms: int = 120_000,
        ring: Ring | None = None,
    ) -> None:
        self.ring = ring or Ring(epoch)
        self.clock = clock
        self.speed = speed
        self.build = ""
        """Names the files of the page; set with `describe` by whoever serves it."""
        self.stuck_after_ms = stuck_after_ms
        self.strides: Mapping[str, int] = {}
        """By how much, in ms, a stream's watermark moves at a time: a pane where manifests tell it."""
        self.unread: dict[str, str] = {}
        """Which episodes of earlier runs, "open" or "ended", are not among `alerts` yet, and why."""
        self.pulse: Pulse | None = None
        """The run's, whose silence is told (rule 39); None: nobody watches it."""
        self._catalogue = orjson.Fragment(b"{}")
        self._lock = threading.RLock()
        self._final: dict[Key, Tile] = {}
        self._ends: dict[Key, tuple[int, int]] = {}
        self._provisional: dict[Key, Tile] = {}
        self._ahead: dict[Key, int] = {}
        self._sites = Sites()
        self._series = Series(charted())
        self._alerts = AlertBook()
        self._health: dict[str, StreamHealth] = {}
        self._advances: dict[str, Advance] = {}
        self._failures: dict[str, str] = {}
        self._held = ""
        self._cached: tuple[int, bytes] | None = None
        self._first_reading = False

    def describe(self, catalogue: Mapping[str, Any], district: Callable[[str, str], str | None] | None = None) -> None:
        """Sets what snapshots say about city, domains and indicators (`dashboards.catalogue`), and which district a site
        of an indicator lies in."""
        with self._lock:
            self._alerts.district = district or self._alerts.district
            self._catalogue = orjson.Fragment(orjson.dumps(catalogue))
            self._cached = None

    def update(
        self,
        finals: pl.DataFrame | None,
        provisional: pl.DataFrame | None,
        transitions: Iterable[Change],
        open_episodes: pl.DataFrame | None,
        health: Mapping[str, StreamHealth],
        now_ms: int,
    ) -> None:
        """Takes the outcome of one step; meant to be called about once a second.

        `finals`: newly stored readings (READINGS_SCHEMA), corrections included; None: none. `provisional`: the whole
        provisional set, which replaces the previous one; None: the previous one stands where no final reading overtook
        it. `open_episodes`: every open episode (EPISODES_SCHEMA); ended ones may be among them; None: none is open.
        ValueError when a frame lacks columns.
        """
        finals = _checked("finals", finals, READINGS_SCHEMA)
        if provisional is not None:
            provisional = _checked("provisional", provisional, READINGS_SCHEMA)
        episodes_now = _checked("open_episodes", open_episodes, EPISODES_SCHEMA)
        on_screen = pl.col("place_kind").is_in(SCREEN_KINDS)
        self._sites.add(finals.filter(~on_screen), None if provisional is None else provisional.filter(~on_screen))
        with self._lock:
            points = self._series.add(finals)
            changed = self._take_finals(newest(finals.filter(on_screen)))
            ahead, gone = self._take_provisional(None if provisional is None else newest(provisional.filter(on_screen)))
            self._take_health(health, now_ms)
            self._first_reading |= bool(self._final or self._provisional or len(finals))
            delta = {
                **self._frame(now_ms),
                "readings": changed + ahead,
                "gone": gone,
                "streams": self._streams(),
                "series": points,
            }
            self.ring.publish("delta", orjson.dumps(delta))
            episodes, shown = self._alerts.update(transitions, episodes_now)
            if episodes or shown:
                alert = {**self._frame(now_ms), "episodes": episodes, "transitions": shown}
                self.ring.publish("alert", orjson.dumps(alert))

    def draw(self, stored: pl.DataFrame) -> None:
        """Readings (READINGS_SCHEMA) of earlier runs, for lines; clients get them with their next snapshot."""
        with self._lock:
            self._series.add(_checked("stored", stored, READINGS_SCHEMA))
            self._cached = None

    def remember(self, ended: pl.DataFrame) -> None:
        """Ended episodes (EPISODES_SCHEMA) of earlier runs; clients get them with their next snapshot."""
        with self._lock:
            self._cached = None
            self._alerts.remember(ended)
            self.unread.pop("ended", None)

    def _take_finals(self, frame: pl.DataFrame) -> list[Tile]:
        changed = []
        for key, row in rows(frame):
            version = (row["window_end"], row["revision"])
            if version >= self._ends.get(key, version):
                entry = tile(row, provisional=False)
                before = self._final.get(key)
                if entry["no_data_since"] and before and before["no_data_since"]:
                    entry["no_data_since"] = min(before["no_data_since"], entry["no_data_since"])
                self._ends[key], self._final[key] = version, entry
                changed.append(entry)
        return changed

    def _take_provisional(self, frame: pl.DataFrame | None) -> tuple[list[Tile], list[Key]]:
        """Provisional tiles that are new or changed, and keys whose provisional tile no longer stands."""
        if frame is None:
            return [], self._overtaken()
        before, self._provisional, self._ahead = self._provisional, {}, {}
        changed = []
        for key, row in rows(frame):
            if key in self._ends and row["window_end"] <= self._ends[key][0]:
                continue
            self._provisional[key] = entry = tile(row, provisional=True)
            self._ahead[key] = row["window_end"]
            if before.get(key) != entry:
                changed.append(entry)
        return changed, [key for key in before if key not in self._provisional]

    def _overtaken(self) -> list[Key]:
        """Drops provisional tiles whose window is final by now."""
        gone = [k for k in self._provisional if k in self._ends and self._ahead[k] <= self._ends[k][0]]
        for key in gone:
            del self._provisional[key]
        return gone

    def _take_health(self, health: Mapping[str, StreamHealth], now_ms: int) -> None:
        for stream, values in health.items():
            self._health[stream] = values
            watermark = values.get("watermark")
            seen = self._advances.get(stream)
            if seen is None:
                self._advances[stream] = Advance(-1 if watermark is None else watermark, now_ms)
            elif watermark is not None and watermark > seen.watermark:
                seen.watermark, seen.at = watermark, now_ms

    def _frame(self, now_ms: int) -> dict[str, Any]:
        return {"v": PROTOCOL, "as_of": iso(now_ms), "sent": now_ms, "speed": self.speed}

    def _streams(self) -> dict[str, Any]:
        out = {}
        for name, health in self._health.items():
            counters = {k: v for k, v in health.items() if k not in ("watermark", "last_event_at")}
            out[name] = {
                "watermark": iso(health.get("watermark")),
                "last_event_at": iso(health.get("last_event_at")),
                **counters,
            }
        return out

    def hold(self, reason: str) -> None:
        """Not ready for that reason and for failures alone, until `release`: while the run catches up its clock goes in
        strides."""
        with self._lock:
            self._held = reason

    def release(self) -> None:
        """Ends `hold`; watermarks are watched from now on."""
        now = self.clock()
        with self._lock:
            self._held = ""
            for advance in self._advances.values():
                advance.at = now

    def fail(self, part: str, reason: str) -> None:
        """A part of the run (the store's thread, ...) has failed: `/readyz` says so from now on."""
        with self._lock:
            self._failures[part] = reason

    def recovered(self, part: str) -> None:
        with self._lock:
            self._failures.pop(part, None)

    def not_ready(self) -> list[str]:
        """Why this run should not be relied on now; empty when it may be."""
        now, stalled = self.clock(), self.stalled()
        reasons = [] if stalled is None else [stalled.text]
        with self._lock:
            reasons += [f"{part} has failed: {reason}" for part, reason in sorted(self._failures.items())]
            if self._held:
                return [*reasons, self._held]
            if not self._first_reading:
                reasons.append("there is no first reading yet")
            for stream, advance in sorted(self._advances.items()):
                stuck, allowed = now - advance.at, self.stuck_after_ms + self.strides.get(stream, 0)
                if stuck > allowed:
                    reasons.append(
                        f"the watermark of stream {stream} has not moved for {stuck // 1000} s "
                        f"(allowed: {allowed // 1000} s by the run's clock)"
                    )
        return reasons

    def snapshot(self) -> tuple[int, bytes]:
        """Number of the newest event that it includes, and all that a page needs, as JSON; encoded once a state."""
        with self._lock:
            seq = self.ring.last
            if self._cached is not None and self._cached[0] == seq:
                return self._cached
            body = {
                **self._frame(self.clock()),
                "id": self.ring.identity(seq),
                "build": self.build,
                "catalogue": self._catalogue,
                "readings": [*self._final.values(), *self._provisional.values()],
                "alerts": self._alerts.open(),
                "begun": self._alerts.begun(self.clock() - KEPT_MS),
                "streams": self._streams(),
                "series": dict(self._series.items()),
            }
        encoded = orjson.dumps(body)
        with self._lock:
            self._cached = (seq, encoded)
        return seq, encoded

    def stalled(self) -> Stalled | None:
        """What the dead man's switch says: None while the run makes progress."""
        return None if self.pulse is None else self.pulse.stalled()

    def heartbeat(self) -> bytes:
        stalled = self.stalled()
        told = None if stalled is None else {"part": stalled.part, "for_s": round(stalled.for_s), "text": stalled.text}
        ready = not self.not_ready()
        return orjson.dumps({**self._frame(self.clock()), "build": self.build, "ready": ready, "stalled": told})

    def announce(self) -> None:
        """Sends every client a heartbeat now: progress stopped, or goes on."""
        self.ring.publish("hb", self.heartbeat())

    def tiles(self) -> list[Tile]:
        """City and district tiles, final and provisional, in the order of their keys."""
        with self._lock:
            both = [*self._final.items(), *self._provisional.items()]
        return [entry for _, entry in sorted(both, key=lambda item: (item[0], item[1]["provisional"]))]

    def sites(self, wanted: Sequence[pl.Expr], after: Key | None, limit: int) -> list[Tile]:
        """Tiles of places below the districts."""
        return self._sites.find(wanted, after, limit)

    def streams(self) -> dict[str, StreamHealth]:
        with self._lock:
            return dict(self._health)

    def alerts(self, only_open: bool) -> list[dict[str, Any]]:
        with self._lock:
            return self._alerts.open() if only_open else self._alerts.recent()

    def alert(self, episode_id: str) -> dict[str, Any] | None:
        with self._lock:
            return self._alerts.find(episode_id)

    def placed(self, entry: dict[str, Any]) -> dict[str, Any]:
        return self._alerts.placed(entry)

    def transitions_counted(self) -> dict[str, int]:
        with self._lock:
            return dict(self._alerts.counted)


def _checked(name: str, frame: pl.DataFrame | None, schema: Mapping[str, Any]) -> pl.DataFrame:
    if frame is None:
        return pl.DataFrame(schema=schema)
    missing = [column for column in schema if column not in frame.columns]
    if missing:
        raise ValueError(f"{name} lack the columns {', '.join(missing)}; needed are {', '.join(schema)}")
    return frame.select(list(schema))
