"""The report in a real browser: Chromium, driven by playwright, opens the file from disk.

The page's policy forbids eval, so what is waited for is written as a function: an expression would be evaluated.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM
from reports import CONSISTENCY, HOSTILE, MOTION, WARPING, clip_result, frames_of, full_example, results_of

from videodit.evaluation.report.page import write_report
from videodit.evaluation.report.results import ClipResult

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH: apt-get install chromium"),
]

RESULTS, OTHER = full_example()
CLIPS = {clip.name: clip for clip in RESULTS.clips}
# The gray of the strip at the bottom of the picture on screen, which is 15 times the frame's number.
STRIP_ON_SCREEN = """video => {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  const picture = canvas.getContext("2d");
  picture.drawImage(video, 0, 0);
  return picture.getImageData(canvas.width / 2, canvas.height - 5, 1, 1).data[1];
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(path, RESULTS, frames_of, other=OTHER, other_frames=frames_of)


def card_of(page: Any, name: str) -> Any:
    """The card, in view and with its videos ready to play."""
    card = page.locator(f'article[aria-label="Clip {name}"]')
    card.scroll_into_view_if_needed()
    page.wait_for_function(
        "card => [...card.querySelectorAll('video')].every(video => video.readyState >= 2 && !video.seeking)",
        arg=card.element_handle(),
    )
    return card


def wait_for_frame(page: Any, card: Any, frame: int, *, readout: int = 0) -> None:
    """Until the read-out and the picture on screen both are at a frame."""
    page.wait_for_function(
        f"""([card, frame, i]) => {{
          const video = card.querySelectorAll("video")[i], said = card.querySelectorAll(".readout")[i].dataset.frame;
          return !video.seeking && Number(said) === frame && Math.round(({STRIP_ON_SCREEN})(video) / 15) === frame;
        }}""",
        arg=[card.element_handle(), frame, readout],
    )


def value_said(card: Any, readout: int = 0) -> float | None:
    said = card.locator(".readout").nth(readout).get_attribute("data-value")
    return float(said) if said else None


def order_of(page: Any, group: str = "ranked") -> list[str]:
    return page.locator(f"#{group} h4").all_text_contents()


def curve_point(card: Any, frame: int, clip: ClipResult) -> tuple[float, float]:
    """Where on the page a frame lies on the plot's time axis, by the tick labels on either side."""
    ticks = card.locator(".plot").evaluate(
        """svg => [...svg.querySelectorAll("text[text-anchor=middle]")].map(text => {
          const box = text.getBoundingClientRect();
          return [Number(text.textContent), box.left + box.width / 2];
        })"""
    )
    (t0, x0), (t1, x1) = ticks[0], ticks[-1]
    box = card.locator(".plot").bounding_box()
    return x0 + (frame / clip.fps - t0) * (x1 - x0) / (t1 - t0), box["y"] + box["height"] / 2


def test_it_opens_with_every_clip_and_picture(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report)
    playwright.expect(page.locator("article")).to_have_count(len(CLIPS))
    for image in page.locator("img").all():
        playwright.expect(image).to_have_js_property("complete", True)
        playwright.expect(image).not_to_have_js_property("naturalWidth", 0)
    text = page.locator("body").inner_text()
    assert "undefined" not in text
    assert "NaN" not in text
    assert "null" not in text


def test_every_video_plays(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report)
    for name, clip in CLIPS.items():
        card = card_of(page, name)
        if clip.num_frames == 1:
            assert card.locator("video").count() == 0
            assert card.locator("img").evaluate("image => image.naturalWidth") == clip.width
            continue
        for video in card.locator("video").all():
            assert video.evaluate("video => video.currentTime") < 0.1
        card.get_by_role("button", name="Play or pause").click()
        page.wait_for_function(
            "card => [...card.querySelectorAll('video')].every(video => video.currentTime > 0.2)",
            arg=card.element_handle(),
        )
        card.get_by_role("button", name="Play or pause").click()
        assert card.locator("video").first.evaluate("video => video.paused")


@pytest.mark.parametrize("name", ["hostile.mp4", "odd.mp4", "large.mp4"])
def test_each_frame_sought_is_the_frame_on_screen_and_its_value_the_results(
    name: str, opened: Callable[..., Any], report: Path
) -> None:
    page = opened(report)
    card, clip = card_of(page, name), CLIPS[name]
    card.focus()
    for frame in [*range(1, clip.num_frames), 0]:  # one step beyond the last begins anew
        page.keyboard.press("ArrowRight")
        wait_for_frame(page, card, frame)
        assert value_said(card) == clip.scores[CONSISTENCY.name].curve[frame]
        assert card.locator(".plot").get_attribute("aria-valuenow") == str(frame)
    page.keyboard.press("ArrowLeft")
    wait_for_frame(page, card, clip.num_frames - 1)


def test_while_it_plays_the_playhead_goes_with_the_picture(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report)
    card = card_of(page, "hostile.mp4")
    card.evaluate(
        f"""card => {{
          const video = card.querySelector("video"), strip = {STRIP_ON_SCREEN};
          window.seen = [];
          const look = (_, shown) => {{
            const line = card.querySelector(".head line").getAttribute("x1");
            const dot = card.querySelector(".dot").getAttribute("cx");
            seen.push([Math.round(shown.mediaTime * {CLIPS["hostile.mp4"].fps}), Math.round(strip(video) / 15),
              Number(card.querySelector(".readout").dataset.frame), Number(line), Number(dot)]);
            video.requestVideoFrameCallback(look);
          }};
          video.requestVideoFrameCallback(look);
        }}"""
    )
    card.focus()
    page.keyboard.press("Space")
    page.wait_for_function("() => new Set(seen.map(([frame]) => frame)).size >= 10")
    page.keyboard.press("Space")
    playwright.expect(card.get_by_role("button", name="Play or pause")).to_have_text("Play")
    seen = page.evaluate("seen")
    exact = [said == true for true, _, said, _, _ in seen]
    assert all(exact)
    # A canvas may get the next picture already when the machine is slow: nearly all agree.
    assert sum(drawn == true for true, drawn, *_ in seen) >= 0.7 * len(seen)
    places = {said: x for _, _, said, x, _ in seen}
    inside = [places[frame] for frame in sorted(places)]
    assert inside == sorted(inside)
    assert len(set(inside)) == len(inside)
    assert all(x == cx for _, _, said, x, cx in seen)


def test_a_click_or_drag_on_the_curve_seeks(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report)
    card, clip = card_of(page, "large.mp4"), CLIPS["large.mp4"]
    for frame in (9, 3, clip.num_frames - 1):
        page.mouse.click(*curve_point(card, frame, clip))
        wait_for_frame(page, card, frame)
        assert value_said(card) == clip.scores[CONSISTENCY.name].curve[frame]
    page.mouse.move(*curve_point(card, 2, clip))
    page.mouse.down()
    for frame in (4, 6, 11):
        page.mouse.move(*curve_point(card, frame, clip))
        wait_for_frame(page, card, frame)
    page.mouse.up()
    page.mouse.move(*curve_point(card, 1, clip))
    wait_for_frame(page, card, 11)


def test_worst_moments_are_marked_listed_with_two_pictures_and_lead_there(
    opened: Callable[..., Any], report: Path
) -> None:
    page = opened(report)
    card, clip = card_of(page, "jump.mp4"), CLIPS["jump.mp4"]
    for metric in (CONSISTENCY, WARPING):
        page.locator("#metric").select_option(metric.name)
        moments = [moment for moment in clip.worst if moment.metric == metric.name]
        card = card_of(page, clip.name)
        assert card.locator(".worst").count() == len(moments) == 2
        for moment, button in zip(moments, card.locator(".moments button").all(), strict=True):
            assert button.locator("img").count() == 2
            assert f"frame {moment.frame} · {moment.time:.2f} s" in button.text_content()
            assert f"z {moment.z:.1f}" in button.text_content()
            button.click()
            wait_for_frame(page, card, moment.frame)
            assert value_said(card) == moment.value


def test_a_pair_stays_in_step_and_the_shorter_waits_on_its_last_frame(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report)
    card = card_of(page, "jump.mp4")
    theirs = OTHER.clips[1]
    assert card.locator(".curve").count() == 2
    card.focus()
    for frame in range(1, 14):
        page.keyboard.press("ArrowRight")
        wait_for_frame(page, card, frame)
        wait_for_frame(page, card, min(frame, 10), readout=1)
        assert value_said(card, 1) == theirs.scores[CONSISTENCY.name].curve[min(frame, 10)]
    page.keyboard.press("ArrowLeft")
    wait_for_frame(page, card, 12)
    page.keyboard.press("Space")  # on over the end, and both begin anew
    page.wait_for_function(
        """card => { const [a, b] = card.querySelectorAll("video");
          return a.currentTime > 0.4 && a.currentTime < 1 && Math.abs(a.currentTime - b.currentTime) < 0.13; }""",
        arg=card.element_handle(),
    )
    # Paused while the partner is elsewhere, both come to the same frame.
    card.evaluate(
        'card => { const [a, b] = card.querySelectorAll("video"); b.currentTime = 1.3; a.pause(); b.pause(); }'
    )
    page.wait_for_function(
        """card => { const [a, b] = [...card.querySelectorAll(".readout")].map(said => Number(said.dataset.frame));
          return Math.min(a, 10) === b && [...card.querySelectorAll("video")].every(video => video.paused); }""",
        arg=card.element_handle(),
    )


def test_the_measure_chosen_orders_the_clips_worst_first(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report)
    moving = [c for c in RESULTS.clips if "still" not in c.flags and c.num_frames > 1]

    def by(metric: str, *, highest_first: bool) -> list[str]:
        ordered = sorted(moving, key=lambda c: c.scores[metric].value or 0, reverse=highest_first)
        return [clip.name for clip in ordered]

    consistency = by(CONSISTENCY.name, highest_first=False)
    assert order_of(page) == consistency
    places = [text.split(" · ")[0] for text in page.locator("#ranked .rank").all_text_contents()]
    assert places == [f"{i} of 6" for i in range(1, 7)]
    page.locator("#metric").select_option(MOTION.name)
    assert order_of(page) == by(MOTION.name, highest_first=True)
    assert order_of(page) != consistency
    assert "neither way is better" in page.locator("#ranked h3").text_content()
    page.locator("#metric").select_option(WARPING.name)
    assert order_of(page) == by(WARPING.name, highest_first=True)
    assert order_of(page, "without") == ["picture.png"]
    assert "needs two frames" in page.locator("#without .rank").text_content()


def test_a_still_clip_is_flagged_and_never_ranked(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report)
    for metric in (CONSISTENCY, WARPING, MOTION):
        page.locator("#metric").select_option(metric.name)
        assert order_of(page, "still") == ["still.mp4"]
        assert "still.mp4" not in order_of(page)
    assert "its consistency says nothing" in page.locator("#still .flag").text_content()
    assert " of " not in page.locator("#still .rank").text_content()
    assert page.locator('.scatter [aria-label^="still.mp4"].still').count() == 1
    assert page.locator(".scatter .mark.still").count() == 1


def test_a_point_of_the_motion_plot_leads_to_its_clip(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report)
    page.locator('.scatter [aria-label^="frozen.mp4"]').click()
    card = page.locator('article[aria-label="Clip frozen.mp4"]')
    playwright.expect(card).to_be_focused()
    playwright.expect(card).to_be_in_viewport()
    assert "1 clip without both values" in page.locator(".legend").text_content()


def test_markup_in_the_data_is_text(opened: Callable[..., Any], tmp_path: Path) -> None:
    clip = clip_result("a.mp4", 0.9, 1, prompt=HOSTILE).model_copy(update={"name": HOSTILE})
    results = results_of([clip], settings={HOSTILE: HOSTILE})
    page = opened(write_report(tmp_path / "r.html", results, lambda clip: None))
    assert page.evaluate("window.hurt") is None
    assert page.locator(".prompt").text_content() == page.locator("h4").text_content() == HOSTILE
    assert page.locator("img").count() == 0
    assert "its frames are not to be had here" in page.locator(".missing").text_content()


def test_numbers_and_what_is_missing_are_all_said(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report)
    text = " ".join(page.locator("#scores").all_inner_texts())
    for expected in (
        "0.9225 [0.9025, 0.9375]",
        "1 still, 1 without a value",
        "412.5",
        "388.2",
        "no weights: pass clip=openai/clip-vit-base-patch32 or a folder",
        "broken.mp4: the file ends in the middle of a frame",
    ):
        assert expected in text
    compared = page.locator("#compared").inner_text()
    for expected in ("runs/old", "+0.03100", "2 – 0 – 0", "no clear difference", "fewer than two pairs have it"):
        assert expected in compared
    row = page.get_by_role("button", name=CONSISTENCY.title).first
    row.click()
    assert RESULTS.summaries[CONSISTENCY.name].signature in page.locator("#scores").inner_text()
    assert CONSISTENCY.definition in page.locator("#scores").inner_text()
    page.locator(".signature button:visible").click()
    playwright.expect(page.locator(".signature button:visible")).to_have_text("Copied")


def test_play_all_and_speed(opened: Callable[..., Any], report: Path) -> None:
    page = opened(report)
    card_of(page, "large.mp4")
    page.locator("#speed").select_option("0.25")
    page.locator("#all").click()
    card = card_of(page, "large.mp4")
    page.wait_for_function("card => !card.querySelector('video').paused", arg=card.element_handle())
    assert card.locator("video").evaluate("video => video.playbackRate") == 0.25
    page.locator("#all").click()
    assert page.evaluate("[...document.querySelectorAll('video')].every(video => video.paused)")


@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_runs_over_the_side(width: int, opened: Callable[..., Any], report: Path) -> None:
    page = opened(report, (width, 800))
    page.locator("details").first.evaluate(
        "() => document.querySelectorAll('details').forEach(each => each.open = true)"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
