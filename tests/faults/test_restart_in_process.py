"""Runs that are cut off at any write and go on from their checkpoint, against undisturbed ones (rules 32 to 37).

In one process, over a store in memory: so each example costs a second and any write can be the last one.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines import delivery
from pipelines.brain import Step
from pipelines.checkpoint_record import decoded
from pipelines.delivery import Batch, Durable, Now, Plan, Run
from pipelines.episodes import Transition
from pipelines.input_clock import InputClock
from pipelines.journal import Journal, Recovered, recover
from pipelines.model import Rows, Stamped
from sinks.difference import Mismatch
from sinks.memory import MemorySink
from tests.conformance.small_city import END, START, log
from tests.conformance.small_runs import Arrivals, How, arrivals, city_run, differences, sink
from tests.fakes.listed import Crash, DirectStore

SETTINGS = settings(deadline=None, max_examples=4, suppress_health_check=list(HealthCheck))
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
    """One run after the other over one store and one folder; `life` is what a process would do.

    `restless`: each run beats and steps at other times than the one before. `store` and `found` are for what is broken
    on purpose."""

    store: Callable[[MemorySink, int | None], DirectStore] = DirectStore
    found: Callable[[Path], Recovered | None] = staticmethod(recover)

    def __init__(self, arrived: Arrivals, how: How, folder: Path, live: bool, restless: bool = False) -> None:
        self.arrived, self.how, self.folder, self.live, self.restless = arrived, how, folder, live, restless
        self.kept = sink()
        self.told: list[Transition] = []
        self.epoch = self.again = 0

    def life(self, writes: int | None = None) -> int:
        """Runs until the end, or until so many writes were done; returns how many it did."""
        self.epoch += 1
        store, journal = self.store(self.kept, writes), Journal(self.folder, fsync=False)
        found = self.found(self.folder)
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
        seed = self.epoch if self.restless else 0
        while now.at < END:
            at = now.at + TICK_MS + 7_000 * seed
            run.poll(at)
            run.tick(at)
            # Steps of one to eight beats: what is told at a step must not be told otherwise at the next attempt.
            if random.Random(at + seed).random() < 0.3 or at >= END:
                run.step(at)

    def publish(self, step: Step) -> None:
        self.told += step.transitions


def calm_and_broken(
    arrived: Arrivals, how: How, live: bool, shares: list[float], kind: type[Begun] = Begun
) -> tuple[Begun, Begun]:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        calm, broken = Begun(arrived, how, Path(one), live), kind(arrived, how, Path(two), live)
        broken_at(broken, calm.life(), shares)
    return calm, broken


def broken_at(broken: Begun, written: int, shares: list[float]) -> None:
    """Lives that end after these shares of so many writes, and one that ends well."""
    for share in shares:
        try:
            broken.life(int(share * written))
        except Crash:
            continue
    broken.life()


def unaccounted(broken: Begun) -> int:
    """Transitions that are stored and were not published so, or were published with one number and two contents."""
    told: dict[tuple[str, int], set[tuple[str, str]]] = {}
    for t in broken.told:
        told.setdefault((t.episode_id, t.seq), set()).add((t.to_state, t.detail))
    stored = broken.kept.transitions().select("episode_id", "seq", "to_state", "detail").rows()
    return sum(told.get((x[0], x[1])) != {(x[2], x[3])} for x in stored)


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


class Telling(DirectStore):
    """Crashes when it has written transitions for the second time: told to the store, not yet to the checkpoint."""

    def submit(self, batch: Batch) -> None:
        super().submit(batch)
        self.writes = (self.writes or 0) - any(table == "transitions" for table, _ in batch)
        if self.writes == -2:
            raise Crash("after transitions")

    def _count(self) -> None:
        self.written += 1


def restless(seed: int, kind: type[Begun]) -> Begun:
    with tempfile.TemporaryDirectory() as folder:
        broken = kind(arrivals(log(seed), seed), How(block=50), Path(folder), True, restless=True)
        broken.store = Telling
        for _ in range(20):
            with contextlib.suppress(Crash):
                broken.life()
        broken.store = DirectStore
        broken.life()
    return broken


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


@pytest.mark.parametrize("seed", [1, 2])
def test_long_steps_are_kept_between_strides(counted: Counter[str], seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step holds the whole log; what was judged of it is not judged again."""

    def short_strides(
        self: Run, plan: Plan, rows: list[Rows], events: list[Stamped], marks: dict[str, int]
    ) -> Iterator[Step]:
        yield from self.brain.strides(rows, events, marks, self._revision, cells=300)
        if plan.kind == "close" and plan.until is None:
            yield self.brain.close(self._revision())

    monkeypatch.setattr(Run, "_steps", short_strides)
    monkeypatch.setattr(delivery, "LONG_STEP_S", 0.0)
    with tempfile.TemporaryDirectory() as folder:
        calm = Begun(arrivals(log(seed), seed), How(10_000), Path(folder) / "calm", False)
        calm.folder.mkdir()
        written = calm.life()
        assert written > 60, "there must be many strides to stop between"
        broken = Begun(calm.arrived, calm.how, Path(folder) / "broken", False)
        broken.folder.mkdir()
        broken_at(broken, written, [0.3, 0.2, 0.4, 0.1, 0.3])
    same(counted, calm, broken)


