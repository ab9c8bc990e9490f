"""Pushes over HTTP as the source of an ingest: they go to a spool first, and are inputs from the first one on (rule 34)."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Container
from pathlib import Path
from urllib.parse import urlsplit

from commands.ingest_inputs import Opened
from commands.inputs import UserError, city_folder
from connectors.http_push import Push, push_app
from connectors.tokens import Tokens
from dashboards.board import Board
from dashboards.metrics import Metrics
from dashboards.serve import listen, loopback, serve
from pipelines.model import Source
from pipelines.spool_source import SpoolSource
from pipelines.streams import Stream


class Pushes:
    """A server for pushes of one stream, and their spools: below the city's folder in `data`, a folder an ingest."""

    def __init__(
        self, address: str, city: str, stream: Stream, ingest: str, data: Path | None, clock: Callable[[], int]
    ) -> None:
        url = urlsplit(address)
        try:
            host, port = url.hostname, url.port
        except ValueError:
            host, port = None, None
        if host is None or port is None or url.path.strip("/") or url.query or url.username is not None:
            raise UserError("--source http:// names where to listen for pushes; write http://127.0.0.1:8090")
        home = city_folder(data, city)
        sock = listen(host, port)
        self.push = Push(home / "ingest" / stream.name / ingest, {stream.name: stream}, Tokens(home), clock)
        app, board = push_app(self.push), Board(uuid.uuid4().hex[:8], clock)
        app.state.board, app.state.metrics = board, Metrics(board)
        self._serving = serve(app, host, port, sock=sock)
        shown = f"{self._serving.url}ingest/v1/{stream.name}"
        print(f"citybrain: pushes are taken at {shown} (citybrain token add)", file=sys.stderr, flush=True)
        if not loopback(sock):
            print(
                "citybrain: warning: the way there is not encrypted; put a proxy before it", file=sys.stderr, flush=True
            )

    def opened(self, start: int) -> Opened:
        """The spools that there are."""
        return Opened(tuple((source, 0) for source in self.joining(())), {"run": "push"})

    def joining(self, known: Container[str]) -> list[Source]:
        """Sources of the spools that are not known yet."""
        return [SpoolSource(spool) for name, _, spool in self.push.inputs() if name not in known]

    def close(self) -> None:
        """Answers what is under way, and ends."""
        self._serving.stop()
        self.push.close()
