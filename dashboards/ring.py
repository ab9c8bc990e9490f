"""The ring of recent events from which every page is served; encoded once, whoever reads it.

The run's thread publishes, the server's loop reads. A client is only a position in the ring, so one that stops reading
costs no queue: when it has fallen more than `CLIENT_QUEUE` events behind, it is sent to the newest state.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

EventKind = Literal["snapshot", "delta", "alert", "hb", "reset"]
Topic = Literal["screen", "alerts"]

CLIENT_QUEUE: Final = 64
KEEP_S: Final = 600.0
KEEP_EVENTS: Final = 10_000
KEEP_BYTES: Final = 32 << 20
"""Ten minutes or 10,000 events are kept, and never more than 32 MiB: what is older costs a client one snapshot."""


@dataclass(frozen=True, slots=True)
class Event:
    seq: int
    kind: EventKind
    topic: Topic
    at: float
    encoded: bytes
    """As it goes over the wire, blank line included."""


def encode(event: EventKind, identity: str, data: bytes) -> bytes:
    """One server-sent event. `data` is JSON without line breaks."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (identity.encode(), event.encode(), data)


class Ring:
    """Events with consecutive numbers from 1. `epoch` names this server start; numbers of another one mean nothing."""

    def __init__(
        self,
        epoch: str,
        *,
        keep_s: float = KEEP_S,
        keep_events: int = KEEP_EVENTS,
        keep_bytes: int = KEEP_BYTES,
        max_clients: int = 500,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.epoch = epoch
        self.max_clients = max_clients
        self.sent: Counter[str] = Counter()
        """Events sent to clients, by kind."""
        self._keep = (keep_s, keep_events, keep_bytes)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._last = 0
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._closed = False

    @property
    def last(self) -> int:
        """Number of the newest event; 0 before the first."""
        return self._last

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def clients(self) -> int:
        return len(self._waiting)

    @property
    def size_bytes(self) -> int:
        """What the kept events occupy."""
        return self._bytes

    def identity(self, seq: int) -> str:
        return f"{self.epoch}-{seq}"

    def publish(self, event: Literal["delta", "alert", "hb"], data: bytes) -> int:
        """Adds an event and wakes the clients; its number."""
        with self._lock:
            self._last += 1
            encoded = encode(event, self.identity(self._last), data)
            topic: Topic = "screen" if event == "delta" else "alerts"
            self._events.append(Event(self._last, event, topic, self._monotonic(), encoded))
            self._bytes += len(encoded)
            self._forget()
            seq = self._last
        self._wake()
        return seq

    def _forget(self) -> None:
        keep_s, keep_events, keep_bytes = self._keep
        oldest = self._monotonic() - keep_s
        while self._events and (
            self._events[0].at < oldest or len(self._events) > keep_events or self._bytes > keep_bytes
        ):
            self._bytes -= len(self._events.popleft().encoded)

    def holds(self, seq: int) -> bool:
        """Whether a client that has events up to `seq` can go on from there without a gap."""
        with self._lock:
            return self._holds(seq)

    def _holds(self, seq: int) -> bool:
        oldest = self._events[0].seq if self._events else self._last + 1
        return oldest - 1 <= seq <= self._last

    def after(self, seq: int) -> Event | None:
        """The event that follows `seq`; None at the newest one.

        One at a time: a client that stops reading then keeps one event alive, whatever leaves the ring meanwhile.
        LookupError when the ring does not hold `seq`.
        """
        with self._lock:
            if not self._holds(seq):
                raise LookupError(f"event {seq} is not in the ring")
            return self._events[seq + 1 - self._events[0].seq] if seq < self._last else None

    def attach(self) -> asyncio.Event:
        """An event of the running loop that is set whenever something was published, or the ring closed."""
        wake = asyncio.Event()
        with self._lock:
            self._waiting[wake] = asyncio.get_running_loop()
        return wake

    def detach(self, wake: asyncio.Event) -> None:
        with self._lock:
            self._waiting.pop(wake, None)

    def close(self) -> None:
        """Ends every stream: clients are woken and their responses finish."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            loops: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}
            for wake, loop in self._waiting.items():
                loops.setdefault(loop, []).append(wake)
        for loop, wakes in loops.items():
            try:
                loop.call_soon_threadsafe(_set, wakes)
            except RuntimeError:  # that loop has ended, and its clients with it
                for wake in wakes:
                    self.detach(wake)


def _set(wakes: list[asyncio.Event]) -> None:
    for wake in wakes:
        wake.set()
