"""What is stored and published of the episodes of one rule (rules 28 to 30): new trails against the stored ones.

A trail is what the newest readings say of an episode. A step whose trails only go on gives their new entries; one that
corrects judged windows gives one transition at the last judged window (choice 15), a retraction or a new episode.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, NamedTuple

import polars as pl

from pipelines.alerts import Level, Rule
from pipelines.judge import Judge, Verdict
from pipelines.model import NEVER, Parts, numbered

Publish = Literal["alert", "update", "cancel"]
ENDED: Final = ("resolved", "retired", "rule_changed")


class Entry(NamedTuple):
    """Of a trail: the window end, UTC ms, from which the episode has this state and level."""

    at: int
    state: str
    level: str


Trail = list[Entry]


@dataclass(frozen=True, slots=True)
class Transition:
    """A row of `transitions` (rule 30) and what a notification needs. `seq` counts from 0 without gap in its episode.

    `at`: UTC ms, the window end at which it happened, or the last judged one for a correction of judged windows. `key`
    is the id unhashed. `publish`: None = stored, not published (rule 29). `value`: the reading of the deciding window,
    None where it has none or it was quiet and is not remembered. `detail`, canonical JSON: `window_end` (that window),
    `value`, `threshold` (passed), `correction`, `replaces`, `replaced_by` (episode ids), `remembered_from` (a
    correction up to this window end was not judged again).
    """

    episode_id: str
    seq: int
    at: int
    from_state: str
    to_state: str
    level: str
    detail: str
    publish: Publish | None
    key: str
    rule: str
    rule_version: int
    indicator: str
    place_kind: str
    place: str
    value: float | None


@dataclass(slots=True)
class Episode:
    """What is stored of an episode; `state` '' = nothing yet, `retracted` = its readings no longer say so.

    `trail` is the one computed last, `worst` the most severe level told, `rank` the order of first storing, `dirty`
    that its row changed since it was last handed out.
    """

    episode_id: str
    key: str
    code: int
    silent: bool
    started_at: int
    rank: int
    trail: Trail = field(default_factory=list)
    seq: int = 0
    state: str = ""
    level: str = ""
    worst: str = ""
    last_value: float | None = None
    dirty: bool = False

    def saved(self) -> list[Any]:
        """Plain data for a checkpoint, in the order of the fields."""
        row = [getattr(self, x.name) for x in fields(self)]
        return [[list(entry) for entry in x] if x is self.trail else x for x in row]

    @property
    def until(self) -> float:
        """When it ended, by its trail; infinity while it is open."""
        return _until(self.trail)

    @property
    def ended_at(self) -> int | None:
        return max((x.at for x in self.trail if x.state in ENDED), default=None)


def _until(trail: Trail) -> float:
    return math.inf if trail[-1].state == "firing" else trail[-1].at


def canonical(detail: Any) -> str:
    """JSON in the one form that is compared and hashed."""
    return json.dumps(detail, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class RuleEpisodes:
    """The episodes of one rule: those that are open, recent, or can still be corrected."""

    def __init__(self, city: str, rule: Rule, judge: Judge) -> None:
        self.city, self.rule, self.judge = city, rule, judge
        self.thresholds = {x.level.name: x for x in rule.levels}
        self.places: dict[int, dict[tuple[bool, int], Episode]] = {}
        self.judged = NEVER
        """The newest window end judged while the rule had a place: what ended by then was over when it was told."""
        self.open: dict[str, Episode] = {}
        """What fires now, by id."""
        self._ranks = 0
        self.fresh = True
        """Nothing of it was saved yet."""
        self._changed: set[int] = set()
        """Codes of the places whose episodes may have changed since the last `saved`."""

    def __iter__(self) -> Iterator[Episode]:
        return (episode for mine in self.places.values() for episode in mine.values())

    def step(
        self, ends: Sequence[int], cells: pl.DataFrame, watermark: int, previous_end: int | None
    ) -> list[Transition]:
        """Judges a step's cells and settles what they change."""
        judged, oldest = self.judge.last, self.judge.oldest
        verdicts = self.judge.step(ends, cells, watermark, previous_end)
        out = self._settle(verdicts, watermark)
        self._changed.update(verdicts)
        for episode in self.open.values():
            since = episode.started_at if episode.code in verdicts or judged is None else judged + 1
            value = None if episode.silent else self.judge.judged.newest_value(episode.code, since, self._last)
            if value is not None and value != episode.last_value:
                episode.last_value, episode.dirty = value, True
                self._changed.add(episode.code)
        if self.judge.oldest > oldest:
            self._forget()
        return out

    def end(self) -> list[Transition]:
        """Ends what is open because the rule is judged no more in this version (rule 28)."""
        out = []
        for episode in sorted(self.open.values(), key=lambda x: (x.started_at, x.key)):
            entry = Entry(self._last, "rule_changed", episode.level)
            episode.trail.append(entry)
            self._changed.add(episode.code)
            out.append(self._say(episode, entry.at, entry, episode.level, "update", {}))
        return out

    def _settle(self, verdicts: Mapping[int, Verdict], watermark: int) -> list[Transition]:
        """Takes the verdicts of a step; returns the transitions in the order of start and id, retractions last."""
        out: list[Transition] = []
        computed: list[tuple[Episode, Trail]] = []
        gone: list[Episode] = []
        for code, verdict in verdicts.items():
            trails, known = self._trails(code, verdict), self.places.get(code, {})
            gone += [e for key, e in known.items() if e.state != "retracted" and key not in trails]
            for key, trail in trails.items():
                episode = known.get(key) or self._new(code, *key)
                if episode.state == "retracted" or episode.trail != trail:
                    computed.append((episode, trail))
        heirs: dict[str, str] = {}
        for episode, trail in sorted(computed, key=lambda x: (x[0].started_at, x[0].key)):
            notes = self._notes(verdicts[episode.code])
            self._settle_one(episode, trail, gone, heirs, watermark, notes, out)
        for episode in sorted(gone, key=lambda x: x.rank):
            notes = self._notes(verdicts[episode.code]) | {"correction": True}
            if heir := heirs.get(episode.episode_id):
                notes["replaced_by"] = heir
            told: Publish | None = "cancel" if not heir and self._recent(episode.trail, watermark) else None
            last = Entry(episode.trail[0].at, "retracted", episode.trail[-1].level)
            out.append(self._say(episode, self._last, last, "", told, notes))
        if self.judge.places and self.judge.last is not None:
            self.judged = max(self.judged, self.judge.last)
        return out

    @property
    def _last(self) -> int:
        return NEVER if self.judge.last is None else self.judge.last

    def _notes(self, verdict: Verdict) -> dict[str, Any]:
        return {"remembered_from": self.judge.oldest} if verdict.forgotten else {}

    def _trails(self, code: int, verdict: Verdict) -> dict[tuple[bool, int], Trail]:
        trails: dict[tuple[bool, int], Trail] = {}
        since, until = verdict.since, verdict.until
        for key, episode in self.places.get(code, {}).items():
            kept = [x for x in episode.trail if since is None or x.at <= since or (until is not None and x.at > until)]
            if kept and episode.state != "retracted":
                trails[key] = kept
        for change in verdict.changes:
            trail = trails.setdefault((change.silent, change.start), [])
            trail.append(Entry(change.at, change.state, change.level))
        for trail in trails.values():
            trail.sort()
        return trails

    def _new(self, code: int, silent: bool, started_at: int) -> Episode:
        rule, place = self.rule, self.judge.places[code]
        key = f"{self.city}/{rule.name}/v{rule.version}/{place}{'/no_data' * silent}/{started_at}"
        named = canonical([self.city, rule.name, rule.version, place, silent, started_at])
        episode_id = hashlib.blake2b(named.encode(), digest_size=16).hexdigest()
        return Episode(episode_id, key, code, silent, started_at, -1)

    def _settle_one(
        self,
        episode: Episode,
        trail: Trail,
        gone: list[Episode],
        heirs: dict[str, str],
        watermark: int,
        notes: dict[str, Any],
        out: list[Transition],
    ) -> None:
        """One episode whose trail is not the stored one."""
        told: Publish | None
        old, fresh = episode.trail, episode.state in ("", "retracted")
        levels = ["", *(x.level for x in trail)]  # the level before each entry
        episode.trail = trail
        if fresh:
            replaced = [
                e
                for e in gone
                if (e.code, e.silent) == (episode.code, episode.silent)
                and self._recent(e.trail, watermark)
                and e.started_at < _until(trail)
                and episode.started_at < e.until
            ]
            heirs |= {e.episode_id: episode.episode_id for e in replaced}
            over = _until(trail) <= self.judged  # a correction made an episode that has already ended
            first: Publish | None = "update" if replaced else None if over else "alert"
            if episode.rank < 0:
                episode.rank, self._ranks = self._ranks, self._ranks + 1
                self.places.setdefault(episode.code, {})[episode.silent, episode.started_at] = episode
            for n, entry in enumerate(trail):
                told = first if n == 0 else None if over else "update"
                more = {"replaces": [e.episode_id for e in replaced]} if replaced and n == 0 else {}
                out.append(self._say(episode, entry.at, entry, levels[n], told, notes | more))
        elif trail[: len(old)] == old:
            for n in range(len(old), len(trail)):
                out.append(self._say(episode, trail[n].at, trail[n], levels[n], "update", notes))
        else:
            told = "update" if self._recent(old, watermark) or self._recent(trail, watermark) else None
            more = notes | {"correction": True}
            out.append(self._say(episode, self._last, trail[-1], levels[-2], told, more))

    def _recent(self, trail: Trail, watermark: int) -> bool:
        """Open, or ended less than `correct_for` ago in event time (choice 16)."""
        return trail[-1].state == "firing" or watermark - trail[-1].at < self.rule.correct_for_ms

    def _say(
        self, episode: Episode, at: int, entry: Entry, before: str, publish: Publish | None, notes: dict[str, Any]
    ) -> Transition:
        value = None if episode.silent else self.judge.judged.value(episode.code, entry.at)
        detail = {"window_end": entry.at, "value": value} | notes
        if (threshold := self._passed(entry, before)) is not None:
            detail["threshold"] = threshold
        if entry.at <= self.judged:
            detail["correction"] = True
        said = Transition(
            episode.episode_id,
            episode.seq,
            at,
            episode.state,
            entry.state,
            entry.level,
            canonical(detail),
            publish,
            episode.key,
            self.rule.name,
            self.rule.version,
            self.rule.indicator,
            self.rule.place_kind,
            self.judge.places[episode.code],
            value,
        )
        episode.seq, episode.state, episode.level, episode.dirty = episode.seq + 1, entry.state, entry.level, True
        if not episode.silent and entry.state != "retracted":
            newest = self.judge.judged.newest_value(episode.code, episode.started_at, entry.at)
            episode.last_value = episode.last_value if newest is None else newest
        if entry.state == "firing":
            self.open[episode.episode_id] = episode
        else:
            self.open.pop(episode.episode_id, None)
        if not episode.silent:
            worst = {entry.level, *(x.level for x in episode.trail), *([episode.worst] if episode.worst else [])}
            episode.worst = min(worst, key=lambda x: Level[x])
        return said

    def _passed(self, entry: Entry, before: str) -> float | None:
        """The threshold that an entry passed: the clear of the level left, or the raise of the one reached."""
        if entry.state not in ("firing", "resolved") or entry.level not in self.thresholds:
            return None
        if entry.state == "resolved":
            return self.thresholds[entry.level].clear
        if before and Level[before] < Level[entry.level]:
            return self.thresholds[before].clear
        return self.thresholds[entry.level].raise_

    def _forget(self) -> None:
        """Drops what no correction can reach any more and whose row was handed out."""
        oldest = self.judge.oldest
        for code, mine in list(self.places.items()):
            for key, e in list(mine.items()):
                over = e.started_at <= oldest if e.state == "retracted" else e.until <= oldest
                if over and not e.dirty:
                    del mine[key]
                    self._changed.add(code)
            if not mine:
                del self.places[code]

    def saved(self, whole: bool) -> Parts:
        """Plain data by name for a checkpoint: all, or what changed since the last call (None: gone)."""
        parts: Parts = {"told": [self.judged, self._ranks], **self.judge.saved(whole)}
        for code in self.places if whole else self._changed:
            mine = self.places.get(code, {}).values()
            parts[f"place/{code}"] = [e.saved() for e in mine] or None
        self._changed.clear()
        return parts

    def load(self, parts: Parts) -> None:
        """Into the fresh episodes of the same rule."""
        self.judge.load(parts)
        self.judged, self._ranks = parts["told"]
        for code, rows in numbered(parts, "place/"):
            for row in rows:
                episode = Episode(*row)
                episode.trail = [Entry(*x) for x in episode.trail]
                self.places.setdefault(code, {})[episode.silent, episode.started_at] = episode
                if episode.state == "firing":
                    self.open[episode.episode_id] = episode


__all__ = ["Entry", "Episode", "Publish", "RuleEpisodes", "Transition", "canonical"]
