"""What was acknowledged over HTTP is in the store exactly once, however often the process that took it is killed."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from tests.faults.processes import KILLED, run
from tests.faults.test_up import START, up

PLACE = "pushed-1"
KILLS = 3
LONGEST_S = 8.0


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


def begun(running: subprocess.Popen[str]) -> bool:
    """Whether it came to its first number, or was killed before."""
    assert running.stderr is not None
    return any("first number" in line for line in running.stderr)


def pushed(folder: Path, lives: Sequence[float | str]) -> tuple[list[str], str]:
    """Pushes to a live run that is killed, started again, and ends at last; checks that every record is in the store
    once. `lives`: seconds after its first number at which it is killed, or a failpoint; one that is not passed within
    `LONGEST_S` ends as well. Returns the failpoints that were passed, and what was counted."""
    secret = run(["citybrain", "token", "add", "vans", "--scope", "ingest:vans", "--data", folder]).out.split()[-1]
    at, rnd, first = port(), random.Random(5), int(datetime.fromisoformat(START).timestamp() * 1000)
    url, sent, acknowledged = f"http://127.0.0.1:{at}/ingest/v1/link", 0, 0
    until = datetime.fromisoformat(START) + timedelta(minutes=15 + 10 * len(lives))
    command = (
        "citybrain",
        "up",
        "--seed",
        7,
        "--start",
        START,
        "--until",
        until.isoformat(),
        "--speed",
        60,
        "--port",
        at,
    )

    def batch() -> bytes:
        nonlocal sent
        lines = [
            json.dumps({"t": first - 7_200_000 + 100 * (sent + n), "link": PLACE, "tt_ms": 40_000 + n, "n": 1})
            for n in range(rnd.randint(1, 30))
        ]
        sent += len(lines)
        return "\n".join(lines).encode()

    pending: tuple[str, bytes] | None = None
    passed: list[str] = []
    for life in (*lives, None):
        failpoint = life if isinstance(life, str) else None
        with up(*command, "--data", folder, failpoint=failpoint) as running:
            there = begun(running)
            ends = time.monotonic() + (life if isinstance(life, float) else LONGEST_S if failpoint else 2.0)
            while there and time.monotonic() < ends and running.poll() is None:
                key, body = pending or (f"batch-{sent}", batch())
                status = post(url, secret, key, body)
                assert status in (202, None), status
                pending = (key, body) if status is None else None
                acknowledged += 0 if status is None else body.count(b"\n") + 1
            if failpoint is not None and running.poll() == KILLED:
                passed.append(failpoint)
            elif life is not None:
                running.kill()
            else:
                # All that is pending was answered; time goes on until every pane is closed.
                running.terminate()
                assert running.wait(timeout=30) == 0
    assert pending is None and acknowledged == sent
    ended = run([*command[:-2], "--port", 0, "--data", folder])
    assert ended.code == 0, ended.err
    assert run(["citybrain", "export", folder / "demo", folder / "out"]).code == 0
    rows = pl.concat([pl.read_parquet(p) for p in (folder / "out" / "rows").glob("link*.parquet")])
    found = int(rows.filter(pl.col("place") == PLACE)["n"].sum())
    assert found == sent > 200, f"{sent} records were acknowledged, {found} are in the store"
    return passed, f"{sent} records acknowledged over {len(lives)} kills, {found} in the store"


def test_acknowledged_records_survive_kills(tmp_path: Path) -> None:
    rnd = random.Random(6)
    _, told = pushed(tmp_path, [rnd.uniform(1, 4) for _ in range(KILLS)])
    print(f"\n{told}")
