"""Alert rules as the manual tells them (rules 27 to 30). Windows are five minutes; minutes count from a fixed start."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.alerts import DAY_MS, Level, Rule, Threshold
from pipelines.automaton import Automaton
from pipelines.episodes import CELLS_SCHEMA, EpisodeBook, Transition, transitions_frame
from pipelines.model import EPISODES_SCHEMA, TRANSITIONS_SCHEMA

MINUTE = 60_000
START = 20_000 * DAY_MS
STEP = 5 * MINUTE
GONE = object()
"""In place of a value: the place has no cell."""


def rule(**changes: Any) -> Rule:
    """Yellow from 50, until below 40."""
    given = {"name": "hot", "version": 1, "indicator": "air_temp", "place_kind": "site"}
    return Rule(**{**given, "levels": (Threshold(Level.III, 50, 40),), **changes})


LADDER = rule(levels=(Threshold(Level.III, 50, 40), Threshold(Level.II, 70, 60, 10 * MINUTE)))


def at(minute: int) -> int:
    return START + minute * MINUTE


def frame(*cells: tuple[str, int, Any]) -> pl.DataFrame:
    kept = [(place, at(minute), value) for place, minute, value in cells if value is not GONE]
    return pl.DataFrame(kept, CELLS_SCHEMA, orient="row")


class City:
    """A book and the clock of its one rule; `told` is what its steps gave."""

    def __init__(self, of: Rule, **options: Any) -> None:
        self.rule, self.book, self.minute = of, EpisodeBook("gotham", [of], **options), 0
        self.told: list[Transition] = []

    def windows(self, *values: Any, place: str = "s1") -> City:
        """One window and step each."""
        for value in values:
            self.minute += 5
            self.step([self.minute], frame((place, self.minute, value)))
        return self

    def step(self, minutes: Sequence[int], cells: pl.DataFrame) -> list[Transition]:
        out = self.book.step(self.rule, [at(m) for m in minutes], cells, at(self.minute))
        self.told += out
        return out

    def correct(self, minute: int, value: float | None) -> list[str]:
        """A late event changed a judged window."""
        return short(self.step([], frame(("s1", minute, value))))

    @property
    def story(self) -> list[str]:
        return short(self.told)


def short(told: Sequence[Transition]) -> list[str]:
    """`minute state level publish`, after `start:` of its episode where there are several."""
    several = len({t.key for t in told}) > 1
    return [
        f"{int(t.key.rsplit('/', 1)[1]) // MINUTE - START // MINUTE}: " * several
        + f"{(t.at - START) // MINUTE} {t.to_state} {t.level} {t.publish}"
        for t in told
    ]


def story(of: Rule, *values: Any) -> list[str]:
    return City(of).windows(*values).story


# -------------------------------------------------------------------------------- thresholds and times


def test_it_fires_at_raise_and_resolves_below_clear() -> None:
    assert story(rule(), 49.9, 50, 40, 39.9) == ["10 firing III alert", "20 resolved III update"]


def test_between_clear_and_raise_nothing_changes() -> None:
    assert story(rule(), 45, 45) == []
    assert story(rule(), 55, 45, 45, 45) == ["5 firing III alert"]


def test_below_mirrors_it() -> None:
    low = rule(direction="below", levels=(Threshold(Level.III, 20, 30), Threshold(Level.II, 10, 15)))
    assert story(low, 25, 20, 30, 30.1) == ["10 firing III alert", "20 resolved III update"]
    assert story(low, 10, 15, 16, 31) == ["5 firing II alert", "15 firing III update", "20 resolved III update"]


def test_for_is_the_time_from_the_first_true_window() -> None:
    slow = rule(levels=(Threshold(Level.III, 50, 40, 10 * MINUTE),))
    assert story(slow, 55, 55, 55) == ["15 firing III alert"]
    assert story(slow, 55, 55, 49, 55, 55, 55) == ["30 firing III alert"]


def test_keep_firing_for_needs_uninterrupted_clearing() -> None:
    patient = rule(keep_firing_for_ms=10 * MINUTE)
    assert story(patient, 55, 30, 30, 30)[1:] == ["20 resolved III update"]
    assert story(patient, 55, 30, 30, 45, 30, 30, 30)[1:] == ["35 resolved III update"]


def test_a_level_change_is_a_transition_not_an_episode() -> None:
    city = City(LADDER).windows(75, 75, 75, 65, 59, 45, 39)
    assert city.story == [
        "5 firing III alert",
        "15 firing II update",
        "25 firing III update",
        "35 resolved III update",
    ]
    assert len({t.episode_id for t in city.told}) == 1
    assert [t.seq for t in city.told] == [0, 1, 2, 3]
    assert [t.from_state for t in city.told] == ["", "firing", "firing", "firing"]


def test_a_second_raise_is_a_new_episode() -> None:
    city = City(rule()).windows(55, 30, 55)
    assert len({t.episode_id for t in city.told}) == 2
    assert city.told[2].publish == "alert" and city.told[2].seq == 0


def test_the_id_names_city_rule_version_place_and_start() -> None:
    first = City(rule()).windows(55).told[0]
    assert first.key == f"gotham/hot/v1/s1/{at(5)}"
    others = [
        City(rule(name="hotter")).windows(55),
        City(rule(version=2)).windows(55),
        City(rule()).windows(55, place="s2"),
        City(rule()).windows(0, 55),
    ]
    assert len({first.episode_id, *(x.told[0].episode_id for x in others)}) == 5
    assert City(rule()).windows(55).told[0].episode_id == first.episode_id


# --------------------------------------------------------------------------------------------- no data


def test_hold_moves_the_clocks_on() -> None:
    slow = rule(levels=(Threshold(Level.III, 50, 40, 10 * MINUTE),), keep_firing_for_ms=10 * MINUTE)
    assert story(slow, 55, 55, None, None, 55) == ["25 firing III alert"]
    assert story(slow, 55, 55, 55, 30, None, 30, 30)[1:] == ["35 resolved III update"]
    assert story(rule(), 55, None, None) == ["5 firing III alert"]


def test_raise_opens_an_episode_of_its_own() -> None:
    told = City(rule(no_data="raise")).windows(55, None, None, 55, 30).told
    assert short(told) == [
        "5: 5 firing III alert",
        "10: 10 firing no_data alert",
        "10: 20 resolved no_data update",
        "5: 25 resolved III update",
    ]
    assert told[1].key == f"gotham/hot/v1/s1/no_data/{at(10)}"


def test_clear_counts_as_below_every_clear() -> None:
    assert story(rule(no_data="clear"), 55, None) == ["5 firing III alert", "10 resolved III update"]
    patient = rule(no_data="clear", keep_firing_for_ms=5 * MINUTE)
    assert story(patient, 55, None, None)[1:] == ["15 resolved III update"]


def test_a_place_without_a_further_cell_retires() -> None:
    assert story(rule(), 55, GONE, GONE) == ["5 firing III alert", "10 retired III update"]
    assert story(rule(), 55, GONE, 55)[2:] == ["15: 15 firing III alert"]


# ----------------------------------------------------------------------------------------- corrections


def test_a_correction_that_changes_no_class_says_nothing() -> None:
    city = City(rule()).windows(55, 30)
    assert city.correct(5, 60) == []


def test_a_retracted_episode_is_cancelled_and_stays_visible() -> None:
    city = City(rule()).windows(55, 30, 30)
    city.book.episodes(1)
    assert city.correct(5, 20) == ["15 retracted III cancel"]
    detail = {"correction": True, "value": 20.0, "window_end": at(5)}
    assert json.loads(city.told[-1].detail) == detail
    rows = city.book.episodes(2).to_dicts()
    assert [(r["state"], r["started_at"], r["ended_at"], r["revision"]) for r in rows] == [
        ("retracted", at(5), at(10), 2)
    ]
    assert city.correct(5, 55) == ["5 firing III None", "10 resolved III None"]  # it holds again, but has ended


def test_a_retraction_that_its_successor_overlaps_is_one_update() -> None:
    city = City(rule()).windows(55, 55)
    told = city.step([], frame(("s1", 5, 20)))
    assert short(told) == ["10: 10 firing III update", "5: 10 retracted III None"]
    assert json.loads(told[0].detail)["replaces"] == [told[1].episode_id]
    assert json.loads(told[1].detail)["replaced_by"] == told[0].episode_id


def test_a_correction_that_creates_an_ended_episode_is_not_published() -> None:
    city = City(rule()).windows(30, 30, 30)
    assert city.correct(5, 55) == ["5 firing III None", "10 resolved III None"]
    assert city.correct(15, 55) == ["15 firing III alert"]  # this one is open


def test_a_correction_of_judged_windows_is_one_transition() -> None:
    city = City(rule()).windows(55, 55, 30, 30)
    assert city.correct(15, 45) == ["20 resolved III update"]
    assert city.book.episodes(1)["ended_at"].to_list() == [at(20)]


def test_after_correct_for_it_is_stored_only() -> None:
    city = City(rule(correct_for_ms=10 * MINUTE)).windows(55, 30, 30, 30)
    assert city.correct(5, 20) == ["20 retracted III None"]


def test_over_midnight_it_runs_again_from_the_stored_state() -> None:
    day = DAY_MS // STEP
    city = City(rule()).windows(*[30] * (day - 2), 55, 55, 55, 55, 30, *[30] * (2 * day))
    start = (day - 1) * 5
    assert city.story == [f"{start} firing III alert", f"{start + 20} resolved III update"]
    last = city.minute
    told = city.step([], frame(("s1", start + 10, 30)))
    assert short(told) == [
        f"{start}: {last} resolved III update",
        f"{start + 15}: {start + 15} firing III None",
        f"{start + 15}: {start + 20} resolved III None",
    ]


def test_a_correction_beyond_memory_says_so() -> None:
    city = City(rule(correct_for_ms=0)).windows(*[30] * 576, 55, 55, 55)  # remembered: at least one day
    judge = city.book._rules["hot"].judge
    assert judge.oldest == at(2 * 1440 - 1440)
    assert len(judge.judged.ends) == 288 + 3
    told = city.step([], frame(("s1", 5, 55), ("s1", 2 * 1440 + 5, 20)))
    assert city.book.beyond_memory() == 1
    assert {json.loads(t.detail)["remembered_from"] for t in told} == {judge.oldest}
    assert short(told) == ["2890: 2890 firing III update", "2885: 2895 retracted III None"]


RULES = st.builds(
    lambda wait, keep, no_data, longer: rule(
        levels=(Threshold(Level.III, 50, 40, wait * STEP), Threshold(Level.II, 70, 60, longer * STEP)),
        keep_firing_for_ms=keep * STEP,
        no_data=no_data,
    ),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(["hold", "raise", "clear"]),
    st.integers(0, 3),
)
VALUES = st.sampled_from([20, 39, 40, 49, 50, 55, 60, 65, 70, 80, None, GONE])


def test_cuts_and_restarts_change_nothing() -> None:
    """Windows judged one by one, or several in one step with a restart in between: the same transitions."""
    compared = []

    @settings(max_examples=100, deadline=None)
    @given(of=RULES, series=st.lists(st.tuples(VALUES, VALUES), min_size=15, max_size=40), cuts=st.integers(0, 2**20))
    def check(of: Rule, series: list[tuple[Any, Any]], cuts: int) -> None:
        one, several, rnd = City(of), City(of), random.Random(cuts)
        pending: list[tuple[str, int, Any]] = []
        minutes: list[int] = []
        for n, pair in enumerate(series, 1):
            cells = [(place, 5 * n, value) for place, value in zip(("a", "b"), pair, strict=True)]
            one.minute = several.minute = 5 * n
            one.step([5 * n], frame(*cells))
            minutes, pending = [*minutes, 5 * n], pending + cells
            if rnd.random() < 0.3 or n == len(series):
                several.step(minutes, frame(*pending))
                minutes, pending, state = [], [], saved(several)
                several.book = EpisodeBook("gotham", [of])
                several.book.load(state)
        told = [sorted(x.told, key=lambda t: (t.key, t.seq)) for x in (one, several)]
        assert told[0] == told[1]
        columns = [name for name in EPISODES_SCHEMA if name != "revision"]
        rows = [x.book.episodes(1).select(columns).sort("episode_id").to_dicts() for x in (one, several)]
        assert rows[0] == rows[1]
        compared.append(len(one.told))

    check()
    print(f"{len(compared)} series, {sum(compared)} transitions compared")
    assert sum(compared) > 0


def test_a_late_event_before_the_first_window_extends_the_grid() -> None:
    city = City(rule())
    city.minute = 30
    city.windows(30)
    told = city.step([5, 10, 15, 20, 25, 30], frame(("s1", 5, 55)))
    assert short(told) == ["5 firing III None", "10 retired III None"]


# ------------------------------------------------------------------------ rows, details, open episodes


def test_rows_and_details() -> None:
    city = City(LADDER).windows(75, 75, 75, 65)
    row = city.book.episodes(7).row(0, named=True)
    assert list(row) == list(EPISODES_SCHEMA)
    shown = {k: row[k] for k in ("rule", "level", "state", "last_value", "threshold", "ended_at", "revision")}
    assert list(shown.values()) == ["hot", "II", "firing", 65.0, 70.0, None, 7]
    assert json.loads(row["detail"])["worst_level"] == "II"
    assert city.book.episodes(8).is_empty()
    city.windows(45)
    assert city.book.episodes(9)["last_value"].to_list() == [45.0]
    assert [t.detail for t in city.told] == [
        f'{{"threshold":50,"value":75.0,"window_end":{at(5)}}}',
        f'{{"threshold":70,"value":75.0,"window_end":{at(15)}}}',
        f'{{"threshold":60,"value":45.0,"window_end":{at(25)}}}',
    ]
    table = transitions_frame(city.told)
    assert table.schema == pl.Schema(TRANSITIONS_SCHEMA) and table.height == 3


def test_open_episodes_show_the_most_severe_first() -> None:
    city = City(LADDER)
    city.minute = 15
    cells = [(p, m, v) for p, v in (("mild", 55), ("quiet", 20), ("severe", 75)) for m in (5, 10, 15)]
    city.step([5, 10, 15], frame(*cells))
    assert [(x.place, x.level, x.last_value) for x in city.book.open_episodes()] == [
        ("severe", "II", 75),
        ("mild", "III", 55),
    ]


# --------------------------------------------------------------------------------- changed definitions


def saved(city: City) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(city.book.saved()))
    return plain


def test_a_new_version_ends_what_is_open() -> None:
    old = City(rule()).windows(55, 30, 55)
    old.book.episodes(1)
    book = EpisodeBook("gotham", [rule(version=2)])
    book.load(saved(old))
    told = book.end_outdated()
    assert short(told) == ["15 rule_changed III update"]
    assert (told[0].seq, told[0].episode_id) == (1, old.told[2].episode_id)
    rows = book.episodes(2).to_dicts()
    assert [(r["state"], r["rule_version"], r["ended_at"]) for r in rows] == [("rule_changed", 1, at(15))]
    assert book.end_outdated() == [] and book.open_episodes() == []
    kept = {name: part for name, part in book.saved().items() if part is not None}
    assert [name for name in kept if name.endswith("/rule")] == ["hot@2/rule"]


def test_a_rule_that_is_gone_ends_what_is_open() -> None:
    book = EpisodeBook("gotham", [])
    book.load(saved(City(rule()).windows(55)))
    assert short(book.end_outdated()) == ["5 rule_changed III update"]


def test_a_changed_rule_needs_a_new_version() -> None:
    book = EpisodeBook("gotham", [rule(keep_firing_for_ms=MINUTE)])
    with pytest.raises(ValueError, match=r"rule 'hot' changed \(keep_firing_for_ms\).*set its version to 2"):
        book.load(saved(City(rule()).windows(55)))


def test_state_of_another_city_is_refused() -> None:
    with pytest.raises(ValueError, match="city 'gotham', this is 'metropolis'"):
        EpisodeBook("metropolis", [rule()]).load(saved(City(rule()).windows(55)))


# -------------------------------------------------------------------------------------------- mistakes

III, II = Threshold(Level.III, 50, 40), Threshold(Level.II, 70, 60)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"levels": ()}, "has no levels"),
        ({"levels": (II, III)}, "II before III; each may stand once, the least severe first"),
        ({"levels": (III, III)}, "III before III"),
        ({"levels": (III, Threshold(Level.II, 45, 40))}, "raises at 45, before the milder III at 50"),
        ({"levels": (III, Threshold(Level.II, 50, 40))}, "level III never shows"),
        ({"levels": (Threshold(Level.III, 50, 51),)}, "clear 51 is above raise 50"),
        ({"levels": (Threshold(Level.III, 50, 40),), "direction": "below"}, "clear 40 is below raise 50"),
        ({"direction": "sideways"}, "allowed are above, below"),
        ({"no_data": "ignore"}, "allowed are hold, raise, clear"),
        ({"keep_firing_for_ms": -1}, "keep_firing_for is -1"),
        ({"correct_for_ms": 1.5}, "correct_for is 1.5"),
        ({"version": 0}, "whole number from 1"),
        ({"name": "a/b"}, "without /"),
        ({"name": ""}, "without /"),
    ],
)
def test_a_wrong_rule_says_what_is_wrong(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        rule(**changes)


def test_a_wrong_threshold_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="level III: raise is nan; it must be a finite number"):
        Threshold(Level.III, float("nan"), 40)
    with pytest.raises(ValueError, match="for is -5"):
        Threshold(Level.III, 50, 40, -5)


def test_levels_i_is_the_most_severe() -> None:
    assert [x.name for x in sorted(Level)] == ["I", "II", "III", "IV"]


def test_escalation_by_time_alone_is_allowed() -> None:
    waiting = rule(levels=(Threshold(Level.III, 50, 40), Threshold(Level.II, 50, 40, 10 * MINUTE)))
    assert story(waiting, 55, 55, 55) == ["5 firing III alert", "15 firing II update"]


def test_of_windows_without_cells_the_first_is_enough() -> None:
    """And a late event may make cells in some that were not given."""
    told = []
    for silent in (range(15, 300, 5), (15,)):
        city = City(rule()).windows(55, 55)
        for minute in silent:
            city.minute = minute
            city.step([minute], frame())
        city.minute = 295
        city.windows(55, 30)
        unjudged = city.book.unjudged(city.rule, [at(minute) for minute in range(150, 300, 5)])
        city.step([(end - START) // MINUTE for end in unjudged], frame(("s1", 150, 55), ("s1", 155, 56)))
        told.append(city.story)
    assert told[0] == told[1] and {"150: 160 retired III None", "5: 15 retired III update"} <= set(told[0]), told


def test_steps_that_do_not_fit_are_refused() -> None:
    city = City(rule()).windows(30, 30)
    book, hot, nothing = city.book, city.rule, frame()
    with pytest.raises(ValueError, match="do not ascend"):
        book.step(hot, [at(20), at(15)], nothing, at(20))
    with pytest.raises(ValueError, match="was judged before"):
        book.step(hot, [at(10)], nothing, at(10))
    with pytest.raises(ValueError, match="a step was left out"):
        book.step(hot, [at(20)], nothing, at(20), at(15))
    with pytest.raises(ValueError, match="not among the ends"):
        book.step(hot, [at(15)], frame(("s1", 20, 5)), at(20))
    with pytest.raises(LookupError, match=r"no rule 'hott' of version 1.*it has hot v1\. Did you mean 'hot'\?"):
        book.step(rule(name="hott"), [], nothing, at(10))
    with pytest.raises(ValueError, match="given twice"):
        EpisodeBook("gotham", [rule(), rule(version=2)])


# ---------------------------------------------------------------------------------------------- volume


def test_quiet_places_never_reach_the_automaton(monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 quiet cells and their corrections are looked at in vectors; the one that is not quiet is judged."""
    city, places = City(rule()), 5_000
    minutes = [5 * n for n in range(1, 21)]
    cells = pl.DataFrame(
        {
            "place": [f"link{n}" for n in range(places)] * len(minutes),
            "window_end": [at(m) for m in minutes for _ in range(places)],
            "value": [n % 49.0 for n in range(places * len(minutes))],
        }
    )
    calls, original = [], Automaton.advance

    def counted(self: Automaton, *args: Any) -> Any:
        calls.append(args)
        return original(self, *args)

    monkeypatch.setattr(Automaton, "advance", counted)
    city.minute = 100
    assert city.step(minutes, cells) == []
    assert city.step([], cells.with_columns(pl.col("value") - 1)) == []
    assert calls == []
    assert short(city.step([], frame(("link7", 100, 55)))) == ["100 firing III alert"]
    assert len(calls) == 1
