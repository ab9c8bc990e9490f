"""Windows, by their ends: multiples of a step since 1970, or local midnights."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo


@dataclass(frozen=True)
class Steps:
    size: int
    step: int

    @property
    def follows(self) -> bool:
        """Whether windows follow each other without overlap."""
        return self.size == self.step

    def ends(self, after: int, until: int) -> range:
        """Ends in (after, until]."""
        return range((after // self.step + 1) * self.step, until + 1, self.step)

    def begin(self, end: int) -> int:
        return end - self.size

    def holding(self, t: int) -> int:
        """The end of the first window that holds an instant."""
        return (t // self.step + 1) * self.step


@dataclass(frozen=True)
class LocalDays:
    zone: str
    follows: bool = True

    def ends(self, after: int, until: int) -> list[int]:
        found = []
        end = self.holding(after)
        while end <= until:
            found.append(end)
            end = self.holding(end)
        return found

    def begin(self, end: int) -> int:
        return _midnight(self.zone, _date(self.zone, end - 1).toordinal())

    def holding(self, t: int) -> int:
        return _midnight(self.zone, _date(self.zone, t).toordinal() + 1)


Windows = Steps | LocalDays


def _date(zone: str, t: int) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=t)).astimezone(ZoneInfo(zone))


def same_date(zone: str, a: int, b: int) -> bool:
    return _date(zone, a).date() == _date(zone, b).date()


@cache
def _midnight(zone: str, ordinal: int) -> int:
    local = datetime.fromordinal(ordinal).replace(tzinfo=ZoneInfo(zone))
    return round(local.astimezone(UTC).timestamp()) * 1000


MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
