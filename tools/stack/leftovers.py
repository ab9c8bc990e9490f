"""What the stack has started, on disk: after a crash the next start ends what is left, and nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson

GRACE_S: Final = 15.0


class StackRuns(RuntimeError):
    """Another stack works in this folder."""


class Started:
    """The programs of one folder, of which one process at a time may be the owner."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "pids.json"
        self._lock = (folder / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip()
            self._lock.close()
            raise StackRuns(
                f"the stack in {folder} runs already, as process {owner}; end that one, or name another --folder"
            ) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self._known: list[tuple[int, list[str]]] = [
            (entry["pid"], entry["command"])
            for entry in (orjson.loads(self.path.read_bytes()) if self.path.exists() else ())
        ]

    def add(self, pid: int, command: Sequence[str]) -> None:
        self._known.append((pid, list(command)))
        self._write()

    def end_leftovers(self) -> list[int]:
        """Ends the programs that are noted, the last started first, if they are still those; returns their ids."""
        ended = []
        for pid, command in reversed(self._known):
            if runs(pid, command):
                os.kill(pid, signal.SIGTERM)
                ends = time.monotonic() + GRACE_S
                while runs(pid, command) and time.monotonic() < ends:
                    time.sleep(0.1)
                if runs(pid, command):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                ended.append(pid)
        self._known = []
        self._write()
        return ended

    def close(self) -> None:
        """Everything was ended in order: nothing is noted any more."""
        self._known = []
        self._write()
        self._lock.close()

    def _write(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_bytes(orjson.dumps([{"pid": pid, "command": command} for pid, command in self._known]))
        new.replace(self.path)


def runs(pid: int, command: Sequence[str]) -> bool:
    """Whether this process is that command: an id may have been given to another one meanwhile."""
    said = subprocess.run(
        ["ps", "-ww", "-o", "stat=,args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, arguments = said.stdout.strip().partition(" ")
    return not state.startswith("Z") and arguments.strip() == " ".join(command)
