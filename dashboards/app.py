"""The HTTP interface: `/api/v1`, the live page, `/healthz`, `/readyz`, `/metrics`.

Everything is read from the board in memory; only history and old episodes ask the store. Every list is bounded; an
error is an RFC 9457 problem.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header
from starlette.responses import Response

from dashboards import problems, stream
from dashboards.answers import Store, matches
from dashboards.board import PROTOCOL, Board
from dashboards.catalogue import catalogue
from dashboards.metrics import Metrics
from dashboards.page import TYPES, Head, Page, SecurityHeaders, read_page
from dashboards.reader import Reader
from dashboards.routes.alerts import add_alerts
from dashboards.routes.indicators import add_indicators
from dashboards.routes.live import add_live, add_run
from pipelines.city import City
from pipelines.indicator import Indicator
from pipelines.problem import Problem

Routers = Sequence[APIRouter]
"""Routes that others add to the application."""


def create_app(
    board: Board,
    indicators: Sequence[Indicator],
    city: City,
    reader: Reader,
    metrics: Metrics,
    *,
    page: Page | None = None,
    heartbeat_s: float = stream.HEARTBEAT_S,
    routers: Routers = (),
) -> FastAPI:
    """The application over one board; `serve` runs it. `app.state` has `board` and `metrics`; `routers` are served as well."""
    app = FastAPI(
        title="citybrain",
        version=f"v{PROTOCOL}",
        description="Live indicators and alerts of one city.",
        docs_url=None,  # its pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the Host header that the client sent
    )
    app.state.board, app.state.metrics = board, metrics
    problems.install(app)
    shown_page = page or read_page()
    board.build = shown_page.build
    described = catalogue(indicators, city)
    definitions = {entry["id"]: entry for entry in described["indicators"]}
    streams = {i.id: i.stream.name for i in indicators if i.stream is not None}
    homes = {(site.stream, site.id): site.district for site in city.sites}
    board.describe(described, lambda indicator, site: homes.get((streams.get(indicator, ""), site)))
    _add_page(app, shown_page)
    _add_map(app, city.outlines.encode())
    store = Store(reader)
    add_indicators(app, board, definitions, store)
    add_alerts(app, board, store)
    add_live(app, board, heartbeat_s)
    add_run(app, board, metrics)
    for router in routers:
        app.include_router(router)
    app.add_middleware(Head, stream="/api/v1/stream")
    app.add_middleware(SecurityHeaders)
    return app


def _add_map(app: FastAPI, outlines: bytes) -> None:
    etag = f'"{hashlib.sha256(outlines).hexdigest()[:16]}"'

    @app.get("/api/v1/map")
    async def map_(if_none_match: Annotated[str | None, Header()] = None) -> Response:
        """The outlines of the districts as GeoJSON (RFC 7946); 404 where the city pack has none."""
        if not outlines:
            raise Problem(404, "this city pack has no districts.geojson")
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if matches(if_none_match, etag):
            return Response(None, 304, headers)
        return Response(outlines, headers=headers, media_type="application/geo+json")


def _add_page(app: FastAPI, page: Page) -> None:
    etag = f'"{page.build}"'

    def route(path: str, name: str) -> None:
        @app.get(path, include_in_schema=False)
        async def file(if_none_match: Annotated[str | None, Header()] = None) -> Response:
            # The names of assets have the hash of their content.
            kept = "public, max-age=31536000, immutable" if name.startswith("assets/") else "no-cache"
            headers = {"ETag": etag, "Cache-Control": kept}
            if matches(if_none_match, etag):
                return Response(None, 304, headers)
            return Response(page.files[name], headers=headers, media_type=TYPES[PurePosixPath(name).suffix])

    for name in page.files:
        route("/" if name == "index.html" else f"/{name}", name)
    if "icon.svg" in page.files:
        route("/favicon.ico", "icon.svg")
