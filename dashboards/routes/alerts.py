"""`/api/v1/alerts`: open, recent and stored episodes with their transitions."""

from __future__ import annotations

from typing import Final, Literal

from fastapi import FastAPI
from starlette.responses import Response

from dashboards.alerts import episode_entry, transition_entry
from dashboards.answers import Cursor, Limit, Name, Store, answer, from_cursor, to_cursor
from dashboards.board import Board
from pipelines.problem import Problem

TRANSITIONS_SHOWN: Final = 1_000

AlertState = Literal["open", "ended", "all"]
AlertLevel = Literal["I", "II", "III", "IV", "no_data"]


def add_alerts(app: FastAPI, board: Board, store: Store) -> None:
    @app.get("/api/v1/alerts")
    async def list_alerts(
        state: AlertState = "all",
        level: AlertLevel | None = None,
        indicator: Name = None,
        place_kind: Name = None,
        place: Name = None,
        cursor: Cursor = None,
        limit: Limit = 200,
    ) -> Response:
        """Open and recent episodes, the newest first."""
        given = from_cursor(cursor, 2)
        wanted = {"level": level, "indicator": indicator, "place_kind": place_kind, "place": place}
        found = [
            e
            for e in board.alerts(only_open=False)
            if (state == "all" or (e["ended_at"] is None) == (state == "open"))
            and all(value is None or e[name] == value for name, value in wanted.items())
            and (given is None or [e["started_at"] or "", e["episode_id"]] < given)
        ]
        last = found[limit - 1] if len(found) > limit else None
        following = to_cursor([last["started_at"] or "", last["episode_id"]]) if last else None
        return answer(board, {"alerts": found[:limit], "next": following})

    @app.get("/api/v1/alerts/{episode_id:path}")
    def one_alert(episode_id: str) -> Response:
        """One episode and its transitions: from memory, or from the store when it is older."""
        found = board.alert(episode_id)
        if found is not None:
            return answer(board, {"episode": found[0], "transitions": found[1]})
        stored = store.read(lambda r: r.episode(episode_id))
        if not len(stored):
            raise Problem(
                404, f"there is no episode {episode_id[:200]!r}; /api/v1/alerts lists the open and recent ones"
            )
        changes = store.read(lambda r: r.transitions(episode_id, TRANSITIONS_SHOWN))
        return answer(
            board,
            {
                "episode": episode_entry(stored.row(0, named=True)),
                "transitions": [transition_entry(row) for row in changes.head(TRANSITIONS_SHOWN).iter_rows(named=True)],
            },
        )
