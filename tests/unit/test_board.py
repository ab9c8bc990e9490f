"""The board, its ring and streams, the alert book and the metrics, without a server (rules 1, 19, 21, 30, 39)."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import orjson
import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from commands.watching import Before
from dashboards import stream
from dashboards.alerts import AlertBook
from dashboards.metrics import METRICS, NAMES, Metrics, render
from dashboards.ring import CLIENT_QUEUE, Ring
from sinks.errors import StoreError
from sinks.memory import MemorySink
from tests.unit.dashboard_fakes import (
    DISTRICTS,
    MINUTE,
    START,
    Changed,
    Fixture,
    city,
    episode,
    episodes,
    get,
    parsed,
    reading,
    readings,
)

BOTH = frozenset(stream.TOPICS)


def tiles(fixture: Fixture) -> dict[tuple[str, str, bool], Any]:
    return {(t["indicator"], t["place"], t["provisional"]): t for t in fixture.board.tiles()}


def last_delta(fixture: Fixture) -> Any:
    event = fixture.board.ring.after(fixture.board.ring.last - 1)
    assert event is not None
    return parsed(event.encoded)[0][2]


# --- newest readings ------------------------------------------------------------------------------------------------


def test_newest_window_and_revision_win_in_any_order() -> None:
    f = city()
    f.step([reading(end=START, value=1.0), reading(end=START + MINUTE, value=2.0), reading(end=START, value=9.0)])
    assert tiles(f)["speed", "demo", False]["value"] == 2.0
    f.step([reading(end=START, value=5.0, revision=7)])
    assert tiles(f)["speed", "demo", False]["value"] == 2.0, "a correction of an older window is not the newest reading"
    assert last_delta(f)["readings"] == []
    f.step([reading(end=START + MINUTE, value=3.0, revision=7)])
    assert tiles(f)["speed", "demo", False]["value"] == 3.0
    f.step([reading(end=START + MINUTE, value=4.0, revision=6)])
    assert tiles(f)["speed", "demo", False]["value"] == 3.0, "an older revision never replaces a newer one"


def test_provisional_stands_only_where_it_is_newer_and_is_replaced_as_a_whole() -> None:
    f = city()
    f.step([reading(end=START)], [reading(end=START, value=8.0), reading(place="d01", end=START + MINUTE, value=7.0)])
    assert set(tiles(f)) == {("speed", "demo", False), ("speed", "d01", True)}
    f.step([], [reading(end=START + MINUTE, value=6.0)])
    assert set(tiles(f)) == {("speed", "demo", False), ("speed", "demo", True)}
    assert last_delta(f)["gone"] == [["speed", "district", "d01"]]
    f.step([], [reading(end=START + MINUTE, value=6.0)])
    assert last_delta(f)["readings"] == [], "an unchanged tile is not sent again"
    f.step([reading(end=START + MINUTE, value=6.5)], [reading(end=START + MINUTE, value=6.0)])
    assert set(tiles(f)) == {("speed", "demo", False)}
    assert last_delta(f)["gone"] == [["speed", "city", "demo"]]


def test_finals_alone_leave_the_provisional_set_but_for_what_they_overtake() -> None:
    f = city()
    f.step([], [reading(end=START + MINUTE), reading(place="d01", end=START + MINUTE)])
    f.board.update(readings(reading(end=START + MINUTE)), None, [], None, {}, START)
    assert set(tiles(f)) == {("speed", "demo", False), ("speed", "d01", True)}
    assert last_delta(f)["gone"] == [["speed", "city", "demo"]]


def test_no_data_is_null_with_its_beginning_and_never_zero() -> None:
    f = city()
    f.step([reading(end=START, value=None)])
    f.step([reading(end=START + MINUTE, value=None)])
    tile = tiles(f)["speed", "demo", False]
    assert (tile["value"], tile["state"], tile["as_of"]) == (None, "no_data", None)
    assert tile["no_data_since"] == "2026-03-01T23:55:00.000Z"
    f.step([reading(end=START + 2 * MINUTE, value=0.0)])
    tile = tiles(f)["speed", "demo", False]
    assert (tile["value"], tile["no_data_since"]) == (0.0, None)
    _, body = f.board.snapshot()
    assert orjson.loads(body)["readings"][0]["value"] == 0.0


def test_detail_that_is_no_json_and_values_that_are_no_numbers_do_no_harm() -> None:
    f = city()
    f.step([reading(detail="{broken", value=float("nan")), reading(place="d01", detail='{"reason":"no_weight"}')])
    found = {r["place"]: r for r in orjson.loads(f.board.snapshot()[1])["readings"]}
    assert found["demo"]["detail"] == {"text": "{broken"}
    assert found["demo"]["value"] is None
    assert found["d01"]["detail"] == {"reason": "no_weight"}


def test_sites_are_only_found_when_asked_for() -> None:
    f = city()
    for n in range(40):
        f.step([reading(place=f"s{i:03d}", kind="site", end=START + n * MINUTE, value=float(n)) for i in range(50)])
    f.step([], [reading(place="s007", kind="site", end=START + 60 * MINUTE, value=99.0)])
    assert tiles(f) == {}
    assert orjson.loads(f.board.snapshot()[1])["readings"] == []
    wanted = [pl.col("indicator") == "speed", pl.col("place_kind") == "site"]
    seen, after = [], None
    while page := f.board.sites(wanted, after, 7):
        seen += page
        after = (page[-1]["indicator"], page[-1]["place_kind"], page[-1]["place"])
    assert [t["place"] for t in seen] == [f"s{i:03d}" for i in range(50)]
    assert {t["value"] for t in seen if t["place"] != "s007"} == {39.0}
    assert [(t["value"], t["provisional"]) for t in seen if t["place"] == "s007"] == [(99.0, True)]
    assert len(f.board._sites._batches) <= 17, "batches are merged, not collected for ever"


def test_a_frame_without_its_columns_is_refused_by_name() -> None:
    f = city()
    with pytest.raises(ValueError, match="finals lack the columns as_of"):
        f.board.update(readings(reading()).drop("as_of"), None, [], None, {}, START)


def test_one_thread_updates_while_others_read() -> None:
    f = city()
    done, wrong, read = threading.Event(), [], [0]

    def look() -> None:
        while not done.is_set():
            values = {r["value"] for r in orjson.loads(f.board.snapshot()[1])["readings"]}
            values_now = {t["value"] for t in f.board.tiles()}
            read[0] += 1
            if len(values) > 1 or len(values_now) > 1:
                wrong.append(values | values_now)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(100):
        f.step([reading(place=d, end=START + n * MINUTE, value=float(n)) for d in ("demo", *DISTRICTS)])
    done.set()
    for thread in threads:
        thread.join()
    print(f"{read[0]} reads during 100 updates")
    assert read[0] > 0 and not wrong, "a reader saw half an update"


# --- ready ----------------------------------------------------------------------------------------------------------


def test_not_ready_names_every_reason_and_recovers() -> None:
    f = city(stuck_after_ms=60_000)
    assert f.board.not_ready() == ["there is no first reading yet"]
    f.step([reading()], health={"link": {"watermark": START}, "air": {"watermark": START}})
    assert f.board.not_ready() == []
    f.clock.now += 61_000
    f.step([], health={"link": {"watermark": START + 61_000}, "air": {"watermark": START}})
    assert f.board.not_ready() == [
        "the watermark of stream air has not moved for 61 s (allowed: 60 s by the run's clock)"
    ]
    f.step([], health={"air": {"watermark": START + 1}})
    assert f.board.not_ready() == []
    f.clock.now += 61_000
    assert len(f.board.not_ready()) == 2, "when the run itself stops, time goes on and every watermark is stuck"
    f.board.fail("store", "disk full")
    assert f.board.not_ready()[0] == "store has failed: disk full"
    f.board.recovered("store")
    assert len(f.board.not_ready()) == 2


def test_a_watermark_that_moves_pane_by_pane_has_a_pane_more() -> None:
    f = city(stuck_after_ms=60_000)
    f.board.strides = {"air": 3_600_000}
    f.step([reading()], health={"link": {"watermark": START}, "air": {"watermark": START}})
    f.clock.now += 3_660_000
    assert [reason.split()[4] for reason in f.board.not_ready()] == ["link"]
    f.clock.now += 1_000
    assert f.board.not_ready()[0] == (
        "the watermark of stream air has not moved for 3661 s (allowed: 3660 s by the run's clock)"
    )


def test_a_run_that_catches_up_is_not_ready_for_that_reason_alone() -> None:
    f = city(stuck_after_ms=60_000)
    f.board.hold("the hour before now is being replayed")
    f.step([reading()], health={"link": {"watermark": START}})
    f.clock.now += 600_000
    assert f.board.not_ready() == ["the hour before now is being replayed"]
    f.board.release()
    assert f.board.not_ready() == []
    f.clock.now += 61_000
    assert len(f.board.not_ready()) == 1


# --- ring and stream ------------------------------------------------------------------------------------------------


def drain(f: Fixture, last: str | None = None, topics: Any = BOTH, between: Any = None, pieces: int = 10**6) -> bytes:
    """What one client receives until it has caught up; `between` runs once after `pieces` pieces were taken."""

    async def read() -> bytes:
        body = stream.events(f.board, last, topics, heartbeat_s=0.05)
        out, taken = b"", 0
        async for piece in body:
            out += piece
            taken += 1
            if taken == pieces and between is not None:
                between()
            if piece.startswith(b"id: ") and b"event: hb" in piece[:60] and (between is None or taken > pieces):
                break
        await body.aclose()  # type: ignore[attr-defined]
        return out

    return asyncio.run(read())


def follow(raw: bytes, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a client knows after these events: values by place, as the page keeps them; refuses a gap in the ids."""
    known = state or {"values": {}, "seq": None}
    for event, identity, data in parsed(raw):
        seq = int(identity.rsplit("-", 1)[1])
        if event == "snapshot":
            known["values"] = {r["place"]: r["value"] for r in data["readings"]}
        elif event == "delta":
            if seq != known["seq"] + 1:
                raise AssertionError(f"a gap: {seq} after {known['seq']}")
            known["values"] |= {r["place"]: r["value"] for r in data["readings"]}
        known["seq"] = seq
    return known


