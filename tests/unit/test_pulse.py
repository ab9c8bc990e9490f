"""The dead man's switch (rule 39): what trips it, where it shows, and that it clears; the rules for Prometheus."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dashboards.metrics import METRICS
from dashboards.pulse import Pulse, Stalled, Switch
from dashboards.run_metrics import Watched
from pipelines.journal import Journal
from sinks.retry import Retry, Trouble
from sinks.writer import StoreThread
from tests.unit.dashboard_fakes import Fixture, city, get, parsed, reading

RULES = Path(__file__).resolve().parents[2] / "dashboards" / "prometheus"


class Wall:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def holds(condition: Callable[[], bool], within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_silence_of_the_loop_or_of_the_store_trips_it() -> None:
    wall, unfinished = Wall(), 0
    pulse = Pulse(30, unfinished=lambda: unfinished, trouble=lambda: "refused", monotonic=wall)
    wall.now += 30
    assert pulse.stalled() is None, "the bound itself is allowed"
    wall.now += 1
    pulse.durable(7)
    assert pulse.stalled() == Stalled("loop", 31, "the loop of the run has stood still for 31 s (allowed: 30 s)")
    pulse.beat()
    assert pulse.stalled() is None and pulse.step == 7 and pulse.durable_age_s == 0
    wall.now += 40
    pulse.beat()
    unfinished = 1
    assert pulse.stalled() == Stalled("store", 40, "no step became durable for 40 s (allowed: 30 s): refused")
    unfinished = 0
    assert pulse.stalled() == Stalled("loop", 40, "no step became durable for 40 s (allowed: 30 s)")


def watched(pulse: Pulse) -> Fixture:
    f = city()
    f.step([reading()])
    f.board.pulse = pulse
    return f


def shown(f: Fixture) -> tuple[int, bool, str | None]:
    """Status of /readyz, `ready` and part of `stalled` of a heartbeat as the event stream carries it."""
    heartbeats = [data for event, _, data in parsed(get(f.app, "/api/v1/stream").body) if event == "hb"]
    stalled = heartbeats[-1]["stalled"]
    return get(f.app, "/readyz").status, heartbeats[-1]["ready"], stalled and stalled["part"]


def test_a_store_that_hangs_trips_it_and_it_clears(tmp_path: Path) -> None:
    gate = threading.Event()

    class Hanging:
        def write(self, table: str, frame: pl.DataFrame) -> None:
            gate.wait(30)

        def close(self) -> None:
            """Nothing to do."""

    journal = Journal(tmp_path / "delivery")
    with StoreThread(Hanging()) as store:
        pulse = Pulse(0.3, unfinished=lambda: store.unfinished)
        journal.told = lambda step, _: pulse.durable(step)
        f, told = watched(pulse), list[Stalled | None]()

        def tell(stalled: Stalled | None) -> None:
            told.append(stalled)
            f.board.announce()

        switch = Switch(pulse, tell, look_s=0.02)
        ended = threading.Event()

        def loop() -> None:
            """As the live loop: hands over a step, then blocks on the full queue of a store that hangs."""
            step = 0
            while not ended.is_set():
                step += 1
                pulse.beat()
                store.submit([("t", pl.DataFrame({"x": [step]}))])
                store.call(lambda step=step: journal.step({"run": {"step": step}}, ()))  # type: ignore[misc]
                time.sleep(0.01)

        journal.begin({"run": {"step": 0}})
        looping = threading.Thread(target=loop)
        looping.start()
        try:
            assert holds(lambda: bool(told)) and told[0] is not None and told[0].part == "store"
            assert shown(f) == (503, False, "store")
            reasons = get(f.app, "/readyz").json()["reasons"]
            assert "the store has not finished what it was given" in reasons[0]
            gate.set()
            assert holds(lambda: len(told) == 2) and told[1] is None
            assert shown(f) == (200, True, None) and pulse.step > 0
        finally:
            gate.set()
            ended.set()
            looping.join()
            switch.close()
    events = f.board.ring.last
    assert events >= 3, "a delta, and a heartbeat at each change, without waiting for the next one"


def test_a_loop_that_stops_trips_it_though_the_store_is_idle() -> None:
    pulse = Pulse(0.1)
    f, told = watched(pulse), list[Stalled | None]()
    switch = Switch(pulse, told.append, look_s=0.02)
    try:
        assert holds(lambda: bool(told)) and shown(f) == (503, False, "loop")
        assert holds(lambda: (pulse.beat(), pulse.durable(1), len(told) == 2)[2]) and told[1] is None
    finally:
        switch.close()
    f.board.hold("the past is being replayed")
    time.sleep(0.15)
    assert len(f.board.not_ready()) == 2, "a run that hangs while it catches up is told as well"


def test_the_numbers_of_a_watched_run() -> None:
    f, wall = city(), Wall()
    pulse = Pulse(30, monotonic=wall)
    retry = Retry()
    retry.trouble, retry.again_total = Trouble(1_772_416_800_000, "refused", 3), 5

    def gone() -> int:
        raise FileNotFoundError

    f.metrics.watched = run = Watched(
        pulse, retry, lambda: 4096, lambda: 2, lambda: 3, lambda: 10**9,
        lambda: [("push:a:link", 100, True)], lambda: {"push:a:link": 9, "push:b:link": 1},
    )  # fmt: skip
    pulse.durable(12)
    wall.now += 7
    f.metrics.checkpoint(0.004)

    def scraped() -> dict[str, float]:
        families = text_string_to_metric_families(f.metrics.exposition("")[0].decode())
        return {s.name + "".join(s.labels.values()): s.value for family in families for s in family.samples}

    found = scraped()
    wanted = {
        "stalled": 0, "durable_step": 12, "durable_age_seconds": 7, "checkpoint_bytes": 4096, "late_unapplied_total": 2,
        "store_queue_length": 3, "store_trouble": 1, "store_trouble_since_timestamp_seconds": 1_772_416_800,
        "store_resends_total": 5, "store_disk_free_bytes": 10**9, "spool_bytespush:a:link": 100,
        "spool_fullpush:a:link": 1, "push_refused_totalpush:a:link": 9, "push_refused_totalpush:b:link": 1,
        "checkpoint_duration_seconds_count": 1, "checkpoint_duration_seconds_bucket0.005": 1,
        "checkpoint_duration_seconds_bucket0.0025": 0,
    }  # fmt: skip
    assert {name: found[f"citybrain_{name}"] for name in wanted} == wanted
    wall.now += 24
    retry.trouble, run.free_bytes = None, gone
    found = scraped()
    assert found["citybrain_stalled"] == 1 and found["citybrain_store_trouble"] == 0
    assert not {"citybrain_store_trouble_since_timestamp_seconds", "citybrain_store_disk_free_bytes"} & set(found)
    print(f"{len(wanted)} numbers compared")


# --- the rules for Prometheus -----------------------------------------------------------------------------------------


def test_the_rules_name_metrics_that_exist() -> None:
    text = (RULES / "citybrain.rules.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)\n +expr: (.+)\n(?: +for: \w+\n)? +labels: \{severity: (\w+)\}\n", text)
    assert len(alerts) == text.count("- alert:") >= 6
    assert alerts[0] == ("Watchdog", "vector(1)", "none")
    used = {name for _, expression, _ in alerts for name in re.findall(r"citybrain_\w+", expression)}
    assert len(used) >= 5 and used <= {m.name for m in METRICS}
    tested = set(re.findall(r"alertname: (\w+)", (RULES / "citybrain.test.yml").read_text()))
    assert tested <= {name for name, _, _ in alerts} and len(tested) >= 5


@pytest.mark.crash  # promtool is no part of a user's machine; where it is missing this fails, and says so
def test_promtool_takes_the_rules_and_they_fire() -> None:
    for command in (["check", "rules", "citybrain.rules.yml"], ["test", "rules", "citybrain.test.yml"]):
        done = subprocess.run(["promtool", *command], cwd=RULES, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
