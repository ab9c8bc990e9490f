"""Rules 27 to 30: fed step by step, the episode book gives the golden episodes and transitions, `publish` included.

The reference model computes every reading anew at each record of the log; the book gets only what changed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, pairwise
from types import SimpleNamespace
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


def judge(case: Case, moments: list[Moment], restart: Callable[[], bool]) -> tuple[list[Transition], list[Any], int]:
    cfg = model().configure(case)
    return feed(rule_of(cfg), cfg.zone, moments, restart)


def feed(
    rule: Rule, zone: str, moments: Iterable[Moment], restart: Callable[[], bool], sign: int = 1
) -> tuple[list[Transition], list[Any], int]:
    """Transitions, newest episode rows and the number of cells fed; `restart` tells when to dump and load the book."""
    known, given, cells = dict[Any, Any](), set[int](), 0
    book = EpisodeBook("city", [rule])
    out: list[Transition] = []
    rows: dict[str, dict[str, Any]] = {}
    for step, (readings, watermark) in enumerate(moments):
        now = {
            (place, end): None if r["value"] is None else sign * float(r["value"])
            for (kind, place, end), r in readings.items()
            if kind == rule.place_kind
        }
        oldest = min((end for _, end in now), default=watermark + 1)
        grid = model().ends(rule.indicator.replace("hot", "mean"), oldest - 1, watermark, zone)
        changed = [(*key, value) for key, value in now.items() if key not in known or known[key] != value]
        ends = [end for end in grid if end not in given]
        before = max(given, default=None)
        known, given, cells = now, given | set(ends), cells + len(changed)
        told = book.step(rule, ends, pl.DataFrame(changed, CELLS_SCHEMA, orient="row"), watermark, before)
        out += told
        rows |= {json.loads(r["detail"])["key"]: r for r in (book.episodes(step).to_dicts() if told else ())}
        if restart():
            dumped = json.loads(json.dumps(book.saved()))
            book = EpisodeBook("city", [rule])
            book.load(dumped)
    names = ("level", "state", "started_at", "ended_at")
    table = [{"episode_id": key} | {x: r[x] for x in names} for key, r in sorted(rows.items())]
    return out, table, cells


def shown(out: list[Transition]) -> list[dict[str, Any]]:
    return [{k: t.key if k == "episode_id" else getattr(t, k) for k in TOLD} for t in out]


def compare(cases: Iterable[Recorded], restarts: float = 0.0) -> tuple[int, ...]:
    """Cases judged, transitions and episodes compared."""
    rnd, judged, transitions, episodes = random.Random(7), 0, 0, 0
    for name, case, moments, expected in cases:
        out, table, cells = judge(case, moments, lambda: rnd.random() < restarts)
        assert shown(out) == expected["transitions"], name
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
    cases = list(generate(1, RANDOM_CASES))
    judged, transitions, episodes = compare(cases)
    kinds = sorted({str(t["publish"]) for x in cases for t in x[3]["transitions"]})
    states = sorted({t["to_state"] for x in cases for t in x[3]["transitions"]})
    print(f"{judged} generated cases, {transitions} transitions and {episodes} episodes compared; {kinds}, {states}")
    assert len(cases) == 1000 and judged > 900 and transitions > 5_000
    assert kinds == ["None", "alert", "cancel", "update"] and states == ["firing", "resolved", "retired", "retracted"]


def test_restart_between_any_two_steps() -> None:
    """A dump and a load through JSON change nothing, corrections included."""
    judged, transitions, episodes = compare(generate(2001, 80), restarts=0.3)
    print(f"{judged} cases with restarts, {transitions} transitions and {episodes} episodes compared")
    assert judged > 70 and transitions > 800


def scripted(rnd: random.Random) -> tuple[Any, list[Moment]]:
    """A rule and readings of three places over twenty hours: gaps, no data, missing cells, corrections of any age."""
    levels, raised = [], 40
    for level in ("III", "II", "I")[: rnd.randint(1, 3)]:
        raised += rnd.choice([0, 10, 20])
        longer = (levels[-1]["for"] if levels else 0) + 300
        levels.append({"level": level, "raise": raised, "clear": raised - rnd.choice([0, 5, 15])})
        levels[-1]["for"] = longer if raised == 40 else rnd.choice([0, 300, 900])
    for low, high in pairwise(levels):
        high["for"] = low["for"] + 300 if high["raise"] == low["raise"] else high["for"]
    chosen = {"no_data": rnd.choice(["hold", "raise", "clear"]), "keep_firing_for": rnd.choice([0, 300, 900])}
    cfg = SimpleNamespace(rule=model().RULE | chosen | {"levels": levels}, zone="UTC")
    cfg.correct_for = rnd.choice([600_000, 7_200_000, 604_800_000])
    values: dict[tuple[str, str, int], dict[str, Any]] = {}
    moments, end = list[Moment](), 1_000_000 * 300_000
    while len(values) < 500:
        for _ in range(rnd.choice([0, 1, 1, 3, 20])):
            end += 300_000
            for place in ("a", "b", "c"):
                calm = (end // 300_000 // 7 + ord(place)) % 3 > 0
                if rnd.random() > 0.02:
                    value = rnd.choice([20, 20, 20, 45, None] if calm else [36, 40, 45, 55, 60, 70, 80])
                    values["site", place, end] = {"value": value}
        for key in rnd.sample(sorted(values), min(len(values), rnd.choice([0, 0, 1, 4]))):
            values[key] = {"value": rnd.choice([None, 20, 45, 60, 80])}
        if rnd.random() < 0.2 and values:
            values["site", rnd.choice("abc"), rnd.choice(sorted(values))[2]] = {"value": 60}
        moments.append((dict(values), end + rnd.randint(0, 299_999)))
    return cfg, moments


@pytest.mark.parametrize("sign", [1, -1])
def test_scripted_readings(monkeypatch: pytest.MonkeyPatch, sign: int) -> None:
    """Old corrections start and stop at stored daily states (of "days" of an hour); `below` mirrors `above`."""
    monkeypatch.setattr(judge_module, "DAY_MS", 3_600_000)
    runs, original = [], Judge._again

    def watched(self: Judge, code: int, first: int, last: int, verdict: Verdict) -> None:
        original(self, code, first, last, verdict)
        runs.append((verdict.since != NEVER, verdict.until is not None))

    monkeypatch.setattr(Judge, "_again", watched)
    m, compared, rnd = model(), 0, random.Random(11)
    for _ in range(30):
        cfg, moments = scripted(rnd)
        episodes = m.Episodes(cfg)
        for readings, watermark in moments:
            monkeypatch.setattr(m, "readings", lambda *_, given=readings: given)
            episodes.step([], watermark)
        rule = rule_of(cfg)
        if sign < 0:
            levels = (Threshold(x.level, -x.raise_, -x.clear, x.for_ms) for x in rule.levels)
            rule = replace(rule, direction="below", levels=tuple(levels))
        out, table, _ = feed(rule, cfg.zone, moments, lambda: rnd.random() < 0.05, sign)
        assert shown(out) == episodes.transitions
        assert table == episodes.table()
        compared += len(out) + len(table)
    started, met = (sum(x) for x in zip(*runs, strict=True))
    print(f"30 scripts, {compared} transitions and episodes compared; {len(runs)} places judged again, ", end="")
    print(f"{started} from a stored state, {met} until they met one")
    assert compared > 2_000 and started > 300 and met > 300


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
        compare(chain(golden_with_rules(), generate(1, 100)))


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
