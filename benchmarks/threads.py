"""CPU seconds of a process by kind of thread: who works while a replay runs, from /proc (Linux)."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Final, Self

TASKS: Final = Path("/proc/self/task")
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
EVERY_S: Final = 0.1
NUMBERED: Final = re.compile(r"[-_ ]?[0-9_]*$")


class ThreadClock:
    """A context manager; `seconds` is the CPU time of each kind of thread while it was open.

    A thread's last tenth of a second is missed when it ends in between; threads without a Python name are called by
    the name that their library gave them.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._seen: dict[int, tuple[str, float]] = {}
        self._before: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="clock", daemon=True)

    def __enter__(self) -> Self:
        self._before = {tid: spent for tid, (_, spent) in self._read().items()}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for tid, (name, spent) in self._seen.items():
            kind = NUMBERED.sub("", name) or name
            self.seconds[kind] = self.seconds.get(kind, 0.0) + spent - self._before.get(tid, 0.0)
        self.seconds = {k: round(v, 2) for k, v in sorted(self.seconds.items(), key=lambda x: -x[1]) if v >= 0.01}

    def _watch(self) -> None:
        while True:
            ended = self._stop.wait(EVERY_S)
            self._seen.update(self._read())
            if ended:
                return

    def _read(self) -> dict[int, tuple[str, float]]:
        names = {t.native_id: "read" if t.name.startswith("read ") else t.name for t in threading.enumerate()}
        found: dict[int, tuple[str, float]] = {}
        for task in TASKS.iterdir():
            try:
                text = (task / "stat").read_text()
            except OSError:
                continue
            name, _, rest = text[text.index("(") + 1 :].rpartition(")")
            fields = rest.split()
            tid = int(task.name)
            found[tid] = (names.get(tid, name), (int(fields[11]) + int(fields[12])) * TICK_S)
        return found
