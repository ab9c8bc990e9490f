"""citybrain's own commands as processes that are killed and started again, each with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import orjson

from pipelines.engines.flink_rest import FlinkCluster
from tests.faults.processes import ROOT, run
from tools.stack.flink_cluster import Cluster

LONGEST_S = 300


class Engine(Protocol):
    """What groups the logs of a city, and can be killed."""

    name: str

    def start(self) -> None: ...
    def kill(self) -> None:
        """SIGKILL, of it or of what it runs on."""

    def again(self) -> None:
        """Starts it after a kill."""

    def end(self) -> None:
        """In order, as an operator does."""

    def quit(self) -> None:
        """Ends it somehow, if it runs."""

    def refuse_ended(self) -> None:
        """AssertionError where it has ended by itself."""


class Child:
    """A module in a process group of its own, so that its Java goes with it."""

    def __init__(self, name: str, log: Path, *command: object) -> None:
        self.name, self.log, self.command = name, log, [sys.executable, "-m", *map(str, command)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as said:
            self._process = subprocess.Popen(
                self.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )

    def again(self) -> None:
        self.start()

    def kill(self) -> None:
        self.quit()

    def quit(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def end(self) -> None:
        """SIGTERM, and all is well."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(LONGEST_S)
        self.quit()
        assert code == 0, f"{self.name} ended with code {code}: {self.told()}"

    def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        assert self._process is not None
        return self._process.wait(LONGEST_S)

    def refuse_ended(self) -> None:
        assert self._process is not None and self._process.poll() is None, (
            f"{self.name} has ended by itself: {self.told()}"
        )

    def told(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


class Recovering(Child):
    """Flink in a Java of its own, with checkpoints: goes on from the newest one."""

    def __init__(self, log: Path, city: str, broker: str, checkpoints: Path) -> None:
        super().__init__("flink with state", log, "tests.engines.recovering", city, broker, checkpoints)
        self._checkpoints = checkpoints

    def again(self) -> None:
        complete = [path.parent for path in self._checkpoints.glob("*/chk-*/_metadata")]
        assert complete, f"{self.name} was killed before its first checkpoint"
        before, self.command = self.command, [*self.command, str(max(complete, key=lambda p: p.stat().st_mtime))]
        self.start()
        self.command = before

    def kill(self) -> None:
        """Not before its first checkpoint."""
        until(lambda: any(self._checkpoints.glob("*/chk-*/_metadata")), f"no checkpoint: {self.told()}")
        super().kill()


class OnCluster:
    """The job on a Flink cluster, by the commands of docs/deploy.md; its TaskManager is what is killed."""

    name = "taskmanager"

    def __init__(self, cluster: Cluster, pack: Path, broker: str) -> None:
        self.cluster, self.pack, self.broker, self.job = cluster, pack, broker, ""
        self._rest, self._before = FlinkCluster(cluster.address), 0

    def start(self) -> None:
        self.job = self._submit(
            "--city", self.pack, "--kafka", self.broker, "--parallelism", 2, "--set",
            "execution.checkpointing.interval=2s",
        )  # fmt: skip

    def kill(self) -> None:
        self._before = self._failed()
        self.cluster.task_manager.end(signal.SIGKILL)

    def again(self) -> None:
        """Returns when the JobManager has heard of it and all runs again."""
        self.cluster.start_task_manager()
        until(lambda: self._failed() > self._before, "the job has not failed with its TaskManager")
        self._rest.until_running(self.job)

    def end(self) -> None:
        self._submit("--stop-with-savepoint", self.job)
        self.job = ""

    def quit(self) -> None:
        if self.job:
            self._rest.cancel(self.job)

    def refuse_ended(self) -> None:
        assert self._rest.state(self.job) in ("RUNNING", "RESTARTING"), self._rest.why(self.job)

    def _failed(self) -> int:
        """When it did last."""
        entries = self._rest.ask(f"/jobs/{self.job}/exceptions")["exceptionHistory"]["entries"]
        return int(entries[0]["timestamp"]) if entries else 0

    def _submit(self, *arguments: object) -> str:
        """The job that it names."""
        done = run(["citybrain", "submit", "--flink", self.cluster.address, *arguments], longest_s=LONGEST_S)
        assert done.code == 0, done.err
        return str(orjson.loads(done.out)["job"])


def until(done: Callable[[], bool], otherwise: str, longest_s: float = LONGEST_S) -> None:
    """Returns when `done` says so; AssertionError with `otherwise` where it does not in time."""
    ends = time.monotonic() + longest_s
    while not done():
        assert time.monotonic() < ends, f"{otherwise} after {longest_s:.0f} s"
        time.sleep(0.2)
