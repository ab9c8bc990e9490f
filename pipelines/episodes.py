"""The episode book (rules 27 to 30): takes the readings of each step, gives the transitions and the rows of `episodes`.

Pure: readings and watermark are passed in, and the same steps give the same transitions, with a dump and a load between
any two or without. Each transition is to be stored before it is published.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any

import polars as pl

from pipelines.alerts import DAY_MS, Level, Rule, Threshold
from pipelines.judge import CELLS_SCHEMA, Judge
from pipelines.model import EPISODES_SCHEMA, TRANSITIONS_SCHEMA, Parts, prefixed, under
from pipelines.transitions import Episode, RuleEpisodes, Transition, canonical


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """A row of `episodes` (rule 31) without its revision.

    `level` is the one shown now or last, "no_data" of a no-data episode; `last_value` the newest reading up to its end;
    `threshold` the raise of its level; `detail` canonical JSON: `worst_level` reached, `no_data` true, `key` unhashed.
    """

    episode_id: str
    rule: str
    rule_version: int
    indicator: str
    place_kind: str
    place: str
    level: str
    state: str
    started_at: int
    ended_at: int | None
    last_value: float | None
    threshold: float | None
    detail: str


class EpisodeBook:
    """All rules of a city. `remember_ms`: how old, in event time, a reading may be corrected and judged again;
    the default is each rule's `correct_for` and a day. It costs a byte a place and window, and what fired."""

    def __init__(self, city: str, rules: Sequence[Rule], remember_ms: int | None = None) -> None:
        self.city, self._remember_ms = city, remember_ms
        self._rules: dict[str, RuleEpisodes] = {}
        self._outdated: list[RuleEpisodes] = []
        self._over: list[RuleEpisodes] = []
        """Outdated ones that ended since the last `saved`."""
        for rule in rules:
            if rule.name in self._rules:
                raise ValueError(
                    f"rule {rule.name!r} is given twice; the name is part of an episode's id, give each its own"
                )
            self._rules[rule.name] = self._fresh(rule)

    def _fresh(self, rule: Rule) -> RuleEpisodes:
        remember_ms = rule.correct_for_ms + DAY_MS if self._remember_ms is None else self._remember_ms
        return RuleEpisodes(self.city, rule, Judge(rule, remember_ms))

    def step(
        self,
        rule: Rule,
        ends: Sequence[int],
        cells: pl.DataFrame,
        watermark: int,
        previous_end: int | None = None,
    ) -> list[Transition]:
        """Judges one step of one rule and returns its transitions, in the order in which to store and publish them.

        `ends`: window ends (UTC ms, ascending) of the rule's indicator that became final since its last step, all of
        the grid: a place without a cell at one of them has no further cell (rule 28). Of several in a row at which no
        place has a cell the first is enough; where a late event makes cells later, their ends and the next are given
        then (`unjudged`). `cells`: `place` String, `window_end` Int64, `value` Float64 (null = no data), one row a
        place and end: all cells of `ends`, and those of older ends that are new or whose value changed; cells never
        disappear. `watermark`: the stream's, UTC ms. `previous_end`: the grid's end before
        the first new one, None at the start; it is checked.

        Raises ValueError for ends and cells that do not fit what was judged, LookupError for a rule that the book does
        not have. Either is a mistake of the caller, after which the book must not be used.
        """
        return self._of(rule).step(ends, cells, watermark, previous_end)

    def _of(self, rule: Rule) -> RuleEpisodes:
        found = self._rules.get(rule.name)
        if found is None or found.rule != rule:
            near = difflib.get_close_matches(rule.name, self._rules, 1)
            hint = f" Did you mean {near[0]!r}?" if near and found is None else ""
            raise LookupError(
                f"the episode book has no rule {rule.name!r} of version {rule.version} with this definition; it has "
                f"{', '.join(f'{x.rule.name} v{x.rule.version}' for x in self._rules.values()) or 'none'}.{hint}"
            )
        return found

    def last_end(self, rule: Rule) -> int | None:
        """The newest window end judged for a rule (UTC ms)."""
        return self._of(rule).judge.last

    def unjudged(self, rule: Rule, ends: Iterable[int]) -> list[int]:
        """Of window ends before the last one judged: those that were not given, and that a correction may reach."""
        judge = self._of(rule).judge
        return [end for end in ends if end > judge.oldest and end not in judge.judged]

    def beyond_memory(self) -> int:
        """Corrected cells that were older than what is remembered and so were not judged again, of all rules."""
        return sum(x.judge.beyond_memory for x in self._rules.values())

    def end_outdated(self) -> list[Transition]:
        """After `load`: open episodes of rules that have another version now, or are gone, end as `rule_changed`."""
        return [transition for x in self._outdated for transition in x.end()]

    def episodes(self, revision: int) -> pl.DataFrame:
        """Rows (EPISODES_SCHEMA) of the episodes that changed since the last call, each with this revision.

        To be called every few steps: an episode is not forgotten before its row was handed out.
        """
        rows = []
        for of_rule in (*self._rules.values(), *self._outdated):
            for episode in of_rule:
                if episode.dirty:
                    rows.append((*astuple(_row(of_rule, episode)), revision))
                    episode.dirty = False
        self._over += [x for x in self._outdated if not x.open]
        self._outdated = [x for x in self._outdated if x.open]
        return pl.DataFrame(rows, EPISODES_SCHEMA, orient="row")

    def open_episodes(self) -> list[EpisodeRow]:
        """What fires now, the most severe first, then the newest; no-data episodes last."""
        rows = [_row(x, episode) for x in self._rules.values() for episode in x.open.values()]
        severity = {x.name: int(x) for x in Level}
        return sorted(rows, key=lambda x: (severity.get(x.level, 9), -x.started_at, x.rule, x.place))

    def saved(self, whole: bool = True) -> Parts:
        """The state as plain data by name (JSON): all, or what changed since the last call (None: gone)."""
        parts: Parts = {"city": self.city}
        books = [*self._rules.values(), *self._outdated]
        for book in books:
            # By name and version: of a rule that changed, the old one may still have to end its episodes.
            prefix = f"{book.rule.name}@{book.rule.version}/"
            if whole or book.fresh:
                parts[f"{prefix}rule"] = _plain(book.rule)
            parts |= prefixed(prefix, book.saved(whole or book.fresh))
            book.fresh = False
        parts |= {f"{book.rule.name}@{book.rule.version}/rule": None for book in self._over}
        self._over = []
        return parts

    def load(self, saved: Parts) -> None:
        """Into a fresh book. Rules with another version, and rules that are gone, wait for `end_outdated`.

        Raises ValueError for another city's state, and for a rule that changed and kept its version.
        """
        if saved["city"] != self.city:
            raise ValueError(
                f"the episode state is of city {saved['city']!r}, this is {self.city!r}; use its own folder"
            )
        for name, plain in saved.items():
            if not name.endswith("/rule"):
                continue
            was, parts = _rule(plain), under(saved, name.removesuffix("rule"))
            now = self._rules.get(was.name)
            if now is None or now.rule.version != was.version:
                outdated = self._fresh(was)
                outdated.load(parts)
                if outdated.open:
                    self._outdated.append(outdated)
            elif now.rule != was:
                changed = [x.name for x in fields(Rule) if getattr(was, x.name) != getattr(now.rule, x.name)]
                raise ValueError(
                    f"rule {was.name!r} changed ({', '.join(changed)}) and kept version {was.version}; set its "
                    f"version to {was.version + 1}: episodes are named by it, and open ones then end as rule_changed"
                )
            else:
                now.load(parts)


