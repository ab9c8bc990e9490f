"""`/api/v1/snapshot, /api/v1/stream`: what changes as one watches; `/healthz, /readyz, /metrics`: how the run is."""

from __future__ import annotations

from typing import Annotated, get_args

from fastapi import FastAPI, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from dashboards import problems, stream
from dashboards.answers import answer, matches
from dashboards.board import Board
from dashboards.metrics import Metrics
from dashboards.ring import Topic
from pipelines.problem import Problem


def add_live(app: FastAPI, board: Board, heartbeat_s: float) -> None:
    @app.get("/api/v1/snapshot")
    async def snapshot(if_none_match: Annotated[str | None, Header()] = None) -> Response:
        """The state of the page: catalogue, readings of city and districts, open alerts, health of the streams."""
        seq, body = board.snapshot()
        headers = {"ETag": f'"{board.ring.identity(seq)}"', "Cache-Control": "no-cache"}
        if matches(if_none_match, headers["ETag"]):
            return Response(None, 304, headers)
        return Response(body, headers=headers, media_type="application/json")

    @app.get("/api/v1/stream")
    async def live(
        request: Request,
        topics: Annotated[str, Query(max_length=200, description="screen, alerts, or both")] = ",".join(stream.TOPICS),
        last_event_id: Annotated[str | None, Query(max_length=200)] = None,
    ) -> Response:
        """Server-sent events: `snapshot`, then `delta` and `alert`, `hb` every 5 s, `reset` when events were missed."""
        chosen: list[Topic] = []
        for name in topics.split(","):
            allowed = [t for t in get_args(Topic) if t == name.strip()]
            if not allowed:
                raise Problem(422, f"topic {name[:100]!r} is unknown; topics are {', '.join(stream.TOPICS)}")
            chosen += allowed
        if board.ring.closed or board.ring.clients >= board.ring.max_clients:
            reason = (
                "the server is stopping" if board.ring.closed else f"{board.ring.max_clients} clients are connected"
            )
            raise Problem(503, f"no further stream: {reason}", headers={"Retry-After": "5"})
        last = request.headers.get("last-event-id") or last_event_id
        body = stream.events(board, last, frozenset(chosen), heartbeat_s=heartbeat_s)
        return StreamingResponse(body, headers=stream.HEADERS, media_type="text/event-stream")


def add_run(app: FastAPI, board: Board, metrics: Metrics) -> None:
    @app.get("/healthz")
    async def alive() -> Response:
        """200 while the process serves."""
        return answer(board, {"status": "alive"})

    @app.get("/readyz")
    async def ready() -> Response:
        """200 when the numbers can be relied on; 503 with the reasons when not."""
        reasons = board.not_ready()
        if reasons:
            return problems.response(503, "; ".join(reasons), reasons=reasons)
        return answer(board, {"status": "ready"})

    @app.get("/metrics")
    def scrape(accept: Annotated[str, Header()] = "") -> Response:
        """Prometheus or OpenMetrics text; the names are those of `docs/metrics.md`."""
        body, content_type = metrics.exposition(accept)
        return Response(body, headers={"Content-Type": content_type})
