"""Pictures of the screen for the README: the demo city on a Monday morning. `python -m tools.screenshots` (make screenshots)."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import sync_playwright

from tools.browser import chromium

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "images"
START: Final = "2026-03-02T08:00:00+08:00"
RUN_MS: Final = 60_000
"""At sixty times the city's clock: an hour."""


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="citybrain-shots-") as data:
        up = [sys.executable, "-m", "citybrain", "up", "--port", "0", "--data", data, "--start", START, "--speed", "60"]
        with subprocess.Popen(up, stdout=subprocess.PIPE, text=True) as city:
            try:
                assert city.stdout is not None
                found = next(m for line in city.stdout if (m := re.search(r"http://\S+", line)))
                taken(found[0])
            finally:
                city.send_signal(signal.SIGINT)


def taken(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(url + "?lang=zh-CN", wait_until="domcontentloaded")
        page.wait_for_timeout(RUN_MS)
        for lang in ("zh-CN", "en"):
            page.goto(f"{url}?lang={lang}", wait_until="domcontentloaded")
            page.wait_for_selector(".map canvas")
            page.wait_for_timeout(2_500)
            page.screenshot(path=FOLDER / f"screen-{lang}.png")
            print(FOLDER / f"screen-{lang}.png")
        browser.close()


if __name__ == "__main__":
    main()
