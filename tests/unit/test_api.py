"""The HTTP interface: answers, errors, odd input, and a real server with clients that stall, leave and come back."""

from __future__ import annotations

import base64
import contextlib
import gzip
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands.inputs import city_of
from dashboards import page as page_files
from dashboards.answers import Store, to_cursor
from dashboards.app import create_app
from dashboards.page import SECURITY, read_page
from dashboards.serve import CannotServe, PortBusy, Serving, listen, loopback, most_connections, serve
from pipelines.problem import Problem
from tests.unit.dashboard_fakes import (
    DISTRICTS,
    INDICATORS,
    MINUTE,
    START,
    Answer,
    Changed,
    Fixture,
    MemoryReader,
    city,
    episode,
    episodes,
    get,
    parsed,
    reading,
    readings,
    transitions,
)
from tools.screen import SOURCES

PATHS = (
    "/", "/icon.svg", "/api/v1/map", "/favicon.ico", "/openapi.json", "/healthz", "/readyz", "/metrics",
    "/api/v1/snapshot", "/api/v1/indicators", "/api/v1/indicators/speed", "/api/v1/alerts", "/api/v1/alerts/x",
    "/api/v1/stream",
)  # fmt: skip


@pytest.fixture
def full() -> Fixture:
    """Two indicators at thirteen places, one provisional, sites, and three episodes."""
    f = city()
    finals = [reading(i, p, value=n) for i in ("speed", "tti") for n, p in enumerate(("demo", *DISTRICTS))]
    sites = [reading(place=f"s{n:02d}", kind="site") for n in range(30)]
    changes = [
        Changed("x", 0, START, "", "firing"),
        Changed("z", 0, START - MINUTE, "", "firing", level="IV"),
        Changed("z", 1, START, "firing", "resolved", level="IV"),
    ]
    open_now = [episode("x"), episode("y", level="I", at=START - 5 * MINUTE, place_kind="city", place="demo")]
    f.reader.changes = transitions(*changes)
    f.step([*finals, *sites], [reading(end=START + MINUTE)], changes, open_now, {"link": {"watermark": START}})
    return f


def ok(f: Fixture, path: str, query: str = "") -> Any:
    answer = get(f.app, path, query)
    assert answer.status == 200, answer.body
    return answer.json()


def pages(f: Fixture, path: str, query: str, name: str) -> list[Any]:
    """All entries, page by page."""
    out, cursor = [], ""
    while True:
        body = ok(f, path, f"{query}{cursor}")
        out += body[name]
        if body["next"] is None:
            return out
        assert body[name], "a page with a next one is not empty"
        cursor = f"&cursor={body['next']}"


# --- answers --------------------------------------------------------------------------------------------------------


def test_snapshot_has_everything_and_an_etag_that_changes_with_it(full: Fixture) -> None:
    first = get(full.app, "/api/v1/snapshot")
    body = first.json()
    assert len(body["readings"]) == 27 and [a["episode_id"] for a in body["alerts"]] == ["y", "x"]
    assert {i["id"] for i in body["catalogue"]["indicators"]} == {"speed", "tti"}
    assert body["catalogue"]["city"]["zone"] == "Asia/Shanghai" and list(body["streams"]) == ["link"]
    assert {"value", "unit", "as_of", "completeness", "state", "revision"} <= set(body["readings"][0])
    etag = first.headers["etag"]
    for given_tag in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = get(full.app, "/api/v1/snapshot", headers={"if-none-match": given_tag})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    assert get(full.app, "/api/v1/snapshot", headers={"if-none-match": '"other"'}).status == 200
    full.step([reading(end=START + MINUTE)])
    changed = get(full.app, "/api/v1/snapshot", headers={"if-none-match": etag})
    assert changed.status == 200 and changed.headers["etag"] != etag


