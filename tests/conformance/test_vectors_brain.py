"""Rules 18 to 30: newest readings, episodes and transitions of every golden and generated case, through engine and brain."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import polars as pl
import pytest

import pipelines.presence
from pipelines.cells import Formula
from pipelines.panes import PaneMemory
from tests.conformance.toy import RANDOM_CASES, generated, golden
from tests.conformance.toy_brain import Case, Run

EXACT = ("num", "den", "samples", "state", "completeness", "as_of")
SHARDS = 4


def compare_readings(name: str, run: Run) -> int:
    key = lambda r: (r["indicator"], r["place_kind"], r["place"], r["window_start"], r["window_end"])  # noqa: E731
    mine = {key(r): r for r in run.readings()}
    expected = {key(r): r for r in run.case["expected"]["readings"]}
    assert mine.keys() == expected.keys(), (
        name,
        sorted(expected.keys() - mine.keys())[:3],
        sorted(mine.keys() - expected.keys())[:3],
    )
    for k, want in expected.items():
        got = mine[k]
        assert {f: got[f] for f in EXACT} == {f: want[f] for f in EXACT}, (name, k, got, want)
        assert json.loads(got["detail"]) == want["detail"], (name, k)
        if want["value"] is None or got["value"] is None:
            assert got["value"] is want["value"], (name, k)
        else:
            assert abs(got["value"] - want["value"]) <= math.ulp(want["value"]), (name, k)
    return len(expected)


def compare_episodes(name: str, run: Run) -> int:
    fields = ("at", "to_state", "level", "publish", "seq")
    transitions = [{f: getattr(t, f) for f in fields} | {"episode_id": t.key} for s in run.steps for t in s.transitions]
    expected: list[dict[str, Any]] = [
        {f: t[f] for f in (*fields, "episode_id")} for t in run.case["expected"]["transitions"]
    ]
    by_episode = lambda t: (t["episode_id"], t["seq"])  # noqa: E731
    assert sorted(transitions, key=by_episode) == sorted(expected, key=by_episode), name
    frames = [s.episodes for s in run.steps if len(s.episodes)]
    newest = pl.concat(frames).unique("episode_id", keep="last").to_dicts() if frames else []
    table = {json.loads(e["detail"])["key"]: (e["level"], e["state"], e["started_at"], e["ended_at"]) for e in newest}
    wanted = {
        e["episode_id"]: (e["level"], e["state"], e["started_at"], e["ended_at"])
        for e in run.case["expected"]["episodes"]
    }
    assert table == wanted, name
    return len(expected)


def check(cases: list[tuple[str, Case]], rnd: random.Random | None = None, share: float = 0.5) -> tuple[int, int]:
    cells = transitions = 0
    for name, case in cases:
        run = Run(case, rnd, share)
        run.go()
        cells += compare_readings(name, run)
        if rnd is None and not case.get("redelivered"):
            transitions += compare_episodes(name, run)
    return cells, transitions


def test_golden_readings_and_episodes() -> None:
    cases = golden()
    cells, transitions = check(cases)
    print(f"{len(cases)} golden cases: {cells} readings, {transitions} transitions compared")
    assert len(cases) >= 50 and cells > 400 and transitions > 30


@pytest.mark.parametrize("shard", [0, *(pytest.param(k, marks=pytest.mark.oracle) for k in range(1, SHARDS))])
def test_generated_readings_and_episodes(shard: int) -> None:
    """Step by step, a step for each late event, as the model tells its transitions."""
    cases = generated()[shard::SHARDS]
    cells, transitions = check(cases)
    print(f"{len(cases)} generated cases: {cells} readings, {transitions} transitions compared")
    assert len(cases) == RANDOM_CASES // SHARDS and cells > 10_000 and transitions > 100


@pytest.mark.parametrize("shard", range(1, SHARDS))
def test_generated_readings_however_the_steps_are_cut(shard: int) -> None:
    cases = generated()[shard::SHARDS]
    cells, _ = check(cases, random.Random(shard), share=0.2)
    print(f"{len(cases)} generated cases with random steps: {cells} readings compared")
    assert len(cases) == RANDOM_CASES // SHARDS and cells > 10_000


def test_the_cut_of_steps_does_not_matter() -> None:
    cases = golden()
    cells, _ = check(cases, random.Random(7))
    print(f"{len(cases)} golden cases with random steps: {cells} readings compared")
    assert cells > 400


def short(case: Case) -> Case:
    """The case with its five-minute windows only, so that hardly any pane is needed for long."""
    expected = case["expected"]
    readings = [r for r in expected["readings"] if r["indicator"] == "mean5"]
    return case | {"config": case["config"] | {"indicators": ["mean5"]}, "expected": expected | {"readings": readings}}


def forgetful() -> tuple[int, int]:
    cells = loads = 0
    for name, case in generated()[:60]:
        run = Run(short(case), random.Random(3), forgetful=True)
        run.go()
        cells += compare_readings(name, run)
        loads += run.loads
    return cells, loads


def test_panes_beyond_memory_come_from_the_store() -> None:
    """Rule 26: with nothing remembered the readings are the same, because late events load their panes."""
    cells, loads = forgetful()
    print(f"60 cases without memory: {cells} readings compared, panes loaded {loads} times")
    assert cells > 1000 and loads > 20


def test_negative_control_panes_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "_older", lambda self, rollup, since, until: pl.concat(self.stored).clear())
    with pytest.raises(AssertionError):
        forgetful()


def test_negative_control_lost_late_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late row that never reaches its window must be seen."""
    original = PaneMemory.add
    monkeypatch.setattr(PaneMemory, "add", lambda self, rows: original(self, rows.filter(~pl.col("late"))))
    with pytest.raises(AssertionError):
        check(golden())


def test_negative_control_merged_instead_of_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reduce that counts events instead of children must be seen."""
    original = Formula.__init__

    def merged(self: Formula, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        object.__setattr__(self, "reduce", False)

    monkeypatch.setattr(Formula, "__init__", merged)
    with pytest.raises(AssertionError):
        check(golden())


def test_negative_control_retirement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that is never retired must be seen."""
    original = pipelines.presence.Presence.__init__

    def longer(self: pipelines.presence.Presence, retire_after_ms: int) -> None:
        original(self, retire_after_ms + 3_600_000)

    monkeypatch.setattr(pipelines.presence.Presence, "__init__", longer)
    with pytest.raises(AssertionError):
        check(golden())
