"""Runs the application in a thread of this process and ends it cleanly, whatever its clients do."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import threading
import time
from dataclasses import dataclass
from typing import Final

import uvicorn
from fastapi import FastAPI

from dashboards.ring import Ring

START_S: Final = 10.0
SHUTDOWN_S: Final = 1
"""How long a request may still take after the streams have ended; then it is cut off."""
SEND_BUFFER: Final = 256 << 10
STALLED_MS: Final = 60_000
"""A peer that acknowledges nothing, or reads nothing, for so long is disconnected by the kernel where it can."""


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
        sock.listen(256)
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


def serve(app: FastAPI, host: str, port: int, *, sock: socket.socket | None = None) -> Serving:
    """Serves `create_app`'s application on (host, port) and returns when it answers; one worker, no access log.

    `PortBusy` and `CannotServe` come before anything is started. `sock` is one from `listen`, for callers that want to
    know about the port before they do other work.
    """
    sock = sock or listen(host, port)
    bound = int(sock.getsockname()[1])
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        log_level="warning",
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
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
    shown = f"[{host}]" if ":" in host else host
    return Serving(f"http://{shown}:{bound}/", bound, server, thread, app.state.board.ring)
