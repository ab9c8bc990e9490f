"""The alert book: open and recent episodes, as the API and the page show them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import polars as pl

from dashboards.tiles import iso, unpacked
from pipelines.model import EPISODES_SCHEMA

OPEN: Final = "firing"
ENDED: Final = ("resolved", "retired", "rule_changed", "retracted")
STATES: Final = (OPEN, *ENDED)
KEEP: Final = 1_000
"""Episodes in memory, unless more are open."""
LEVELS: Final = ("I", "II", "III", "IV", "no_data")
"""I red is the most severe; `no_data` is the level of an episode about missing data (rule 27)."""

Entry = dict[str, Any]


class Change(Protocol):
    """The part of `pipelines.transitions.Transition` that is shown."""

    @property
    def episode_id(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def at(self) -> int: ...
    @property
    def from_state(self) -> str: ...
    @property
    def to_state(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def rule(self) -> str: ...
    @property
    def rule_version(self) -> int: ...
    @property
    def indicator(self) -> str: ...
    @property
    def place_kind(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def value(self) -> float | None: ...
    @property
    def publish(self) -> str | None: ...


def episode_entry(row: Mapping[str, Any]) -> Entry:
    """One row of EPISODES_SCHEMA for JSON."""
    entry = {name: row[name] for name in EPISODES_SCHEMA}
    return entry | {
        "started_at": iso(row["started_at"]),
        "ended_at": iso(row["ended_at"]),
        "detail": unpacked(row["detail"] or ""),
    }


def transition_entry(row: Mapping[str, Any]) -> Entry:
    """One row of TRANSITIONS_SCHEMA for JSON."""
    return {
        "episode_id": row["episode_id"],
        "seq": row["seq"],
        "at": iso(row["at"]),
        "from_state": row["from_state"],
        "to_state": row["to_state"],
        "level": row["level"],
        "detail": unpacked(row["detail"] or ""),
    }


def message(change: Change, detail: Any) -> Entry:
    """How subscribers are to take a transition (rule 29): an `Alert`, or an `Update` or `Cancel` of what was told before.

    `id` is the same whenever it is told. `references`: the message before it of the same episode, and the episodes that
    a correction replaced by this one.
    """
    before = [f"{change.episode_id}.{change.seq - 1}"] if change.seq else []
    replaced = detail.get("replaces", []) if isinstance(detail, dict) else []
    return {
        "id": f"{change.episode_id}.{change.seq}",
        "type": str(change.publish).capitalize(),
        "references": [*before, *replaced],
    }


def _row(change: Change) -> dict[str, Any]:
    return {n: getattr(change, n) for n in ("episode_id", "seq", "at", "from_state", "to_state", "level", "detail")}


class AlertBook:
    """Episodes by id; the ones that ended first leave when there are more than `keep`. Open ones always stay."""

    def __init__(self, keep: int = KEEP) -> None:
        self._keep = keep
        self.district: Callable[[str, str], str | None] = lambda indicator, site: None
        """The district that a site of an indicator's stream lies in."""
        self._episodes: OrderedDict[str, Entry] = OrderedDict()
        self.counted: Counter[str] = Counter()
        """Transitions seen, by the state they lead to."""

    def placed(self, entry: Entry) -> Entry:
        """With the district that a site lies in."""
        site = entry["place_kind"] not in ("city", "district")
        return entry | {"district": self.district(entry["indicator"], entry["place"]) if site else None}

    def update(self, transitions: Iterable[Change], episodes: pl.DataFrame) -> tuple[list[Entry], list[Entry]]:
        """(episodes that changed, transitions that are published), as JSON carries them.

        `episodes` (EPISODES_SCHEMA) holds every open episode; ended ones may be among them. An episode that is not
        there is what its last transition says.
        """
        given = {row["episode_id"]: self.placed(episode_entry(row)) for row in episodes.iter_rows(named=True)}
        changed = {identity: entry for identity, entry in given.items() if self._episodes.get(identity) != entry}
        shown = []
        for change in transitions:
            entry = transition_entry(_row(change))
            if change.publish is not None:
                shown.append(entry | {"message": message(change, entry["detail"])})
            self.counted[change.to_state] += 1
            if change.episode_id not in given:
                known = changed.get(change.episode_id) or self._episodes.get(change.episode_id)
                changed[change.episode_id] = self.placed(_after(known, change, entry))
        for identity, entry in changed.items():
            self._episodes[identity] = entry
            self._episodes.move_to_end(identity)
        self._forget()
        return list(changed.values()), shown

    def remember(self, ended: pl.DataFrame) -> None:
        """Ended episodes (EPISODES_SCHEMA) that an earlier run stored: they leave before all that this run tells of.

        What is known stands, unless its transitions alone told it: after a restart those are told again without rows.
        """
        for row in ended.sort("revision", descending=True).iter_rows(named=True):
            known = self._episodes.get(row["episode_id"])
            if known is None or known["revision"] is None:
                self._episodes[row["episode_id"]] = self.placed(episode_entry(row))
            if known is None:
                self._episodes.move_to_end(row["episode_id"], last=False)
        self._forget()

    def _forget(self) -> None:
        excess = len(self._episodes) - self._keep
        if excess > 0:
            for identity in [i for i, e in self._episodes.items() if e["state"] != OPEN][:excess]:
                del self._episodes[identity]

    def open(self) -> list[Entry]:
        """Open episodes, the most severe first, then the newest."""
        return sorted((e for e in self.recent() if e["state"] == OPEN), key=severity)

    def recent(self) -> list[Entry]:
        """Open and ended episodes, the newest first."""
        return sorted(self._episodes.values(), key=age, reverse=True)

    def begun(self, since: int) -> list[list[str | None]]:
        """`[id, started_at, level, state]` of the episodes that began since (UTC ms), retracted ones aside."""
        first = iso(since) or ""
        return [
            [e["episode_id"], e["started_at"], e["level"], e["state"]]
            for e in self._episodes.values()
            if (e["started_at"] or "") >= first and e["state"] != "retracted"
        ]

    def find(self, episode_id: str) -> Entry | None:
        """None when it is not (or no longer) here."""
        return self._episodes.get(episode_id)


def _after(known: Entry | None, change: Change, entry: Entry) -> Entry:
    """The episode after a transition: what was known of it, or what the transition itself tells."""
    detail = entry["detail"] if isinstance(entry["detail"], dict) else {}
    if known is None:
        known = dict.fromkeys(EPISODES_SCHEMA) | {
            "episode_id": change.episode_id,
            "rule": change.rule,
            "rule_version": change.rule_version,
            "indicator": change.indicator,
            "place_kind": change.place_kind,
            "place": change.place,
            "started_at": entry["at"],
            "last_value": change.value,
            "threshold": detail.get("threshold"),
            "detail": detail,
        }
    elif (known["state"], known["level"]) == (change.to_state, change.level):
        return known  # told again after a restart
    ended = None if change.to_state == OPEN else entry["at"]
    return known | {"state": change.to_state, "level": change.level, "ended_at": ended}


def severity(entry: Entry) -> int:
    return LEVELS.index(entry["level"]) if entry["level"] in LEVELS else len(LEVELS)


def age(entry: Entry) -> tuple[str, str]:
    """Order of start, and of ids at one instant."""
    return entry["started_at"] or "", entry["episode_id"]
