"""Runs the application in a thread of this process and ends it cleanly, whatever its clients do."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import resource
import socket
import threading
import time
from asyncio import Protocol, TimerHandle, Transport
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from dashboards.ring import Ring
from pipelines.problem import MEDIA_TYPE, Problem

START_S: Final = 10.0
SHUTDOWN_S: Final = 1
"""How long a request may still take after the streams have ended; then it is cut off."""
SEND_BUFFER: Final = 256 << 10
STALLED_MS: Final = 60_000
"""A peer that acknowledges nothing, or reads nothing, for so long is disconnected by the kernel where it can."""

HEAD_S: Final = 10.0
"""How long the head of a request may take to arrive."""
IDLE_S: Final = 5
"""How long a connection stays open after an answer."""
MAX_CONNECTIONS: Final = 1000
"""Open connections; half of the files that the process may open where that is less. One more is answered with 503."""
OPEN_FILES: Final = 8192
"""So many files the process lets itself open, where it may."""
AT_A_TIME: Final = 64
"""Connections that are taken in at once, before those beyond the bound are closed."""
BACKLOG: Final = 256
"""Connections that wait in the kernel to be taken in."""


class CannotServe(ValueError):
    """An address that cannot be served; the text says what to type instead."""


class PortBusy(CannotServe):
    """Another program listens there."""


@dataclass(slots=True)
class Serving:
    """A running server. `stop` may be called more than once."""

    url: str
    port: int
    _server: uvicorn.Server
    _thread: threading.Thread
    _ring: Ring

    def stop(self, timeout_s: float = 2 * SHUTDOWN_S) -> None:
        """Ends the streams, then the server; returns within about `timeout_s`."""
        self._ring.close()
        # A request that is cut off is not worth a traceback in the terminal of someone who pressed Ctrl-C.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._server.should_exit = True
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(0.5)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket; `CannotServe` when that is not possible. Port 0 takes a free one."""
    if not 0 <= port <= 65535:
        raise CannotServe(f"port {port} does not exist; it is a number from 0 to 65535, for example --port 8080")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise CannotServe(f"host {host!r} is unknown; type --host 127.0.0.1, or 0.0.0.0 for every interface") from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit these: what a stalled client costs is bounded here, not by the kernel's default.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_MS)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _refusal(host, port, error) from None
    return sock


def loopback(sock: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def _refusal(host: str, port: int, error: OSError) -> CannotServe:
    if error.errno == errno.EADDRINUSE:
        free = _free_port(host, port)
        instead = f"type --port {free}" if free else "type --port with a free one"
        return PortBusy(f"port {port} on {host} is in use by another program; stop that one, or {instead}")
    if error.errno == errno.EACCES:
        return CannotServe(f"port {port} on {host} needs more rights than this process has; type --port 8080")
    if error.errno == errno.EADDRNOTAVAIL:
        return CannotServe(f"host {host!r} is not an address of this machine; type --host 127.0.0.1")
    return CannotServe(f"{host}:{port} cannot be served: {error.strerror or error}")


def _free_port(host: str, port: int) -> int | None:
    for candidate in range(port + 1, min(port + 20, 65535) + 1):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError:
                continue
            return candidate
    return None


class _Connection(H11Protocol):
    """One connection: refused where `most` others are open, closed when the head of a request takes longer than `head_s`.

    uvicorn closes a connection that is silent after an answer, but not one that is silent before its first request, or
    that sends a byte now and then.
    """

    def __init__(self, *, most: int, head_s: float, refused: Callable[[], None], **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._most, self._head_s, self._refused = most, head_s, refused
        self._late: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most:
            self._refused()
            transport.write(_full(self._most))
            transport.close()
            return
        self._await_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._await_nothing()

    def _await_request(self) -> None:
        """Starts the time of a request's head with the first byte behind the last one, and ends it with the head."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_nothing()
        elif self._late is None:
            self._late = self.loop.call_later(self._head_s, self.transport.close)

    def _await_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _full(most: int) -> bytes:
    """The answer to a connection that is one too many."""
    body = Problem(503, f"{most} connections are open, which is the most there may be; connect again later").document()
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
        "Retry-After: 5\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def most_connections() -> int:
    """How many connections may be open. Raises the limit of open files of this process as far as it may and needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    raised = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < raised:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return min(MAX_CONNECTIONS, soft // 2)


def serve(
    app: FastAPI,
    host: str,
    port: int,
    *,
    sock: socket.socket | None = None,
    most: int | None = None,
    head_s: float = HEAD_S,
) -> Serving:
    """Serves `create_app`'s application on (host, port) and returns when it answers; one worker, no access log.

    `PortBusy` and `CannotServe` come before anything is started. `sock` is one from `listen`, for callers that want to
    know about the port before they do other work. `most` connections may be open, and the head of a request may take
    `head_s` to arrive.
    """
    sock = sock or listen(host, port)
    bound = int(sock.getsockname()[1])
    connection = partial(
        _Connection, most=most or most_connections(), head_s=head_s, refused=app.state.metrics.connection_refused
    )
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        log_level="warning",
        loop="asyncio",
        http=cast(type[Protocol], connection),
        ws="none",
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_keep_alive=IDLE_S,
        backlog=AT_A_TIME,
        workers=1,
    )
    # What a client breaks off or gets wrong is its own affair: no line of a library in the operator's terminal.
    # What fails in the application is logged by itself (`problems`), once.
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, name="http", daemon=True)
    thread.start()
    deadline = time.monotonic() + START_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            server.should_exit = True
            raise CannotServe(f"the server on {host}:{bound} did not start; see the log above")
        time.sleep(0.005)
    sock.listen(BACKLOG)  # asyncio has made it AT_A_TIME
    shown = f"[{host}]" if ":" in host else host
    return Serving(f"http://{shown}:{bound}/", bound, server, thread, app.state.board.ring)
