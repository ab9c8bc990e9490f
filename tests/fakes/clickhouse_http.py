"""A stand-in for a ClickHouse server over embedded chDB: a look-alike for tests, no evidence of a real server.

It takes what clickhouse-connect sends (chunked bodies, lz4, `INSERT ... FORMAT X` and bytes, `param_*`, `database`,
settings), runs each request on a handle of its own, and answers errors with their code. The embedded engine belongs to
this process, so a test that serves cannot open another chDB store.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame  # type: ignore[import-untyped]

NOT_SETTINGS = frozenset(
    ("query", "database", "query_id", "session_id", "session_timeout", "compress", "decompress", "default_format",
     "client_protocol_version", "enable_http_compression", "send_progress_in_http_headers", "wait_end_of_query",
     "http_headers_progress_interval_ms", "role", "quota_key", "buffer_size")
)  # fmt: skip


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Server

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
        arguments = dict(parse_qsl(url.query, keep_blank_values=True))
        fault = self.server.next_fault()
        if fault is not None and fault[0] == "before":
            return self._send(500, f"Code: {fault[1]}. DB::Exception: said the test".encode(), fault[1])
        try:
            answer = _run(self.server.folder, arguments, body)
        except Exception as error:
            text = str(error)
            text = text[max(text.find("Code: "), 0) :]
            code = re.search(r"Code: (\d+)", text)
            return self._send(500, text.encode(), int(code[1]) if code else 1000)
        if fault is not None:
            # The statement ran and the client never hears of it.
            self.close_connection = True
            self.connection.close()
            return None
        self.server.statements += 1
        return self._send(200, answer)

    def _send(self, status: int, body: bytes, code: int | None = None) -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.folder = folder
        self.keeper = chdb.connect(str(folder))
        self.statements = 0
        self.faults: list[tuple[str, int]] = []
        self._turn = threading.Lock()

    def next_fault(self) -> tuple[str, int] | None:
        with self._turn:
            return self.faults.pop(0) if self.faults else None


def _run(folder: Path, arguments: dict[str, str], body: bytes) -> bytes:
    query = arguments.get("query", "").encode()
    statement, data = (query, body) if query else (body, b"")
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


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serves a store in `folder`; yields the URL without a database."""
    with serving(folder) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def serving(folder: Path) -> Iterator[_Server]:
    """The server itself: `faults` are answered in turn, ('before', code) or ('after', 0); `statements` counts."""
    folder.mkdir(parents=True, exist_ok=True)
    server = _Server(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        server.keeper.close()
