"""What an engine job says of itself in `control.<city>` before it groups: its id, its definitions, and where it starts."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from pipelines.rollup import Rollup

KIND: Final = "job"


@dataclass(frozen=True, slots=True)
class Start:
    """Where a job begins in the log of a stream. `log`: the identity of that topic. `first`: the offset of each partition,
    by its part; None: a savepoint has it. `kept`: what the job itself remembers to have delivered."""

    log: str
    first: Mapping[str, int] | None
    kept: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Announcement:
    """Of one stream. `rollups`: the frame hash of each, under '', and the hash of each of its measures."""

    job: str
    engine: str
    stream: str
    at: int
    log: str
    first: Mapping[str, int] | None
    kept: Mapping[str, int]
    rollups: Mapping[str, Mapping[str, str]]

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Announcement:
        """KeyError, TypeError or ValueError where a record is none."""
        first = record["first"]
        return cls(
            str(record["job"]),
            str(record["engine"]),
            str(record["stream"]),
            int(record["at"]),
            str(record["log"]),
            None if first is None else _offsets(first),
            _offsets(record["kept"]),
            {
                str(name): {str(k): str(v) for k, v in dict(hashes).items()}
                for name, hashes in dict(record["rollups"]).items()
            },
        )

    def record(self) -> tuple[bytes, bytes]:
        """Key and value. All of a stream have one key, so that they are in one partition, in their order."""
        return f"{self.stream}/jobs".encode(), orjson.dumps({"kind": KIND, **asdict(self)})


def _offsets(of: Any) -> dict[str, int]:
    return {str(part): int(offset) for part, offset in dict(of).items()}


def new_id(engine: str) -> str:
    """The id of a job that begins now."""
    return f"{engine}-{uuid.uuid4().hex[:8]}"


def definition(rollup: Rollup) -> dict[str, str]:
    """Its hashes (rule 16)."""
    return {"": rollup.frame_hash, **{measure.name: measure.hash for measure in rollup.measures}}


def announcements(
    job: str, engine: str, rollups: Iterable[Rollup], starts: Mapping[str, Start], at: int
) -> list[Announcement]:
    """One for each stream of `starts`."""
    known = list(rollups)
    return [
        Announcement(
            job, engine, stream, at, start.log, start.first, start.kept,
            {rollup.name: definition(rollup) for rollup in known if rollup.stream.name == stream},
        )
        for stream, start in starts.items()
    ]  # fmt: skip
