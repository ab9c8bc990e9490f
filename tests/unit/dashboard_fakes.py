"""What the dashboard tests share: a small city, two indicators, readings, a store in memory, and an ASGI client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import polars as pl
from fastapi import FastAPI

from dashboards.app import create_app
from dashboards.board import Board, StreamHealth
from dashboards.metrics import Metrics
from dashboards.ring import Ring
from pipelines import catalogue
from pipelines.city import City, District
from pipelines.model import EPISODES_SCHEMA, READINGS_SCHEMA, TRANSITIONS_SCHEMA
from pipelines.windows import Slide, tumble

MINUTE = 60_000
START = 1_772_409_600_000
"""2026-03-02T00:00:00Z."""
DISTRICTS = tuple(f"d{n:02d}" for n in range(1, 13))
CITY = City("demo", "云川市", "Yunchuan", "Asia/Shanghai", tuple(District(d, f"{d}区", d) for d in DISTRICTS))


SPEED = replace(catalogue.indicator("traffic.speed"), id="speed", window=Slide(5 * MINUTE, MINUTE))
INDICATORS = (SPEED, replace(SPEED, id="tti", window=tumble(5 * MINUTE)))


@dataclass(frozen=True)
class Changed:
    """A transition as `pipelines.transitions` makes them."""

    episode_id: str
    seq: int
    at: int
    from_state: str
    to_state: str
    level: str = "II"
    detail: str = '{"threshold":6.0}'
    rule: str = "hot"
    rule_version: int = 1
    indicator: str = "speed"
    place_kind: str = "district"
    place: str = "d01"
    value: float | None = 7.5
    publish: str | None = "alert"


def reading(
    indicator: str = "speed",
    place: str = "demo",
    end: int = START,
    value: float | None = 1.5,
    *,
    kind: str | None = None,
    revision: int = 1,
    detail: str = "{}",
    state: str | None = None,
) -> dict[str, Any]:
    return {
        "indicator": indicator,
        "method_id": "m1",
        "place_kind": kind or ("city" if place == "demo" else "district"),
        "place": place,
        "window_start": end - 5 * MINUTE,
        "window_end": end,
        "value": value,
        "unit": "%",
        "state": state or ("no_data" if value is None else "ok"),
        "completeness": 1.0,
        "samples": 3,
        "num": None,
        "den": None,
        "detail": detail,
        "as_of": None if value is None else end - 1,
        "revision": revision,
    }


def readings(*rows: Mapping[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=READINGS_SCHEMA)


def episode(identity: str, level: str = "II", state: str = "firing", at: int = START, **more: Any) -> dict[str, Any]:
    return {
        "episode_id": identity,
        "rule": "hot",
        "rule_version": 1,
        "indicator": "speed",
        "place_kind": "district",
        "place": "d01",
        "level": level,
        "state": state,
        "started_at": at,
        "ended_at": None if state == "firing" else at + MINUTE,
        "last_value": 7.5,
        "threshold": 6.0,
        "detail": "{}",
        "revision": 1,
        **more,
    }


def episodes(*rows: Mapping[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=EPISODES_SCHEMA)


def transitions(*changes: Changed) -> pl.DataFrame:
    """As they are stored."""
    return pl.DataFrame([{n: getattr(c, n) for n in TRANSITIONS_SCHEMA} for c in changes], schema=TRANSITIONS_SCHEMA)


@dataclass
class Clock:
    now: int = START

    def __call__(self) -> int:
        return self.now


@dataclass
class MemoryReader:
    readings: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=READINGS_SCHEMA))
    episodes: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=EPISODES_SCHEMA))
    changes: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TRANSITIONS_SCHEMA))
    broken: bool = False

    def history(self, indicator: str, place_kind: str, place: str, since: int, until: int, limit: int) -> pl.DataFrame:
        self.check()
        return self.readings.filter(
            pl.col("indicator") == indicator,
            pl.col("place_kind") == place_kind,
            pl.col("place") == place,
            pl.col("window_end") > since,
            pl.col("window_end") <= until,
        ).tail(limit)

    def check(self) -> None:
        if self.broken:
            raise OSError("the store is gone")

    def episode(self, episode_id: str) -> pl.DataFrame:
        self.check()
        return self.episodes.filter(pl.col("episode_id") == episode_id)

    def transitions(self, episode_id: str, limit: int) -> pl.DataFrame:
        self.check()
        return self.changes.filter(pl.col("episode_id") == episode_id).head(limit)


@dataclass
class Fixture:
    """A board with its clock and application."""

    clock: Clock
    board: Board
    metrics: Metrics
    reader: MemoryReader
    app: FastAPI

    def step(
        self,
        finals: Iterable[Mapping[str, Any]] = (),
        provisional: Iterable[Mapping[str, Any]] = (),
        changes: Iterable[Changed] = (),
        open_episodes: Iterable[Mapping[str, Any]] = (),
        health: Mapping[str, StreamHealth] | None = None,
    ) -> None:
        self.board.update(
            readings(*finals),
            readings(*provisional),
            list(changes),
            episodes(*open_episodes),
            health or {},
            self.clock.now,
        )


def city(heartbeat_s: float = 5.0, stuck_after_ms: int = 120_000, **ring: Any) -> Fixture:
    clock = Clock()
    board = Board("e1", clock, stuck_after_ms=stuck_after_ms, ring=Ring("e1", **ring))
    metrics, reader = Metrics(board), MemoryReader()
    app = create_app(board, INDICATORS, CITY, reader, metrics, heartbeat_s=heartbeat_s)
    return Fixture(clock, board, metrics, reader, app)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


def get(
    app: Callable[..., Any],
    path: str,
    query: bytes | str = b"",
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
) -> Answer:
    """One request straight into the application, whose bytes need not be what a well-behaved client sends.

    The client is gone as soon as the request is sent, so that a stream ends.
    """
    raw = query if isinstance(query, bytes) else query.encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": raw,
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent: list[dict[str, Any]] = []
    asked = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return asked.pop() if asked else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(asyncio.wait_for(app(scope, receive, send), 10))
    start = next(m for m in sent if m["type"] == "http.response.start")
    body = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
    return Answer(start["status"], {k.decode().lower(): v.decode() for k, v in start["headers"]}, body)


def parsed(raw: bytes) -> list[tuple[str, str, Any]]:
    """(event, id, data) of complete server-sent events."""
    out = []
    for block in raw.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "data" in fields:
            out.append((fields["event"], fields["id"], orjson.loads(fields["data"])))
    return out
