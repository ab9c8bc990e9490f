"""Runs that are cut off at any write and go on from their checkpoint, against undisturbed ones (rules 32 to 37).

In one process, over a store in memory: so each example costs a second and any write can be the last one.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.brain import Step
from pipelines.delivery import Durable, Now, Run
from pipelines.episodes import Transition
from pipelines.journal import Journal, recover
from sinks.difference import Mismatch
from sinks.memory import MemorySink
from tests.conformance.small_city import END, START, log
from tests.conformance.small_runs import Arrivals, How, arrivals, city_run, differences, sink
from tests.fakes.listed import Crash, DirectStore

SETTINGS = settings(deadline=None, max_examples=6, suppress_health_check=list(HealthCheck))
SEEDS = st.integers(0, 5)
SHARES = st.lists(st.floats(0, 0.999), min_size=1, max_size=3)
TICK_MS = 30_000
Found = tuple[MemorySink, list[Transition], int]


@pytest.fixture(scope="module")
def counted() -> Iterator[Counter[str]]:
    total: Counter[str] = Counter()
    yield total
    print(f"\nrestarts: {dict(total)} compared")


class Begun:
    """One run after the other over one store and one folder; `life` is what a process would do."""

    def __init__(self, arrived: Arrivals, how: How, folder: Path, live: bool) -> None:
        self.arrived, self.how, self.folder, self.live = arrived, how, folder, live
        self.kept = sink()
        self.told: list[Transition] = []
        self.epoch = self.again = 0

    def life(self, writes: int | None = None) -> int:
        """Runs until the end, or until so many writes were done; returns how many it did."""
        self.epoch += 1
        store, journal = DirectStore(self.kept, writes), Journal(self.folder, fsync=False)
        found = recover(self.folder)
        durable, now = Durable(journal, found), Now(START)
        run = city_run(self.arrived, self.how, store, self.epoch, now if self.live else None, durable, self.publish)
        self.again += len(found.plans) if found else 0
        if self.live:
            self.go(run, now)
        else:
            run.replay()
        journal.close()
        return store.written

    def go(self, run: Run, now: Now) -> None:
        run.resume()
        while now.at < END:
            at = now.at + TICK_MS
            run.poll(at)
            run.tick(at)
            # Steps of one to eight beats: what is told at a step must not be told otherwise at the next attempt.
            if random.Random(at).random() < 0.3 or at >= END:
                run.step(at)

    def publish(self, step: Step) -> None:
        self.told += step.transitions


def calm_and_broken(arrived: Arrivals, how: How, live: bool, shares: list[float]) -> tuple[Begun, Begun]:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        calm, broken = Begun(arrived, how, Path(one), live), Begun(arrived, how, Path(two), live)
        written = calm.life()
        for share in shares:
            try:
                broken.life(int(share * written))
            except Crash:
                continue
        broken.life()
    return calm, broken


def compared(calm: Begun, broken: Begun) -> tuple[list[Any], Counter[str]]:
    """Stores, and what was published: at least once each, in order, nothing else."""
    wrong, counts = differences(calm.kept, broken.kept, exact=True)
    once = list(dict.fromkeys((t.episode_id, t.seq, t.to_state, t.detail) for t in broken.told))
    if once != [(t.episode_id, t.seq, t.to_state, t.detail) for t in calm.told]:
        wrong.append(Mismatch("published", (), "transitions", len(calm.told), len(once)))
    counts["published"], counts["done again"] = len(once), broken.again
    return wrong, counts


def same(counted: Counter[str], calm: Begun, broken: Begun) -> None:
    wrong, counts = compared(calm, broken)
    assert not wrong, (len(wrong), [str(x) for x in wrong[:5]])
    assert counts["readings"] > 3000 and counts["episodes"] > 5, counts
    counted.update(counts)
    counted["restarts"] += broken.epoch - 1


@SETTINGS
@given(SEEDS, st.sampled_from([100, 300]), st.sampled_from([1, 3]), SHARES)
@example(6, 150, 1, [0.9])
def test_files(counted: Counter[str], seed: int, commit_events: int, inputs: int, shares: list[float]) -> None:
    spread = dict.fromkeys(("link", "air", "http", "case"), inputs)
    calm, broken = calm_and_broken(arrivals(log(seed), seed, spread), How(commit_events, 50), False, shares)
    same(counted, calm, broken)


@SETTINGS
@given(SEEDS, st.sampled_from([1, 2]), SHARES)
def test_live(counted: Counter[str], seed: int, inputs: int, shares: list[float]) -> None:
    spread = dict.fromkeys(("link", "air", "http", "case"), inputs)
    calm, broken = calm_and_broken(arrivals(log(seed), seed, spread), How(block=50), True, shares)
    same(counted, calm, broken)
