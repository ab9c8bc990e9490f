"""The command line as a stranger uses it: in processes of its own, with what it prints and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import citybrain as program
from commands.inputs import resolve
from commands.replay import Options, chosen, replay
from pipelines import catalogue

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


def refused_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    """The same without a process of its own, for the many."""
    monkeypatch.setattr(sys, "argv", ["citybrain", *map(str, arguments)])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as ended:
            program.main()
    finally:
        for number, handler in handlers.items():  # `up` takes them, and Ctrl-C is to end the tests
            signal.signal(number, handler)
    out, errors = capsys.readouterr()
    assert ended.value.code == 2 and out == "" and errors.startswith("citybrain: ") and errors.count("\n") == 1, errors
    return errors


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty minutes of the simulated city, all ten streams."""
    folder = tmp_path_factory.mktemp("recorded")
    done = citybrain("simulate", folder, "--start", "2026-03-02T08:00:00+08:00", "--until", "2026-03-02T08:20:00+08:00")
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
    # Killed while the store was made.
    for inside in ("staging", "tmp/x"):
        (tmp_path / inside[0] / inside).mkdir(parents=True)
        (tmp_path / inside[0] / "status").touch()
        assert citybrain("replay", recorded / "rain.ndjson", "--store", tmp_path / inside[0]).returncode == 0
    (tmp_path / "theirs" / "store").mkdir(parents=True)
    (tmp_path / "theirs" / "store" / "letter.txt").write_text("precious")
    assert "no store of citybrain" in refused(
        "replay", recorded / "rain.ndjson", "--store", tmp_path / "theirs", "--fresh"
    )