def fill(f: Fixture, count: int, start: int = 0) -> None:
    for n in range(start, start + count):
        f.step([reading(place=DISTRICTS[n % 12], end=START + n * MINUTE, value=float(n))])


def test_replay_gives_exactly_the_missed_events_then_nothing_twice() -> None:
    f = city()
    fill(f, 10)
    first = drain(f)
    assert first.startswith(b"retry: 2000\n\n")
    assert [e for e, _, _ in parsed(first)] == ["snapshot", "hb"]
    known = follow(first)
    fill(f, 200, start=10)
    missed = drain(f, f"e1-{known['seq']}")
    events = parsed(missed)
    assert [int(i.split("-")[1]) for e, i, _ in events if e == "delta"] == list(range(11, 211))
    assert [e for e, _, _ in events].count("snapshot") == 0, "200 missed events are replayed, not skipped"
    assert follow(missed, known)["values"] == follow(drain(f))["values"]
    print(f"{len(events)} events replayed, {len(known['values'])} values compared")


def test_the_gap_check_fails_when_the_ring_loses_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    f = city()
    fill(f, 5)
    known = follow(drain(f))
    fill(f, 5, start=5)
    whole = Ring.after
    monkeypatch.setattr(Ring, "after", lambda ring, seq: whole(ring, seq + 1 if seq == 7 else seq))
    with pytest.raises(AssertionError, match="a gap: 9 after 7"):
        follow(drain(f, f"e1-{known['seq']}"), known)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (None, ["snapshot", "hb"]),
        ("e1-20", ["hb"]),
        ("e1-19", ["delta", "hb"]),
        ("e1-3", ["snapshot", "hb"]),  # left the ring
        ("e1-21", ["snapshot", "hb"]),  # never was
        ("e0-20", ["reset", "snapshot", "hb"]),  # another server start
        ("e1", ["snapshot", "hb"]),
        ("e1-", ["snapshot", "hb"]),
        ("e1--1", ["snapshot", "hb"]),
        ("e1-٣", ["snapshot", "hb"]),
        ("x" * 5000, ["snapshot", "hb"]),
    ],
)
def test_where_a_client_goes_on(last: str | None, expected: list[str]) -> None:
    f = city(keep_events=10)
    fill(f, 20)
    assert [e for e, _, _ in parsed(drain(f, last))] == expected


