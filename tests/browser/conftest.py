"""A board that tests fill, served for real, and a browser that looks at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.glass import ARGUMENTS, Glass
from tools.browser import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not of the session: while it is there the thread has a running event loop, in which no other test may start its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def glass() -> Iterator[Glass]:
    one = Glass()
    try:
        yield one
    finally:
        one.stop()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """1920 x 1080, in a zone that is not the city's; what the page says of errors fails the test."""
    context = browser.new_context(
        viewport={"width": 1920, "height": 1080}, timezone_id="America/New_York", locale="zh-CN"
    )
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda said: wrong.append(said.text) if said.type == "error" and "Failed to load" not in said.text else None,
    )
    yield page
    context.close()
    assert not wrong, wrong