def test_what_the_user_got_wrong_is_one_line_that_helps(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = recorded / "link.ndjson"
    other = tmp_path / "data.ndjson"
    other.write_text("")
    (tmp_path / "again.ndjson").symlink_to(link)
    for name, content in (("park.parquet", b"PAR1 cut"), ("park.arrow", b"hello"), ("park.csv", b"")):
        (tmp_path / name).write_bytes(content)
    cases = {
        ("replay", tmp_path / "nothing.ndjson"): ["is no file"],
        ("replay", link, link): ["named twice"],
        ("replay", link, tmp_path / "again.ndjson", "--stream", "link"): ["named twice"],
        ("replay", other): ["streams are link", "--stream"],
        ("replay", other, "--stream", "linkk"): ["Did you mean 'link'"],
        ("replay", link, "--map", "aarhus_trafic"): ["Did you mean 'aarhus_traffic'"],
        ("replay", link, "--city", "dem"): ["Did you mean 'demo'"],
        ("replay", link, "--only", "traffic.tt"): ["Did you mean 'traffic.tti'"],
        ("replay", link, "--until", "tomorrow"): ["2026-03-02T08:00:00+08:00"],
        ("replay", link, "--until", "2026-03-02T08:00:00"): ["has no zone"],
        ("replay", link, "--disorder", "300"): ["such as"],
        ("replay", link, "--disorder", "100000d"): ["at most 31d"],
        ("replay", link, "--disorder", "999999999999999999s"): ["at most 31d"],
        ("replay", link, "--engine", "spark"): ["'spark'", "polars, flink, beam"],
        ("replay", link, "--engine", "flink"): ["PyFlink", "pip install 'citybrain[flink]'"],
        ("replay", link, "--engine", "beam"): ["Apache Beam", "pip install 'citybrain[beam]'"],
        ("replay", link, "--fresh"): ["--store"],
        ("replay", link, "--store", "foo://me:secret@x"): ["foo://x", "chdb:///abs/dir"],
        ("replay", link, "--store", "chdb://rel/dir"): ["chdb://rel/dir", "chdb:///abs/dir"],
        ("replay", link, "--store", ""): ["chdb:///abs/dir"],
        ("replay", link, "--store", "http://me:secret@h:1/"): ["http://h:1/ names no database"],
        ("up", "--store", "store"): ["'store'", "--data"],
        ("doctor", "--store", "http://me:secret@h:1/x"): ["http://h:1/x", "no embedded store"],
        ("backup", "copy", "--store", "http://me:secret@h:1/x"): ["http://h:1/x", "no embedded store"],
        ("replay", link, "--out", ROOT): [str(ROOT)],
        ("replay", link, "--out", other / "out"): ["--out", "folder that you may write to"],
        ("replay", link, "--map", "nasa_http"): ["holds JSON"],
        ("profile", tmp_path): ["but a folder"],
        ("profile", tmp_path / "park.parquet"): ["park.parquet", "no Parquet file"],
        ("replay", tmp_path / "park.parquet"): ["park.parquet", "no Parquet file"],
        ("replay", tmp_path / "park.arrow"): ["park.arrow", "no Arrow"],
        ("replay", tmp_path / "park.csv"): ["park.csv", "has no header"],
        ("simulate", tmp_path / "s", "--start", "2026-03-02T07:00:30Z", "--until", "2026-03-02T09:00:00Z"): ["minutes"],
        ("explain", "traffic.tp"): ["Did you mean 'traffic.tpi'"],
        ("profile", tmp_path / "nothing.csv"): ["is no file"],
        ("diff", tmp_path, tmp_path): ["is no output"],
        ("check", "--city", "harbor"): ["Did you mean 'harbour'"],
        ("simulate", other, "--start", "2026-03-02T08:00:00Z", "--until", "2026-03-02T09:00:00Z"): ["OUT"],
        ("up", "--until", "2020-01-01T00:00:00Z"): ["before the start"],
        ("up", "--city", "dem"): ["Did you mean 'demo'"],
        ("up", "--port", 0, "--data", other): ["--data"],
    }
    for arguments, texts in cases.items():
        said = refused_here(capsys, monkeypatch, *arguments)
        assert all(text in said for text in texts), (arguments, said)
    print(f"{len(cases)} mistakes answered")
    assert "Did you mean 'link'" in refused("replay", other, "--stream", "linkk")


def test_what_is_odd_in_the_files_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing in them, or two winters with a year between: not an error, and not silent."""
    at = {
        "empty": [],
        "years": [946_684_800_000, *range(T0, T0 + 5000, 1000)],
        "seconds": [T0 // 1000, *range(T0, T0 + 5000, 1000)],
    }
    said = {}
    for name, times in at.items():
        path = tmp_path / f"http.{name}.ndjson"
        path.write_text("".join(f'{{"t":{t},"service":"svc00","status":200,"duration_us":1000}}\n' for t in times))
        inputs = resolve([path], city=None, map_=None, stream=None, lookup=None, disorder=None)
        replay(inputs, Options(only=("http.error_ratio",)), quiet=True)
        said[name] = capsys.readouterr().err
    assert "no record in" in said["empty"]
    assert "no event between 2000-01-01" in said["years"] and "days" in said["years"] and "seconds" not in said["years"]
    assert "January 1970" in said["seconds"]


def test_a_store_keeps_to_its_city(recorded: Path, tmp_path: Path) -> None:
    kept = ("replay", recorded / "rain.ndjson", "--store", tmp_path / "kept")
    assert citybrain(*kept).returncode == 0 and citybrain(*kept).returncode == 0
    assert "holds city 'demo', not 'harbour'" in refused(*kept, "--city", "harbour")
    assert citybrain(*kept, "--city", "harbour", "--fresh").returncode == 0


def test_columns_of_the_stream_need_no_mapping(recorded: Path, tmp_path: Path) -> None:
    """NDJSON, CSV and Parquet of the same events give the same."""
    names = ("http", "inc", "air")
    for name in names:
        rows = []
        for line in (recorded / f"{name}.ndjson").read_text().splitlines():
            with suppress(ValueError):
                rows.append(json.loads(line))
        good = [r for r in rows if type(r) is dict and {type(v) for v in r.values()} <= {int, str, bool, type(None)}]
        frame = pl.DataFrame(good, infer_schema_length=None)
        frame = frame.with_columns(pl.col(pl.Boolean).cast(pl.Int64))
        for kind in ("ndjson", "csv", "parquet"):
            (tmp_path / kind).mkdir(exist_ok=True)
            getattr(frame, f"write_{kind}")(tmp_path / kind / f"{name}.{kind}")
    found = {}
    for kind in ("ndjson", "csv", "parquet"):
        files = [tmp_path / kind / f"{name}.{kind}" for name in names]
        done = citybrain("replay", *files, "--out", tmp_path / f"out.{kind}")
        assert done.returncode == 0, done.stderr
        found[kind] = json.loads(done.stdout)
    assert found["ndjson"]["accepted"] > 5_000
    for kind in ("csv", "parquet"):
        assert found[kind]["accepted"] == found["ndjson"]["accepted"]
        assert citybrain("diff", tmp_path / "out.ndjson", tmp_path / f"out.{kind}").returncode == 0
    short = tmp_path / "short.csv"
    short.write_text("t,station,ngm3\n1772409600000,a,5\n")
    assert "has no column 'pollutant'" in refused("replay", short, "--stream", "air")


def test_simulate_writes_what_there_is(tmp_path: Path) -> None:
    """A minute in which some streams send nothing; and a seed is a number from 0 on."""
    when = ("--start", "2026-03-02T07:00:00Z", "--until", "2026-03-02T07:01:00Z")
    done = citybrain("simulate", tmp_path / "sim", *when)
    assert done.returncode == 0 and min(json.loads(done.stdout).values()) == 0, done.stderr
    assert {p.name for p in (tmp_path / "sim").iterdir()} == {
        *(f"{n}.ndjson" for n in json.loads(done.stdout)),
        "truth",
    }
    assert citybrain("simulate", tmp_path / "sim", *when, "--seed", -1).returncode == 2


def test_only_brings_what_an_indicator_is_computed_from() -> None:
    assert [i.id for i in chosen(["traffic.dtp"], catalogue.CATALOGUE)] == ["traffic.tti", "traffic.dtp"]
    assert len(chosen(["city.vital_sign"], catalogue.CATALOGUE)) == 9


def test_the_commands_that_only_look(recorded: Path) -> None:
    checked = citybrain("check")
    assert checked.returncode == 0 and "28 indicators" in checked.stdout and "city harbour" in checked.stdout
    assert checked.stdout.count("mapping ") == 8
    explained = citybrain("explain", "traffic.tpi")
    assert explained.returncode == 0 and "GB/T 33171-2016" in explained.stdout and "worked case" in explained.stdout
    assert "no citybrain answers" in citybrain("explain", "traffic.city", "--url", "http://127.0.0.1:9").stdout
    profiled = citybrain("profile", recorded / "lvl.ndjson")
    assert profiled.returncode == 0 and "depth_mm" in profiled.stdout


@contextmanager
def up(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "citybrain", "up", *map(str, arguments)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def ended(running: subprocess.Popen[str], within_s: float) -> tuple[str, str]:
    """What a run printed that must end by itself, without a traceback."""
    out, errors = running.communicate(timeout=within_s)
    assert "Traceback" not in errors, errors
    return out, errors


def test_up_ends_at_until_and_what_it_stored_is_shown_as_old_by_the_next(tmp_path: Path) -> None:
    start, later = "2026-03-02T08:00:00+08:00", "2026-03-02T09:30:00+08:00"
    until = "2026-03-02T08:01:00+08:00"
    with up(
        "--host", "0.0.0.0", "--port", 0, "--data", tmp_path, "--speed", 1000, "--start", start, "--until", until
    ) as running:
        out, errors = ended(running, 120)
        assert errors.count("can read the screen and the API, without a token; pushing needs one") == 1, errors
        assert running.returncode == 0 and out.strip().endswith("citybrain: ended"), errors
    port = free_port()
    with up("--port", port, "--data", tmp_path, "--start", later) as running:
        snapshot = first_numbers(port, running)
        old = [r for r in snapshot["readings"] if not r["provisional"] and local(r["window_end"])[11:16] <= "08:01"]
        assert old, "readings of the run before"
        assert local(snapshot["as_of"])[:16] >= "2026-03-02T08:30", "while the clock stands an hour before the start"
        assert json.loads(get(port, "/healthz"))
        # Its store and its port are its own.
        assert f"in use by process {running.pid}" in refused("up", "--port", 0, "--data", tmp_path)
        assert str(port) in refused("up", "--port", port, "--data", tmp_path / "other")
        fresh = ("replay", ROOT / "pyproject.toml", "--stream", "link", "--store", tmp_path / "demo", "--fresh")
        assert f"in use by process {running.pid}" in refused(*fresh)
        assert next_event(port) in ("snapshot", "delta", "alert", "hb")
        asked = time.monotonic()
        running.send_signal(signal.SIGINT)
        out, errors = ended(running, 30)
        took = time.monotonic() - asked
    assert running.returncode == 0 and out.strip().endswith("citybrain: ended") and "first number" in errors, errors
    assert "without a token" not in errors, "nobody else reaches 127.0.0.1"
    print(f"{len(old)} old readings shown; Ctrl-C took {took:.1f} s")


def test_up_fails_when_its_store_does(tmp_path: Path) -> None:
    with up("--port", 0, "--data", tmp_path) as running:
        assert running.stderr is not None
        while "first number" not in (line := running.stderr.readline()):
            assert line, "it ended before the first number"
        (tmp_path / "demo").rename(tmp_path / "gone")
        _, errors = ended(running, 60)
    assert running.returncode == 1 and errors.startswith("citybrain: writing to the store failed"), errors


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return bytes(answer.read())


def next_event(port: int) -> str:
    """The kind of the first server-sent event."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/stream", timeout=20) as stream:
        for line in stream:
            if line.startswith(b"event: "):
                return str(line[7:].decode().strip())
    raise AssertionError("the stream ended without an event")