def test_a_slow_client_drops_to_the_newest_state_with_a_reset() -> None:
    f = city()
    fill(f, 1)
    raw = drain(f, between=lambda: fill(f, CLIENT_QUEUE + 1, start=1), pieces=2)
    assert [e for e, _, _ in parsed(raw)] == ["snapshot", "reset", "snapshot", "hb"]
    assert follow(raw)["seq"] == CLIENT_QUEUE + 2
    raw = drain(f, between=lambda: fill(f, CLIENT_QUEUE, start=100), pieces=2)
    assert [e for e, _, _ in parsed(raw)] == ["snapshot", *["delta"] * CLIENT_QUEUE, "hb"]


def test_topics_and_heartbeats() -> None:
    f = city()
    fill(f, 1)
    f.step([reading(value=4.0)], changes=[Changed("x", 0, START, "", "firing")], open_episodes=[episode("x")])
    f.step([reading(value=5.0, revision=2)], open_episodes=[episode("x")])
    kinds = {t: [e for e, _, _ in parsed(drain(f, "e1-1", frozenset({t})))] for t in stream.TOPICS}
    assert kinds == {"screen": ["delta", "delta", "hb"], "alerts": ["alert", "hb"]}
    f.clock.now += 12_345
    event, identity, beat = parsed(drain(f, "e1-4"))[0]
    assert (event, identity, beat["sent"], beat["build"]) == ("hb", "e1-4", START + 12_345, f.board.build)


