"""Errors of the API as RFC 9457 problem details."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pipelines.problem import MEDIA_TYPE, Problem

log = logging.getLogger(__name__)


def unknown(what: str, value: str, allowed: Iterable[str]) -> Problem:
    """404 that names the nearest known name."""
    allowed = list(allowed)
    near = difflib.get_close_matches(value[:200], allowed, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return Problem(404, f"{what} {value[:200]!r} is unknown.{hint}")


def response(status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> Response:
    return Response(Problem(status, detail, **more).document(), status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Makes every error of an application a problem document."""

    @app.exception_handler(Problem)
    async def of_problem(request: Request, error: Problem) -> Response:
        return response(error.status, error.detail, headers=error.headers, **error.more)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers) if error.headers else None
        return response(
            error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}", headers=headers
        )

    @app.exception_handler(RequestValidationError)
    async def of_validation(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"parameter": ".".join(str(part) for part in e["loc"][1:]), "detail": str(e["msg"])} for e in error.errors()
        ]
        text = "; ".join(f"{e['parameter']}: {e['detail']}" for e in errors)
        return response(422, text, errors=errors)

    @app.exception_handler(Exception)
    async def of_bug(request: Request, error: Exception) -> Response:
        if type(error).__module__.startswith("h11."):  # the client broke the protocol; nobody is there to answer
            return response(400, "the request breaks HTTP")
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return response(500, "an unexpected error; it is in the log of this process")
