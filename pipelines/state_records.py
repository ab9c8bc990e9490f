"""State as records of a compacted topic: one key a part, so that what each batch changed is written with it, once.

`state.<city>` has a record for every part of `Ingest`'s state under the key `<stream>/<ingest>/<part>#<piece>`; large parts are
cut into pieces, and a part that is gone has a record without value. The keys of dedup are written as they come, a part a
batch, and are gone when all of them are beyond the horizon; so the state on the log is as large as what ingest remembers,
and no batch writes more than it changed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Final

from pipelines import checkpoint_record
from pipelines.model import Parts

PIECE_BYTES: Final = 512 << 10
MOST_PARTS: Final = 4_000
"""So many parts, and the state is written whole once more."""
Change = tuple[bytes, bytes | None]
"""Key and value of a record; no value: the key is gone."""


def topic(city: str) -> str:
    return f"state.{city}"


def partition_of(stream: str, count: int) -> int:
    """The partition with the state of all ingests of a stream."""
    return zlib.crc32(stream.encode()) % count


def prefix(stream: str, ingest: str) -> str:
    """What the keys of an ingest begin with."""
    return f"{stream}/{ingest}/"


class StateRecords:
    """Which parts of one ingest the topic holds, and in how many pieces."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._pieces: dict[str, int] = {}

    @property
    def long(self) -> bool:
        """Whether the next state should be a whole one."""
        return len(self._pieces) > MOST_PARTS

    @property
    def parts(self) -> frozenset[str]:
        return frozenset(self._pieces)

    def changes(self, parts: Mapping[str, object], gone: Iterable[str] = ()) -> list[Change]:
        """The records that say these changes; a part that is None is gone too."""
        out: list[Change] = []
        for name, part in parts.items():
            if part is None:
                out += self._gone(name, 0)
                continue
            data = checkpoint_record.encode({"part": part})
            count = max(1, -(-len(data) // PIECE_BYTES))
            for n in range(count):
                piece = data[n * PIECE_BYTES : (n + 1) * PIECE_BYTES]
                out.append((self._key(name, n), b"%d " % count + piece))
            out += self._gone(name, count)
            self._pieces[name] = count
        for name in gone:
            out += self._gone(name, 0)
        return out

    def _gone(self, name: str, since: int) -> list[Change]:
        before = self._pieces.pop(name, 0)
        return [(self._key(name, n), None) for n in range(since, before)]

    def load(self, records: Mapping[bytes, bytes]) -> Parts:
        """The parts of this ingest in what the topic holds, by key. ValueError where a piece is missing or damaged."""
        found: dict[str, dict[int, bytes]] = {}
        for key, value in records.items():
            text = key.decode()
            if text.startswith(self.prefix):
                name, _, n = text[len(self.prefix) :].rpartition("#")
                found.setdefault(name, {})[int(n)] = value
        parts: Parts = {}
        for name, pieces in found.items():
            count = int(pieces[0].partition(b" ")[0]) if 0 in pieces else 0
            whole = count and pieces.keys() == set(range(count))
            record = checkpoint_record.decoded(
                b"".join(pieces[n].partition(b" ")[2] for n in range(count)) if whole else b"", 0
            )
            if record is None:
                raise ValueError(f"part {name!r} of the state {self.prefix!r} is damaged or not whole")
            parts[name] = checkpoint_record.made(record[0]["part"])
            self._pieces[name] = count
        return parts

    def _key(self, name: str, piece: int) -> bytes:
        return f"{self.prefix}{name}#{piece}".encode()
