"""`/api/v1/indicators`: definitions, newest readings, history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import polars as pl
from fastapi import FastAPI, Query
from starlette.responses import Response

from dashboards import problems
from dashboards.answers import Cursor, Limit, Name, Store, answer, from_cursor, to_cursor
from dashboards.board import SCREEN_KINDS, Board
from dashboards.tiles import Tile, rows, tile
from pipelines.catalogue import STREAMS
from pipelines.problem import Problem
from pipelines.streams import HOUR_MS

PLACE_KINDS: Final = tuple(dict.fromkeys((*SCREEN_KINDS, *(level for s in STREAMS for level in s.levels))))


def add_indicators(app: FastAPI, board: Board, definitions: Mapping[str, dict[str, Any]], store: Store) -> None:
    def known(indicator: str) -> dict[str, Any]:
        if indicator not in definitions:
            raise problems.unknown("indicator", indicator, definitions)
        return definitions[indicator]

    def known_kind(place_kind: str) -> str:
        if place_kind not in PLACE_KINDS:
            raise Problem(422, f"place_kind {place_kind!r} is unknown; it is one of {', '.join(PLACE_KINDS)}")
        return place_kind

    @app.get("/api/v1/indicators")
    def list_indicators(
        indicator: Name = None, place_kind: Name = None, place: Name = None, cursor: Cursor = None, limit: Limit = 200
    ) -> Response:
        """Newest readings, and the definitions of the indicators. Without `place_kind` those of city and districts."""
        given = from_cursor(cursor, 4)
        chosen = [known(indicator)] if indicator is not None else list(definitions.values())
        after = (given[0], given[1], given[2], given[3] == "1") if given else None
        if place_kind is not None and known_kind(place_kind) not in SCREEN_KINDS:
            found = _site_tiles(board, indicator, place_kind, place, after, limit + 1)
        else:
            found = [
                t
                for t in board.tiles()
                if (indicator is None or t["indicator"] == indicator)
                and (place_kind is None or t["place_kind"] == place_kind)
                and (place is None or t["place"] == place)
                and (after is None or _order(t) > after)
            ]
        more = found[limit - 1] if len(found) > limit else None
        following = to_cursor([*_order(more)[:3], "1" if more["provisional"] else "0"]) if more else None
        return answer(board, {"indicators": chosen, "readings": found[:limit], "next": following})

    @app.get("/api/v1/indicators/{indicator}")
    def one_indicator(
        indicator: str,
        place_kind: Annotated[str, Query(max_length=200)] = "city",
        place: Name = None,
        hours: Annotated[int, Query(ge=1, le=168, description="How far back the history goes.")] = 6,
        limit: Limit = 500,
    ) -> Response:
        """Definition, current values of city and districts, and the stored history at one place (default: the city)."""
        described = known(indicator)
        known_kind(place_kind)
        current = [t for t in board.tiles() if t["indicator"] == indicator]
        where = place
        if where is None:
            if place_kind != "city":
                raise Problem(422, f"place is missing: with place_kind {place_kind!r} say which one")
            where = next((t["place"] for t in current if t["place_kind"] == "city"), "city")
        now = board.clock()
        frame = store.read(lambda r: r.history(indicator, place_kind, where, now - hours * HOUR_MS, now, limit))
        history = [tile(row, provisional=False) for _, row in rows(frame.tail(limit))]
        return answer(
            board,
            {
                "definition": described,
                "readings": current,
                "place_kind": place_kind,
                "place": where,
                "history": history,
            },
        )


def _order(entry: Tile) -> tuple[str, str, str, bool]:
    return entry["indicator"], entry["place_kind"], entry["place"], entry["provisional"]


def _site_tiles(
    board: Board,
    indicator: str | None,
    place_kind: str,
    place: str | None,
    after: tuple[str, str, str, bool] | None,
    limit: int,
) -> list[Tile]:
    if indicator is None:
        raise Problem(422, f"indicator is missing: with place_kind {place_kind!r} say which one")
    wanted = [pl.col("indicator") == indicator, pl.col("place_kind") == place_kind]
    if place is not None:
        wanted.append(pl.col("place") == place)
    return board.sites(wanted, after[:3] if after else None, limit)
