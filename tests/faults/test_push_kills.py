"""What was acknowledged over HTTP is in the store exactly once, however often the process that took it is killed."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path

import polars as pl

from tests.faults.processes import run
from tests.faults.test_up import START, up

UNTIL = "2026-03-02T09:30:00+08:00"
PLACE = "pushed-1"
KILLS = 3


def port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def post(url: str, secret: str, key: str, body: bytes) -> int | None:
    """The status; None where nobody answers, so that nobody knows."""
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/x-ndjson", "Idempotency-Key": key}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ConnectionError):
        return None


def begun(running: subprocess.Popen[str]) -> None:
    assert running.stderr is not None
    for line in running.stderr:
        if "first number" in line:
            return
    raise AssertionError("it ended before its first number")


def test_acknowledged_records_survive_kills(tmp_path: Path) -> None:
    secret = run(["citybrain", "token", "add", "vans", "--scope", "ingest:vans", "--data", tmp_path]).out.split()[-1]
    at, rnd, first = port(), random.Random(5), int(datetime.fromisoformat(START).timestamp() * 1000)
    url, sent, acknowledged = f"http://127.0.0.1:{at}/ingest/v1/link", 0, 0
    command = ("citybrain", "up", "--seed", 7, "--start", START, "--until", UNTIL, "--speed", 60, "--port", at)

    def batch() -> bytes:
        nonlocal sent
        lines = [
            json.dumps({"t": first - 7_200_000 + 100 * (sent + n), "link": PLACE, "tt_ms": 40_000 + n, "n": 1})
            for n in range(rnd.randint(1, 30))
        ]
        sent += len(lines)
        return "\n".join(lines).encode()

    pending: tuple[str, bytes] | None = None
    for life in range(KILLS + 1):
        with up(*command, "--data", tmp_path) as running:
            begun(running)
            ends = time.monotonic() + rnd.uniform(1, 4)
            while time.monotonic() < ends:
                key, body = pending or (f"batch-{sent}", batch())
                status = post(url, secret, key, body)
                assert status in (202, None), status
                pending = (key, body) if status is None else None
                acknowledged += 0 if status is None else body.count(b"\n") + 1
            if life < KILLS:
                running.kill()
            else:
                # All that is pending was answered; time goes on until every pane is closed.
                running.terminate()
                assert running.wait(timeout=30) == 0
    assert pending is None and acknowledged == sent
    ended = run([*command[:-2], "--port", 0, "--data", tmp_path])
    assert ended.code == 0, ended.err
    assert run(["citybrain", "export", tmp_path / "demo", tmp_path / "out"]).code == 0
    rows = pl.concat([pl.read_parquet(p) for p in (tmp_path / "out" / "rows").glob("link*.parquet")])
    found = int(rows.filter(pl.col("place") == PLACE)["n"].sum())
    print(f"\n{sent} records acknowledged over {KILLS} kills, {found} in the store")
    assert found == sent > 200