def local(instant: str) -> str:
    """An instant of the API in the city's time."""
    return (
        datetime.fromisoformat(instant)
        .astimezone(datetime.fromisoformat("2026-03-02T00:00:00+08:00").tzinfo)
        .isoformat()
    )


def first_numbers(port: int, running: subprocess.Popen[str]) -> dict[str, Any]:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and running.poll() is None:
        try:
            snapshot: dict[str, Any] = json.loads(get(port, "/api/v1/snapshot"))
            if snapshot.get("readings"):
                return snapshot
        except OSError:
            pass
        time.sleep(0.25)
    raise AssertionError("no reading within 90 s")


LINES = b"".join(b'{"t":%d,"link":"a","tt_ms":5000,"n":1}\n' % (1772409605000 + 60_000 * i) for i in range(3))


def test_what_looks_like_a_slip_is_said(tmp_path: Path) -> None:
    """A replay that refuses nearly everything, or is told a time that cannot be meant, does not end in silence."""
    file = tmp_path / "link.ndjson"
    file.write_bytes(LINES)
    refused = citybrain("replay", str(file), "--stream", "det")
    assert (
        refused.returncode == 0 and "100 % of the records were refused, so nothing could be computed" in refused.stderr
    )
    assert f"record 1 of {file}: missing_field: lane is missing" in refused.stderr
    early = citybrain("replay", str(file), "--until", "2020-01-01T00:00:00Z")
    assert (
        early.returncode == 0 and "--until is not after the last event, 2026-03-02T00:02:05.000+00:00" in early.stderr
    )
    far = citybrain("replay", str(file), "--until", "2062-03-02T08:00:00Z")
    assert far.returncode == 2 and "is the year right?" in far.stderr and "Traceback" not in far.stderr
    fine = citybrain("replay", str(file), "--quiet")
    assert fine.returncode == 0 and not fine.stderr


def test_the_summary_counts_the_run_not_the_store(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "link.ndjson", tmp_path / "b" / "link.ndjson"
    for file, payload in ((first, LINES), (second, LINES.splitlines(keepends=True)[0])):
        file.parent.mkdir()
        file.write_bytes(payload)
    store = str(tmp_path / "store")
    found = [
        json.loads(citybrain("replay", str(f), "--store", store).stdout)["readings"] for f in (first, first, second)
    ]
    alone = json.loads(citybrain("replay", str(second)).stdout)["readings"]
    assert found[0] == found[1] > 0 and found[2] == alone


def test_a_damaged_epoch_is_one_line(tmp_path: Path) -> None:
    file, store = tmp_path / "link.ndjson", tmp_path / "store"
    file.write_bytes(LINES)
    assert citybrain("replay", str(file), "--store", str(store)).returncode == 0
    (store / "epoch").write_bytes(b"\xffx")
    damaged = citybrain("replay", str(file), "--store", str(store))
    assert damaged.returncode == 1 and "larger than every epoch used so far" in damaged.stderr
    assert "Traceback" not in damaged.stderr