def test_indicators_filter_and_page(full: Fixture) -> None:
    everything = ok(full, "/api/v1/indicators")
    assert len(everything["readings"]) == 27 and everything["next"] is None and len(everything["indicators"]) == 2
    assert pages(full, "/api/v1/indicators", "limit=4", "readings") == everything["readings"]
    found = ok(full, "/api/v1/indicators", "indicator=speed&place_kind=city")
    assert [(t["value"], t["provisional"]) for t in found["readings"]] == [(0, False), (1.5, True)]
    assert [t["indicator"] for t in ok(full, "/api/v1/indicators", "place=d03")["readings"]] == ["speed", "tti"]
    sites = pages(full, "/api/v1/indicators", "indicator=speed&place_kind=site&limit=7", "readings")
    assert [t["place"] for t in sites] == [f"s{n:02d}" for n in range(30)]
    one = ok(full, "/api/v1/indicators", "indicator=speed&place_kind=site&place=s11")
    assert [t["place"] for t in one["readings"]] == ["s11"]


def test_one_indicator_has_definition_values_and_history(full: Fixture) -> None:
    full.reader.readings = readings(*(reading(end=START - n * MINUTE, value=float(n)) for n in range(100, -1, -1)))
    body = ok(full, "/api/v1/indicators/speed", "hours=1")
    assert (body["definition"]["id"], body["place_kind"], body["place"]) == ("speed", "city", "demo")
    assert body["definition"]["stale_after_s"] == 180 and body["definition"]["no_data_after_s"] == 1200
    assert len(body["readings"]) == 14 and [t["value"] for t in body["history"]] == [
        float(n) for n in range(59, -1, -1)
    ]
    assert len(ok(full, "/api/v1/indicators/speed", "hours=1&limit=5")["history"]) == 5
    assert ok(full, "/api/v1/indicators/speed", "place_kind=district&place=d01")["history"] == []


def test_alerts_filter_and_page(full: Fixture) -> None:
    assert [a["episode_id"] for a in ok(full, "/api/v1/alerts")["alerts"]] == ["x", "z", "y"]
    assert [a["episode_id"] for a in pages(full, "/api/v1/alerts", "limit=1", "alerts")] == ["x", "z", "y"]
    for query, expected in (
        ("state=open", ["x", "y"]),
        ("state=ended", ["z"]),
        ("level=I", ["y"]),
        ("place_kind=district&place=d01", ["x", "z"]),
        ("indicator=tti", []),
    ):
        assert [a["episode_id"] for a in ok(full, "/api/v1/alerts", query)["alerts"]] == expected, query
    assert [t["to_state"] for t in ok(full, "/api/v1/alerts/z")["transitions"]] == ["firing", "resolved"]
    full.reader.episodes = episodes(episode("old/one", state="resolved"))
    stored = ok(full, "/api/v1/alerts/old/one")
    assert (stored["episode"]["state"], stored["transitions"]) == ("resolved", [])


def test_a_history_begins_with_its_first_transition_whatever_this_run_was_told(full: Fixture) -> None:
    told = [Changed("x", n, START + n * MINUTE, "firing", "firing", level=("II", "III")[n % 2]) for n in range(4)]
    full.reader.changes = transitions(*told)
    full.step(changes=told[3:], open_episodes=[episode("x", level="III")])
    shown = ok(full, "/api/v1/alerts/x")
    assert [t["seq"] for t in shown["transitions"]] == [0, 1, 2, 3] and shown["episode"]["level"] == "III"
    full.reader.broken = True
    for identity in ("x", "older"):
        answer = get(full.app, f"/api/v1/alerts/{identity}")
        assert answer.status == 503 and "the store could not be read" in answer.json()["detail"]


def test_until_earlier_runs_are_read_the_list_says_so(full: Fixture) -> None:
    full.board.unread = {"open": "is being read", "ended": "the store is away"}
    for query in ("", "state=all", "state=ended", "state=open"):
        answer = get(full.app, "/api/v1/alerts", query)
        assert answer.status == 503 and "; try again" in answer.json()["detail"] and "retry-after" in answer.headers
    del full.board.unread["open"]
    assert [a["episode_id"] for a in ok(full, "/api/v1/alerts", "state=open")["alerts"]] == ["x", "y"]
    full.board.remember(episodes(episode("r", state="retracted", ended_at=None, at=START - MINUTE)))
    assert [a["episode_id"] for a in ok(full, "/api/v1/alerts", "state=ended")["alerts"]] == ["z", "r"]
    assert [a["episode_id"] for a in ok(full, "/api/v1/alerts", "state=open")["alerts"]] == ["x", "y"]
    assert ok(full, "/api/v1/alerts/r")["episode"]["state"] == "retracted"


