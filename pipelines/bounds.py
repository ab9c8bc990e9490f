"""The bounds of rules 4 to 8 as a run uses them: the stream's, unless the run overrides one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

from pipelines.streams import Stream


class Overrides(TypedDict, total=False):
    """Bounds of this run that differ from the stream's, in ms; None: the stream's."""

    disorder_ms: int | None
    horizon_ms: int | None
    future_ms: int | None
    jump_ms: int | None
    max_lag_ms: int | None
    idle_timeout_ms: int | None


@dataclass(frozen=True, slots=True)
class Bounds:
    """D, H, F, J, max_lag and idle_timeout of rules 4 to 8, in ms. H is None where the stream has no dedup key."""

    disorder_ms: int
    horizon_ms: int | None
    future_ms: int
    jump_ms: int
    max_lag_ms: int
    idle_timeout_ms: int

    @classmethod
    def of(cls, stream: Stream, overrides: Overrides) -> Bounds:
        bounds = {name: getattr(stream, name) for name in cls.__slots__}
        for name, value in overrides.items():
            if name not in bounds:
                raise TypeError(unknown("bound", name, bounds))
            if value is not None:
                if not isinstance(value, int) or value < 0:
                    raise ValueError(
                        f"{name} of stream {stream.name!r} is {value!r}; it must be a whole number of ms >= 0"
                    )
                bounds[name] = value
        if stream.dedup is None:
            bounds["horizon_ms"] = None
        return cls(**bounds)


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """What an error about an unknown name says: the name, what there is, and the nearest."""
    allowed = list(allowed)
    near = difflib.get_close_matches(name, allowed, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}; there are {', '.join(allowed)}.{hint}"
