"""HTTP push over a real server: what is taken, what is refused and how, and that 202 means durable, once (rule 34)."""

from __future__ import annotations

import gzip
import http.client
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import polars as pl
import pyarrow as pa
import pytest
import zstandard

from connectors import http_push, push_body
from connectors.formats.ndjson import MAX_DEPTH
from connectors.http_push import Push, push_router
from connectors.push_arrow import MAX_COLUMNS, refuse_unbounded
from connectors.tokens import Tokens
from dashboards.app import create_app
from dashboards.serve import Serving, serve
from pipelines.catalogue import STREAMS
from pipelines.model import Decoded
from pipelines.spool import Spool
from pipelines.spool_answers import MAX_ANSWERS
from pipelines.spool_source import SpoolSource
from tests.unit.dashboard_fakes import CITY, INDICATORS, city

ROOT = Path(__file__).resolve().parents[2]
ALL = {s.name: s for s in STREAMS}
NOW = 1_772_416_800_000
NDJSON = {"Content-Type": "application/x-ndjson"}
ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}


def event(n: int = 0, **more: Any) -> dict[str, Any]:
    return {"t": NOW + n, "link": f"L{n % 7}", "tt_ms": 1000 + n, "n": 1} | more


def ndjson(*events: object) -> bytes:
    return b"".join(orjson.dumps(e) + b"\n" for e in events)


def arrow(frame: pl.DataFrame, **more: Any) -> bytes:
    out = io.BytesIO()
    table = frame.to_arrow()
    with pa.ipc.new_stream(out, table.schema, **more) as writer:
        writer.write_table(table)
    return out.getvalue()


def frame(n: int = 3) -> pl.DataFrame:
    return pl.DataFrame([event(k) for k in range(n)])


def everything(spool: Spool) -> list[Decoded]:
    source, out = SpoolSource(spool), []
    while (decoded := source.read()) is not None:
        out.append(decoded)
    source.close()
    return out


@dataclass
class Server:
    folder: Path
    tokens: Tokens
    push: Push
    serving: Serving
    secret: str
    made: list[tuple[str, str, Spool]]

    @property
    def url(self) -> str:
        return f"{self.serving.url}ingest/v1/"

    def post(self, body: Any, stream: str = "link", secret: str | None = None, **headers: str) -> httpx.Response:
        sent = {"Authorization": f"Bearer {secret or self.secret}"} | NDJSON
        sent |= {k.replace("_", "-"): v for k, v in headers.items()}
        return httpx.post(self.url + stream, content=body, headers=sent, timeout=20)

    def spool(self, name: str = "push:vans:link") -> Spool:
        return next(s for n, _, s in self.push.inputs() if n == name)

    def events(self) -> pl.DataFrame:
        return pl.concat([d.events for d in everything(self.spool())])

    def end(self) -> None:
        self.serving.stop()
        self.push.close()


def started(folder: Path, **more: Any) -> Server:
    tokens = Tokens(folder)
    secret = tokens.add(f"vans{len(tokens.all())}", ["ingest:vans"])
    made: list[tuple[str, str, Spool]] = []
    push = Push(folder / "push", ALL, tokens, lambda: NOW, on_new=lambda *new: made.append(new), **more)
    f = city()
    app = create_app(f.board, INDICATORS, CITY, f.reader, f.metrics, routers=[push_router(push)])
    return Server(folder, tokens, push, serve(app, "127.0.0.1", 0), secret, made)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = started(tmp_path)
    yield one
    one.end()


def problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status and told["title"] and len(told["detail"]) > 10
    return str(told["detail"])


# What is taken -----------------------------------------------------------------------------------------------------------


def test_what_is_sent_comes_out_of_the_spool_with_its_arrival(server: Server) -> None:
    answer = server.post(ndjson(event(1), event(2)))
    assert (answer.status_code, answer.json()) == (202, {"accepted": 2, "rejected": 0, "errors": []})
    assert server.made == [("push:vans:link", "link", server.spool())] == server.push.inputs()
    server.post(ndjson(event(3)))
    found = server.events()
    assert found.select("record", "t", "place", "tt_ms", "n", "arrival").rows() == [
        (k, NOW + k, f"L{k}", 1000 + k, 1, NOW) for k in (1, 2, 3)
    ]
    assert len(server.made) == 1


