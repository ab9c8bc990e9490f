"""The static files of the page, read once, with the headers that keep a browser from running anything else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""By the end of the name: what the screen may be made of."""
UNBUILT: Final = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>citybrain</title>
<p>The screen is not built; <code>make run</code> or <code>python -m tools.screen</code> builds it. The same numbers:
<a href="/api/v1/snapshot">/api/v1/snapshot</a></p></html>
"""
SECURITY: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class Page:
    """File name -> bytes, and a name for exactly these files: a page that hears another one reloads itself."""

    files: Mapping[str, bytes]
    build: str


def read_page() -> Page:
    """What was built (`tools.screen`); a page that says so where nothing was."""
    files = dict(sorted(_files(resources.files("dashboards") / "web")))
    if "index.html" not in files:
        files = {"index.html": UNBUILT}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(name.encode() + b"\0" + content + b"\0")
    return Page(files, digest.hexdigest()[:12])


def _files(folder: Traversable, before: str = "") -> Iterator[tuple[str, bytes]]:
    if folder.is_dir():
        for entry in folder.iterdir():
            if entry.is_dir():
                yield from _files(entry, f"{before}{entry.name}/")
            elif PurePosixPath(entry.name).suffix in TYPES:
                yield before + entry.name, entry.read_bytes()


class Head:
    """HEAD is GET without a body (RFC 9110, 9.3.2), but for the stream, which has no end."""

    def __init__(self, app: ASGIApp, stream: str) -> None:
        self._app, self._stream = app, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"] == self._stream:
            return await self._app(scope, receive, send)

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        return await self._app({**scope, "method": "GET"}, receive, without_body)


class SecurityHeaders:
    """Adds `SECURITY` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
