"""Flink in this process's own Java: a job over the logs of a finite run in files, and its rows in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipelines.engines import flink_sql
from pipelines.engines.flink_job import SETTINGS, executed
from pipelines.engines.grouped_apart import MANIFESTS, Log, Runner
from pipelines.rollup import Rollup
from pipelines.streams import Stream


def statements(logs: Sequence[Log], folder: Path) -> tuple[list[str], list[str]]:
    """What is executed first, and the inserts. A log is one file that cannot be split, so its watermark is that of its one
    reader: a file source has no watermark a split."""
    files = {log.stream.name: log.files for log in logs}

    def source(stream: Stream) -> flink_sql.Options:
        (file,) = files[stream.name]
        return {"connector": "filesystem", "path": file.as_uri(), "format": "json"}

    def sink(rollup: Rollup | None) -> flink_sql.Options:
        name = MANIFESTS if rollup is None else rollup.stream.name
        return {"connector": "filesystem", "path": (folder / name).as_uri(), "format": "json"}

    return flink_sql.statements([r for log in logs for r in log.rollups], source, sink, flink_sql.OF_FILES)


def group(logs: Sequence[Log], folder: Path) -> None:
    """One job over all logs, to its end."""
    executed(*statements(logs, folder), {**SETTINGS, "parallelism.default": "1"}).wait()


FLINK: Final = Runner("flink", group)
