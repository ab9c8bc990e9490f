"""HTTP push: `POST /ingest/v1/{stream}` takes records into a spool and answers 202 when they are durable.

The input partition is `push:<source>:<stream>`; the source is what the bearer token may push for. `docs/push.md` has
the limits and errors. Bodies are decompressed, decoded and stored on a few threads; beyond what these can take the
answer is 429, so that a flood costs its senders and not the server.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl
from fastapi import APIRouter, FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from connectors.push_access import source_of
from connectors.push_body import ENCODINGS, MAX_BODY, MEDIA_TYPES, Decoders, content_of
from connectors.tokens import Tokens
from pipelines.model import Decoded
from pipelines.problem import MEDIA_TYPE, Problem
from pipelines.spool import MAX_BYTES, SEGMENT_BYTES, KeyReused, Spool, SpoolFull
from pipelines.spool_segment import Answer
from pipelines.streams import Stream

log = logging.getLogger(__name__)

THREADS: Final = 8
LARGE: Final = 1
"""So many compressed bodies are decompressed and decoded at a time: one may become 64 MiB."""
MAX_WAITING: Final = 64
MAX_WAITING_BYTES: Final = 64 << 20
"""Requests under way, and the bytes of their bodies; one more is answered with 429."""
SHARE: Final = 2
"""A token may have one of so many parts of both, so that slow bodies of one source do not keep out the others."""
BODY_S: Final = 30.0
"""How long a body may take to arrive."""
TOLD_ERRORS: Final = 20
FULL_S: Final = "10"
BUSY_S: Final = "1"
CHARSETS: Final = ("utf-8", "utf8", "us-ascii")
KEY: Final = re.compile(r"[!-~]{1,128}")
OnNew = Callable[[str, str, Spool], None]


class Push:
    """The push inputs of one process. Opening it opens the spools that earlier runs left; `close` ends it.

    `clock` gives the run's now (UTC ms), which becomes the arrival. `on_new` is called once for each spool made later,
    on a thread of the pool and before its first record is acknowledged; it must not wait for other pushes.
    """

    def __init__(
        self,
        folder: Path,
        streams: Mapping[str, Stream],
        tokens: Tokens,
        clock: Callable[[], int],
        *,
        on_new: OnNew | None = None,
        max_bytes: int = MAX_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """`folder` gets a folder a source and in it a spool a stream, each of at most `max_bytes`."""
        self.folder, self.on_new = folder, on_new
        self._tokens, self._clock = tokens, clock
        self._bounds = {"max_bytes": max_bytes, "segment_bytes": segment_bytes}
        self._decoders = {name: Decoders.of(stream) for name, stream in streams.items()}
        self._spools: dict[tuple[str, str], Spool] = {}
        self._making = threading.RLock()
        self._large = threading.Semaphore(LARGE)
        self._pool = ThreadPoolExecutor(THREADS, "push")
        self._waiting: Counter[str] = Counter()
        self._waiting_bytes: Counter[str] = Counter()
        """Requests under way, and the bytes of their bodies, by token."""
        self.refused: Counter[str] = Counter()
        """Requests answered with 429, by the input that they were for."""
        self._closed = False
        for path in sorted(folder.glob("*/*")):
            source, stream = path.parent.name, path.name
            if stream in streams:
                self._spools[source, stream] = Spool(path, f"push:{source}:{stream}", stream, **self._bounds)
            else:
                log.warning("%s belongs to stream %r, which this version does not have; it is left alone", path, stream)

    def inputs(self) -> list[tuple[str, str, Spool]]:
        """(input name, stream, spool) of every spool there is."""
        with self._making:
            return [(s.input, s.stream, s) for s in self._spools.values()]

    def close(self) -> None:
        """Answers what is under way, refuses what comes later, and closes the spools."""
        self._closed = True
        self._pool.shutdown()
        for _, _, spool in self.inputs():
            spool.close()

    def spools(self) -> list[tuple[str, int, bool]]:
        """(input name, bytes held, whether it is full) of every spool."""
        return [(name, spool.held_bytes, spool.full) for name, _, spool in self.inputs()]

    # On the event loop -----------------------------------------------------------------------------------------------

    async def receive(self, stream: str, request: Request) -> Response:
        """The answer to one request. Problem for what is refused before anything is stored."""
        wanted = request.query_params.get("source")
        source, token = source_of(self._tokens, request.headers.get("authorization", ""), wanted)
        if stream not in self._decoders:
            known = ", ".join(sorted(self._decoders))
            raise Problem(404, f"stream {stream[:80]!r} is unknown; there are {known}", streams=sorted(self._decoders))
        for name in request.query_params:
            if name != "source" or len(request.query_params.getlist(name)) > 1:
                raise Problem(400, f"query parameter {name[:80]!r} is unknown or repeated; there is ?source=NAME, once")
        media, encoding = _form(request)
        keys = request.headers.getlist("idempotency-key")
        if len(keys) > 1 or (keys and not KEY.fullmatch(keys[0])):
            raise Problem(400, "Idempotency-Key is not allowed; send one, of 1 to 128 visible ASCII characters")
        if self._closed:
            raise Problem(503, "the server is ending; send again later", headers={"Retry-After": FULL_S})
        try:
            key = keys[0] if keys else None
            status, told = await self._admitted(request, token, source, stream, media, encoding, key)
        except Problem as problem:
            if problem.status == 429:
                self.refused[f"push:{source}:{stream}"] += 1
            raise
        return Response(told, status, media_type="application/json" if status < 400 else MEDIA_TYPE)

    async def _admitted(
        self, request: Request, token: str, source: str, stream: str, media: str, encoding: str, key: str | None
    ) -> tuple[int, bytes]:
        """Reads the body and has it stored, if that fits beside what is under way."""
        _admit(self._waiting, token, 1, MAX_WAITING)
        self._waiting[token] += 1
        body = bytearray()
        try:
            await self._read(request, token, body)
            work = (source, stream, media, encoding, bytes(body), key)
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._take, *work)
        finally:
            self._waiting[token] -= 1
            self._waiting_bytes[token] -= len(body)

    async def _read(self, request: Request, token: str, body: bytearray) -> None:
        """The body as it was sent, bounded in size and time, and counted in what all requests may hold."""
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > MAX_BODY:
            raise _too_large()
        try:
            async with asyncio.timeout(BODY_S):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > MAX_BODY:
                        raise _too_large()
                    _admit(self._waiting_bytes, token, len(chunk), MAX_WAITING_BYTES)
                    body += chunk
                    self._waiting_bytes[token] += len(chunk)
        except TimeoutError:
            raise Problem(
                408,
                f"the body did not arrive within {BODY_S:.0f} s; send smaller ones",
                headers={"Connection": "close"},
            ) from None

    # On a thread of the pool -----------------------------------------------------------------------------------------

    def _take(
        self, source: str, stream: str, media: str, encoding: str, body: bytes, key: str | None
    ) -> tuple[int, bytes]:
        """Status and body of the answer to a request whose body is here."""
        try:
            digest = hashlib.sha256(b"\0".join((media.encode(), encoding.encode(), body))).hexdigest() if key else ""
            known = self._known(source, stream, key, digest)
            if known is not None:
                return known
            if (spool := self._spools.get((source, stream))) is not None and spool.full:
                raise _full(spool)
            decoded = self._decoded(source, stream, media, encoding, body)
            status, told = _answer(decoded)
            answer = Answer(key, digest, status, told.decode()) if key else None
            return self._stored(self._spool(source, stream), decoded, answer) or (status, told)
        except pl.exceptions.PanicException as error:
            # It is no Exception and would end the server's loop.
            raise RuntimeError(f"decoding a push to stream {stream!r} failed: {error}") from None

    def _known(self, source: str, stream: str, key: str | None, digest: str) -> tuple[int, bytes] | None:
        spool = self._spools.get((source, stream))
        known = None if spool is None or key is None else spool.answer(key)
        if known is None:
            return None
        if known.digest != digest:
            raise _reused()
        return known.status, known.body.encode()

    def _decoded(self, source: str, stream: str, media: str, encoding: str, body: bytes) -> Decoded:
        name, decoders = f"push:{source}:{stream}", self._decoders[stream]
        if encoding == "identity":
            decoded = decoders.decode(media, body, name)
        else:
            refused: Problem | None = None
            with self._large:
                try:
                    decoded = decoders.decode(media, content_of(body, encoding), name)
                except Problem as problem:
                    # Its frames would keep what was decompressed until it is answered, and the next one is let in.
                    refused = problem.with_traceback(None)
                    refused.__context__ = None
            if refused is not None:
                raise refused
        if not decoded.records:
            raise Problem(422, "the body has no record; nothing was stored")
        return decoded

    def _spool(self, source: str, stream: str) -> Spool:
        spool = self._spools.get((source, stream))
        if spool is not None:
            return spool
        with self._making:
            if (source, stream) not in self._spools:
                folder = self.folder / source / stream
                try:
                    made = Spool(folder, f"push:{source}:{stream}", stream, **self._bounds)
                except OSError as error:
                    log.error("%s cannot be made: %s", folder, error)
                    raise _unstored() from None
                if self.on_new is not None:
                    try:
                        self.on_new(made.input, made.stream, made)
                    except BaseException:
                        made.close()
                        raise
                self._spools[source, stream] = made
            return self._spools[source, stream]

    def _stored(self, spool: Spool, decoded: Decoded, answer: Answer | None) -> tuple[int, bytes] | None:
        """Returns when the records are durable; the earlier answer if the key was stored meanwhile."""
        try:
            first, told = spool.append(decoded, self._clock(), answer)
        except SpoolFull:
            raise _full(spool) from None
        except KeyReused:
            raise _reused() from None
        except OSError as error:
            log.error("%s cannot be appended to: %s", spool.folder, error)
            raise _unstored() from None
        return None if first is not None or told is None else (told.status, told.body.encode())


def _answer(decoded: Decoded) -> tuple[int, bytes]:
    """202 with what became of the records; 422 where all are bad (they are stored as dead letters all the same)."""
    errors = [
        {"record": int(x.position), "reason": x.reason, "detail": x.detail} for x in decoded.refused[:TOLD_ERRORS]
    ]
    counts: dict[str, Any] = {"accepted": decoded.events.height, "rejected": len(decoded.refused), "errors": errors}
    if decoded.events.height:
        return 202, orjson.dumps(counts)
    detail = f"all {len(decoded.refused)} records are bad; they were kept as dead letters"
    return 422, Problem(422, detail, **counts).document()


def _form(request: Request) -> tuple[str, str]:
    """Media type and encoding of the body. Problem 415 for what is not taken."""
    media, *parameters = (part.strip() for part in request.headers.get("content-type", "").lower().split(";"))
    if media not in MEDIA_TYPES:
        raise Problem(
            415, f"Content-Type {media[:80]!r} is not taken; send {' or '.join(MEDIA_TYPES)}",
            headers={"Accept": ", ".join(MEDIA_TYPES)},
        )  # fmt: skip
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and (charset := value.strip().strip('"')) not in CHARSETS:
            raise Problem(415, f"charset {charset[:80]!r} is not taken; send the text as utf-8")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ENCODINGS:
        raise Problem(
            415, f"Content-Encoding {encoding[:80]!r} is not taken; send gzip, zstd or none",
            headers={"Accept-Encoding": "gzip, zstd"},
        )  # fmt: skip
    return media, encoding


def _too_large() -> Problem:
    return Problem(413, f"the body has more than {MAX_BODY} bytes; send several", headers={"Connection": "close"})


def _full(spool: Spool) -> Problem:
    return Problem(429, f"the spool of {spool.input!r} is full; send again later", headers={"Retry-After": FULL_S})


def _unstored() -> Problem:
    detail = "the records could not be stored (the disk may be full); nothing was taken, send again later"
    return Problem(503, detail, headers={"Retry-After": FULL_S})


def _admit(waiting: Counter[str], token: str, more: int, most: int) -> None:
    """Problem 429 where `more` does not fit beside what waits: in all, or of this token."""
    if waiting.total() + more > most:
        detail = "the server has as many pushes under way as it can; send again"
    elif waiting[token] + more > most // SHARE:
        detail = f"the token {token!r} has as many pushes under way as one may; send again, and fewer at a time"
    else:
        return
    raise Problem(429, detail, headers={"Retry-After": BUSY_S})


def _reused() -> Problem:
    return Problem(422, "this Idempotency-Key was used for another body; each body needs a key of its own")


def push_app(push: Push) -> FastAPI:
    """An application with nothing else."""
    app = FastAPI(title="citybrain ingest", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(push_router(push))
    return app


def push_router(push: Push) -> APIRouter:
    """The route; every error of it is an RFC 9457 problem, whatever application it is in."""
    router = APIRouter()

    @router.post("/ingest/v1/{stream}", status_code=202, response_class=Response)
    async def ingest(stream: str, request: Request) -> Response:
        """Takes canonical NDJSON or an Arrow IPC stream; 202 when it is durable."""
        try:
            return await push.receive(stream, request)
        except Problem as problem:
            return Response(problem.document(), problem.status, problem.headers, media_type=MEDIA_TYPE)
        except ClientDisconnect:
            return Response(None, 400)

    @router.post("/ingest/v1/{stream}/", include_in_schema=False)
    async def with_a_slash(stream: str) -> Response:
        problem = Problem(404, f"the path ends with a slash; POST to /ingest/v1/{stream[:80]}")
        return Response(problem.document(), problem.status, media_type=MEDIA_TYPE)

    return router
