"""What a run did so far: the counters of rule 11, and what it wrote."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import Any, Final

from pipelines.ingest import COUNTERS
from pipelines.model import DeadLetter

STAGES: Final = ("read", "ingest", "engine", "brain", "store")


@dataclass(slots=True)
class Counts:
    """`seconds` is the time of the calling thread by stage, of this process alone; all else outlives a restart."""

    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    readings: int = 0
    transitions: int = 0
    rows: int = 0
    steps: int = 0
    """The number of the last step, and of its last part where a step is written in several."""
    dead_letters: int = 0
    first_letter: DeadLetter | None = None
    late_unapplied: int = 0
    """Late events whose windows lost their rows to `fine_for` (rule 26): accepted, in no reading."""
    cut_short: list[DeadLetter] = field(default_factory=list)
    """Where inputs broke off."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def spent(self, **seconds: float) -> None:
        for stage, spent in seconds.items():
            self.seconds[stage] += spent

    def saved(self) -> list[Any]:
        """Plain data for a checkpoint."""
        first = None if self.first_letter is None else list(astuple(self.first_letter))
        cut = [list(astuple(letter)) for letter in self.cut_short]
        written = [self.readings, self.transitions, self.rows, self.steps, self.dead_letters]
        written.append(self.late_unapplied)
        return [dict(self.counters), written, first, cut]

    def load(self, saved: list[Any]) -> None:
        counters, written, first, cut = saved
        self.counters |= counters
        self.readings, self.transitions, self.rows, self.steps, self.dead_letters, self.late_unapplied = written
        self.first_letter = None if first is None else DeadLetter(*first)
        self.cut_short = [DeadLetter(*letter) for letter in cut]
