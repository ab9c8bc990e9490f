"""Server-sent events of one client: replay or snapshot, then what is published, heartbeats, and the end.

Wire format: `retry: 2000` once; then events with `id: <epoch>-<seq>`, `event: snapshot | delta | alert | hb | reset`
and `data:` one JSON object with `v, as_of, sent`. `hb` comes every 5 s as a real event, because scripts cannot see
comments; a comment every 15 s is for proxies, which can. It carries `ready`, and `stalled` while the run makes no progress
(rule 39): the thread that serves computes both, whatever hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, Protocol

from dashboards.ring import CLIENT_QUEUE, EventKind, Ring, Topic, encode

HEARTBEAT_S: Final = 5.0
COMMENT_S: Final = 15.0
RETRY: Final = b"retry: 2000\n\n"
COMMENT: Final = b": keep-alive\n\n"
PIECE: Final = 1 << 16
"""A longer event is handed over in pieces, so that a client that stops reading holds at most about two of them."""
HEADERS: Final = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
TOPICS: Final[tuple[Topic, ...]] = ("screen", "alerts")
_IDENTITY: Final = re.compile(r"([0-9A-Za-z]{1,64})-([0-9]{1,18})")


class State(Protocol):
    """What a stream needs of the board."""

    ring: Ring

    def snapshot(self) -> tuple[int, bytes]:
        """Number of the newest event it includes, and the snapshot as JSON."""
        ...

    def heartbeat(self) -> bytes: ...


def position(last_event_id: str | None, epoch: str) -> tuple[int | None, bool]:
    """(number of the last event that the client has, whether it belongs to another server start).

    A text that is no id of ours is treated as none: such a client gets a snapshot.
    """
    match = _IDENTITY.fullmatch(last_event_id or "")
    if not match:
        return None, False
    return (int(match[2]), False) if match[1] == epoch else (None, True)


async def events(
    state: State,
    last_event_id: str | None,
    topics: frozenset[Topic],
    *,
    heartbeat_s: float = HEARTBEAT_S,
    comment_s: float = COMMENT_S,
    monotonic: Callable[[], float] = time.monotonic,
) -> AsyncIterator[bytes]:
    """The body of one client's response, until the client goes or the ring closes."""
    ring = state.ring
    if ring.closed or ring.clients >= ring.max_clients:
        return
    wake = ring.attach()
    try:
        yield RETRY
        seq, foreign = position(last_event_id, ring.epoch)
        allowed = CLIENT_QUEUE
        if seq is not None and ring.holds(seq):
            # A reconnecting client may have missed more than a queue's worth; it is let off only while it catches up.
            allowed += ring.last - seq
            restart = ""
        else:
            restart = "reset" if foreign else "snapshot"
        # A heartbeat follows at once: it carries the clock, which a cached snapshot or a replayed event does not.
        commented = monotonic()
        due = commented
        while not ring.closed:
            wake.clear()
            if restart or seq is None:
                if restart == "reset":
                    yield own(ring, "reset", ring.last, state.heartbeat())
                seq, data = state.snapshot()
                for piece in pieces(own(ring, "snapshot", seq, data)):
                    yield piece
                restart, allowed, due = "", CLIENT_QUEUE, monotonic()
            behind = ring.last - seq
            try:
                event = ring.after(seq)
            except LookupError:
                behind = allowed + 1
            if behind > allowed:
                restart = "reset"
                continue
            allowed = min(allowed, behind + CLIENT_QUEUE)
            if event is not None:
                seq = event.seq
                if event.topic in topics:
                    ring.sent[event.kind] += 1
                    for piece in pieces(event.encoded):
                        yield piece
                continue
            now = monotonic()
            if now - commented >= comment_s:
                commented = now
                yield COMMENT
            if now >= due:
                due = now + heartbeat_s
                yield own(ring, "hb", seq, state.heartbeat())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), max(0.01, min(due, commented + comment_s) - now))
    finally:
        ring.detach(wake)


def own(ring: Ring, event: EventKind, seq: int, data: bytes) -> bytes:
    """An event for this client alone; its id is that of the newest published event that the client has."""
    ring.sent[event] += 1
    return encode(event, ring.identity(seq), data)


def pieces(encoded: bytes) -> Iterator[bytes]:
    for start in range(0, len(encoded), PIECE):
        yield encoded[start : start + PIECE]