def test_ready_and_alive_and_metrics(full: Fixture) -> None:
    assert ok(full, "/healthz")["status"] == "alive"
    assert ok(full, "/readyz")["status"] == "ready"
    assert b"citybrain_ready 1.0" in get(full.app, "/metrics").body
    full.clock.now += 121_000
    stuck = get(full.app, "/readyz")
    assert (stuck.status, stuck.headers["content-type"]) == (503, "application/problem+json")
    assert stuck.json()["reasons"] == [
        "the watermark of stream link has not moved for 121 s (allowed: 120 s by the run's clock)"
    ]
    assert b"citybrain_ready 0.0" in get(full.app, "/metrics").body
    assert get(full.app, "/healthz").status == 200, "alive, though not ready"
    full.step(health={"link": {"watermark": START + 121_000}})
    assert get(full.app, "/readyz").status == 200


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "query", "status", "says"),
    [
        ("/api/v1/indicators/sped", "", 404, "Did you mean 'speed'?"),
        ("/api/v1/indicators", "indicator=sped", 404, "Did you mean 'speed'?"),
        ("/api/v1/indicators", "place_kind=town", 422, "it is one of city, district"),
        ("/api/v1/indicators", "place_kind=site", 422, "indicator is missing"),
        ("/api/v1/indicators", "limit=0", 422, "limit: Input should be greater than or equal to 1"),
        ("/api/v1/indicators", "limit=1001", 422, "limit"),
        ("/api/v1/indicators", "cursor=nonsense", 400, "use `next` of the previous answer"),
        ("/api/v1/indicators", f"cursor={to_cursor(['a', 'b'])}", 400, "not one of ours"),
        ("/api/v1/alerts", f"cursor={base64.urlsafe_b64encode(b'[1,2]').decode()}", 400, "not one of ours"),
        ("/api/v1/indicators/speed", "place_kind=district", 422, "place is missing"),
        ("/api/v1/indicators/speed", "hours=169", 422, "hours"),
        ("/api/v1/alerts", "level=V", 422, "level"),
        ("/api/v1/alerts", "state=dead", 422, "state"),
        ("/api/v1/alerts/nobody", "", 404, "there is no episode 'nobody'"),
        ("/api/v1/stream", "topics=screen,film", 422, "topics are screen, alerts"),
        ("/nowhere", "", 404, "Not Found"),
        ("/api/v1/alerts/", "", 404, "there is no episode ''"),
    ],
)
def test_errors_are_problems_that_say_what_to_do(full: Fixture, path: str, query: str, status: int, says: str) -> None:
    answer = get(full.app, path, query)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert {"type", "title", "status", "detail"} <= set(problem) and problem["status"] == status
    assert says in problem["detail"]