def test_a_bad_record_costs_only_itself(server: Server) -> None:
    bad = b'{"t": 1, "link": "call 13812345678", "tt_ms": "x", "n": 1}'
    answer = server.post(ndjson(event(1)) + bad + b"\n\n" + ndjson(event(2)) + b"{")
    told = answer.json()
    assert answer.status_code == 202 and (told["accepted"], told["rejected"]) == (2, 2)
    assert [(e["record"], e["reason"]) for e in told["errors"]] == [(2, "wrong_type"), (5, "bad_json")]
    server.post(b"{\n" + ndjson(event(3)))
    (found,) = everything(server.spool())
    assert [x.position for x in found.refused] == ["2", "5", "6"] and found.events["record"].to_list() == [1, 4, 7]
    assert found.refused[0].source == "push:vans:link" and found.refused[0].seen_at == NOW
    raw = b"".join(p.read_bytes() for p in server.folder.rglob("*.spool"))
    assert b"13812345678" not in raw and b"[mobile]" in raw and "13812345678" not in answer.text


def test_all_bad_is_422_and_kept_as_dead_letters(server: Server) -> None:
    answer = server.post(b"{\n" * 30)
    assert "all 30 records are bad" in problem(answer, 422)
    assert answer.json()["rejected"] == 30 and len(answer.json()["errors"]) == 20
    assert len(everything(server.spool())[0].refused) == 30


@pytest.mark.parametrize("body", [b"", b"\n\n \r\n", b"\xef\xbb\xbf"])
def test_nothing_is_422_and_makes_no_spool(server: Server, body: bytes) -> None:
    assert "no record" in problem(server.post(body), 422)
    assert server.push.inputs() == [] and not (server.folder / "push").exists()


