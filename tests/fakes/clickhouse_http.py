"""A stand-in for a ClickHouse server over embedded chDB: a look-alike for tests, no evidence of a real server.

It takes what clickhouse-connect sends (chunked bodies, lz4, `INSERT ... FORMAT X` and bytes, `param_*`, `database`,
settings), runs each request on a handle of its own, and answers errors with their code. It fails as told (`faults`),
knows users and rights (`users`), and runs inside a test or as a process of its own:

    python -m tests.fakes.clickhouse_http --port 8123 --data DIR

which is told what to do by `POST /control` (`Faults.configure`, "users": [statements]) and says what it did by `GET`.
The embedded engine belongs to the process, so a test that serves cannot open another chDB store.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import signal
import socket
import struct
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame  # type: ignore[import-untyped]
import polars as pl

from tests.fakes.faults import Fault, Faults
from tests.fakes.users import User, allow, kind, refuse, users_of

NOT_SETTINGS = frozenset(
    ("query", "database", "query_id", "session_id", "session_timeout", "compress", "decompress", "default_format",
     "client_protocol_version", "enable_http_compression", "send_progress_in_http_headers", "wait_end_of_query",
     "http_headers_progress_interval_ms", "role", "quota_key", "buffer_size", "cancel_http_readonly_queries_on_client_close")
)  # fmt: skip
STATUS = {516: 403, 194: 401}


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Server

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        body = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self._sized()
        if self.headers.get("Content-Encoding") == "lz4":
            body = lz4.frame.decompress(body)
        self._answer(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def _sized(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, body: bytes) -> None:
        url = urlsplit(self.path)
        if url.path == "/ping":
            return self._send(200, b"Ok.\n")
        if url.path == "/control":
            return self._send(200, self.server.told(body))
        arguments = dict(parse_qsl(url.query, keep_blank_values=True))
        query = arguments.get("query", "").encode()
        statement, data = (query, body) if query else (body, b"")
        text = statement.decode(errors="replace")
        fault = self.server.faults.draw(kind(text))
        if fault is not None and not self._goes_on(fault, data):
            return None
        try:
            self._allowed(text, arguments)
            with self.server.running():
                self.server.seen[kind(text)] += 1
                answer = _run(self.server.folder, arguments, statement, data)
        except Exception as error:
            says = str(error)
            says = says[max(says.find("Code: "), 0) :]
            code = re.search(r"Code: (\d+)", says)
            return self._send(500, says.encode(), int(code[1]) if code else 1000)
        if fault is not None and fault.mode == "hang_after":
            self.server.ending.wait(fault.seconds)
        if fault is not None and fault.mode in ("reset_after", "hang_after"):
            # The statement ran and the client never hears of it.
            return self._reset()
        return self._send(200, answer)

    def _goes_on(self, fault: Fault, data: bytes) -> bool:
        """Does what the fault does before the statement; whether the statement is run at all."""
        match fault.mode:
            case "reset_before":
                self._reset()
            case "unavailable":
                self._send(503, b"no server is available to handle this request")
            case "error":
                self._send(500, f"Code: {fault.code}. DB::Exception: {fault.text}".encode(), fault.code)
            case "hang_before":
                self.server.ending.wait(fault.seconds)
                self._reset()
            case "poison" if _holds(data, fault.text):
                self._send(500, f"Code: {fault.code}. DB::Exception: {fault.text} is poison".encode(), fault.code)
            case "slow":
                self.server.ending.wait(fault.seconds)
                return True
            case _:
                return True
        return False

    def _allowed(self, statement: str, arguments: dict[str, str]) -> None:
        kept = self.headers.get("Authorization", "").removeprefix("Basic ")
        name, _, password = (base64.b64decode(kept).decode() if kept else "default:").partition(":")
        user = allow(self.server.users, name, password)
        settings = [k for k in arguments if k not in NOT_SETTINGS and not k.startswith("param_")]
        refuse(user, name, statement, arguments.get("database") or "default", settings)

    def _reset(self) -> None:
        """Tears the connection down with RST."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def _send(self, status: int, body: bytes, code: int | None = None) -> None:
        self.send_response(STATUS.get(code or 0, status))
        if code is not None:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """`faults` says what goes wrong, `users` who may do what (none: everybody everything), `seen` counts the statements
    that were run, by kind."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Request)
        self.folder = folder
        self.keeper = chdb.connect(str(folder))
        self.faults = Faults()
        self.users: dict[str, User] = {}
        self.seen: Counter[str] = Counter()
        self.ending = threading.Event()
        self._running = 0
        self._quiet = threading.Condition()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around a statement; none begins once the server is ending."""
        with self._quiet:
            if self.ending.is_set():
                raise ConnectionAbortedError("Code: 236. DB::Exception: the server is shutting down")
            self._running += 1
        try:
            yield
        finally:
            with self._quiet:
                self._running -= 1
                self._quiet.notify_all()

    def end(self) -> None:
        """Waits for the statements that run, which nobody may be waiting for any more, and lets go of the store."""
        with self._quiet:
            self.ending.set()
            self._quiet.wait_for(lambda: self._running == 0, 30)
        self.server_close()
        self.keeper.close()

    def told(self, body: bytes) -> bytes:
        """The control endpoint."""
        if body:
            order = json.loads(body)
            if "users" in order:
                self.users = users_of(order.pop("users"))
            if order:
                self.faults.configure(order if order != {"clear": True} else {})
        return json.dumps({"seen": self.seen, "struck": self.faults.struck}).encode()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of its business; anything else is a fault of this file."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _run(folder: Path, arguments: dict[str, str], statement: bytes, data: bytes) -> bytes:
    handle = chdb.connect(str(folder))
    try:
        handle.query(f"USE `{arguments.get('database') or 'default'}`")
        for name, value in arguments.items():
            if name not in NOT_SETTINGS and not name.startswith("param_"):
                escaped = value.replace("\\", "\\\\").replace("'", "\\'")
                handle.query(f"SET {name} = '{escaped}'")
        parameters = {k.removeprefix("param_"): v for k, v in arguments.items() if k.startswith("param_")}
        insert = re.match(rb"\s*INSERT\s+INTO\s+(.*?)\s+FORMAT\s+(\w+)\s*\Z", statement, re.S | re.I)
        if insert and data:
            with tempfile.NamedTemporaryFile(suffix=".raw") as file:
                file.write(data)
                file.flush()
                text = f"INSERT INTO {insert[1].decode()} FROM INFILE '{file.name}' FORMAT {insert[2].decode()}"
                handle.query(text)
            return b""
        answer = handle.query(statement.decode(), arguments.get("default_format", "TabSeparated"), params=parameters)
        content: bytes = answer.bytes() or b""
        return content
    finally:
        handle.close()


def _holds(data: bytes, text: str) -> bool:
    """Whether some text of inserted Arrow rows contains it."""
    frame = pl.read_ipc(io.BytesIO(data)) if data else pl.DataFrame()
    texts = frame.select(pl.col(pl.String).str.contains(text, literal=True).any())
    return any(texts.row(0)) if texts.width else False


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serves a store in `folder`; yields the URL without a database."""
    with serving(folder) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """The server itself, in threads of this process."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.end()


def main() -> None:
    """Serves until SIGTERM; prints the port when it is ready."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    given.data.mkdir(parents=True, exist_ok=True)
    server = Server(given.data, given.port)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(server.server_port, flush=True)
    server.serve_forever(0.02)
    server.end()


if __name__ == "__main__":
    main()