def test_comments_and_heartbeats_come_without_events() -> None:
    f = city()

    async def read() -> bytes:
        out = b""
        async for piece in stream.events(f.board, None, BOTH, heartbeat_s=0.03, comment_s=0.05):
            out += piece
            if out.count(b"event: hb") >= 4 and out.count(b": keep-alive\n\n") >= 2:
                break
        return out

    assert asyncio.run(asyncio.wait_for(read(), 5)).count(b"event: hb") >= 4
    assert f.board.ring.clients == 0


def test_the_ring_is_bounded_by_age_number_and_bytes() -> None:
    now = [0.0]
    ring = Ring("e", keep_s=10, keep_events=5, keep_bytes=1000, monotonic=lambda: now[0])
    for _ in range(20):
        ring.publish("delta", b"{}")
    assert ring.holds(15) and not ring.holds(14) and ring.holds(20) and not ring.holds(21)
    ring.publish("delta", b"x" * 700)
    ring.publish("delta", b"x" * 700)
    assert ring.size_bytes <= 1000 and ring.holds(21) and not ring.holds(20)
    now[0] = 11
    ring.publish("alert", b"{}")
    assert ring.holds(22) and not ring.holds(21)
    with pytest.raises(LookupError, match="event 3 is not in the ring"):
        ring.after(3)


# --- alerts ---------------------------------------------------------------------------------------------------------


