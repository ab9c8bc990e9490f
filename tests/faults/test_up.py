"""`citybrain up` killed, stopped and started again: as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.failpoints import VARIABLE
from sinks.difference import difference
from tests.fakes.clickhouse_process import StandIn
from tests.faults.processes import KILLED, ROOT, run, transitions_hold

START, UNTIL, SPEED = "2026-03-02T08:00:00+08:00", "2026-03-02T08:20:00+08:00", 100
RUN = ("citybrain", "up", "--seed", 7, "--start", START, "--until", UNTIL, "--speed", SPEED, "--port", 0)


@contextlib.contextmanager
def up(*arguments: object, failpoint: str | None = None) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", *map(str, arguments)]
    env = {**os.environ, **({VARIABLE: failpoint} if failpoint else {})}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def killed(data: Path, after_s: float) -> int:
    """Kills it so long after its first number."""
    with up(*RUN, "--data", data) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if "first number" in line:
                time.sleep(after_s)
                break
        running.kill()
        return running.wait()


def exported(data: Path, out: Path) -> Path:
    ended = run(["citybrain", "export", data / "demo", out])
    assert ended.code == 0, ended.err
    return out


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calm")
    calm = run([*RUN, "--data", folder])
    assert calm.code == 0, calm.err
    return exported(folder, folder / "out")


def test_killed_and_not_killed_are_equal(tmp_path: Path, undisturbed: Path) -> None:
    kills = Counter(killed(tmp_path / "broken", after_s) for after_s in (0.1, 2.5, 0.4, 1.7))
    ended = run([*RUN, "--data", tmp_path / "broken"])
    assert ended.code == 0 and "goes on from" in ended.err, ended.err
    out = exported(tmp_path / "broken", tmp_path / "broken.out")
    found = difference(undisturbed, out)
    assert found.equal, str(found)
    # How many beats a step takes in depends on the machine, so the way to an episode's state may differ; its end may not.
    print(f"\n{kills[KILLED]} kills; {found.compared:,} compared, {transitions_hold(out)} transitions in order")
    assert kills[KILLED] >= 3 and found.compared > 50_000


def test_tokens_that_cannot_be_used_are_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "tokens.json").write_text("{")
    (tmp_path / "demo" / "tokens.json").chmod(0o600)
    with up(*RUN, "--data", tmp_path) as running:
        assert running.stderr is not None
        assert "warning: pushes are refused" in running.stderr.readline()


def test_on_a_server_that_goes_away_it_waits_and_goes_on(tmp_path: Path, undisturbed: Path) -> None:
    """The run is killed once, and the server once under it; the store is that of an undisturbed embedded run."""
    server = StandIn(tmp_path / "server")
    server.start()
    on_it = (*RUN, "--data", tmp_path / "data", "--store", f"{server.url}/city")
    try:
        with up(*on_it) as running:
            assert running.stderr is not None
            next(line for line in running.stderr if "first number" in line)
            began = time.monotonic()
            second = run([*RUN, "--data", tmp_path / "other", "--store", f"{server.url}/city"])
            refused_s = time.monotonic() - began
            assert second.code == 2 and f"in use by process {running.pid} on " in second.err, second
            running.kill()
            assert running.wait() == KILLED
        began = time.monotonic()
        with up(*on_it) as running:
            assert running.stderr is not None
            told = next(line for line in running.stderr if "goes on from" in line)
            restarted_s = time.monotonic() - began
            time.sleep(1)
            server.end()
            away = next(line for line in running.stderr if "takes nothing at the moment" in line)
            time.sleep(2)
            server.start()
            back = next(line for line in running.stderr if "takes what it is sent again" in line)
            assert running.wait(60) == 0, running.stderr.read()
        out = tmp_path / "out"
        ended = run(["citybrain", "export", f"{server.url}/city", out])
        assert ended.code == 0, ended.err
        ended = run(["citybrain", "diff", undisturbed, f"{server.url}/city"])
        assert ended.code == 0, ended
    finally:
        server.end()
    found = difference(undisturbed, out)
    assert found.equal, str(found)
    print("", told, away, back, sep="\n")
    print(f"restarted in {restarted_s:.1f} s; {found.compared:,} compared, {transitions_hold(out)} transitions")
    print(f"a second run refused in {refused_s:.2f} s")
    assert refused_s < 2
    assert "the server gives no answer: " in away, away
    assert restarted_s < 20 and found.compared > 50_000, "the dead owner's lease is not waited for"


def answered(url: str, longest_s: float = 30) -> dict[str, Any]:
    """What the API says, once it is no longer a 503."""
    until = time.monotonic() + longest_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=longest_s) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > until:
                raise
        time.sleep(0.1)


def alerts_of(url: str) -> dict[str, dict[str, Any]]:
    """All that the API lists, each with its transitions, which have no gap."""
    listed = answered(f"{url}api/v1/alerts?state=all&limit=1000")["alerts"]
    shown = {e["episode_id"]: answered(f"{url}api/v1/alerts/{e['episode_id']}") for e in listed}
    for identity, alert in shown.items():
        assert [t["seq"] for t in alert["transitions"]] == list(range(len(alert["transitions"]))), identity
        assert alert["transitions"], identity
    return shown


def test_alerts_and_their_history_outlive_a_kill(tmp_path: Path) -> None:
    start, before, after = "2026-03-02T08:40:00+08:00", {}, {}
    for told in (before, after):
        with up(
            "citybrain", "up", "--seed", 5, "--start", start, "--speed", 100, "--port", 0, "--data", tmp_path
        ) as running:
            assert running.stdout is not None and running.stderr is not None
            url = next(word for word in running.stdout.readline().split() if word.startswith("http://"))
            next(line for line in running.stderr if "first number" in line)
            if told is before:
                until = time.monotonic() + 30
                while not answered(f"{url}api/v1/alerts?state=ended")["alerts"] and time.monotonic() < until:
                    time.sleep(0.2)
            told |= alerts_of(url)
            running.kill()
            assert running.wait() == KILLED
    ended = [x for x in before.values() if x["episode"]["state"] != "firing"]
    print(f"\n{len(before)} episodes, {len(ended)} of them ended, before; {len(after)} after")
    assert ended and before.keys() <= after.keys()
    for identity, was in before.items():
        now = after[identity]
        assert now["transitions"][: len(was["transitions"])] == was["transitions"], identity
        if now["transitions"] == was["transitions"]:
            assert all(now["episode"][x] == was["episode"][x] for x in ("state", "level", "started_at", "ended_at"))


def test_sigterm_drains_and_nothing_is_done_again(tmp_path: Path) -> None:
    with up("citybrain", "up", "--port", 0, "--data", tmp_path) as running:
        assert running.stderr is not None
        next(line for line in running.stderr if "first number" in line)
        time.sleep(3)
        began = time.monotonic()
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 0
        took = time.monotonic() - began
    with up("citybrain", "up", "--port", 0, "--data", tmp_path) as running:
        assert running.stderr is not None
        told = next(line for line in running.stderr if "goes on from" in line)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 0
    print(f"\nended in {took:.2f} s; then: {told.strip()}")
    assert took < 10 and "(0 steps done again" in told


def test_a_second_owner_is_refused_at_once(tmp_path: Path) -> None:
    with up("citybrain", "up", "--port", 0, "--data", tmp_path) as running:
        assert running.stderr is not None
        next(line for line in running.stderr if "first number" in line)
        took = []
        for _ in range(3):
            began = time.monotonic()
            second = run(["citybrain", "up", "--port", 0, "--data", tmp_path])
            took.append(time.monotonic() - began)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 0
    assert second.code == 2 and f"process {running.pid}" in second.err and str(tmp_path) in second.err, second.err
    print(f"\nrefused in {min(took):.2f} s: {second.err.strip()}")
    assert min(took) < 2


def session(data: Path, shift_s: float) -> list[str]:
    """What a run says whose wall clock is shifted, from its start to a second after its first number."""
    said: list[str] = []
    with up("tests.faults.shifted", shift_s, "up", "--port", 0, "--data", data) as running:
        assert running.stderr is not None
        for line in running.stderr:
            said.append(line)
            if "first number" in line:
                break
        time.sleep(1)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 0, running.stderr.read()
    return said


def test_after_time_off_it_catches_up_or_says_what_it_skipped(tmp_path: Path) -> None:
    session(tmp_path / "hours", -2 * 3600)
    hours = session(tmp_path / "hours", 0)
    assert any("goes on from" in line for line in hours) and not any("skipped" in line for line in hours), hours
    session(tmp_path / "days", -3 * 86_400)
    days = session(tmp_path / "days", 0)
    told = [line for line in days if "is skipped: at most 24 h are caught up" in line]
    assert len(told) == 1, days
    out = exported(tmp_path / "days", tmp_path / "out")
    readings = pl.read_parquet(out / "readings.parquet").filter(indicator="traffic.tpi", place_kind="city")
    known = readings.filter(pl.col("value").is_not_null())["window_end"].sort()
    empty = readings.filter(state="no_data")
    print(f"\n{told[0].strip()}\n{len(known)} windows with a value, {len(empty)} without, in the time off")
    assert (known[-1] - known[0]).days >= 2 and len(empty) > 48, "the time off has windows, and they have no data"
