"""Progress of a replay on stderr: a bar on a terminal, a plain line every few seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from commands.inputs import Inputs
from pipelines.delivery import Run

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PLAIN_EVERY_S = 5.0


class Progress:
    """A context manager; `show` is called after each step."""

    def __init__(self, inputs: Inputs, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._started = self._shown = time.monotonic()
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("replay"),
                BarColumn(pulse_style="cyan"),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("reading", total=None)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """What goes on while there is no step."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text)
        elif not self._quiet:
            print(f"replay: {text}", file=sys.stderr, flush=True)

    def show(self, run: Run) -> None:
        received = run.counts.counters["received"]
        elapsed = time.monotonic() - self._started
        text = f"{received:,} events, {run.counts.readings:,} readings, {received / max(elapsed, 1e-9):,.0f} events/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text)
        elif not self._quiet and time.monotonic() - self._shown > PLAIN_EVERY_S:
            self._shown = time.monotonic()
            print(f"replay: {text}", file=sys.stderr, flush=True)
