"""A report of many clips in a real browser: a page at a time, thumbnails, units, and dashes for what is not there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM
from reports import CONSISTENCY, MOTION, clip_result, frames_of, results_of

from videodit.evaluation.report.page import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH: apt-get install chromium"),
]
CLIPS = [clip_result(f"c{i:02}", 0.5 + 0.005 * (7 * i % 60), 0.1 * i, size=(32, 32), num_frames=8) for i in range(57)]
CLIPS += [
    clip_result("gray", 1, 0, size=(32, 32), num_frames=8, flags=("blank", "still")),
    clip_result("snow", 0, 9, size=(32, 32), num_frames=8, flags=("noise",)),
    clip_result("again", 0.9, 1, size=(32, 32), num_frames=8, flags=("duplicate",)),
]
SETTINGS: dict[str, object] = {"clips": "runs/many", "fps": None, "metrics": ["cuts", "motion*"]}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(path, results_of(CLIPS, settings=SETTINGS), frames_of, max_clips=100)


def names_of(page: Any) -> list[str]:
    return page.locator("article h4").all_text_contents()


def test_a_page_holds_some_clips_and_all_pages_all_of_them_in_order(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report)
    ranked = sorted(CLIPS[:57], key=lambda clip: clip.scores[CONSISTENCY.name].value or 0)
    expected = [clip.name for clip in (*ranked, *CLIPS[57:])]
    seen = []
    for number in range(3):
        assert page.locator("#pager").inner_text().strip("‹› \n") == f"page {number + 1} of 3"
        assert page.evaluate("document.querySelectorAll('video').length") <= 24
        seen.append(names_of(page))
        if number < 2:
            page.get_by_role("button", name="Next page").click()
    assert [len(names) for names in seen] == [24, 24, 12]
    assert [name for names in seen for name in names] == expected
    assert page.get_by_role("button", name="Next page").is_disabled()
    assert page.locator("#still .flag").all_text_contents() == [
        "blank: one colour",
        "still: its consistency says nothing",
        "noise: no picture in it",
        "duplicate: the same clip for something else",
    ]
    page.locator("#metric").select_option(MOTION.name)  # sorted anew, from its first page
    assert names_of(page)[:3] == ["c56", "c55", "c54"]


def test_a_clip_of_another_page_plays_when_a_thumbnail_or_point_leads_there(
    opened: Callable[..., Any], report: Path
) -> None:
    page = opened(report)
    page.locator("#view").select_option("thumbnails")
    assert page.locator("article").count() == 0
    assert page.locator(".thumbnail").count() == 60
    assert page.locator(".thumbnail img").evaluate_all("all => all.every(image => image.naturalWidth === 32)")
    page.get_by_role("button", name="Show gray").click()
    card = page.locator('article[aria-label="Clip gray"]')
    playwright.expect(card).to_be_focused()
    card.get_by_role("button", name="Play or pause").click()
    page.wait_for_function("card => card.querySelector('video').currentTime > 0.1", arg=card.element_handle())
    page.locator('.scatter [aria-label^="c00:"]').click()
    playwright.expect(page.locator('article[aria-label="Clip c00"]')).to_be_focused()


def test_numbers_have_their_unit_and_what_is_missing_is_a_dash(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report)
    page.locator("#metric").select_option(MOTION.name)
    assert page.locator("#ranked .rank").first.text_content() == "1 of 57 · Motion 5.600\u00a0sides/s"
    assert "in sides/s" in page.locator("#ranked h3").text_content()
    rows = page.locator("#scores tbody tr:not(.more)").all_inner_texts()
    assert any("Motion" in row and "sides/s" in row for row in rows)
    assert any("Warping" in row and "no unit" in row for row in rows)
    assert page.locator("dl dd").all_text_contents() == ["runs/many", "–", "cuts, motion*"]
    flagged = page.locator("#scores .panel").last.inner_text()
    for line in ("1 of 60 clips: blank: one colour gray", "1 of 60 clips: noise: no picture in it snow"):
        assert line in flagged
    assert "null" not in page.locator("body").inner_text()
