"""Pushes over HTTP: how many events a second are acknowledged, and how soon an acknowledgement comes.

The server (`python -m benchmarks.push FOLDER`) is the product's router under uvicorn as `citybrain up` runs it, one
worker in a process of its own, each 202 after its fsync. Several clients on threads of another process send batches
made beforehand over connections that they keep. Afterwards the spool must hold exactly what was acknowledged.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from benchmarks.data import LINKS, lines, link_ids
from pipelines.streams import LINK

START: Final = 1_772_416_800_000
BAR: Final = 50_000
"""Events/s that have to be acknowledged."""
BATCH: Final = 5_000
BODIES: Final = 40
WARM_S: Final = 2.0
SPOOL_BYTES: Final = 8 << 30
Answer = dict[str, Any]


def body(turn: int) -> bytes:
    """A batch of link events as a feed would write them, about 75 bytes a line."""
    dice = np.random.default_rng(turn)
    number = np.arange(turn * BATCH, (turn + 1) * BATCH)
    return lines(
        pl.DataFrame(
            {
                "t": START + number,
                "link": link_ids().gather((number % LINKS * 2_657 % LINKS).astype(np.uint32)),
                "tt_ms": dice.integers(10_000, 90_000, BATCH),
                "n": dice.integers(1, 20, BATCH),
                "source": pl.Series(["floating-car"]).new_from_index(0, BATCH),
            }
        )
    )


def push(clients: int, seconds: int) -> Answer:
    """Events/s that all clients together got acknowledged, then the latencies (ms) at half that rate and at half the
    required one."""
    bodies = [body(turn) for turn in range(BODIES)]
    with tempfile.TemporaryDirectory(prefix="citybrain-bench-") as folder:
        command = [sys.executable, "-m", "benchmarks.push", folder]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdin is not None and server.stdout is not None
        try:
            port, secret = server.stdout.readline().split()
            senders = [_Client(int(port), secret, bodies, n) for n in range(clients)]
            _together(senders, lambda one: one.flat_out(WARM_S))
            began = time.perf_counter()
            _together(senders, lambda one: one.flat_out(seconds))
            rate = BATCH * sum(len(one.took) for one in senders) / (time.perf_counter() - began)
            full = np.concatenate([one.took for one in senders])
            half = _paced(senders, seconds, rate / 2)
            bar = _paced(senders, seconds, BAR / 2)
            acknowledged = BATCH * sum(one.acknowledged for one in senders)
        finally:
            server.stdin.close()
            cpu_s = float(server.stdout.readline() or "nan")
            server.wait(30)
        stored = _stored(Path(folder))
    if stored != acknowledged:
        raise RuntimeError(f"{acknowledged} events were acknowledged, but the spool holds {stored}")
    return {
        "seconds": float(seconds),
        "rate": rate,
        "full_p99_ms": float(np.quantile(full, 0.99)) * 1000,
        "half_p50_ms": float(np.quantile(half, 0.5)) * 1000,
        "half_p99_ms": float(np.quantile(half, 0.99)) * 1000,
        "bar_p50_ms": float(np.quantile(bar, 0.5)) * 1000,
        "bar_p99_ms": float(np.quantile(bar, 0.99)) * 1000,
        "acknowledged": acknowledged,
        "server_cpu_us_an_event": cpu_s * 1e6 / acknowledged,
        "body_bytes": len(bodies[0]),
    }


def _paced(senders: list[_Client], seconds: float, rate: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The latencies (s) of requests that come evenly, so many events a second together."""
    every_s = len(senders) * BATCH / rate
    _together(senders, lambda one: one.paced(seconds, every_s, one.number * every_s / len(senders)))
    return np.concatenate([one.took for one in senders])


class _Client:
    """One connection. `took`: seconds from when a request was due to its 202, of the last run."""

    def __init__(self, port: int, secret: str, bodies: list[bytes], number: int) -> None:
        self.number, self.acknowledged = number, 0
        self.took: list[float] = []
        self._bodies = bodies
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/x-ndjson"}

    def flat_out(self, seconds: float) -> None:
        self.took = []
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            self._send(now)

    def paced(self, seconds: float, every_s: float, first_s: float) -> None:
        """Requests are due at fixed times; one that waits for its predecessor counts from when it was due."""
        self.took = []
        began = time.perf_counter() + first_s
        for turn in range(max(int(seconds / every_s), 1)):
            due = began + turn * every_s
            time.sleep(max(due - time.perf_counter(), 0))
            self._send(due)

    def _send(self, due: float) -> None:
        content = self._bodies[(self.acknowledged * 7 + self.number) % len(self._bodies)]
        self._connection.request("POST", "/ingest/v1/link", content, self._headers)
        answer = self._connection.getresponse()
        told = answer.read()
        if answer.status != 202:
            raise RuntimeError(f"the server answered {answer.status}: {told[:500]!r}")
        self.took.append(time.perf_counter() - due)
        self.acknowledged += 1


def _together(senders: list[_Client], run: Callable[[_Client], None]) -> None:
    failed: list[BaseException] = []

    def one(sender: _Client) -> None:
        try:
            run(sender)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(f"a client failed: {failed[0]!r}")


def _stored(folder: Path) -> int:
    """Records in the spool, all of them read."""
    from pipelines.spool import Spool
    from pipelines.spool_source import SpoolSource

    spool = Spool(folder / "push" / "bench" / "link", "push:bench:link", "link", max_bytes=SPOOL_BYTES)
    source, count = SpoolSource(spool), 0
    while (decoded := source.read()) is not None:
        count += decoded.events.height
    source.close()
    spool.close()
    return count


def serve(folder: Path) -> None:
    """Prints port and secret, serves until stdin closes, then prints the CPU seconds of this process."""
    import uvicorn
    from fastapi import FastAPI

    from connectors.http_push import Push, push_router
    from connectors.tokens import Tokens
    from dashboards.serve import listen

    tokens = Tokens(folder)
    secret = tokens.add("bench", ["ingest:bench"])
    push = Push(folder / "push", {"link": LINK}, tokens, lambda: int(time.time() * 1000), max_bytes=SPOOL_BYTES)
    app = FastAPI()
    app.include_router(push_router(push))
    sock = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", loop="asyncio", http="h11", ws="none", workers=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    began = time.process_time()
    print(sock.getsockname()[1], secret, flush=True)
    sys.stdin.read()
    used = time.process_time() - began
    server.should_exit = True
    thread.join()
    push.close()
    print(used, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