def test_a_broken_or_busy_store_is_a_503_and_spares_the_rest(full: Fixture) -> None:
    full.reader.broken = True
    answer = get(full.app, "/api/v1/indicators/speed")
    assert answer.status == 503 and "OSError" in answer.json()["detail"]
    assert get(full.app, "/api/v1/indicators").status == 200
    store, entered, release = Store(MemoryReader()), threading.Semaphore(0), threading.Event()

    def slow(reader: Any) -> Any:
        entered.release()
        release.wait(20)
        return readings()

    threads = [threading.Thread(target=store.read, args=(slow,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert entered.acquire(timeout=5)
    with pytest.raises(Problem, match="the store is busy"):
        store.read(lambda reader: readings())
    release.set()
    for thread in threads:
        thread.join(5)
    assert len(store.read(lambda reader: readings())) == 0


def test_other_methods_are_refused(full: Fixture) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = get(full.app, "/api/v1/alerts", method=method)
        assert (answer.status, answer.headers["content-type"]) == (405, "application/problem+json")


def test_head_is_get_without_a_body(full: Fixture) -> None:
    for path in ("/", "/healthz", "/api/v1/alerts"):
        told, asked = get(full.app, path), get(full.app, path, method="HEAD")
        assert told.body and not asked.body
        assert (asked.status, asked.headers) == (told.status, told.headers), path
    assert get(full.app, "/api/v1/stream", method="HEAD").status == 405


TRICKY = [
    "", " ", "\0", "a\r\nb", "%", "%zz", "../../etc/passwd", "'; drop table readings; --", "<script>", "\ud800", "NaN",
    "1e999", "-1", "9" * 40, "é", "云川", "💥", "x" * 3000, "[]", "null", "true", "0x10", "1_000", "٣", "W/", '"', "*",
]  # fmt: skip
NAMES = [
    "indicator", "place_kind", "place", "cursor", "limit", "hours", "state", "level", "topics", "last_event_id", "",
]  # fmt: skip
KNOWN = ["speed", "site", "city", "demo", "d01", "screen", "alerts", "open", "I", "1", "1000", "e1-0", "e1-1", "e0-1"]
VALUES = st.one_of(st.sampled_from(TRICKY + KNOWN), st.text(max_size=30), st.integers().map(str))
LATIN = st.text(st.characters(max_codepoint=255), max_size=30)
PAIRS = st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=5)


def escaped(text: str) -> str:
    return "".join(f"%{b:02x}" for b in text.encode("utf-8", "surrogatepass"))


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[tuple[Fixture, Counter[int]]]:
    f = city()
    f.step([reading(), reading(place="s1", kind="site")], [], [Changed("x", 0, START, "", "firing")], [episode("x")])
    seen: Counter[int] = Counter()
    yield f, seen
    print(f"{seen.total()} odd requests, by status: {dict(sorted(seen.items()))}")
    assert seen.total() > 200 and len(seen) > 2


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from([p for p in PATHS if p.startswith("/api/")] * 3 + list(PATHS)),
    more=st.one_of(st.just(""), st.text(max_size=20), st.sampled_from(TRICKY)),
    pairs=PAIRS,
    raw=st.binary(max_size=40),
    headers=st.dictionaries(
        st.sampled_from(["host", "accept", "if-none-match", "last-event-id", "accept-encoding", "range", "cookie"]),
        st.one_of(
            st.sampled_from([v for v in TRICKY if v.isascii()]), st.text(st.characters(max_codepoint=255), max_size=30)
        ),
        max_size=3,
    ),
)
def test_no_input_is_an_error_of_ours(
    fuzzed: tuple[Fixture, Counter[int]],
    path: str,
    more: str,
    pairs: list[tuple[str, str]],
    raw: bytes,
    headers: dict[str, str],
) -> None:
    f, seen = fuzzed
    query = "&".join(f"{name}={escaped(value)}" for name, value in pairs)
    for where, what in ((path, query.encode()), (path, raw), (path + more, query.encode())):
        answer = get(f.app, where.encode("utf-8", "replace").decode(), what, headers)
        seen[answer.status] += 1
        assert answer.status < 500, (where, what, answer)
        if answer.status >= 400:
            assert answer.headers["content-type"] == "application/problem+json", (where, what)
            orjson.loads(answer.body)


def test_the_fuzz_would_see_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    f = city()
    monkeypatch.setattr(f.board, "alerts", lambda only_open: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        get(f.app, "/api/v1/alerts")


# --- the page and its headers ---------------------------------------------------------------------------------------


def test_every_answer_forbids_what_a_page_does_not_need(full: Fixture) -> None:
    checked = 0
    for path in (*PATHS, "/nowhere"):
        answer: Answer = get(full.app, path, headers={"host": "evil.example"})
        for name, value in SECURITY.items():
            assert answer.headers[name.lower()] == value, path
        assert b"evil.example" not in answer.body and "evil.example" not in str(answer.headers)
        checked += 1
    assert checked == len(PATHS) + 1 and "default-src 'self'" in SECURITY["Content-Security-Policy"]


def test_the_page_loads_nothing_from_elsewhere_and_writes_text_only() -> None:
    """What was written for the screen makes no markup of text; what was built of it names no other host."""
    written = [path.read_text() for path in (SOURCES / "src").rglob("*.ts")]
    assert len(written) > 20 and sum("textContent" in text for text in written) >= 2
    for text in written:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)
    files = read_page().files
    for name, content in files.items():
        hosts = set(re.findall(r"[\"'`(](?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", content.decode()))
        assert {host.strip("\"'`(") for host in hosts} <= {"http://www.w3.org"}, f"{name} names another host: {hosts}"
    html = files["index.html"].decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son[a-z]+=|style=", html), "inline code would need a laxer policy"


def test_the_page_is_small() -> None:
    """Compressed: the shell, which paints first (HTML, style, its own code with one language), and all scripts."""
    sizes = {name: len(gzip.compress(content, 9)) for name, content in read_page().files.items()}
    code = {name: size for name, size in sizes.items() if name.endswith(".js")}
    first = ("index.html", "assets/index", "assets/fresh", "assets/zh")
    shell = sum(size for name, size in sizes.items() if name.startswith(first))
    print(f"\nshell {shell:,} bytes, all scripts {sum(code.values()):,} bytes, gzip")
    assert 5_000 < shell <= 12_000 and 100_000 < sum(code.values()) <= 235_000, sizes


def test_a_screen_that_was_not_built_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_files, "_files", lambda folder: [])
    page = read_page()
    assert list(page.files) == ["index.html"] and b"make run" in page.files["index.html"]


