"""The ClickHouse stand-in as a process of its own: killed, stopped and started again on the same port and data."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.fakes.faults import Fault

ROOT = Path(__file__).parents[2]


class StandIn:
    """A server that is started with `start`. `url` has no database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        arguments = ["-m", "tests.fakes.clickhouse_http", "--port", str(self.port), "--data", str(self.folder)]
        self._process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == str(self.port)

    def end(self, number: int = signal.SIGKILL) -> None:
        """SIGKILL, or SIGTERM for an orderly end; returns when it is gone."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def control(self, **order: Any) -> dict[str, Any]:
        """What `Faults.configure` takes; returns what was seen and struck."""
        request = urllib.request.Request(f"{self.url}/control", json.dumps(order).encode() if order else None)
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def next(self, *faults: Fault, kinds: tuple[str, ...] = ("INSERT",)) -> None:
        self.control(next=[asdict(f) for f in faults], kinds=kinds)

    def at_random(self, *mix: Fault, p: float, seed: int = 0) -> None:
        self.control(mix=[asdict(f) for f in mix], p=p, seed=seed)

    def clear(self) -> None:
        self.control(clear=True)
