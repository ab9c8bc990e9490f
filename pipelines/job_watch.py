"""What the brain knows of the engine jobs of one stream: who announced what, whose rows it can use, and whether one begins
behind where the one before had delivered (rules 16 and 19).

How far a log was delivered is told by time: now and then the ends of its partitions are noted, with the largest event time
that ingest had told of by then. Once the panes up to that time are complete, everything before those ends is delivered,
whichever engine grouped it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from pipelines.announcement import Announcement, definition
from pipelines.model import NEVER
from pipelines.rollup import Rollup

KEPT: Final = 50
"""Announcements, findings and earlier definitions that are kept; the oldest go first."""
MARKS: Final = 1_000
"""Notes of how far a log had got; of more every other one goes."""
Kind = Literal["gap", "definition", "unannounced"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a job that an operator has to know."""

    at: int
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Ends of the partitions of a log, and an event time that nothing before them exceeds."""

    ends: Mapping[str, int]
    largest: int


class JobWatch:
    """`topics` are the identities of the topics that the stream is read from; whoever opens them sets it."""

    def __init__(self, stream: str, rollups: Sequence[Rollup]) -> None:
        self.stream, self.definitions = stream, {rollup.name: definition(rollup) for rollup in rollups}
        self.topics: dict[str, str] = {}
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter(dict.fromkeys(get_args(Kind), 0))
        """Findings by their kind."""
        self._unsaid: list[Finding] = []
        self._announced: dict[str, Announcement] = {}
        self._begun: list[str] = []
        """Jobs whose rows came."""
        self._unusable: dict[tuple[str, str], str] = {}
        """Why the rows of a job and rollup are set aside."""
        self._older: dict[str, list[dict[str, str]]] = {}
        """Definitions that this brain had before, by rollup."""
        self._marks: list[Mark] = []

    # ------------------------------------------------------------ definitions
    def announced(self, told: Announcement, at: int) -> None:
        """Takes an announcement; what of it differs from the catalogue is found at once."""
        if told.job in self._announced:
            return
        self._announced[told.job] = told
        while len(self._announced) > KEPT:
            self._announced.pop(next(iter(self._announced)))
        for name, ours in self.definitions.items():
            theirs = told.rollups.get(name)
            if theirs is None:
                self._find("definition", f"job {told.job} does not group rollup {name!r}: its readings stand still", at)
            elif other := [m for m, one in ours.items() if m in theirs and theirs[m] != one]:
                what = f"measures {', '.join(other)}" if other[0] else "its frame"
                text = f"rows of job {told.job}, whose rollup {name!r} has {self._age(name, theirs)}: {what}"
                self._unusable[told.job, name] = text
                self._find("definition", f"{text}; they are set aside", at)
            elif missing := sorted(ours.keys() - theirs.keys()):
                text = f"job {told.job} does not collect {', '.join(missing)} of rollup {name!r}"
                self._find("definition", f"{text}: readings that need them have no data", at)
        for name in sorted(told.rollups.keys() - self.definitions.keys()):
            self._find(
                "definition",
                f"job {told.job} groups rollup {name!r}, which this catalogue does not have; set aside",
                at,
            )

    def _age(self, rollup: str, theirs: Mapping[str, str]) -> str:
        return "an older definition" if self.older(rollup, theirs) else "a definition that was never this brain's"

    def older(self, rollup: str, theirs: Mapping[str, str]) -> bool:
        """Whether this brain had that definition, as far as it is told, before."""
        return any(theirs.items() <= was.items() for was in self._older.get(rollup, ()))

    def knows(self, job: str) -> bool:
        """Whether it announced itself, or was waited for in vain."""
        return job in self._announced or job in self._begun

    def has_begun(self, job: str) -> bool:
        return job in self._begun

    def unusable(self, job: str, rollup: str) -> str | None:
        """Why rows of that job are set aside; None: they are not."""
        return self._unusable.get((job, rollup))

    # ------------------------------------------------------------ positions
    def marked(self, ends: Mapping[str, int], largest: int, closed: int) -> None:
        """Before these ends no event is later than `largest`; the panes up to `closed` are delivered."""
        if self._marks and self._marks[-1].ends == ends:
            return
        self._marks.append(Mark(dict(ends), largest))
        done = [mark for mark in self._marks if mark.largest < closed]
        self._marks = done[-1:] + self._marks[len(done) :]
        if len(self._marks) > MARKS:
            self._marks = self._marks[::2]

    def begins(self, job: str, closed: int, at: int) -> None:
        """The first row of a job, when the panes up to `closed` were complete without it."""
        if job in self._begun:
            return
        self._begun = [*self._begun[-KEPT:], job]
        told = self._announced.get(job)
        if told is None:
            text = f"job {job} has not announced itself: where it started, and by which definitions, is not known"
            self._find("unannounced", f"{text}; start it with `citybrain run` or `submit` of this version", at)
        elif told.first is not None and closed > NEVER:
            for part, first in sorted(told.first.items()):
                if (delivered := self._delivered(part, first, told.kept.get(part, 0), closed)) < first:
                    text = f"job {job} starts at record {first:,} of {part}, and up to {delivered:,} is delivered"
                    self._find("gap", f"{text}: what lies between may be in no reading", at)

    def _delivered(self, part: str, first: int, kept: int, closed: int) -> int:
        """Up to where a partition is delivered. What the job remembers counts where no mark tells otherwise: it is exact, and
        marks are seconds apart."""
        sure = max((mark.ends.get(part, 0) for mark in self._marks if mark.largest < closed), default=0)
        open_ = [mark.ends[part] for mark in self._marks if mark.largest >= closed and part in mark.ends]
        return max(sure, min([kept, *open_]))

    def _find(self, kind: Kind, text: str, at: int) -> None:
        self.findings = [*self.findings[-KEPT:], found := Finding(at, kind, text)]
        self._unsaid = [*self._unsaid[-KEPT:], found]
        self.counts[kind] += 1

    def unsaid(self) -> list[Finding]:
        """What was found since the last call, or since the start."""
        found, self._unsaid = self._unsaid, []
        return found

    # ------------------------------------------------------------ the checkpoint
    def saved(self) -> dict[str, Any]:
        return {
            "topics": self.topics, "definitions": self.definitions, "older": self._older, "begun": self._begun,
            "announced": [asdict(told) for told in self._announced.values()],
            "unusable": [[*key, text] for key, text in self._unusable.items()],
            "marks": [asdict(mark) for mark in self._marks],
            "findings": [asdict(finding) for finding in self.findings], "counts": dict(self.counts),
        }  # fmt: skip

    def load(self, saved: Mapping[str, Any]) -> None:
        """What was usable for the catalogue of then may not be for that of now, and the other way round."""
        self.topics |= saved["topics"]
        self._older = {name: [dict(was) for was in older] for name, older in saved["older"].items()}
        for name, was in saved["definitions"].items():
            if name in self.definitions and was != self.definitions[name]:
                self._older[name] = [*self._older.get(name, ())[-KEPT:], dict(was)]
        self._begun = [*saved["begun"]]
        same = saved["definitions"] == self.definitions
        for told in (Announcement.read(x) for x in saved["announced"]):
            if same:
                self._announced[told.job] = told
            else:
                self.announced(told, told.at)
        if same:
            self._unusable = {(job, rollup): text for job, rollup, text in saved["unusable"]}
        self._marks = [Mark(dict(mark["ends"]), mark["largest"]) for mark in saved["marks"]]
        self.findings = [*(Finding(**x) for x in saved["findings"]), *self.findings]
        self.counts.update(saved["counts"])
