"""A late event changes a reading, the episode that it raised, the stored transitions, and what subscribers are told
(rules 20, 26, 29, 30)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dashboards.board import Board
from pipelines.brain import Step
from pipelines.delivery import Now
from pipelines.streams import MINUTE_MS
from sinks.memory import MemorySink
from tests.conformance.small_city import START
from tests.conformance.small_runs import How, city_run, sink
from tests.fakes.listed import DirectStore, Record

FREE_MS, JAMMED_MS = 60_000, 200_000


def link(minute: float, tt_ms: int, arrives: float | None = None, n: int = 1) -> Record:
    t = START + int(minute * MINUTE_MS)
    arrival = t if arrives is None else START + int(arrives * MINUTE_MS)
    return {"t": t, "place": "l1", "tt_ms": tt_ms, "n": n, "arrival": arrival}


def lived(records: list[Record], minutes: int) -> tuple[MemorySink, list[dict[str, Any]], list[str]]:
    """A live run of these records; the alert events of the stream, and what was stored when each was sent."""
    kept, now = sink(), Now(START)
    board = Board("b", now)
    stored: list[str] = []

    def publish(step: Step) -> None:
        board.update(step.readings, None, step.transitions, step.episodes, {}, now())
        stored.extend(f"{t.episode_id}.{t.seq}" for t in step.transitions)
        table = kept.transitions()
        known = {f"{a}.{b}" for a, b in table.select("episode_id", "seq").iter_rows()}
        assert set(stored) <= known, "published before it was stored"

    ordered = sorted(records, key=lambda r: r["arrival"])
    run = city_run({"link": {"a": ordered}}, How(), DirectStore(kept), 1, now, publish=publish)
    for tick in range(2 * minutes):
        at = START + tick * MINUTE_MS // 2
        run.poll(at)
        run.tick(at)
        run.step(at)
    told = [json.loads(line[6:]) for e in board.ring._events if e.kind == "alert" for line in e.encoded.split(b"\n")
            if line.startswith(b"data: ")]  # fmt: skip
    return kept, [t for event in told for t in event["transitions"]], stored


def jam(until: int) -> list[Record]:
    """Ten free minutes, jammed ones, free ones again."""
    slow = range(10, until)
    return [link(m + 0.5, JAMMED_MS if m in slow else FREE_MS) for m in range(40)]


def of_site(kept: MemorySink, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    mine = set(kept.episodes(rule="traffic.tti.site")["episode_id"])
    return [t for t in told if t["episode_id"] in mine]


def test_a_jam_is_an_alert_and_then_an_update() -> None:
    kept, told, _ = lived(jam(15), 40)
    mine = of_site(kept, told)
    assert [(t["message"]["type"], t["to_state"]) for t in mine] == [("Alert", "firing"), ("Update", "resolved")]
    assert mine[1]["message"]["references"] == [mine[0]["message"]["id"]]


def test_a_late_event_cancels_what_was_raised() -> None:
    """So many vehicles at free speed are told 15 min later that the window's mean was never high."""
    late = [link(m + 0.6, FREE_MS, 30, 5_000) for m in range(10, 15)]
    kept, told, _ = lived([*jam(15), *late], 45)
    before, _, _ = lived(jam(15), 40)
    mine = of_site(kept, told)
    assert [t["message"]["type"] for t in mine] == ["Alert", "Update", "Cancel"]
    assert [t["to_state"] for t in mine] == ["firing", "resolved", "retracted"]
    assert mine[2]["message"]["references"] == [mine[1]["message"]["id"]]
    assert mine[2]["detail"]["correction"] is True
    episode = kept.episodes(rule="traffic.tti.site").row(0, named=True)
    assert episode["state"] == "retracted"
    assert kept.transitions(episode_id=episode["episode_id"])["seq"].to_list() == [0, 1, 2]
    window = {"indicator": "traffic.tti", "place": "l1", "from_ms": START, "until_ms": START + 16 * MINUTE_MS}
    a, b = (s.newest_readings(**window).select("window_end", "value").rows() for s in (before, kept))
    assert a != b and [x for x, _ in a] == [x for x, _ in b]


def test_a_later_start_updates_the_episode() -> None:
    """The first windows of a jam turn out to have been free: the episode begins later, as an Update of the first one."""
    late = [link(m + 0.6, FREE_MS, 27, 5_000) for m in range(10, 13)]
    kept, told, _ = lived([*jam(24), *late], 45)
    mine = of_site(kept, told)
    types = [t["message"]["type"] for t in mine]
    assert types[0] == "Alert" and "Update" in types[1:] and "Cancel" not in types
    replaced = [t for t in mine if len({t["episode_id"], *t["detail"].get("replaces", [])}) > 1]
    assert replaced and replaced[0]["message"]["references"] == [mine[0]["episode_id"]]


@pytest.mark.parametrize("publish", [None, "cancel"])
def test_only_what_is_to_be_published_is_told(publish: str | None) -> None:
    from dashboards.alerts import AlertBook
    from tests.unit.dashboard_fakes import Changed, episodes

    _, shown = AlertBook().update([Changed("e", 1, 5, "resolved", "retracted", publish=publish)], episodes())
    assert [x["message"]["type"] for x in shown] == ([] if publish is None else ["Cancel"])
