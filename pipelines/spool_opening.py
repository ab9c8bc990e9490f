"""Opening a spool folder: every byte is checked, and what was never acknowledged is cut off."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipelines import spool_segment as segments
from pipelines.spool_segment import LOST, SUFFIX, Answer, Segment, SpoolDamaged

AFTER_LOST: Final = 10**12
"""How far record numbers jump behind a last file whose records are lost: no number is given twice."""
Remember = Callable[[Answer, int, int], None]
"""Takes an answer, the number of the batch's first record, and its arrival."""


def open_segments(folder: Path, source: str, stream: str, remember: Remember) -> tuple[list[Segment], str | None]:
    """The files of a spool in order, at least one, and what was cut off the last one.

    SpoolDamaged where acknowledged records cannot be read or a file is missing between others.
    """
    for made in folder.glob("*.new"):
        made.unlink()
    files = sorted(p for p in folder.iterdir() if p.suffix in (SUFFIX, LOST) and p.stem.isdigit())
    found: list[Segment] = []
    note: str | None = None
    following: int | None = None
    for path in files:
        first = int(path.stem)
        if following is not None and first != following:
            raise SpoolDamaged(path, 0, f"records {following} to {first - 1}, which were before it, are missing")
        if path.suffix == LOST:
            following = None
            continue
        segment, note = _recovered(path, path == files[-1], source, stream, remember)
        found.append(segment)
        following = segment.end
    if not files or files[-1].suffix == LOST:
        first = int(files[-1].stem) + AFTER_LOST if files else 1
        found.append(segments.create(folder, source, stream, first))
    return found, note


def _recovered(path: Path, last: bool, source: str, stream: str, remember: Remember) -> tuple[Segment, str | None]:
    fd = os.open(path, os.O_RDWR)
    try:
        first, mark = segments.read_segment(path, fd, source, stream)
        segment, note = Segment(path, first, first, segments.START), None
        for after, arrival, answer in segments.recovered(segment, fd, mark, last):
            if answer is not None:
                remember(answer, segment.end, arrival)
            segment = after
        if not last:
            return segment, None
        if rest := os.fstat(fd).st_size - segment.length:
            os.ftruncate(fd, segment.length)
            note = (
                f"{path}: {rest} bytes behind byte {segment.length} were cut off, "
                "the rest of an append that was never acknowledged"
            )
        # What a killed process had written may be in the page cache only.
        segments.sync(fd)
        segments.write_mark(fd, segment.length)
        return segment, note
    finally:
        os.close(fd)
