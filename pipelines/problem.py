"""What a client of the HTTP interface is told of a request that cannot be answered, as RFC 9457 problem details."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import orjson

MEDIA_TYPE: Final = "application/problem+json"


class Problem(Exception):
    """A request that cannot be answered: `detail` says which value, what is allowed and what to do."""

    def __init__(self, status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.more = more

    def document(self) -> bytes:
        """The body of the answer; `more` are further members of it."""
        title = HTTPStatus(self.status).phrase if self.status in HTTPStatus._value2member_map_ else "Error"
        told = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, **self.more}
        return orjson.dumps(told)
