"""A real standalone Flink cluster on loopback: a JobManager and a TaskManager, each a process of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipelines.engines import flink_home
from pipelines.engines.flink_rest import FlinkCluster, FlinkError
from tools.stack.broker import free_port
from tools.stack.process import Process

JOB_MANAGER: Final = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER: Final = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
HOST: Final = "127.0.0.1"
# Flink's shell scripts compute what is left open here.
MEMORY: Final = {
    "taskmanager.cpu.cores": 2,
    "taskmanager.memory.task.heap.size": "384m",
    "taskmanager.memory.task.off-heap.size": "64m",
    "taskmanager.memory.network.min": "192m",
    "taskmanager.memory.network.max": "192m",
    "taskmanager.memory.managed.size": "256m",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.jvm-metaspace.size": "192m",
    "taskmanager.memory.jvm-overhead.min": "192m",
    "taskmanager.memory.jvm-overhead.max": "192m",
}
HEAPS_MB: Final = {JOB_MANAGER: 384, TASK_MANAGER: 640}


class Cluster:
    """Started with `start`; each of the two is ended, killed and started again on the same ports and folder."""

    def __init__(self, folder: Path, port: int | None = None, slots: int = 4) -> None:
        self.folder, self._conf, self._starts = folder, folder / "conf", 0
        rest = port or free_port()
        self.address = f"{HOST}:{rest}"
        self.prometheus = {JOB_MANAGER: free_port(), TASK_MANAGER: free_port()}
        self.job_manager = Process("Flink's JobManager", folder / "jobmanager.log")
        self.task_manager = Process("Flink's TaskManager", folder / "taskmanager.log")
        for inner in ("tmp", "savepoints", "checkpoints"):
            (folder / inner).mkdir(parents=True, exist_ok=True)
        flink_home.configure(
            self._conf,
            {
                "jobmanager.rpc.address": HOST,
                "jobmanager.rpc.port": free_port(),
                "jobmanager.bind-host": HOST,
                "rest.address": HOST,
                "rest.bind-address": HOST,
                "rest.port": rest,
                "taskmanager.host": HOST,
                "taskmanager.bind-host": HOST,
                "taskmanager.numberOfTaskSlots": slots,
                **MEMORY,
                "io.tmp.dirs": folder / "tmp",
                "execution.checkpointing.dir": (folder / "checkpoints").as_uri(),
                "execution.checkpointing.savepoint-dir": (folder / "savepoints").as_uri(),
                "heartbeat.interval": "1 s",
                "heartbeat.timeout": "10 s",
                "metrics.reporters": "prometheus",
                "metrics.reporter.prometheus.factory.class": "org.apache.flink.metrics.prometheus.PrometheusReporterFactory",
            },
        )

    def start(self) -> None:
        """Returns when the cluster has free slots."""
        try:
            self.start_job_manager()
            self.start_task_manager()
        except BaseException:
            self.end()
            raise

    def start_job_manager(self) -> None:
        self._start(self.job_manager, JOB_MANAGER, lambda: self._asked("/overview") is not None)

    def start_task_manager(self) -> None:
        """One with a name of its own: of one that was killed the JobManager hears only after a while."""
        self._starts += 1
        name = f"taskmanager-{self._starts}"
        self._start(
            self.task_manager,
            TASK_MANAGER,
            lambda: any(t["id"] == name for t in (self._asked("/taskmanagers") or {}).get("taskmanagers", ())),
            f"-Dtaskmanager.resource-id={name}",
        )

    def end(self, number: int = signal.SIGTERM) -> None:
        """The TaskManager before the JobManager; returns when both are gone."""
        self.task_manager.end(number)
        self.job_manager.end(number)

    def _start(self, process: Process, main: str, ready: Callable[[], bool], *more: str) -> None:
        settings = (f"-Dmetrics.reporter.prometheus.port={self.prometheus[main]}", *more)
        command = flink_home.command(
            self._conf, main, "--configDir", str(self._conf), *settings, heap_mb=HEAPS_MB[main],
            options=("-XX:TieredStopAtLevel=1",),
        )  # fmt: skip
        process.start(command, ready, flink_home.environment(self._conf))

    def _asked(self, path: str) -> dict[str, list[dict[str, str]]] | None:
        try:
            found: dict[str, list[dict[str, str]]] = FlinkCluster(self.address).ask(path)
        except FlinkError:
            return None
        return found
