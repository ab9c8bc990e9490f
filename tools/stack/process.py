"""A program of the stack: started, killed, ended and started again, with a log of what it says."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

READY_S: Final = 60.0


class Process:
    """One program. It is not the parent's in the terminal: Ctrl-C reaches the stack, which ends its programs in order."""

    def __init__(self, name: str, log: Path) -> None:
        """`noted` is told the id and the command as soon as it runs, before it is ready."""
        self.name, self.log = name, log
        self.noted: Callable[[int, Sequence[str]], None] = lambda pid, command: None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(
        self,
        command: Sequence[str],
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        longest_s: float = READY_S,
    ) -> None:
        """Returns when it is ready; RuntimeError when it ends before, or takes longer."""
        if self.pid is not None:
            raise RuntimeError(f"{self.name} runs already as process {self.pid}")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self.noted(self._process.pid, command)
            self._wait(ready, time.monotonic() + longest_s)
        except BaseException:
            self.end()
            raise

    def _wait(self, ready: Callable[[], bool], ends: float) -> None:
        while not ready():
            assert self._process is not None
            code = self._process.poll()
            if code is not None or time.monotonic() > ends:
                why = "does not answer" if code is None else f"ended with code {code}"
                raise RuntimeError(f"{self.name} cannot be started: it {why}; see {self.log}")
            time.sleep(0.1)

    def end(self, number: int = signal.SIGTERM) -> None:
        """SIGTERM for an orderly end, SIGKILL for none; returns when it is gone."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None
