"""Alert rules: levels, thresholds and times, checked on construction (rule 27); judged by `pipelines.automaton`."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, get_args

NoData = Literal["hold", "raise", "clear"]
Direction = Literal["above", "below"]
DAY_MS: Final = 86_400_000


class Level(enum.IntEnum):
    """The four warning levels and their colours: I red, II orange, III yellow, IV blue. I is the most severe."""

    I = 1  # noqa: E741
    II = 2
    III = 3
    IV = 4


@dataclass(frozen=True, slots=True)
class Threshold:
    """One level of a rule: true while value >= `raise_`, clearing while value < `clear` ("below": <= and >).

    `for_ms` is how long it must be true, in event time from the first to the last window end, before it fires; 0 fires
    at the first window. Values are in the unit of the rule's indicator.
    """

    level: Level
    raise_: float
    clear: float
    for_ms: int = 0

    def __post_init__(self) -> None:
        for name, value in (("raise", self.raise_), ("clear", self.clear)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"level {self.level.name}: {name} is {value!r}; it must be a finite number")
        _duration(f"level {self.level.name}: for", self.for_ms)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule over one indicator, judged for every place of one kind on final readings (rule 27).

    `levels`: the least severe first. `keep_firing_for_ms`: how long a level must be clearing before it falls.
    `no_data`: what a window without a value does: `hold` moves the clocks on, `raise` is an episode of its own, `clear`
    counts as a value below every clear. `correct_for_ms`: how long after its end a corrected episode is still
    published, in event time (rule 29). A changed rule needs a new `version`: it is part of the id of an episode.
    """

    name: str
    version: int
    indicator: str
    place_kind: str
    levels: tuple[Threshold, ...]
    keep_firing_for_ms: int = 0
    no_data: NoData = "hold"
    direction: Direction = "above"
    correct_for_ms: int = 7 * DAY_MS

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("indicator", self.indicator), ("place_kind", self.place_kind)):
            if not isinstance(text, str) or not text or text != text.strip() or "/" in text:
                raise ValueError(f"rule {self.name!r}: {what} is {text!r}; it must be a text without / or outer blanks")
        if isinstance(self.version, bool) or not isinstance(self.version, int) or self.version < 1:
            raise ValueError(f"rule {self.name!r}: version is {self.version!r}; it must be a whole number from 1")
        _one_of(f"rule {self.name!r}: no_data", self.no_data, get_args(NoData))
        _one_of(f"rule {self.name!r}: direction", self.direction, get_args(Direction))
        _duration(f"rule {self.name!r}: keep_firing_for", self.keep_firing_for_ms)
        _duration(f"rule {self.name!r}: correct_for", self.correct_for_ms)
        self._check_levels()

    def _check_levels(self) -> None:
        if not self.levels:
            raise ValueError(f"rule {self.name!r} has no levels; give one to four of I, II, III, IV")
        side, reverse = ("above", "below") if self.direction == "above" else ("below", "above")
        for x in self.levels:
            if self.sign * x.clear > self.sign * x.raise_:
                raise ValueError(
                    f"rule {self.name!r}, level {x.level.name}: clear {x.clear:g} is {side} raise {x.raise_:g}; a rule "
                    f"of direction {self.direction!r} needs clear equal to raise or {reverse} it"
                )
        for low, high in pairwise(self.levels):
            names = f"{low.level.name} before {high.level.name}"
            if high.level >= low.level:
                raise ValueError(
                    f"rule {self.name!r}: levels list {names}; each may stand once, the least severe "
                    "first (IV, III, II, I)"
                )
            if self.sign * high.raise_ < self.sign * low.raise_:
                raise ValueError(
                    f"rule {self.name!r}: level {high.level.name} raises at {high.raise_:g}, before the milder "
                    f"{low.level.name} at {low.raise_:g}; with direction {self.direction!r} a more severe level "
                    f"needs the same raise or one further {side}"
                )
            if high.raise_ == low.raise_ and high.for_ms <= low.for_ms:
                raise ValueError(
                    f"rule {self.name!r}: level {low.level.name} never shows, {high.level.name} has the same raise "
                    f"{high.raise_:g} and fires no later; give it a longer `for` or a raise further {side}"
                )

    @property
    def sign(self) -> int:
        """1 for `above`, -1 for `below`: with values and thresholds times this, every rule is one of `above`."""
        return 1 if self.direction == "above" else -1


def _one_of(where: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{where} is {value!r}; allowed are {', '.join(allowed)}")


def _duration(where: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{where} is {value!r}; it must be a whole number of milliseconds from 0")


__all__ = ["DAY_MS", "Direction", "Level", "NoData", "Rule", "Threshold"]
