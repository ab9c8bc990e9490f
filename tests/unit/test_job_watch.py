"""Rules 16 and 19: what the brain makes of the jobs that group its rows: gaps, other definitions, jobs that say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import polars as pl
import pytest

from pipelines.announcement import Announcement, Start, announcements
from pipelines.engines.row_records import manifest_records, row_records
from pipelines.job_watch import JobWatch
from pipelines.model import PlaceRegistry
from pipelines.remote_stream import HELD_MS, RemoteStream
from pipelines.rollup import Measure, Rollup
from pipelines.transport import Carried
from tests.conformance.toy import DEMO_ROLLUP

NAME, STREAM = DEMO_ROLLUP.name, DEMO_ROLLUP.stream
PART, PANE = f"events.small.{STREAM.name}/0", DEMO_ROLLUP.pane_ms


def told(
    job: str, first: int | None, rollup: Rollup = DEMO_ROLLUP, kept: Mapping[str, int] | None = None
) -> Announcement:
    start = Start("log", None if first is None else {PART: first}, kept or {})
    (one,) = announcements(job, "polars", [rollup], {STREAM.name: start}, 0)
    assert Announcement.read(orjson.loads(one.record()[1])) == one
    return one


def watch() -> JobWatch:
    """One whose first job delivered the panes up to 10: records up to 400 are delivered, of those up to 900 not all."""
    one = JobWatch(STREAM.name, [DEMO_ROLLUP])
    one.announced(told("one", 0), 0)
    one.begins("one", 0, 0)
    for end, largest in ((100, PANE), (400, 9 * PANE), (900, 12 * PANE)):
        one.marked({PART: end}, largest, 10 * PANE)
    return one


@pytest.mark.parametrize(
    ("first", "kept", "gap"),
    [
        (0, None, False),
        (400, None, False),
        (401, None, True),
        (700, {PART: 700}, False),  # the job knows it better than the marks
        (701, {PART: 700}, True),  # retention took a record
        (950, {PART: 950}, True),  # what it remembers cannot be
        (None, None, False),  # a savepoint
    ],
)
def test_gap(first: int | None, kept: dict[str, int] | None, gap: bool) -> None:
    one = watch()
    one.announced(told("two", first, kept=kept), 1)
    assert not one.findings, "nothing is known before its rows come"
    one.begins("two", 10 * PANE, 2)
    assert [finding.kind for finding in one.findings] == ["gap"] * gap
    if gap:
        assert f"job two starts at record {first} of {PART}" in one.findings[0].text
    again = JobWatch(STREAM.name, [DEMO_ROLLUP])
    again.load(orjson.loads(orjson.dumps(one.saved())))
    assert [finding.kind for finding in one.unsaid()] == ["gap"] * gap and not again.unsaid()
    again.begins("two", 10 * PANE, 3)
    assert again.findings == one.findings and again.counts == one.counts, "told once, over restarts"


def test_a_first_job_has_no_gap() -> None:
    one = JobWatch(STREAM.name, [DEMO_ROLLUP])
    one.announced(told("one", 5000), 0)
    one.begins("one", -(2**62), 0)
    assert not one.findings


class Remote:
    """A stream that jobs send rows to."""

    def __init__(self, rollup: Rollup = DEMO_ROLLUP, saved: Any = None) -> None:
        self.registry = PlaceRegistry()
        self.stream = RemoteStream(STREAM, [rollup], [], self.registry)
        self.at = 0
        if saved is not None:
            self.stream.load(saved, 0)

    def control(self, one: Announcement) -> None:
        self._took("control", [one.record()[1]])

    def pane(self, number: int, job: str, rollup: Rollup = DEMO_ROLLUP, place: str = "p") -> None:
        """A pane with one event."""
        measured = {m.name: 1 for m in rollup.measures}
        row = {"place": place, "pane_start": number * PANE, "bucket": 0, **measured, "n": 1, "as_of": number * PANE}
        frame = pl.DataFrame([{**row, "late": False, "part": "", "off": -1}])
        self._took("rows", [*row_records(rollup, frame, job), *manifest_records(rollup, [(number * PANE, 1)], job)])

    def _took(self, topic: Any, records: list[bytes]) -> None:
        self.at += len(records)
        objects = [orjson.loads(record) for record in records]
        self.stream.stamped(
            Carried(topic, STREAM.name, pl.DataFrame(), (), self.at, 1, topic, objects=objects), self.at
        )

    def closed(self) -> int:
        (rows,) = self.stream.rows()
        self.stream.taken()
        return rows.watermark // PANE

    def saved(self) -> Any:
        self.stream.rows()
        self.stream.taken()
        return self.stream.saved(whole=True)


OLDER = replace(DEMO_ROLLUP, measures=(replace(DEMO_ROLLUP.measures[0], kind="count", of=None, where=None),
                                       *DEMO_ROLLUP.measures[1:]))  # fmt: skip
FRAMED = replace(DEMO_ROLLUP, pane_ms=PANE * 2)
LARGER = replace(DEMO_ROLLUP, measures=(*DEMO_ROLLUP.measures, Measure("more", "count")))


def test_rows_wait_for_their_announcement() -> None:
    one = Remote()
    one.pane(0, "one")
    assert one.closed() < 0, "they are not used before it is known what they are"
    again = Remote(saved=one.saved())
    again.control(told("one", 0))
    assert again.closed() == 1 and not again.stream.jobs.findings


def test_a_job_that_says_nothing_is_told() -> None:
    one = Remote()
    one.pane(0, "one")
    one.stream.tick(HELD_MS)
    assert one.closed() < 0 and not one.stream.jobs.findings
    one.stream.tick(HELD_MS + 10)
    one.pane(1, "one")
    assert one.closed() == 2, "its frame is the right one"
    assert [(f.kind, "job one has not announced itself" in f.text) for f in one.stream.jobs.findings] == [
        ("unannounced", True)
    ]


@pytest.mark.parametrize("theirs", [OLDER, FRAMED])
def test_older_definitions_are_set_aside(theirs: Rollup) -> None:
    """The brain goes on from a checkpoint of before its catalogue changed; the job is still the old one."""
    before = Remote(theirs)
    before.control(told("old", 0, theirs))
    before.pane(0, "old", theirs)
    assert before.closed() == theirs.pane_ms // PANE and not before.stream.jobs.findings
    one = Remote(saved=before.saved())
    reached = one.closed()
    for number in range(2, 5):
        one.pane(number, "old", theirs)
    assert one.closed() == reached
    letters = one.stream.dead_letters()
    assert sum(one.stream.set_aside.values()) == 6 and len(letters) == 1
    assert letters[0].reason == "set_aside" and "older" in letters[0].detail and NAME in letters[0].detail
    assert one.stream.jobs.unsaid() == one.stream.jobs.findings, "found when the brain was started, said then"
    assert [(f.kind, "job old" in f.text, "older" in f.text) for f in one.stream.jobs.findings] == [
        ("definition", True, True)
    ]
    one.control(told("new", 0))
    for number in range(5):
        one.pane(number, "new")
    assert one.closed() == 5


def test_another_definition_is_no_older_one() -> None:
    one = Remote()
    one.control(told("other", 0, OLDER))
    one.pane(0, "other", OLDER)
    assert one.closed() < 0
    assert "was never this brain's" in one.stream.dead_letters()[0].detail


def test_what_a_job_does_not_collect_is_told_and_the_rest_used() -> None:
    """Rule 16: rows serve every measure they carry."""
    one = Remote(LARGER)
    one.control(told("one", 0))
    one.pane(0, "one")
    assert one.closed() == 1
    assert "does not collect more" in one.stream.jobs.findings[0].text


def test_negative_control_without_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of another definition would be used as if they were right."""
    monkeypatch.setattr(JobWatch, "unusable", lambda self, job, rollup: None)
    one = Remote()
    one.control(told("other", 0, OLDER))
    one.pane(0, "other", OLDER)
    assert one.closed() == 1
