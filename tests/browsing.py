"""Chromium, driven by playwright: pages that are opened from disk, and may neither fail nor ask the network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
SWITCHES = [
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def wrong() -> list[str]:
    """What no page may meet: an error, or a request to the network."""
    return []


@pytest.fixture(scope="module")
def page_of(browser: Any, wrong: list[str]) -> Iterator[Callable[[tuple[int, int]], Any]]:
    """A page of so many columns and rows, with nothing in it yet: a start of its process takes as long as a test."""
    pages: dict[tuple[int, int], Any] = {}

    def blank(size: tuple[int, int]) -> Any:
        if size not in pages:
            page = browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True))).new_page()
            page.set_default_timeout(20_000)
            page.on("console", lambda message: wrong.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
            page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url[:100]}"))
            page.on("request", lambda one: one.url.startswith(("file:", "data:", "blob:")) or wrong.append(one.url))
            pages[size] = page
        return pages[size]

    yield blank
    for page in pages.values():
        page.context.close()


@pytest.fixture
def opened(page_of: Callable[[tuple[int, int]], Any], wrong: list[str]) -> Iterator[Callable[..., Any]]:
    """Opens a report; at the end the page may have met no error and asked no network."""

    def open_page(path: Path, size: tuple[int, int] = (1200, 900)) -> Any:
        page = page_of(size)
        page.goto("about:blank")
        wrong.clear()  # of videos that were on their way to the page before
        page.goto(path.as_uri())
        return page

    yield open_page
    met, wrong[:] = [*wrong], []
    assert met == []