def test_static_files_are_revalidated(full: Fixture) -> None:
    first = get(full.app, "/")
    assert first.headers["etag"] == f'"{full.board.build}"' and first.headers["cache-control"] == "no-cache"
    assert get(full.app, "/", headers={"if-none-match": first.headers["etag"]}).status == 304
    asset = next(name for name in read_page().files if name.startswith("assets/"))
    assert "immutable" in get(full.app, f"/{asset}").headers["cache-control"], "its name has the hash of its content"


def test_the_map_is_that_of_the_pack(full: Fixture) -> None:
    assert get(full.app, "/api/v1/map").status == 404
    demo = city_of("demo")
    app = create_app(full.board, INDICATORS, demo, full.reader, full.metrics)
    answer = get(app, "/api/v1/map")
    assert answer.status == 200 and answer.headers["content-type"] == "application/geo+json"
    assert [f["id"] for f in answer.json()["features"]] == [d.id for d in demo.districts]
    assert get(app, "/api/v1/map", headers={"if-none-match": answer.headers["etag"]}).status == 304


# --- a real server --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(f: Fixture, **more: Any) -> Iterator[Serving]:
    running = serve(f.app, "127.0.0.1", 0, **more)
    try:
        yield running
    finally:
        running.stop()
        assert not running.alive


def read_until(lines: Iterator[str], event: str, at_most: int = 500) -> str:
    """Reads a stream up to and with that event; what was read."""
    out = ""
    for _ in range(at_most):
        line = next(lines)
        out += line + "\n"
        if line == "" and f"event: {event}\n" in out:
            return out
    raise AssertionError(f"no {event} in {at_most} lines: {out[-500:]}")


def test_a_client_reconnects_and_misses_nothing() -> None:
    f = city(heartbeat_s=0.2)
    f.step([reading(value=0.0)])
    with served(f) as running, httpx.Client(base_url=running.url, timeout=10) as client:
        with client.stream("GET", "/api/v1/stream") as response:
            headers = response.headers
            assert headers["content-type"].startswith("text/event-stream")
            assert headers["cache-control"] == "no-cache, no-transform" and headers["x-accel-buffering"] == "no"
            assert "content-encoding" not in headers and "server" not in headers
            lines = response.iter_lines()
            assert read_until(lines, "hb").startswith("retry: 2000\n\nid: e1-1\nevent: snapshot\ndata: {")
            began = time.monotonic()
            f.step([reading(end=START + MINUTE, value=1.0)])
            (delta,) = [d for e, _, d in parsed(read_until(lines, "delta").encode()) if e == "delta"]
            print(f"published to read: {1000 * (time.monotonic() - began):.1f} ms")
            assert delta["readings"][0]["value"] == 1.0
        for n in range(2, 8):
            f.step([reading(end=START + n * MINUTE, value=float(n))])
        with client.stream("GET", "/api/v1/stream", headers={"Last-Event-ID": "e1-2"}) as response:
            events = parsed(read_until(response.iter_lines(), "hb").encode())
            assert [d["readings"][0]["value"] for e, _, d in events if e == "delta"] == [2, 3, 4, 5, 6, 7]
            assert "snapshot" not in [e for e, _, _ in events]
        with client.stream("GET", "/api/v1/stream?last_event_id=older-2") as response:
            events = parsed(read_until(response.iter_lines(), "hb").encode())
            assert [e for e, _, _ in events] == ["reset", "snapshot", "hb"]
        wait_for(lambda: f.board.ring.clients == 0)


