"""What the routes share: answers, cursors, conditional requests, and the bound on reads of the store."""

from __future__ import annotations

import base64
import binascii
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import orjson
import polars as pl
from fastapi import Query
from starlette.responses import Response

from dashboards.board import PROTOCOL, Board
from dashboards.reader import Reader
from dashboards.tiles import iso
from pipelines.problem import Problem

log = logging.getLogger(__name__)

READS_AT_ONCE: Final = 2
READ_WAIT_S: Final = 2.0

Name = Annotated[str | None, Query(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=1000, description="How many entries at most.")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next` of the previous answer.")]


class Store:
    """The reader behind a bound: the store serves few threads, and a page must not wait for it."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._slots = threading.BoundedSemaphore(READS_AT_ONCE)

    def read(self, ask: Callable[[Reader], pl.DataFrame]) -> pl.DataFrame:
        if not self._slots.acquire(timeout=READ_WAIT_S):
            raise Problem(503, "the store is busy with other requests; try again", headers={"Retry-After": "1"})
        try:
            return ask(self._reader)
        except Exception as error:
            log.warning("reading the store failed", exc_info=error)
            raise Problem(503, f"the store could not be read: {type(error).__name__}; try again") from error
        finally:
            self._slots.release()


def answer(board: Board, body: Mapping[str, Any], status: int = 200) -> Response:
    now = board.clock()
    content = orjson.dumps({"v": PROTOCOL, "as_of": iso(now), "sent": now, **body})
    return Response(content, status, {"Cache-Control": "no-store"}, media_type="application/json")


def to_cursor(parts: Sequence[str]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode()


def from_cursor(cursor: str | None, length: int) -> list[str] | None:
    """The parts of a cursor; a Problem when it is none of ours."""
    if cursor is None:
        return None
    try:
        parts = orjson.loads(base64.b64decode(cursor.encode(), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        parts = None
    if not isinstance(parts, list) or len(parts) != length or not all(isinstance(p, str) for p in parts):
        raise Problem(
            400, f"cursor {cursor[:100]!r} is not one of ours; use `next` of the previous answer, or leave it out"
        )
    return parts


def matches(if_none_match: str | None, etag: str) -> bool:
    given = [part.strip().removeprefix("W/") for part in (if_none_match or "").split(",")]
    return "*" in given or etag in given
