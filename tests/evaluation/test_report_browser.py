"""The report in a real browser: it plays, the playhead follows, nothing complains."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reports import frames_of, full_example

from videodit.evaluation.report import write_report

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="no chromium here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results, other = full_example()
    file = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(file, results, frames_of, other=other, other_frames=frames_of)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright drives the browser: pip install playwright"
    )
    with sync_api.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=BROWSER, args=list(QUIET))
        yield one
        one.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The open report; at its end there must have been no complaint and no request to anywhere."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    one = context.new_page()
    one.on("console", lambda message: complaints.append(message.text))
    one.on("pageerror", lambda error: complaints.append(str(error)))
    one.on(
        "request", lambda asked: complaints.append(asked.url) if asked.url.startswith(("http", "ws", "ftp")) else None
    )
    one.goto(report.as_uri())
    yield one
    context.close()
    assert complaints == []


def card(page: Any, name: str) -> Any:
    found = page.locator(f'article[aria-label="Clip {name}"]')
    found.scroll_into_view_if_needed()
    page.wait_for_function(
        "card => [...card.querySelectorAll('video')].every(v => v.readyState >= 2)", arg=found.element_handle()
    )
    return found


def shown_frame(page: Any, found: Any, side: int = 0) -> int:
    """Which frame the video shows, by the gray strip at its bottom."""
    video = found.locator("video").nth(side).element_handle()
    page.wait_for_function("video => !video.seeking && video.readyState >= 2", arg=video)
    gray = video.evaluate(
        """video => { const canvas = document.createElement("canvas");
        canvas.width = video.videoWidth; canvas.height = video.videoHeight;
        const context = canvas.getContext("2d"); context.drawImage(video, 0, 0);
        return context.getImageData(canvas.width / 2, canvas.height - 6, 1, 1).data[0]; }"""
    )
    return round(gray / 15)


def head(found: Any, side: int = 0) -> dict[str, str]:
    return found.locator("[data-frame][data-value]").nth(side).evaluate("node => ({...node.dataset})")


def test_a_clip_plays_and_the_playhead_moves_with_it(page: Any) -> None:
    found = card(page, "a_red_disc.mp4")
    found.get_by_role("button", name="Play or pause").click()
    video = found.locator("video").first.element_handle()
    page.wait_for_function("video => video.currentTime > 0.3", arg=video)
    readout = found.locator("[data-frame][data-value]").first.element_handle()
    page.wait_for_function("node => Number(node.dataset.frame) >= 3", arg=readout)
    found.get_by_role("button", name="Play or pause").click()
    page.wait_for_function("video => video.paused && !video.seeking", arg=video)
    frame = shown_frame(page, found)
    page.wait_for_function("([node, frame]) => Number(node.dataset.frame) === frame", arg=[readout, frame])


@pytest.mark.parametrize("name", ["jump.mp4", "odd.mp4", "large.mp4"])
def test_steps_and_worst_moments_show_the_very_frame_and_its_value(page: Any, name: str) -> None:
    results, _ = full_example()
    clip = next(clip for clip in results.clips if clip.name == name)
    curve = clip.scores["consistency_consecutive"].curve
    found = card(page, name)
    for _ in range(3):
        found.get_by_role("button", name="One frame on").click()
    assert head(found)["frame"] == "3"
    assert float(head(found)["value"]) == curve[3]
    assert shown_frame(page, found) == 3
    worst = next(moment for moment in clip.worst if moment.metric == "consistency_consecutive")
    found.locator(f'.moments button[data-frame="{worst.frame}"]').first.click()
    assert shown_frame(page, found) == worst.frame
    assert (head(found)["frame"], float(head(found)["value"])) == (str(worst.frame), worst.value)


def test_a_click_on_the_curve_goes_there(page: Any) -> None:
    found = card(page, "jump.mp4")
    plot = found.get_by_role("slider")
    box = plot.bounding_box()
    plot.click(position={"x": box["width"] * 0.9, "y": box["height"] / 2})
    there = int(head(found)["frame"])
    assert there >= 12
    assert shown_frame(page, found) == there
    assert plot.get_attribute("aria-valuenow") == str(there)
    plot.press("ArrowLeft")
    assert head(found)["frame"] == str(there - 1)


def order(page: Any, group: str) -> list[str]:
    return page.locator(f"#{group} article h4").all_text_contents()


def test_clips_are_worst_first_by_the_measure_chosen_and_still_ones_are_flagged_apart(page: Any) -> None:
    results, _ = full_example()

    def expected(metric: str, sign: int) -> list[str]:
        fair = [c for c in results.clips if "still" not in c.flags and c.scores[metric].value is not None]
        return [c.name for c in sorted(fair, key=lambda c: sign * (c.scores[metric].value or 0))]

    assert order(page, "ranked") == expected("consistency_consecutive", 1)
    page.locator("#metric").select_option("warping_error")
    assert order(page, "ranked") == expected("warping_error", -1)
    assert order(page, "still") == ["still.mp4"]
    assert "says nothing" in page.locator("#still .flag").first.text_content()


def test_a_pair_stands_side_by_side_and_goes_together(page: Any) -> None:
    found = card(page, "jump.mp4")
    assert found.locator("video").count() == 2
    found.get_by_role("button", name="One frame on").click()
    assert (head(found)["frame"], head(found, 1)["frame"]) == ("1", "1")
    assert (shown_frame(page, found), shown_frame(page, found, 1)) == (1, 1)


def test_texts_of_the_data_are_read_and_never_run(page: Any) -> None:
    found = card(page, "hostile.mp4")
    assert found.locator(".prompt").text_content().startswith("<img src=x onerror=")
    assert page.evaluate("window.hurt") is None


def test_a_point_of_the_plot_leads_to_its_clip_and_everything_is_told(page: Any) -> None:
    assert page.locator("#motion svg a, #motion svg [role=link], #motion svg [tabindex]").count() >= 7
    text = page.locator("body").inner_text()
    for told in (
        "broken.mp4",
        "the file ends in the middle of a frame",
        "CLIP text alignment",
        "no weights: pass clip",
    ):
        assert told in text
    assert "undefined" not in text
    assert "NaN" not in text
