"""`/api/v1/alerts`: open and recent episodes; any stored one with its transitions."""

from __future__ import annotations

from typing import Final, Literal

from fastapi import FastAPI
from starlette.responses import Response

from dashboards.alerts import OPEN, episode_entry, transition_entry
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
        for those, why in list(board.unread.items()):
            if state in ("all", those):
                raise Problem(503, f"{why}; try again", headers={"Retry-After": "1"})
        given = from_cursor(cursor, 2)
        wanted = {"level": level, "indicator": indicator, "place_kind": place_kind, "place": place}
        found = [
            e
            for e in board.alerts(only_open=False)
            if (state == "all" or (e["state"] == OPEN) == (state == "open"))
            and all(value is None or e[name] == value for name, value in wanted.items())
            and (given is None or [e["started_at"] or "", e["episode_id"]] < given)
        ]
        last = found[limit - 1] if len(found) > limit else None
        following = to_cursor([last["started_at"] or "", last["episode_id"]]) if last else None
        return answer(board, {"alerts": found[:limit], "next": following})

    @app.get("/api/v1/alerts/{episode_id:path}")
    def one_alert(episode_id: str) -> Response:
        """One episode and its transitions from the first on, of earlier runs as well."""
        found = board.alert(episode_id)
        if found is None:
            stored = store.read(lambda r: r.episode(episode_id))
            if not len(stored):
                raise Problem(
                    404, f"there is no episode {episode_id[:200]!r}; /api/v1/alerts lists the open and recent ones"
                )
            found = board.placed(episode_entry(stored.row(0, named=True)))
        # Stored before they are published (rule 30): asked for after the episode, none is missing that it shows.
        changes = store.read(lambda r: r.transitions(episode_id, TRANSITIONS_SHOWN))
        transitions = [transition_entry(row) for row in changes.head(TRANSITIONS_SHOWN).iter_rows(named=True)]
        return answer(board, {"episode": found, "transitions": transitions})
