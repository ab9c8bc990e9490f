"""Beam's local runner in this process: a pipeline over the logs of a finite run in files, and its rows in files."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.engines.beam_transform import FileBlock, GroupRows
from pipelines.engines.grouped_apart import Log, Runner

FN_API_RUNNER: Final = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
"""By name: without one Beam looks for a runner to download."""
EVENTS_A_FILE: Final = 200_000


class WriteRecords(beam.DoFn):  # type: ignore[misc]
    """Records into one new file a bundle, whole or not at all."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def start_bundle(self) -> None:
        self._records: list[bytes] = []

    def process(self, record: bytes) -> Iterable[None]:
        self._records.append(record)
        return ()

    def finish_bundle(self) -> None:
        if self._records:
            name = f"{uuid.uuid4().hex}.ndjson"
            draft = Path(self.folder) / f".{name}"
            draft.write_bytes(b"\n".join(self._records))
            draft.replace(Path(self.folder) / name)


def group(logs: Sequence[Log], folder: Path) -> None:
    """One pipeline over all logs, to its end."""
    options = PipelineOptions(["--direct_num_workers=1"])
    with beam.Pipeline(FN_API_RUNNER, options) as pipeline:
        for log in logs:
            name, rows = log.stream.name, folder / log.stream.name
            rows.mkdir()
            _ = (
                pipeline
                | f"log of {name}" >> beam.Create([FileBlock(log.part, str(path)) for path in log.files])
                | f"group {name}" >> GroupRows(log.rollups)
                | f"write {name}" >> beam.ParDo(WriteRecords(str(rows)))
            )


BEAM: Final = Runner("beam", group, EVENTS_A_FILE)