def test_arrow_is_the_same(server: Server) -> None:
    answer = server.post(arrow(frame(5)), **{"Content-Type": ARROW["Content-Type"]})
    assert (answer.status_code, answer.json()["accepted"]) == (202, 5)
    encoded = frame(5).with_columns(pl.col("link").cast(pl.Categorical()))
    for body in (arrow(encoded), arrow(frame(5).with_columns(extra=pl.lit("x")))):
        assert server.post(body, **ARROW).json()["accepted"] == 5
    bad = arrow(frame(3).with_columns(tt_ms=pl.Series([1, -5, 2])))
    assert [e["record"] for e in server.post(bad, **ARROW).json()["errors"]] == [2]
    server.post(ndjson(*(event(k) for k in range(5))))
    found = server.events().drop("record", "index")
    assert found[:5].equals(found[-5:]) and found[:5].equals(found[5:10])


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_content_encodings(server: Server, encoding: str) -> None:
    compress = gzip.compress if encoding == "gzip" else zstandard.ZstdCompressor().compress
    body = ndjson(*(event(k) for k in range(500)))
    whole = compress(body)
    parts = compress(body[:1000]) + compress(body[1000:])
    for sent in (whole, parts):
        assert server.post(sent, Content_Encoding=encoding).json() == {"accepted": 500, "rejected": 0, "errors": []}
    for cut in (1, 5, len(whole) // 2, len(whole) - 1):
        assert encoding in problem(server.post(whole[:cut], Content_Encoding=encoding), 400)
    problem(server.post(body, Content_Encoding=encoding), 400)
    problem(server.post(whole + b"x", Content_Encoding=encoding), 400)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    assert server.post(bytes(damaged), Content_Encoding=encoding).status_code in (400, 422, 202)
    assert server.events().height >= 1000


# What is refused ---------------------------------------------------------------------------------------------------------


def test_no_token_wrong_token_wrong_scope(server: Server) -> None:
    url, body = server.url + "link", ndjson(event())
    for headers in ({}, {"Authorization": ""}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer"}):
        answer = httpx.post(url, content=body, headers=NDJSON | headers)
        assert "citybrain token add" in problem(answer, 401) and answer.headers["www-authenticate"].startswith("Bearer")
    for secret in ("x", server.secret[:-1], server.secret + "x"):
        answer = server.post(body, secret=secret)
        problem(answer, 401)
        assert "invalid_token" in answer.headers["www-authenticate"] and secret not in answer.text
    reader = server.tokens.add("reader", ["read", "admin"])
    assert "ingest:SOURCE" in problem(server.post(body, secret=reader), 403)
    assert "ingest:trams" in problem(server.post(body, stream="link?source=trams"), 403)
    # What is refused for its token does no work and tells nothing of the streams.
    assert "nothing" not in problem(server.post(body, stream="nothing", secret="x"), 401)
    server.tokens.remove(next(t.name for t in server.tokens.all() if t.name != "reader"))
    problem(server.post(body), 401)
    assert server.push.inputs() == []


def test_a_token_of_several_sources_names_one(server: Server) -> None:
    both = server.tokens.add("both", ["ingest:a", "ingest:b"])
    assert "a, b" in problem(server.post(ndjson(event()), secret=both), 400)
    assert server.post(ndjson(event()), stream="link?source=b", secret=both).status_code == 202
    assert [name for name, *_ in server.push.inputs()] == ["push:b:link"]


@pytest.mark.parametrize("scope", ["ingest:../../x", "ingest:", "ingest:a/b", "ingest:A"])
def test_a_source_of_a_file_written_by_hand_never_becomes_a_path(server: Server, scope: str) -> None:
    server.tokens.path.write_text(server.tokens.path.read_text().replace("ingest:vans", scope))
    problem(server.post(ndjson(event())), 403)
    assert [p.name for p in server.folder.iterdir()] == ["tokens.json"]


def test_a_token_file_that_others_may_read_stops_pushing(server: Server) -> None:
    server.tokens.path.chmod(0o644)
    detail = problem(server.post(ndjson(event())), 503)
    assert str(server.tokens.path) not in detail
    server.tokens.path.chmod(0o600)
    assert server.post(ndjson(event())).status_code == 202


def test_every_way_to_the_route_needs_a_token(server: Server) -> None:
    base = server.serving.url
    for path in ("ingest/v1/link", "ingest/v1/nothing", "ingest/v1/li%6Ek", "ingest//v1/link", "ingest/v1/../v1/link",
                 "INGEST/v1/link", "ingest/v1/link/", "ingest/v1/", "ingest/v1/a%2Fb", "ingest/v1/%00"):  # fmt: skip
        for method in ("POST", "GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
            answer = httpx.request(method, base + path, content=ndjson(event()), headers=NDJSON)
            assert answer.status_code in (401, 404, 405), (method, path, answer.status_code)
    assert server.push.inputs() == []


def test_unknown_streams_types_and_encodings(server: Server) -> None:
    answer = server.post(ndjson(event()), stream="lnk")
    assert "'lnk' is unknown" in problem(answer, 404) and "link" in answer.json()["streams"]
    for media in ("", "application/json", "text/plain", "application/x-ndjson+x"):
        problem(server.post(ndjson(event()), **{"Content-Type": media}), 415)
    for encoding in ("br", "gzip, gzip", "x"):
        assert "gzip" in problem(server.post(ndjson(event()), Content_Encoding=encoding), 415)
    for charset in ("utf-8", '"UTF-8"', "us-ascii"):
        media = f"application/X-NDJSON; charset={charset}"
        assert server.post(ndjson(event()), **{"Content-Type": media}).status_code == 202
    utf16 = "application/x-ndjson;x=y; Charset = utf-16"
    assert "'utf-16' is not taken" in problem(server.post(ndjson(event()), **{"Content-Type": utf16}), 415)


def test_what_is_unknown_in_the_address_is_told(server: Server) -> None:
    body = ndjson(event())
    for query in ("sorce=vans", "source=vans&x=1", "source=vans&source=vans"):
        assert "?source=NAME" in problem(server.post(body, stream=f"link?{query}"), 400)
    problem(server.post(body, stream="link?x=1", secret="x"), 401)
    assert "POST to /ingest/v1/link" in problem(server.post(body, stream="link/"), 404)
    assert server.push.inputs() == []
    assert server.post(body, stream="link?source=vans").status_code == 202


def test_limits_are_413(server: Server) -> None:
    line = ndjson(event())
    assert "8388608" in problem(server.post(line * (push_body.MAX_BODY // len(line) + 1)), 413)
    many = b"{}\n" * (push_body.MAX_RECORDS + 1)
    assert "50001 records" in problem(server.post(many), 413)
    assert "50001 records" in problem(server.post(arrow(frame(1).sample(50_001, with_replacement=True)), **ARROW), 413)
    assert server.post(b"\n" * push_body.MAX_RECORDS).status_code == 422
    for encoding, bomb in bombs():
        problem(server.post(bomb, Content_Encoding=encoding), 413)

    def chunks() -> Iterator[bytes]:
        for _ in range(10):
            yield b" " * (1 << 20)

    answer = unless_cut(server, chunks())
    assert answer is None or problem(answer, 413)
    assert server.push.inputs() == []
    just = ndjson(*(event(k) for k in range(100)))
    assert server.post(just).status_code == 202


def unless_cut(server: Server, body: Any) -> httpx.Response | None:
    """The answer, unless the client saw only the closed connection."""
    try:
        return server.post(body)
    except httpx.HTTPError:
        return None


def bombs() -> list[tuple[str, bytes]]:
    zeros = b"\n" * (1 << 20)
    squeezed = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [squeezed.compress(zeros) for _ in range(200)] + [squeezed.flush()]
    zeros = bytes(1 << 20)
    stream = zstandard.ZstdCompressor().compressobj()
    frame = b"".join([*(stream.compress(zeros) for _ in range(2048)), stream.flush()])
    members = gzip.compress(b"") * 5_000
    frames = zstandard.ZstdCompressor().compress(b"") * 5_000
    return [("gzip", b"".join(parts)), ("zstd", frame), ("gzip", members), ("zstd", frames)]


def test_decompression_stays_within_its_memory() -> None:
    """200 MB of gzip and 2 GB of zstd, made and taken in a process whose memory is watched."""
    code = """
import resource, sys
sys.path.insert(0, "")
from connectors.push_body import content_of
from pipelines.problem import Problem
from tests.contract.test_http_push import bombs
made = bombs()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for encoding, bomb in made:
    try:
        content_of(bomb, encoding)
    except Problem as problem:
        assert problem.status == 413
    else:
        raise SystemExit(f"{encoding} was taken")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    print(f"{done.stdout.strip()} MB more")
    assert int(done.stdout) < 100


def test_a_slow_body_is_408_and_does_not_hold_up_others(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_push, "BODY_S", 2.0)
    sockets = [slow(server, b"Content-Length: 1000\r\n\r\n{") for _ in range(20)]
    began = time.monotonic()
    assert server.post(ndjson(event())).status_code == 202
    assert time.monotonic() - began < 2.0
    for one in sockets:
        assert b"408" in one.recv(4096).split(b"\r\n")[0]
        one.close()


def slow(server: Server, rest: bytes, secret: str | None = None) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", server.serving.port), timeout=10)
    head = f"POST /ingest/v1/link HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret or server.secret}\r\n"
    one.sendall(head.encode() + b"Content-Type: application/x-ndjson\r\n" + rest)
    return one


def test_clients_that_leave_in_the_middle_of_a_body(server: Server) -> None:
    for _ in range(30):
        slow(server, b"Content-Length: 1000\r\n\r\n{").close()
    time.sleep(0.2)
    assert server.post(ndjson(event())).status_code == 202
    assert server.push._waiting.total() == server.push._waiting_bytes.total() == 0


def test_more_than_can_be_under_way_is_429(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_push, "MAX_WAITING", 4)
    others = [server.tokens.add(name, ["ingest:others"]) for name in ("a", "b")]
    sockets = [slow(server, b"Content-Length: 1000\r\n\r\n{", secret) for secret in others for _ in range(2)]
    time.sleep(0.2)
    answer = server.post(ndjson(event()))
    assert "the server has" in problem(answer, 429)
    assert answer.headers["retry-after"] == "1"
    for one in sockets:
        one.close()
    time.sleep(0.2)
    assert server.post(ndjson(event())).status_code == 202


def test_a_token_has_a_share_and_the_others_are_answered(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    other = server.tokens.add("other", ["ingest:other"])
    sockets = [slow(server, b"Content-Length: 1000\r\n\r\n{") for _ in range(100)]
    time.sleep(0.3)
    assert server.push._waiting == {"vans0": http_push.MAX_WAITING // 2}
    answer = server.post(ndjson(event()))
    assert "the token 'vans0' has" in problem(answer, 429) and answer.headers["retry-after"] == "1"
    assert server.post(ndjson(event()), secret=other).status_code == 202
    assert server.push.refused["push:vans:link"] == 100 - http_push.MAX_WAITING // 2 + 1
    for one in sockets:
        one.close()
    time.sleep(0.2)
    monkeypatch.setattr(http_push, "MAX_WAITING_BYTES", 200)
    assert "the token 'vans0' has" in problem(server.post(ndjson(event(), event())), 429)
    assert server.post(ndjson(event())).status_code == 202


def test_a_full_spool_is_429_until_it_is_read(tmp_path: Path) -> None:
    server = started(tmp_path, max_bytes=40_000, segment_bytes=10_000)
    body = ndjson(*(event(k) for k in range(100)))
    answers = [server.post(body) for _ in range(30)]
    full = next(a for a in answers if a.status_code != 202)
    problem(full, 429)
    assert full.headers["retry-after"] == "10"
    spool = server.spool()
    taken = sum(a.status_code == 202 for a in answers)
    assert spool.end == 100 * taken + 1
    spool.trim(spool.end)
    assert server.post(body).status_code == 202
    server.end()


def test_a_disk_that_is_full_is_503_and_nothing_is_taken(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.post(ndjson(event()))

    def full(fd: int, data: Any, offset: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        answer = server.post(ndjson(event()), Idempotency_Key="k")
        assert "disk" in problem(answer, 503) and answer.headers["retry-after"]
    assert server.events().height == 1
    assert server.post(ndjson(event()), Idempotency_Key="k").status_code == 202
    assert server.events().height == 2


@pytest.mark.parametrize("call", ["mkdir", "open", "pwrite", "fdatasync", "fsync"])
def test_so_is_a_disk_that_is_full_before_the_first_push(
    server: Server, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(os, call)

    def full(*arguments: Any, **more: Any) -> Any:
        if call != "open" or str(arguments[0]).endswith(".new"):
            raise OSError(28, "No space left on device")
        return real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        answer = server.post(ndjson(event()), Idempotency_Key="k")
    assert "disk" in problem(answer, 503) and answer.headers["retry-after"]
    assert [p.name for p in server.folder.iterdir()] == ["tokens.json"] and server.made == server.push.inputs() == []
    assert server.post(ndjson(event()), Idempotency_Key="k").status_code == 202
    assert server.events().height == 1 and len(server.made) == 1


# Idempotency -------------------------------------------------------------------------------------------------------------


def test_a_retry_storm_is_stored_once_with_the_same_answer(server: Server) -> None:
    body = ndjson(*(event(k) for k in range(2000))) + b"{\n"

    def one(_: int) -> tuple[int, bytes]:
        answer = server.post(body, Idempotency_Key="storm")
        return answer.status_code, answer.content

    with ThreadPoolExecutor(10) as pool:
        answers = set(pool.map(one, range(10)))
    assert len(answers) == 1 and answers.pop()[0] == 202
    assert server.spool().end == 2002
    assert server.post(body).status_code == 202 and server.spool().end == 4003


def test_the_same_after_a_restart(tmp_path: Path) -> None:
    server = started(tmp_path)
    good, bad = ndjson(event()), b"{\n"
    first = [server.post(good, Idempotency_Key="a"), server.post(bad, Idempotency_Key="b")]
    assert [a.status_code for a in first] == [202, 422]
    server.end()
    again = started(tmp_path)
    assert [(n, s) for n, s, _ in again.push.inputs()] == [("push:vans:link", "link")] and again.made == []
    second = [again.post(good, Idempotency_Key="a"), again.post(bad, Idempotency_Key="b")]
    assert [(a.status_code, a.content) for a in first] == [(a.status_code, a.content) for a in second]
    assert second[1].headers["content-type"] == "application/problem+json"
    assert again.spool().end == 3
    again.end()


def test_a_key_with_another_body_is_422(server: Server) -> None:
    body = ndjson(event())
    assert server.post(body, Idempotency_Key="k").status_code == 202
    assert "another body" in problem(server.post(ndjson(event(9)), Idempotency_Key="k"), 422)
    assert "another body" in problem(
        server.post(gzip.compress(body), Idempotency_Key="k", Content_Encoding="gzip"), 422
    )
    other = server.tokens.add("other", ["ingest:other"])
    assert server.post(ndjson(event(9)), secret=other, Idempotency_Key="k").status_code == 202
    for key in ("", "x" * 129, "a b"):
        problem(server.post(body, Idempotency_Key=key), 400)


# Crashes -----------------------------------------------------------------------------------------------------------------

SERVE = """
import sys, time
from pathlib import Path
from tests.contract.test_http_push import started
server = started(Path(sys.argv[1]))
print(server.serving.port, server.secret, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("point", ["spool_written", "spool_synced"])
def test_killed_in_between_acknowledged_records_are_there_once(tmp_path: Path, point: str) -> None:
    """Clients send numbered batches with keys until the server dies, then all of them again to its successor."""
    acknowledged: set[int] = set()
    bodies = {k: ndjson(*(event(k * 3 + i) for i in range(3))) for k in range(40)}
    environment = os.environ | {"CITYBRAIN_FAILPOINT": f"{point}:9"}
    child = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    port, secret = child.stdout.readline().split()

    def send(k: int) -> None:
        headers = NDJSON | {"Authorization": f"Bearer {secret}", "Idempotency-Key": f"k{k}"}
        try:
            answer = httpx.post(
                f"http://127.0.0.1:{port}/ingest/v1/link", content=bodies[k], headers=headers, timeout=10
            )
        except httpx.HTTPError:
            return
        if answer.status_code == 202:
            acknowledged.add(k)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, bodies))
    assert child.wait(20) == -signal.SIGKILL
    child.stdout.close()
    assert 0 < len(acknowledged) < len(bodies)
    again = started(tmp_path)
    found = set(again.events()["t"].to_list())
    assert {NOW + 3 * k + i for k in acknowledged for i in range(3)} <= found
    for k, body in bodies.items():
        assert again.post(body, Idempotency_Key=f"k{k}").status_code == 202
    assert sorted(again.events()["t"].to_list()) == [NOW + n for n in range(3 * len(bodies))]
    again.end()
    print(f"{point}: {len(acknowledged)} of {len(bodies)} acknowledged before the kill")


# Hostile bodies ----------------------------------------------------------------------------------------------------------


def hostile() -> list[bytes]:
    good = ndjson(event())
    return [
        b"[" * 200_000, b'{"a":' * 200_000, b"[" * 40 + b"]" * 40, b'{"t":' + b"[" * (MAX_DEPTH + 1) + b"1",
        b'{"t": NaN, "link": "L", "tt_ms": 1, "n": 1}', b'{"t": Infinity}', b'{"t": 1e999}', b'{"t": -0}',
        b'{"t": %d, "link": "L", "tt_ms": 1, "n": 1}' % 10**400, b'{"t": 18446744073709551616, "link": "L"}',
        b'{"t": 9223372036854775808, "link": "L", "tt_ms": 1, "n": 1}',
        b"\xff\xfe{}", b'{"t": 1, "link": "\xff", "tt_ms": 1, "n": 1}', b'{"link": "\\ud800"}', b"\x00" * 1000,
        b'{"t":1,"t":2}', b"null", b"1", b'"x"', b"[]", b"\x1f\x8b\x08", b"x" * (2 << 20), b'{"link":"' + b"x" * (2 << 20),
        b'{"link":"\\u0000","t":1,"tt_ms":1,"n":1}', b'{"link": "", "t": 1, "tt_ms": 1, "n": 1}', b"\r", b"{}\r{}",
        b"\xef\xbb\xbf\xef\xbb\xbf" + good,
    ]  # fmt: skip


def test_hostile_lines_cost_only_themselves(server: Server) -> None:
    good = event(5)
    total = 0
    for bad in hostile():
        if b"\n" in bad:
            continue
        answer = server.post(ndjson(good) + bad + b"\r\n" + ndjson(good))
        assert answer.status_code == 202, (bad[:50], answer.text)
        told = answer.json()
        assert (told["accepted"], told["rejected"]) == (2, 0 if not bad.strip() else 1), bad[:50]
        assert all(len(e["detail"]) < 1000 for e in told["errors"])
        total += 2
        assert server.post(bad).status_code in (422, 413)
    assert server.events().height == total > 40
    assert server.post(b"\xef\xbb\xbf" + ndjson(good)[:-1]).json()["accepted"] == 1


def test_one_bad_line_in_a_thousand(server: Server) -> None:
    lines = [ndjson(event(k)) if k % 1000 else b"{broken\n" for k in range(20_000)]
    answer = server.post(b"".join(lines))
    assert (answer.json()["accepted"], answer.json()["rejected"]) == (19_980, 20)


def test_random_bodies_and_headers_never_break_the_server(server: Server) -> None:
    import random

    dice = random.Random(7)
    good, table = ndjson(*(event(k) for k in range(20))), arrow(frame(20))
    squeezed = [good, table, gzip.compress(good), zstandard.ZstdCompressor().compress(good)]
    headers = {"Authorization": f"Bearer {server.secret}"}
    statuses: dict[int, int] = {}
    with httpx.Client(base_url=server.url, headers=headers, timeout=20) as client:
        for turn in range(1500):
            body = bytearray(dice.choice(squeezed))
            for _ in range(dice.randrange(1, 6)):
                body[dice.randrange(len(body))] = dice.randrange(256)
            sent = {
                "Content-Type": dice.choice([NDJSON, ARROW, ARROW])["Content-Type"],
                "Content-Encoding": dice.choice(["identity", "identity", "gzip", "zstd"]),
            }
            answer = client.post(
                "link", content=bytes(body[: dice.randrange(1, len(body) + 1)] if turn % 3 else body), headers=sent
            )
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code in (202, 400, 413, 415, 422), answer.text
    print(statuses)
    assert server.serving.alive and statuses[202] and statuses[422] and statuses[400]


def test_arrow_that_stands_for_more_than_it_is(server: Server) -> None:
    nulls = pa.RecordBatch.from_arrays([pa.nulls(10**9)] * 4, names=["t", "link", "tt_ms", "n"])
    out = io.BytesIO()
    with pa.ipc.new_stream(out, nulls.schema) as writer:
        writer.write_batch(nulls)
    assert "1000000000 records" in problem(server.post(out.getvalue(), **ARROW), 413)
    squeezed = arrow(frame(3000), options=pa.ipc.IpcWriteOptions(compression="zstd"))
    assert "Content-Encoding" in problem(server.post(squeezed, **ARROW), 415)
    assert refuse_unbounded(arrow(frame(3000)), 1) == 3000
    wide = arrow(frame(1).with_columns([pl.lit(0).alias(f"c{k}") for k in range(1000)]))
    assert "columns" in problem(server.post(wide, **ARROW), 415)
    twice = pa.table([pa.array([1]), pa.array([1])], names=["t", "t"])
    out = io.BytesIO()
    with pa.ipc.new_stream(out, twice.schema) as writer:
        writer.write_table(twice)
    assert "2 times" in problem(server.post(out.getvalue(), **ARROW), 422)
    assert "'n' is missing" in problem(server.post(arrow(frame(2).drop("n")), **ARROW), 422)
    assert "is double" in problem(server.post(arrow(frame(2).with_columns(n=1.5)), **ARROW), 422)
    assert "no record" in problem(server.post(arrow(frame(2)[:0]), **ARROW), 422)
    as_file = io.BytesIO()
    frame(2).write_ipc(as_file)
    problem(server.post(as_file.getvalue(), **ARROW), 422)


def test_arrow_that_is_not_one_whole_stream_is_refused(server: Server) -> None:
    for options in (pa.ipc.IpcWriteOptions(), pa.ipc.IpcWriteOptions(use_legacy_format=True)):
        whole = arrow(frame(3), options=options)
        end = 4 if options.use_legacy_format else 8
        assert "no end-of-stream marker" in problem(server.post(whole[:-end], **ARROW), 422)
        problem(server.post(whole[:-1], **ARROW), 422)
        assert "7 bytes follow" in problem(server.post(whole + b"garbage", **ARROW), 422)
        assert f"{len(whole)} bytes follow" in problem(server.post(whole + whole, **ARROW), 422)
        assert server.push.inputs() == [] or options.use_legacy_format
        assert server.post(whole, **ARROW).status_code == 202


def test_a_number_beyond_64_bits_signed_is_told_as_it_was_sent(server: Server) -> None:
    big = frame(2).with_columns(n=pl.Series([1, 2**64 - 1], dtype=pl.UInt64))
    (error,) = server.post(arrow(big), **ARROW).json()["errors"]
    assert error["record"] == 2 and error["detail"].startswith(f"n is {2**64 - 1}; allowed is 0 to 10000")
    late = frame(2).with_columns(t=pl.Series([NOW, 2**63], dtype=pl.UInt64))
    (error,) = server.post(arrow(late), **ARROW).json()["errors"]
    assert error["detail"].startswith(f"t is {2**63}; ")


def test_arrow_whose_offsets_lead_outside_is_refused(server: Server) -> None:
    """Every integer of a small stream replaced: whatever Arrow itself would follow ends in an answer."""
    body = arrow(frame(3).with_columns(pl.col("link").cast(pl.Categorical())))
    answered: set[int] = set()
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.secret}"} | ARROW) as client:
        for at in range(0, len(body) - 4, 4):
            for value in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x00\x00\x01\x00"):
                answered.add(client.post("link", content=body[:at] + value + body[at + 4 :]).status_code)
    assert answered <= {202, 413, 415, 422} and 422 in answered, answered


def test_a_defect_is_500_and_the_server_goes_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise pl.exceptions.PanicException("not yet implemented")

    with monkeypatch.context() as patch:
        patch.setattr(push_body.Decoders, "decode", broken)
        problem(server.post(ndjson(event())), 500)
    assert server.post(ndjson(event())).status_code == 202


def test_a_spool_that_nobody_reads_is_refused_when_it_is_made(tmp_path: Path) -> None:
    server = started(tmp_path)

    def refuse(*_: object) -> None:
        raise RuntimeError("the run has ended")

    server.push.on_new = refuse
    problem(server.post(ndjson(event())), 500)
    assert server.push.inputs() == []
    server.push.on_new = None
    assert server.post(ndjson(event())).status_code == 202
    server.end()


def test_closing_ends_what_is_under_way_and_refuses_the_rest(server: Server) -> None:
    statuses: list[int] = []
    body = ndjson(*(event(k) for k in range(3000)))

    def send() -> None:
        for _ in range(10):
            statuses.append(server.post(body).status_code)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for one in threads:
        one.start()
    time.sleep(0.15)
    server.push.close()
    for one in threads:
        one.join()
    assert set(statuses) <= {202, 503} and 503 in statuses
    spool = Spool(server.folder / "push" / "vans" / "link", "push:vans:link", "link")
    assert spool.end == 3000 * statuses.count(202) + 1
    spool.close()


def test_many_small_requests_next_to_a_large_one(server: Server) -> None:
    """p99 of small pushes while decompression bombs come; the server stays up."""
    stop = threading.Event()
    bomb = bombs()[1]

    def bombard() -> None:
        while not stop.is_set():
            server.post(bomb[1], Content_Encoding=bomb[0])

    threads = [threading.Thread(target=bombard) for _ in range(2)]
    for one in threads:
        one.start()
    took = []
    connection = http.client.HTTPConnection("127.0.0.1", server.serving.port, timeout=20)
    headers = NDJSON | {"Authorization": f"Bearer {server.secret}"}
    for _ in range(100):
        began = time.monotonic()
        connection.request("POST", "/ingest/v1/link", ndjson(event()), headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 202
        took.append(time.monotonic() - began)
    stop.set()
    connection.close()
    for one in threads:
        one.join()
    print(f"p99 {sorted(took)[98] * 1000:.0f} ms")
    assert sorted(took)[98] < 2


# The page ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_page(server: Server, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "push.md").read_text(encoding="utf-8")
    block = page.split("```")[1]
    typed, answer = block[block.index("$ echo") :].rsplit("\n{", 1)
    script = typed.replace("$ echo", "echo").replace("$ curl", "curl -s")
    script = script.replace("http://127.0.0.1:8080/", server.serving.url)
    environment = os.environ | {"SECRET": server.secret}
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "{" + answer.strip()
    assert server.spool().end in (2, 3)  # a second may have begun between the two


def test_the_limits_of_the_page() -> None:
    page = (ROOT / "docs" / "push.md").read_text(encoding="utf-8")
    assert (push_body.MAX_BODY, push_body.MAX_CONTENT, http_push.MAX_WAITING_BYTES) == (8 << 20, 64 << 20, 64 << 20)
    assert http_push.SHARE == 2
    told = (
        f"{push_body.MAX_FRAMES:,} gzip members", f"{push_body.MAX_RECORDS:,} lines or rows", f"nested {MAX_DEPTH} deep",
        f"| {http_push.BODY_S:.0f} s | 408", f"| {http_push.MAX_WAITING}, and 64 MiB of bodies; of one token half of both |",
        f"Retry-After: {http_push.BUSY_S}`",
        f"Retry-After: {http_push.FULL_S}`", f"the first {http_push.TOLD_ERRORS} ", f"the newest {MAX_ANSWERS:,} of",
        f"| Arrow columns | {MAX_COLUMNS:,} |",
    )  # fmt: skip
    assert not [x for x in told if x not in page]