def test_plans_that_wait_outlive_new_generations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps are to be done again, each of which begins a new generation: what is left of them is still planned."""
    begun = Begun(arrivals(log(1), 1), How(block=50), tmp_path, True)
    with pytest.raises(Crash):
        begun.life(150)
    path = tmp_path / "checkpoint-1"
    data = path.read_bytes()
    base = decoded(data, data.index(b"\n") + 1)
    assert base is not None
    path.write_bytes(data[: base[1]])
    first = recover(tmp_path)
    assert first is not None and len(first.plans) > 10
    monkeypatch.setattr(Journal, "long", True)
    for _ in range(3):
        with pytest.raises(Crash):
            begun.life(25)
        left = recover(tmp_path)
        assert left is not None and left.plans == first.plans[-len(left.plans) :] and len(left.plans) < len(first.plans)
    print(f"\n{len(first.plans)} steps to be done again, {len(left.plans)} after three more crashes")


def test_a_rollup_that_groups_in_another_way_expects_no_rows(tmp_path: Path) -> None:
    """The store sets its table aside (rule 16), so the rows that the checkpoint counted are no longer looked for."""
    begun = Begun(arrivals(log(1), 1), How(300), tmp_path, False)
    begun.life()
    found = recover(tmp_path)
    assert found is not None and found.parts["run"]["rows"]["rows_link"]
    found.parts["intake/stream/link/engine/at"]["rollups"]["link"]["frame_hash"] = "another"
    run = city_run(begun.arrived, begun.how, DirectStore(begun.kept), 2, None, Durable(Journal(tmp_path), found))
    assert "rows_link" not in run.kept.rows and run.kept.rows.keys() >= {"rows_http", "lifecycles_case"}


def test_other_beats_after_a_restart_tell_nothing_twice(counted: Counter[str]) -> None:
    """The steps that were begun are done as planned, whatever the clock says now."""
    for seed in range(3):
        broken = restless(seed, Begun)
        assert not unaccounted(broken), seed
        counted["restless restarts"] += broken.epoch - 1
        counted["published"] += len(broken.told)


def test_negative_control_no_plan() -> None:
    """Ranges and ticks taken anew."""

    class Planless(Begun):
        @staticmethod
        def found(folder: Path) -> Recovered | None:
            found = recover(folder)
            if found is not None:
                found.plans = []
            return found

    assert any(unaccounted(restless(seed, Planless)) for seed in range(3)), "a run without plans must be caught"


def test_negative_control_no_dedup_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = InputClock.saved
    monkeypatch.setattr(InputClock, "saved", lambda self, whole: (saved(self, whole)[0], saved(self, whole)[1][:0]))
    calm, broken = calm_and_broken(arrivals(log(1), 1), How(20, 10), False, [0.03] * 30)
    assert compared(calm, broken)[0], "copies that are counted again must be seen"


def test_negative_control_checkpoint_before_the_store() -> None:
    class Hasty(DirectStore):
        """Writes a step only after its checkpoint."""

        def __init__(self, sink: MemorySink, writes: int | None = None) -> None:
            super().__init__(sink, writes)
            self.waiting: list[Batch] = []

        def submit(self, batch: Batch) -> None:
            self.waiting.append(batch)

        def call(self, action: Callable[[], None]) -> None:
            super().call(action)
            if "_checkpoint" in getattr(action, "__qualname__", ""):
                for batch in self.waiting:
                    super().submit(batch)
                self.waiting = []

    class Hurried(Begun):
        store = Hasty

    wrong = [
        compared(*calm_and_broken(arrivals(log(1), 1), How(100, 50), False, [share], Hurried))[0]
        for share in (0.3, 0.31, 0.32, 0.33, 0.34)
    ]
    assert any(wrong), "a step that the checkpoint has and the store has not must be seen"