def _row(of_rule: RuleEpisodes, episode: Episode) -> EpisodeRow:
    rule, threshold = of_rule.rule, of_rule.thresholds.get(episode.level)
    detail = {"no_data": True} if episode.silent else {"worst_level": episode.worst}
    return EpisodeRow(
        episode.episode_id,
        rule.name,
        rule.version,
        rule.indicator,
        rule.place_kind,
        of_rule.judge.places[episode.code],
        episode.level,
        episode.state,
        episode.started_at,
        episode.ended_at,
        episode.last_value,
        None if threshold is None else threshold.raise_,
        canonical(detail | {"key": episode.key}),
    )


def transitions_frame(transitions: Iterable[Transition]) -> pl.DataFrame:
    """The rows of the table `transitions` (TRANSITIONS_SCHEMA)."""
    rows = [tuple(getattr(x, name) for name in TRANSITIONS_SCHEMA) for x in transitions]
    return pl.DataFrame(rows, TRANSITIONS_SCHEMA, orient="row")


def _plain(rule: Rule) -> dict[str, Any]:
    levels = [[x.level.name, x.raise_, x.clear, x.for_ms] for x in rule.levels]
    return asdict(rule) | {"levels": levels}


def _rule(plain: Mapping[str, Any]) -> Rule:
    levels = tuple(Threshold(Level[name], *rest) for name, *rest in plain["levels"])
    return Rule(**{**plain, "levels": levels})


__all__ = ["CELLS_SCHEMA", "EpisodeBook", "EpisodeRow", "Transition", "transitions_frame"]