def test_alert_events_carry_transitions_and_episodes_that_end() -> None:
    f = city()
    f.step(changes=[Changed("x", 0, START, "", "firing")], open_episodes=[episode("x"), episode("y", level="I")])
    data = last_delta(f)
    assert [e["episode_id"] for e in data["episodes"]] == ["x", "y"]
    assert data["transitions"][0]["to_state"] == "firing"
    assert [e["episode_id"] for e in f.board.alerts(only_open=True)] == ["y", "x"], "the most severe first"
    f.step(changes=[Changed("x", 1, START + MINUTE, "firing", "resolved")], open_episodes=[episode("y", level="I")])
    assert [e["episode_id"] for e in f.board.alerts(only_open=True)] == ["y"]
    ended = f.board.alert("x") or {}
    assert (ended["state"], ended["ended_at"]) == ("resolved", "2026-03-02T00:01:00.000Z")
    before = f.board.ring.last
    f.step(open_episodes=[episode("y", level="I")])
    assert f.board.ring.last == before + 1, "nothing new: a delta, and no alert event"


def test_an_episode_that_starts_and_ends_in_one_step_is_known_from_its_transitions() -> None:
    book = AlertBook()
    changed, shown = book.update(
        [Changed("x", 0, START, "", "firing"), Changed("x", 1, START + MINUTE, "firing", "resolved")], episodes()
    )
    assert [(e["state"], e["started_at"], e["threshold"], e["place"]) for e in changed] == [
        ("resolved", "2026-03-02T00:00:00.000Z", 6.0, "d01")
    ]
    assert len(shown) == 2 and dict(book.counted) == {"firing": 1, "resolved": 1}


def test_the_alert_book_is_bounded_and_keeps_what_is_open() -> None:
    book = AlertBook(keep=50)
    still = [episode(f"open{n}") for n in range(20)]
    for n in range(300):
        changes = [Changed(f"e{n}", s, START + s, "firing", "firing" if s < 9 else "resolved") for s in range(10)]
        book.update(changes, episodes(*still))
    assert len(book.recent()) == 50 and len(book.open()) == 20
    book.remember(episodes(*(episode(f"past{n}", state="resolved", revision=n) for n in range(100))))
    assert len(book.recent()) == 50 and not any(e["episode_id"].startswith("past") for e in book.recent())


def test_what_earlier_runs_stored_gives_way_to_what_this_one_tells() -> None:
    book, past = AlertBook(keep=4), episodes(
        *(episode(f"past{n}", state="resolved", revision=n) for n in range(9)),
        episode("told", state="retracted", level="III", at=START - MINUTE, ended_at=None, revision=20),
        episode("open", state="resolved", revision=21),
    )  # fmt: skip
    again = [Changed("told", 1, START, "firing", "retracted", level="III")]
    book.update(again, episodes(episode("open")))
    book.remember(past)
    known = {e["episode_id"]: e for e in book.recent()}
    assert set(known) == {"past7", "past8", "told", "open"}, "the newest of them, as many as are kept"
    assert known["open"]["state"] == "firing", "this run ends it again"
    assert (known["told"]["started_at"], known["told"]["ended_at"]) == ("2026-03-01T23:59:00.000Z", None)
    book.update(again, episodes())
    assert book.find("told") == known["told"], "told again, it is what it was"


class Away(MemorySink):
    """Answers from the third question on."""

    asked = 0

    def episodes(self, **wanted: Any) -> pl.DataFrame:
        self.asked += 1
        if self.asked < 3:
            raise StoreError("no server answers")
        return super().episodes(**wanted)


def test_a_start_asks_until_the_store_tells_what_ended_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("commands.watching.LONGEST_PAUSE_S", 0.3)
    f, sink, past, later = city(), Away(), START - 2 * MINUTE, START + MINUTE
    ended = [
        episode("past", state="resolved", at=past),
        episode("retracted", state="retracted", at=past, ended_at=None),
    ]
    over = [
        episode("ends later", state="resolved", at=past, ended_at=later),
        episode("later", state="resolved", at=later),
    ]
    sink.write("episodes", episodes(*ended, *over, episode("never ended", at=past)))
    sink.write("readings", readings(reading(value=4.0), reading("tti", end=later, value=5.0)))
    f.board.unread = {"ended": "is being read"}
    before = Before(sink, f.board, f.clock, START)  # type: ignore[arg-type]
    said, until = set[str](), time.monotonic() + 20
    while not f.board.tiles() and time.monotonic() < until:
        said.update(f.board.unread.values())
        time.sleep(0.01)
    before.close()
    assert "what earlier runs stored cannot be shown: no server answers" in said
    assert not f.board.unread and [t["value"] for t in f.board.tiles()] == [4.0]
    assert {e["episode_id"]: e["state"] for e in f.board.alerts(only_open=False)} == {
        "past": "resolved",
        "retracted": "retracted",
    }
    assert capsys.readouterr().err.count("cannot be shown: no server answers") == 1


