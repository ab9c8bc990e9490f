"""What the browser tests fill and serve: the demo city with readings of now, in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page

from commands.inputs import city_of
from dashboards.app import create_app
from dashboards.board import Board
from dashboards.metrics import Metrics
from dashboards.panels import SCREENS
from dashboards.serve import listen, serve
from pipelines import catalogue
from tests.unit.dashboard_fakes import Changed, MemoryReader, episode, episodes, reading, readings

ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
CITY: Final = city_of("demo")
INDICATORS: Final = {i.id: i for i in catalogue.for_city(CITY)}
SHOWN: Final = tuple(dict.fromkeys(name for s in SCREENS for p in s.panels for name in p.indicators))
MINUTE_MS: Final = 60_000
SLACK: Final = 4 if os.environ.get("CI") else 1
"""How much longer things may take where other tests run at the same time."""


def now() -> int:
    return int(time.time() * 1000)


def value_of(n: int, place: int) -> float:
    """A value that names its cell: no two of a screen are alike."""
    return round(1 + n * 1.7 + place * 0.3, 1)


class Glass:
    """The server of one test: `fill` shows something everywhere, `step` one thing."""

    def __init__(self, epoch: str = "e1", port: int = 0, city: Any = CITY) -> None:
        self.city = city
        self.board = Board(epoch, now)
        self.reader = MemoryReader()
        self.app = create_app(
            self.board, list(INDICATORS.values()), city, self.reader, Metrics(self.board), heartbeat_s=1
        )
        sock = listen("127.0.0.1", port)
        self.port = sock.getsockname()[1]
        self.serving = serve(self.app, "127.0.0.1", self.port, sock=sock)
        self.stopped = False

    def url(self, **asked: str) -> str:
        return f"http://127.0.0.1:{self.port}/?" + "&".join(f"{k}={v}" for k, v in {"lang": "zh-CN", **asked}.items())

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.serving.stop()

    def cells(self, indicator: str, end: int, **more: Any) -> Iterable[dict[str, Any]]:
        n = SHOWN.index(indicator)
        yield reading(indicator, self.city.id, end, value_of(n, 0), kind="city", **more)
        for place, district in enumerate(self.city.districts, 1):
            yield reading(indicator, district.id, end, value_of(n, place), kind="district", **more)

    def fill(self, age_ms: int = 0, only: Iterable[str] = SHOWN, **more: Any) -> None:
        """Every indicator that a screen shows, for the city and every district, its window ended `age_ms` ago."""
        end = now() - age_ms
        self.step([cell for name in only for cell in self.cells(name, end, **more)])

    def step(
        self,
        finals: Iterable[Mapping[str, Any]] = (),
        provisional: Iterable[Mapping[str, Any]] | None = None,
        changes: Iterable[Changed] = (),
        open_episodes: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        health = {
            name: {"watermark": now(), "last_event_at": now(), "accepted": 100, "late": 3} for name in ("link", "air")
        }
        self.board.update(
            readings(*finals), None if provisional is None else readings(*provisional), list(changes),
            episodes(*open_episodes), health, now(),  # type: ignore[arg-type]
        )  # fmt: skip

    def alert(self, identity: str, level: str = "II", **more: Any) -> dict[str, Any]:
        return episode(identity, level, at=now(), **{"indicator": "traffic.tpi", "place": "d03", **more})


def opened(page: Page, glass: Glass, **asked: str) -> None:
    """Opens a screen and waits for its numbers and its charts."""
    page.goto(glass.url(**asked), wait_until="domcontentloaded")
    page.wait_for_selector(".kpi .value:not(:empty)", timeout=20_000)
    page.wait_for_selector(".chart-room canvas", timeout=20_000)


def until(page: Page, what: Callable[[], bool], longest_s: float) -> float:
    """Seconds until it holds; AssertionError when it does not in time."""
    began, longest_s = time.monotonic(), longest_s * SLACK
    while not what():
        assert time.monotonic() - began < longest_s, f"not within {longest_s} s"
        page.wait_for_timeout(20)
    return time.monotonic() - began


def state(page: Page) -> str:
    return str(page.evaluate("document.body.dataset.state"))


def text(page: Page, where: str) -> str:
    return str(page.locator(where).first.text_content() or "")


def shots() -> Path:
    folder = Path(__file__).resolve().parents[2] / "out" / "screens"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
