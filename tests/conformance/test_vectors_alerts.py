"""Rules 27 to 30: fed step by step, the episode book gives the golden episodes and transitions, `publish` included.

The reference model computes every reading anew at each record of the log; the book gets only what changed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import polars as pl
import pytest

import pipelines.judge as judge_module
from pipelines.alerts import Level, Rule, Threshold
from pipelines.automaton import Automaton, Change, State
from pipelines.episodes import CELLS_SCHEMA, EpisodeBook, Transition
from pipelines.judge import Judge, Verdict
from pipelines.model import NEVER
from pipelines.transitions import RuleEpisodes
from tests.conformance.toy import RANDOM_CASES, golden, model

Case = dict[str, Any]
TOLD = ("episode_id", "seq", "at", "to_state", "level", "publish")


def rule_of(cfg: Any) -> Rule:
    levels = (Threshold(Level[x["level"]], x["raise"], x["clear"], x.get("for", 0) * 1000) for x in cfg.rule["levels"])
    return Rule(
        cfg.rule["name"],
        cfg.rule["version"],
        cfg.rule["indicator"],
        cfg.rule["place_kind"],
        tuple(levels),
        keep_firing_for_ms=cfg.rule["keep_firing_for"] * 1000,
        no_data=cfg.rule["no_data"],
        correct_for_ms=cfg.correct_for,
    )


Moment = tuple[dict[Any, Any], int]
Recorded = tuple[str, Case, list[Moment], dict[str, Any]]


def record(case: Case) -> tuple[list[Moment], dict[str, Any]]:
    """What the model judges at each of its steps (readings of all places, watermark), and what it expects."""
    m, moments = model(), list[Moment]()
    readings, episodes = m.readings, m.Episodes

    class Recording(episodes):  # type: ignore[misc, valid-type]
        def step(self, events: Any, watermark: int) -> None:
            def recorded(*args: Any) -> Any:
                moments.append((readings(*args), watermark))
                return moments[-1][0]

            m.readings = recorded
            super().step(events, watermark)
            m.readings = readings

    m.Episodes = Recording
    try:
        return moments, json.loads(json.dumps(m.run(case)))
    finally:
        m.Episodes, m.readings = episodes, readings


def generate(first: int, count: int, **config: Any) -> Iterator[Recorded]:
    """Generated cases; `config` replaces parts of theirs, keys of its `rule` parts of their rule."""
    for seed in range(first, first + count):
        case = model().generate(seed)
        rule = case["config"]["rule"] | config.get("rule", {})
        case["config"] |= config | {"rule": rule, "indicators": []}  # the other tables are other tests' subject
        yield f"random {seed} {config}", case, *record(case)


@cache
def recorded() -> list[Recorded]:
    return list(generate(1, RANDOM_CASES))


def judge(case: Case, moments: list[Moment], restart: Callable[[], bool]) -> tuple[list[Transition], list[Any], int]:
    """Transitions, newest episode rows and the number of cells fed; `restart` tells when to dump and load the book."""
    m, cfg = model(), model().configure(case)
    rule, known, given, cells = rule_of(cfg), dict[Any, Any](), set[int](), 0
    book = EpisodeBook("city", [rule])
    out: list[Transition] = []
    rows: dict[str, dict[str, Any]] = {}
    for step, (readings, watermark) in enumerate(moments):
        now = {
            (place, end): None if r["value"] is None else float(r["value"])
            for (kind, place, end), r in readings.items()
            if kind == rule.place_kind
        }
        oldest = min((end for _, end in now), default=watermark + 1)
        grid = m.ends(rule.indicator.replace("hot", "mean"), oldest - 1, watermark, cfg.zone)
        changed = [(*key, value) for key, value in now.items() if key not in known or known[key] != value]
        ends = [end for end in grid if end not in given]
        before = max(given, default=None)
        known, given, cells = now, given | set(ends), cells + len(changed)
        told = book.step(rule, ends, pl.DataFrame(changed, CELLS_SCHEMA, orient="row"), watermark, before)
        out += told
        rows |= {json.loads(r["detail"])["key"]: r for r in (book.episodes(step).to_dicts() if told else ())}
        if restart():
            dumped = json.loads(json.dumps(book.dump()))
            book = EpisodeBook("city", [rule])
            book.load(dumped)
    names = ("level", "state", "started_at", "ended_at")
    table = [{"episode_id": key} | {x: r[x] for x in names} for key, r in sorted(rows.items())]
    return out, table, cells


def compare(cases: Iterable[Recorded], restarts: float = 0.0) -> tuple[int, ...]:
    """Cases judged, transitions and episodes compared."""
    rnd, judged, transitions, episodes = random.Random(7), 0, 0, 0
    for name, case, moments, expected in cases:
        out, table, cells = judge(case, moments, lambda: rnd.random() < restarts)
        told = [{k: t.key if k == "episode_id" else getattr(t, k) for k in TOLD} for t in out]
        assert told == expected["transitions"], name
        assert table == expected["episodes"], name
        assert len({(t.episode_id, t.seq) for t in out}) == len(out), f"{name}: rule 30, no double"
        last: dict[str, str] = {}
        for t in out:
            assert t.from_state == last.get(t.key, ""), name
            last[t.key] = t.to_state
        judged, transitions, episodes = judged + (cells > 0), transitions + len(out), episodes + len(table)
    return judged, transitions, episodes


def golden_with_rules() -> list[Recorded]:
    return [(name, x, record(x)[0], x["expected"]) for name, x in golden() if x["config"].get("rule")]


def test_golden_episodes() -> None:
    judged, transitions, episodes = compare(golden_with_rules())
    print(f"{judged} golden cases with a rule, {transitions} transitions and {episodes} episodes compared")
    assert judged >= 12 and transitions > 30


def test_generated_episodes() -> None:
    cases = recorded()
    judged, transitions, episodes = compare(cases)
    kinds = sorted({str(t["publish"]) for x in cases for t in x[3]["transitions"]})
    states = sorted({t["to_state"] for x in cases for t in x[3]["transitions"]})
    print(f"{judged} generated cases, {transitions} transitions and {episodes} episodes compared; {kinds}, {states}")
    assert len(cases) == 1000 and judged > 900 and transitions > 5_000
    assert kinds == ["None", "alert", "cancel", "update"] and states == ["firing", "resolved", "retired", "retracted"]


def test_restart_between_any_two_steps() -> None:
    """A dump and a load through JSON change nothing, corrections included."""
    judged, transitions, episodes = compare(recorded()[:100], restarts=0.3)
    print(f"{judged} cases with restarts, {transitions} transitions and {episodes} episodes compared")
    assert judged > 90 and transitions > 1_000


def test_stored_daily_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """With "days" of five minutes, corrections start and stop at stored states."""
    monkeypatch.setattr(judge_module, "DAY_MS", 300_000)
    stopped, original = [], Judge._again

    def watched(self: Judge, code: int, first: int, last: int, verdict: Verdict) -> None:
        original(self, code, first, last, verdict)
        stopped.append((verdict.since != NEVER, verdict.until is not None))

    monkeypatch.setattr(Judge, "_again", watched)
    judged, transitions, episodes = compare(recorded()[100:250], restarts=0.05)
    started, met = (sum(x) for x in zip(*stopped, strict=True))
    print(
        f"{judged} cases, {transitions} transitions and {episodes} episodes compared; {len(stopped)} runs again, ",
        end="",
    )
    print(f"{started} from a stored state, {met} until they met one")
    assert judged > 140 and started > 200 and met > 20


@pytest.mark.parametrize(("place_kind", "indicator"), [("district", "mean15"), ("city", "hot5"), ("site", "meanday")])
def test_other_rules(place_kind: str, indicator: str) -> None:
    """Parents, sliding windows, shares, days of 23 to 25 hours; three levels, short `correct_for`."""
    scale = 64 if indicator == "hot5" else 1  # a share has no fraction that a double could round over a threshold
    levels = [
        {"level": "III", "raise": 32 / scale, "clear": 16 / scale, "for": 0},
        {"level": "II", "raise": 48 / scale, "clear": 40 / scale, "for": 300},
        {"level": "I", "raise": 48 / scale, "clear": 48 / scale, "for": 600},
    ]
    first = {"district": 5001, "city": 5101, "site": 5201}[place_kind]
    rule = {"place_kind": place_kind, "indicator": indicator, "levels": levels}
    judged, transitions, episodes = compare(generate(first, 40, rule=rule, correct_for=600))
    print(f"{judged} cases of {indicator} by {place_kind}, {transitions} transitions and {episodes} episodes compared")
    assert judged > (8 if indicator == "meanday" else 30) and transitions > (10 if indicator == "meanday" else 100)


def must_fail() -> None:
    with pytest.raises(AssertionError):
        compare(golden_with_rules() + recorded()[:100])


def test_negative_control_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No-data windows that do not move the clocks on must be seen."""
    original = Automaton._no_data

    def standing(self: Automaton, state: State, end: int, step: int, changes: list[Change]) -> State:
        return original(self, state, end, 0, changes)

    monkeypatch.setattr(Automaton, "_no_data", standing)
    must_fail()


def test_negative_control_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    """A correction that is published however old it is must be seen."""
    monkeypatch.setattr(RuleEpisodes, "_recent", lambda self, trail, watermark: True)
    must_fail()


def test_negative_control_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corrected windows that are not judged again must be seen."""
    monkeypatch.setattr(Judge, "_again", lambda self, code, first, last, verdict: None)
    must_fail()