def stalled(port: int, count: int) -> list[socket.socket]:
    """Clients that ask for the stream and never read a byte of it."""
    out = []
    for _ in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        out.append(client)
    return out


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def wait_for(what: Callable[[], bool], at_most_s: float = 20.0) -> None:
    deadline = time.monotonic() + at_most_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_too_many_clients_are_told_so() -> None:
    f = city(max_clients=2)
    with served(f) as running:
        clients = stalled(running.port, 2)
        wait_for(lambda: f.board.ring.clients == 2)
        refused = httpx.get(f"{running.url}api/v1/stream", timeout=10)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "2 clients are connected" in refused.json()["detail"]
        for client in clients:
            client.close()
        wait_for(lambda: f.board.ring.clients == 0)


def until_closed(client: socket.socket) -> tuple[bytes, float]:
    """What a connection still brings, and the seconds until the server closes it."""
    client.settimeout(20)
    began, out = time.monotonic(), b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.recv(65536):
            out += more
    client.close()
    return out, time.monotonic() - began


ASK = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


HALVES = (b"", b"GET /healthz HTT", ASK[:-2])
BEHIND = (ASK + b"GET", ASK + b"\r\n", ASK[:-2] + b"Content-Length: 1000\r\n\r\nx")


@pytest.mark.parametrize(
    ("sent", "trickles"), [*((x, False) for x in HALVES), *((x, True) for x in (*HALVES, *BEHIND))]
)
def test_a_request_whose_head_does_not_end_is_closed(sent: bytes, trickles: bool) -> None:
    """Silent, or with a byte now and then: neither goes on for ever."""
    with served(city(), head_s=0.5) as running:
        client = socket.create_connection(("127.0.0.1", running.port))
        client.sendall(sent)
        stop = threading.Event()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.1) and trickles:
                    client.sendall(b"X")

        thread = threading.Thread(target=trickle)
        thread.start()
        _, took = until_closed(client)
        stop.set()
        thread.join()
        assert took < 4
        assert httpx.get(f"{running.url}healthz", timeout=5).status_code == 200


def test_a_slow_answer_and_a_used_connection_outlive_the_time_of_a_head() -> None:
    f = city(heartbeat_s=0.2)
    f.step([reading()])
    with served(f, head_s=0.3) as running, httpx.Client(base_url=running.url, timeout=10) as client:
        with client.stream("GET", "/api/v1/stream") as response:
            lines, began = response.iter_lines(), time.monotonic()
            while time.monotonic() - began < 1:
                read_until(lines, "hb")
        raw = socket.create_connection(("127.0.0.1", running.port))
        for _ in range(4):
            raw.sendall(ASK[:9])
            time.sleep(0.15)
            raw.sendall(ASK[9:])
            answer = b""
            while not answer.endswith(b"}"):
                answer += raw.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
        raw.close()


def test_connections_beyond_the_bound_are_refused_and_others_answered_afterwards() -> None:
    f = city()
    with served(f, most=20) as running:
        clients = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(200)]
        told = [until_closed(client)[0] for client in clients[20:]]
        assert all(x.startswith(b"HTTP/1.1 503 ") and b"20 connections are open" in x for x in told if x)
        assert sum(map(bool, told)) > 100
        assert b"\ncitybrain_http_connections_refused_total 180.0\n" in f.metrics.exposition("")[0]
        for client in clients[:20]:
            client.close()
        wait_for(lambda: httpx.get(f"{running.url}healthz", timeout=5).status_code == 200)


