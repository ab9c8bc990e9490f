"""The canonical log of the link events, as ingest stamps it: what every engine reads, in files.

`NUMBER.ndjson` has the records of a partition as they are in a topic; `NUMBER/*.ndjson.gz` has the same ones with `part` and
`off`, as `replay --engine` hands them to a job.
"""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from commands.inputs import city_of
from connectors.files import FileSource
from connectors.formats.ndjson import Ndjson
from pipelines import canonical, catalogue
from pipelines.log_writer import LogWriter
from pipelines.stream_run import Attached
from pipelines.streams import LINK
from pipelines.watermark import Input

EVENTS_A_FILE: Final = 200_000
BATCH: Final = 200_000
CITY: Final = "bench"


@dataclass(frozen=True, slots=True)
class Log:
    """A log in a folder: a partition is what one input file became."""

    folder: Path

    @property
    def topics(self) -> list[Path]:
        """The records of each partition, as in a topic."""
        return sorted(self.folder.glob("*.ndjson"))

    def files(self, part: int) -> tuple[Path, ...]:
        """The records of a partition with `part` and `off`."""
        return tuple(sorted((self.folder / str(part)).glob("*.ndjson.gz")))

    def records(self, part: int) -> Iterator[bytes]:
        with self.topics[part].open("rb") as file:
            for line in file:
                yield line.rstrip(b"\n")


def written(paths: list[str], pack: str, folder: str) -> Log:
    """The log of these files, each of which feeds a partition; made once."""
    log = Log(Path(folder))
    if not log.folder.exists():
        draft = log.folder.with_suffix(f".{os.getpid()}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            _write([Path(p) for p in paths], pack, draft)
            draft.replace(log.folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return log


def _write(paths: list[Path], pack: str, folder: Path) -> None:
    city = city_of(pack)
    targets = {canonical.part_of(canonical.topic(CITY, LINK.name), n): n for n in range(len(paths))}
    sources = [FileSource(path, LINK, Ndjson(LINK)) for path in paths]
    attached = [Attached(source, Input(source.input, part)) for source, part in zip(sources, targets, strict=True)]
    writer = LogWriter(
        CITY, "bench", LINK, attached, targets, owner="bench", identity={"run": "bench"}, live=False, start=0,
        configured=[site.id for site in city.sites if site.stream == LINK.name],
    )  # fmt: skip
    parts = {part: _Part(folder, part, number) for part, number in targets.items()}

    def flush() -> None:
        writer.stream.taken()
        for part, records in writer.stream.written().items():
            parts[part].add(records)

    while (name := writer.ingest.wanted()) is not None:
        writer.intake.read(writer.stream, name, BATCH)
        flush()
    writer.closing(catalogue.rollups(catalogue.CATALOGUE))
    flush()
    for part in parts.values():
        part.close()


class _Part:
    def __init__(self, folder: Path, name: str, number: int) -> None:
        self._name, self._folder, self._off = name.encode(), folder / str(number), 0
        self._folder.mkdir()
        self._topic = (folder / f"{number}.ndjson").open("wb")
        self._held: list[bytes] = []

    def add(self, records: list[bytes]) -> None:
        self._topic.write(b"\n".join(records) + b"\n" if records else b"")
        for record in records:
            self._held.append(b'%s,"part":"%s","off":%d}' % (record[:-1], self._name, self._off))
            self._off += 1
        while len(self._held) >= EVENTS_A_FILE:
            self._file(self._held[:EVENTS_A_FILE])
            self._held = self._held[EVENTS_A_FILE:]

    def _file(self, records: list[bytes]) -> None:
        path = self._folder / f"{self._off - len(self._held):012d}.ndjson.gz"
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(b"\n".join(records) + b"\n")

    def close(self) -> None:
        if self._held:
            self._file(self._held)
        self._topic.close()
