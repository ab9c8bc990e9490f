"""The command line as a stranger uses it: in processes of its own, with what it prints and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = {
    "received", "accepted", "duplicate", "rejected", "quarantined", "on_time", "late", "readings", "episodes",
    "wall_s", "events_per_s", "peak_rss_mb", "store",
}  # fmt: skip
T0 = 1_772_409_600_000


def citybrain(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "citybrain", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=timeout)


def refused(*arguments: object) -> str:
    """What a command says that cannot do what it was asked: one line, exit code 2."""
    done = citybrain(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and done.stderr.startswith("citybrain: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty minutes of the simulated city, all ten streams."""
    folder = tmp_path_factory.mktemp("recorded")
    done = citybrain("simulate", folder, "--start", "2026-03-02T08:00:00+08:00", "--until", "2026-03-02T08:40:00+08:00")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"link", "det", "air", "lvl", "rain", "park", "http", "inc", "case", "tkt"}
    return folder


def test_replay_prints_one_object_and_writes_an_output_that_diff_finds_equal(recorded: Path, tmp_path: Path) -> None:
    files = sorted(recorded.glob("*.ndjson"))
    summaries = []
    for name in ("a", "b"):
        done = citybrain("replay", *files, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        summaries.append(json.loads(done.stdout))
    first = summaries[0]
    assert set(first) >= SUMMARY
    assert first["received"] == first["accepted"] + first["duplicate"] + first["rejected"] + first["quarantined"]
    assert first["accepted"] == first["on_time"] + first["late"] and first["late"] > 0 and first["rejected"] > 0
    out = tmp_path / "a"
    names = {"readings.parquet", "episodes.parquet", "transitions.parquet", "dead_letters.ndjson", "summary.json"}
    assert names <= {p.name for p in out.iterdir()} and (out / "rows" / "link.parquet").exists()
    readings = pl.read_parquet(out / "readings.parquet")
    assert len(readings) == first["readings"] > 10_000
    letters = [json.loads(line) for line in (out / "dead_letters.ndjson").read_text().splitlines()]
    assert len(letters) == first["rejected"] and all(x["position"] and x["reason"] for x in letters)
    same = citybrain("diff", tmp_path / "a", tmp_path / "b")
    assert same.returncode == 0 and "readings" in same.stdout, same.stdout
    print(f"{len(readings)} readings of two runs compared by `citybrain diff`")
    other = citybrain("replay", recorded / "link.ndjson", "--out", tmp_path / "c")
    assert other.returncode == 0
    assert citybrain("diff", tmp_path / "a", tmp_path / "c").returncode == 1


def test_until_lets_time_go_on_and_shows_a_silence(tmp_path: Path) -> None:
    """Rule 9: without --until a silence after the last event is no reading; with it there is no data."""
    lines = [{"t": T0 + k * 60_000, "service": "svc00", "status": 200, "duration_us": 1000} for k in range(10)]
    path = tmp_path / "http.ndjson"
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    found = {}
    for name, more in (("short", ()), ("long", ("--until", "2026-03-02T01:00:00Z"))):
        done = citybrain("replay", path, "--only", "http.error_ratio", "--out", tmp_path / name, *more)
        assert done.returncode == 0, done.stderr
        readings = pl.read_parquet(tmp_path / name / "readings.parquet").filter(pl.col("place") == "svc00")
        found[name] = readings["state"].value_counts().to_dicts()
    states = {k: {x["state"]: x["count"] for x in v} for k, v in found.items()}
    assert states["short"].get("no_data", 0) == 0 and states["long"]["no_data"] > 30, states


def test_a_store_is_kept_and_emptied_only_when_it_is_ours(recorded: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for _ in range(2):
        done = citybrain("replay", recorded / "lvl.ndjson", "--store", store)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["store"] == f"chdb://{store}" and (store / "epoch").read_text() == "2"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("precious")
    assert "no store of citybrain" in refused(
        "replay", recorded / "lvl.ndjson", "--store", tmp_path / "mine", "--fresh"
    )
    assert (tmp_path / "mine" / "letter.txt").exists()


def test_what_the_user_got_wrong_is_one_line_that_helps(recorded: Path, tmp_path: Path) -> None:
    link = recorded / "link.ndjson"
    other = tmp_path / "data.ndjson"
    other.write_text("")
    cases = {
        ("replay", tmp_path / "nothing.ndjson"): ["is no file"],
        ("replay", link, link): ["named twice"],
        ("replay", other): ["streams are link", "--stream"],
        ("replay", other, "--stream", "linkk"): ["Did you mean 'link'"],
        ("replay", link, "--map", "aarhus_trafic"): ["Did you mean 'aarhus_traffic'"],
        ("replay", link, "--city", "dem"): ["Did you mean 'demo'"],
        ("replay", link, "--only", "traffic.tt"): ["Did you mean 'traffic.tti'"],
        ("replay", link, "--until", "tomorrow"): ["2026-03-02T08:00:00+08:00"],
        ("replay", link, "--until", "2026-03-02T08:00:00"): ["has no zone"],
        ("replay", link, "--disorder", "300"): ["such as"],
        ("replay", link, "--engine", "flink"): ["polars"],
        ("replay", link, "--fresh"): ["--store"],
        ("replay", link, "--out", ROOT): [str(ROOT)],
        ("explain", "traffic.tp"): ["Did you mean 'traffic.tpi'"],
        ("profile", tmp_path / "nothing.csv"): ["is no file"],
        ("diff", tmp_path, tmp_path): ["is no output"],
    }
    for arguments, texts in cases.items():
        said = refused(*arguments)
        assert all(text in said for text in texts), (arguments, said)
    print(f"{len(cases)} mistakes answered")


def test_the_commands_that_only_look(recorded: Path) -> None:
    checked = citybrain("check")
    assert checked.returncode == 0 and "28 indicators" in checked.stdout and "city harbour" in checked.stdout
    assert checked.stdout.count("mapping ") == 8
    explained = citybrain("explain", "traffic.tpi")
    assert explained.returncode == 0 and "GB/T 33171-2016" in explained.stdout and "worked case" in explained.stdout
    assert "no citybrain answers" in citybrain("explain", "traffic.city", "--url", "http://127.0.0.1:9").stdout
    profiled = citybrain("profile", recorded / "lvl.ndjson")
    assert profiled.returncode == 0 and "depth_mm" in profiled.stdout


def test_up_serves_the_city_and_ends_cleanly(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "citybrain", "up", "--port", str(port), "--data", str(tmp_path)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        snapshot = _first_numbers(port, running)
        assert snapshot["readings"], "the first numbers are on the page"
        assert f"in use by process {running.pid}" in refused("up", "--port", 0, "--data", tmp_path)
        assert str(port) in refused("up", "--port", port, "--data", tmp_path / "other")
        running.send_signal(signal.SIGINT)
        out, errors = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 0, errors
    assert out.strip().endswith("citybrain: ended") and "first number" in errors and "Traceback" not in errors


def _first_numbers(port: int, running: subprocess.Popen[str]) -> dict[str, list[object]]:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and running.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/snapshot", timeout=5) as answer:
                snapshot: dict[str, list[object]] = json.load(answer)
            if snapshot.get("readings"):
                return snapshot
        except OSError:
            pass
        time.sleep(0.25)
    raise AssertionError("no reading within 90 s")