def test_with_few_files_there_are_few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    soft = {"now": (256, 4096)}
    monkeypatch.setattr("dashboards.serve.resource.getrlimit", lambda _: soft["now"])
    monkeypatch.setattr("dashboards.serve.resource.setrlimit", lambda _, both: soft.update(now=both))
    assert most_connections() == 1000 and soft["now"] == (4096, 4096)
    soft["now"] = (1024, 1024)
    assert most_connections() == 512 and soft["now"] == (1024, 1024)
    soft["now"] = (256, -1)
    assert most_connections() == 1000 and soft["now"] == (8192, -1)
    soft["now"] = (20_000, 20_000)
    assert most_connections() == 1000 and soft["now"] == (20_000, 20_000)


def test_two_hundred_clients_that_stop_reading_cost_little_and_hold_nobody_up() -> None:
    f = city(keep_bytes=4 << 20)
    places = [f"d{n:04d}" for n in range(200)]
    f.step([reading(place=p) for p in places])
    size = len(f.board.snapshot()[1])
    with served(f) as running:
        before = resident_mb() if Path("/proc/self/statm").exists() else None
        clients = stalled(running.port, 200)
        wait_for(lambda: f.board.ring.clients == 200)
        for n in range(1, 100):
            f.step([reading(place=p, end=START + n * MINUTE, value=float(n)) for p in places])
            time.sleep(0.005)
        assert f.board.ring.size_bytes <= 4 << 20
        began = time.monotonic()
        answer = httpx.get(f"{running.url}healthz", timeout=10)
        took = time.monotonic() - began
        assert answer.status_code == 200
        grown = resident_mb() - before if before is not None else None
        sent = 100 * size / 2**20
        print(f"200 stalled clients, {sent:.0f} MB published each: {grown} MB more; healthz in {1000 * took:.0f} ms")
        # What they do not take is not kept for them: less than a tenth of what queues without a bound would hold.
        assert grown is None or grown < 200 * sent / 10
        assert grown is None or grown < 200 * (size + (192 << 10)) / 2**20 + 40
        began = time.monotonic()
        running.stop()
        print(f"stopped in {time.monotonic() - began:.2f} s with 200 stalled clients")
        assert time.monotonic() - began <= 3 and not running.alive
        for client in clients:
            client.close()


def test_shutdown_does_not_wait_for_open_streams() -> None:
    f = city()
    f.step([reading()])
    running = serve(f.app, "127.0.0.1", 0)
    got: list[str] = []

    def listen_on() -> None:
        with httpx.stream("GET", f"{running.url}api/v1/stream", timeout=20) as response:
            for line in response.iter_lines():
                got.append(line)

    readers = [threading.Thread(target=listen_on) for _ in range(3)]
    for reader in readers:
        reader.start()
    wait_for(lambda: got.count("event: hb") == len(readers))
    began = time.monotonic()
    running.stop()
    took = time.monotonic() - began
    for reader in readers:
        reader.join(5)
        assert not reader.is_alive(), "the stream ended in order, so the client's loop ended without an error"
    print(f"stopped in {took:.2f} s with {len(readers)} open streams")
    assert took <= 2 and not running.alive
    running.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}healthz", timeout=2)


def test_a_busy_port_is_named_with_one_that_is_free() -> None:
    f = city()
    with served(f) as running:
        with pytest.raises(PortBusy, match=f"port {running.port} on 127.0.0.1 is in use") as refused:
            listen("127.0.0.1", running.port)
        suggested = re.search(r"type --port (\d+)", str(refused.value))
        assert suggested
        listen("127.0.0.1", int(suggested[1])).close()
        with pytest.raises(PortBusy):
            serve(f.app, "127.0.0.1", running.port)
        assert httpx.get(f"{running.url}healthz", timeout=5).status_code == 200, "the first server goes on"


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("127.0.0.1", 70_000, "it is a number from 0 to 65535"),
        ("127.0.0.1", -1, "it is a number from 0 to 65535"),
        ("192.0.2.1", 0, "is not an address of this machine"),
        ("a..b", 0, "is unknown; type --host 127.0.0.1"),
    ],
)
def test_an_address_that_cannot_be_served_is_explained(host: str, port: int, says: str) -> None:
    with pytest.raises(CannotServe, match=re.escape(says)):
        listen(host, port)


def test_who_else_reaches_an_address() -> None:
    for host, alone in (("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)):
        with listen(host, 0) as sock:
            assert loopback(sock) is alone, host