# --- metrics --------------------------------------------------------------------------------------------------------


def scraped(metrics: Metrics) -> dict[str, Any]:
    body, _ = metrics.exposition("")
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


def documented_families() -> set[str]:
    return {m.name.removesuffix("_total") if m.kind == "counter" else m.name for m in METRICS}


def test_the_metrics_are_exactly_the_documented_ones() -> None:
    f = city()
    assert set(scraped(f.metrics)) == documented_families()
    f.step(
        [reading(), reading(place="d01", value=None)],
        health={"link": {"watermark": START - 60_000, "last_event_at": START - 2_000, "accepted": 8, "late": 2}},
        open_episodes=[episode("x")],
    )
    f.metrics.step(0.02)
    f.metrics.step(20.0)
    f.metrics.stored("readings", 7)
    families = scraped(f.metrics)
    assert set(families) == documented_families()
    by_kind = {m.name.removesuffix("_total"): (m.kind, set(m.labels)) for m in METRICS}
    samples = 0
    for name, family in families.items():
        kind, labels = by_kind[name]
        assert family.type == kind
        for sample in family.samples:
            samples += 1
            assert set(sample.labels) - {"le"} == labels, sample
    print(f"{len(families)} families, {samples} samples compared with {len(NAMES)} documented names")
    flat = {s.name: s.value for n in families for s in families[n].samples if set(s.labels) <= {"stream", "table"}}
    assert flat["citybrain_late_ratio"] == 0.25
    assert flat["citybrain_watermark_delay_seconds"] == 60 and flat["citybrain_freshness_seconds"] == 2
    assert flat["citybrain_store_rows_total"] == 7
    assert flat["citybrain_step_duration_seconds_count"] == 2 and flat["citybrain_step_duration_seconds_sum"] == 20.02
    values = {s.labels["place"]: s.value for s in families["citybrain_indicator_value"].samples}
    assert values == {"demo": 1.5}, "no data has no sample: it is not zero"
    has = {s.labels["place"]: s.value for s in families["citybrain_indicator_has_value"].samples}
    assert has == {"demo": 1.0, "d01": 0.0}
    rendered = render()
    assert all(f"`{name}`" in rendered for name in NAMES)


def test_an_undocumented_metric_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    f = city()
    more = next(iter(scraped(f.metrics).values()))
    more.name = "citybrain_surprise"
    collect = Metrics.collect
    monkeypatch.setattr(Metrics, "collect", lambda self: [*collect(self), more])
    assert set(scraped(f.metrics)) != documented_families()


def test_labels_are_bounded_and_what_is_dropped_is_counted() -> None:
    f = city()
    f.step([reading(place=f"d{n:04d}") for n in range(350)])
    for table in range(250):
        f.metrics.stored(f"t{table}", 1)
    for _ in range(2):
        families = scraped(f.metrics)
        for name, family in families.items():
            for label in {key for s in family.samples for key in s.labels}:
                assert len({s.labels[label] for s in family.samples if label in s.labels}) <= 200, (name, label)
    dropped = {s.labels["metric"]: s.value for s in families["citybrain_labels_dropped"].samples}
    assert dropped["citybrain_indicator_value"] == 2 * 150
    assert dropped["citybrain_store_rows_total"] == 2 * 50
    f.step([reading(place=f"s{n}", kind="site") for n in range(10)])
    assert not any(s.labels["place"].startswith("s") for s in scraped(f.metrics)["citybrain_indicator_value"].samples)


def test_openmetrics_is_served_when_asked_for() -> None:
    f = city()
    answer = get(f.app, "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")
