"""The page in a real browser: Chromium, driven by playwright, with a tiny model behind it.

A long clip is one of more steps than anybody waits for: what is tested of it ends it by the page's own means.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browsing
import numpy as np
import pytest
from PIL import Image
from served import served
from tiny import tiny_dit

from videodit.models import Condition
from videodit.video import read_metadata, write_video

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytest.importorskip("gradio", reason='Gradio is not installed: pip install "videodit[app]"')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cpu("a browser on a server"),
    pytest.mark.skipif(not browsing.CHROMIUM, reason="no chromium on PATH: apt-get install chromium"),
]
PATIENCE = 120_000  # milliseconds; a loaded machine takes its time
LONG = "9999"
EMPTY = {"Seed": "0", "Clips": "1", "Frames": "", "Height": ""}
HOSTILE = 'a red circle <img src=x onerror="window.hurt=1"> {{7*7}} ${window.hurt=2} \'"&amp;'
TOO_LARGE = 200_000
# a fold that opens draws its fields anew: what a machine writes within the same frame would be lost with them
SETTLED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
playwright.expect.set_options(timeout=PATIENCE)
browser = browsing.browser


@pytest.fixture(scope="module")
def studio(tiny_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from videodit import VideoDiTPipeline
    from videodit.app.studio import Studio

    model = tiny_dit()
    model.add_conditions(
        [Condition("mask", "channels", 64, True, of="luma"), Condition("camera", "vectors", 2, True, of="numbers")]
    )
    sizes = {"default_num_frames": 9, "default_height": 32, "default_width": 32, "default_num_inference_steps": 2}
    pipe = VideoDiTPipeline(**tiny_pipe.components | {"transformer": model.to(tiny_pipe.device)}, **sizes)
    return Studio(tmp_path_factory.mktemp("studio") / "out", ["tiny"], lambda model: pipe)


@pytest.fixture(scope="module")
def address(studio: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from videodit.app import serving

    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text("<h1>A report</h1><script>document.title = 'its scripts run'</script>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "MAX_UPLOAD", TOO_LARGE)
        with served(studio, [folder], folder / "scratch") as address:
            yield address
    studio.close()


@pytest.fixture(scope="module")
def wrong() -> list[str]:
    """What no page may meet: an error, or a request to anybody else."""
    return []


@pytest.fixture(autouse=True)
def nothing_is_wrong(wrong: list[str]) -> Iterator[None]:
    yield
    met, wrong[:] = [*wrong], []
    assert met == []


@pytest.fixture(scope="module")
def user(browser: Any, address: str, wrong: list[str]) -> Iterator[Callable[..., Any]]:
    """The page of a user, each in a browser of its own: opened when first asked for, or `anew`; else as it was left.

    To open one takes seconds of a core: a test that needs no new one goes on with that of the test before.
    """
    pages: dict[str, Any] = {}

    def page_of(name: str = "one", *, anew: bool = False, **options: Any) -> Any:
        if name not in pages:
            page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options).new_page()
            page.set_default_timeout(PATIENCE)
            page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
            page.on("request", lambda one: one.url.startswith((address, "data:", "blob:")) or wrong.append(one.url))
            pages[name], anew = page, True
        for one in pages.values():
            one.evaluate("document.querySelectorAll('video').forEach(video => video.pause())")  # nobody looks
        if anew:
            pages[name].goto(address)
            pages[name].locator("#player .v-empty, #player figure").first.wait_for()  # what is there is shown
        return pages[name]

    yield page_of
    for page in pages.values():
        page.context.close()


def field(page: Any, label: str) -> Any:
    return page.get_by_label(label, exact=True).filter(visible=True)


def make(page: Any, prompt: str, steps: str = "2", **fields: str) -> None:
    """Fills all of the form that any test fills: what it holds may be of another."""
    page.get_by_role("tab", name="Prompt").click()
    if not page.get_by_label("Steps", exact=True).is_visible():
        page.get_by_role("button", name="Size, steps, guidance").click()
        page.get_by_label("Steps", exact=True).wait_for()
        page.evaluate(SETTLED)
    asked = EMPTY | {"Steps": steps, "Prompt": prompt} | fields
    for label, value in asked.items():
        field(page, label).fill(value)
    page.evaluate(SETTLED)
    for label, value in asked.items():
        playwright.expect(field(page, label)).to_have_value(value)
    page.get_by_role("button", name="Make", exact=True).click()


def status(page: Any) -> Any:
    return playwright.expect(page.locator("#status"))


def test_a_prompt_becomes_a_clip_that_plays_and_can_be_had(user: Callable[..., Any], studio: Any) -> None:
    page = user()
    make(page, HOSTILE, Seed="11")
    status(page).to_contain_text("Made")
    video = page.locator("#player video")
    page.wait_for_function("() => document.querySelector('#player video').currentTime > 0.2")
    assert video.evaluate("video => [video.videoWidth, video.videoHeight, video.loop]") == [32, 32, True]
    assert page.locator("#player .v-prompt").text_content() == HOSTILE
    assert page.evaluate("window.hurt") is None
    assert "never saw the words" in page.locator("#status .v-note").text_content()
    made = studio.entries()[0]
    assert (made.settings["prompt"], made.settings["seed"], made.settings["steps"]) == (HOSTILE, 11, 2)
    for kind in ("MP4", "GIF", "WEBP"):
        with page.expect_download() as download:
            page.locator("#player").get_by_role("link", name=kind).click()
        assert download.value.suggested_filename == f"{made.path.stem}.{kind.lower()}"
        if kind != "MP4":
            kept = download.value.path().with_suffix(f".{kind.lower()}")
            shutil.copy(download.value.path(), kept)
            assert json.loads(read_metadata(kept)["comment"]) == made.settings


def test_what_was_made_is_shown_again_made_again_and_put_into_the_form(user: Callable[..., Any], studio: Any) -> None:
    page = user()
    make(page, "a red circle moving left", Seed="5", Clips="2")
    status(page).to_contain_text("2 made")
    later = user("other", anew=True)  # another time, another page: the folder is the history
    older = studio.entries()[1]
    later.locator(f'#history button[data-name="{older.path.stem}"]').click()
    later.locator(f'#player video[src="/clips/{older.path.name}"]').wait_for()
    pressed = later.locator('#history button[aria-pressed="true"]')
    playwright.expect(pressed).to_have_attribute("data-name", older.path.stem)
    later.get_by_role("button", name="Into the form").click()
    playwright.expect(later.get_by_label("Seed", exact=True)).to_have_value("5")
    playwright.expect(later.get_by_label("Prompt", exact=True)).to_have_value("a red circle moving left")
    later.get_by_role("button", name="Again with another seed").click()
    status(later).to_contain_text("Made")
    again = studio.entries()[0].settings
    assert again["seed"] != 5
    assert {**again, "seed": 5} == older.settings


def test_a_cancel_ends_a_clip_in_its_midst_and_leaves_nothing(user: Callable[..., Any], studio: Any) -> None:
    page, before = user(), studio.entries()
    make(page, "a red circle", LONG)
    status(page).to_contain_text(f"of {LONG}")
    playwright.expect(page.get_by_role("button", name="Make", exact=True)).to_be_disabled()
    page.get_by_role("button", name="Cancel").first.click()
    status(page).to_contain_text("Stopped. Nothing was made")
    assert studio.entries() == before
    make(page, "a red circle")
    status(page).to_contain_text("Made")


@pytest.mark.parametrize(
    ("prompt", "fields", "said"),
    [
        ("a red circle", {"Frames": "8"}, "8"),  # the first: no other error that is still there says so
        ("", {}, "the prompt is empty"),
        ("a red circle", {"Frames": "8.5"}, "num_frames 8.5 must be a valid integer"),
        ("a red circle", {"Height": "33"}, "33"),
    ],
)
def test_a_wrong_input_is_told_beside_the_form_and_nothing_that_was_typed_is_lost(
    prompt: str, fields: dict[str, str], said: str, user: Callable[..., Any]
) -> None:
    page = user()
    make(page, prompt, **fields)
    error = page.locator("#status .v-error")
    playwright.expect(error).to_contain_text(said)
    assert error.get_attribute("role") == "alert"
    for label, value in ({"Prompt": prompt} | fields).items():
        assert field(page, label).input_value() == value
    playwright.expect(page.get_by_role("button", name="Make", exact=True)).to_be_enabled()


def test_uploads_are_shown_and_what_is_none_or_too_large_is_told(
    user: Callable[..., Any], studio: Any, tmp_path: Path
) -> None:
    page = user()
    page.get_by_role("button", name="Begin, end, go on, loop").click()
    first = page.locator(".v-file input[type=file]").first
    (tmp_path / "none.png").write_text("no picture at all")
    first.set_input_files(tmp_path / "none.png")
    status(page).to_contain_text("none.png")
    playwright.expect(page.locator("#status .v-error")).to_contain_text("upload another picture")
    page = user(anew=True)
    page.get_by_role("button", name="Begin, end, go on, loop").click()
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > TOO_LARGE
    page.locator(".v-file input[type=file]").first.set_input_files(tmp_path / "large.png")
    playwright.expect(page.get_by_text("exceed").first).to_be_visible()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    write_video(tmp_path / "end.mp4", np.zeros((9, 32, 32, 3), np.uint8), 8)
    page = user(anew=True)
    page.get_by_role("button", name="Begin, end, go on, loop").click()
    page.locator(".v-file input[type=file]").first.set_input_files(tmp_path / "red.png")
    playwright.expect(page.locator("#given img")).to_have_js_property("naturalWidth", 32)
    make(page, "a red circle")
    status(page).to_contain_text("Made")
    assert Path(studio.entries()[0].settings["image"]).parent == studio.out / "given"


def test_what_the_model_is_told_besides_is_in_the_form_and_of_the_clip(
    user: Callable[..., Any], studio: Any, tmp_path: Path
) -> None:
    write_video(tmp_path / "mask.mp4", np.zeros((9, 32, 32, 3), np.uint8), 8)
    page = user("told")
    page.get_by_role("button", name="Told besides").click()
    field(page, "camera").wait_for()
    page.evaluate(SETTLED)
    field(page, "camera").fill("[1, 2, 3]")
    make(page, "a red circle")
    status(page).to_contain_text("numbers of shape (1, 3); give (2,) finite ones")
    field(page, "camera").fill("[1, 2]")
    page.locator(".v-file input[type=file]").last.set_input_files(tmp_path / "mask.mp4")
    page.locator(".v-file a[href*='mask.mp4']").wait_for()  # it is had, not on its way
    make(page, "a red circle")
    status(page).to_contain_text("Made")
    assert studio.entries()[0].settings["conditions"][1] == "camera=[1, 2]"
    assert studio.entries()[0].settings["conditions"][0].startswith(f"mask={studio.out / 'given'}")


def test_a_page_that_is_closed_in_the_midst_of_a_clip_is_taken_up_by_the_next(user: Callable[..., Any]) -> None:
    page = user()
    make(page, "a red circle", LONG)
    status(page).to_contain_text(f"of {LONG}")
    page.reload()
    status(page).to_contain_text(f"of {LONG}")
    page.get_by_role("button", name="Cancel").first.click()
    status(page).to_contain_text("Stopped")


def test_two_users_take_turns_and_each_stops_only_what_is_theirs(user: Callable[..., Any], studio: Any) -> None:
    one, other = user(), user("other")
    make(one, "a red circle", LONG)
    status(one).to_contain_text(f"of {LONG}")
    make(other, "two blue stars")
    status(other).to_contain_text("Waiting for its turn: 1 ahead")
    other.get_by_role("button", name="Cancel").first.click()
    status(other).to_contain_text("Stopped")
    status(one).to_contain_text(f"of {LONG}")
    make(other, "two blue stars")
    status(other).to_contain_text("Waiting for its turn: 1 ahead")
    one.get_by_role("button", name="Cancel").first.click()
    status(one).to_contain_text("Stopped")
    status(other).to_contain_text("Made")
    assert studio.entries()[0].settings["prompt"] == "two blue stars"


def test_two_ways_to_sample_are_compared_blind(user: Callable[..., Any], studio: Any) -> None:
    page = user()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("Prompts, one a line").fill("a red circle\ntwo blue stars")
    page.get_by_label("One side: steps").fill("1")
    page.get_by_label("The other: steps").fill("2")
    page.get_by_role("button", name="Told besides").filter(visible=True).click()
    field(page, "camera").fill("[3, 4]")
    page.get_by_role("button", name="Make pairs", exact=True).last.click()
    pair = page.locator("#pair")
    playwright.expect(pair).to_contain_text("2 to vote on")
    page.wait_for_function("() => [...document.querySelectorAll('#pair video')].every(one => one.currentTime > 0.1)")
    assert pair.locator("video").count() == 2
    shown = pair.inner_html()
    assert "steps" not in shown
    assert "tiny" not in shown
    page.get_by_role("button", name="Left is better").click()
    playwright.expect(pair).to_contain_text("1 to vote on")
    page.get_by_role("button", name="The same").click()
    playwright.expect(pair).to_contain_text("No pair waits")
    assert [one.choice for one in studio.votes().pairs] == ["first", "same"]
    told = {(*clip.settings["conditions"],) for one in studio.votes().pairs for clip in studio.clips(one)}
    assert told == {("camera=[3, 4]",)}
    page.get_by_role("button", name="Votes so far").click()
    page.get_by_role("button", name="Show", exact=True).click()
    won = studio.votes().pairs[0].sides[0]
    playwright.expect(page.locator("#votes td").nth(2)).to_have_text("75%" if "steps=1" in won else "25%")


def test_a_report_is_shown_and_reaches_nothing_of_the_page(user: Callable[..., Any]) -> None:
    page = user()
    page.get_by_role("tab", name="Report").click()
    inside = page.frame_locator("iframe.v-report")
    playwright.expect(inside.locator("h1")).to_have_text("A report")
    assert page.title() == "videodit"
    assert page.locator("iframe.v-report").get_attribute("sandbox") == "allow-scripts"


def test_each_word_of_a_prompt_plays_beside_its_clip(user: Callable[..., Any], studio: Any) -> None:
    page = user()
    page.get_by_role("tab", name="Words").click()
    words = ["a", "red", "circle", "moving", "left"]
    page.get_by_label("Prompt to look into").fill(" ".join(words))
    page.get_by_label("Its frames").fill("5")
    page.get_by_role("button", name="Make, and look").click()
    figures = page.locator("#attention figure")
    playwright.expect(figures).to_have_count(1 + len(words))
    assert figures.locator("b").all_text_contents() == [" ".join(words), *words]
    page.wait_for_function("() => [...document.querySelectorAll('#attention video')].every(one => one.currentTime > 0)")
    again = user(anew=True)  # what was looked into last is there when the page is opened
    again.get_by_role("tab", name="Words").click()
    playwright.expect(again.locator("#attention figure")).to_have_count(6)


def test_the_page_is_as_wide_in_each_tab(user: Callable[..., Any]) -> None:
    page, places = user(), []
    for name in ("Prompt", "Compare", "Words", "Report"):
        page.get_by_role("tab", name=name).click()
        playwright.expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        tabs = page.get_by_role("tablist").bounding_box()
        places.append((tabs["x"], tabs["width"]))
    assert places == [places[0]] * 4


@pytest.mark.parametrize(
    ("name", "look"),
    [("one", {}), ("phone", {"viewport": {"width": 390, "height": 844}}), ("dark", {"color_scheme": "dark"})],
)
def test_nothing_runs_over_the_side_and_axe_finds_nothing_serious(
    name: str, look: dict[str, Any], user: Callable[..., Any]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    page = user(name, **look)
    for tab in ("Prompt", "Compare", "Words", "Report"):
        page.get_by_role("tab", name=tab).click()
        for fold in page.locator(".v-fold > button").all():
            if fold.is_visible() and "open" not in (fold.get_attribute("class") or ""):
                fold.click()
        page.wait_for_function("() => document.getAnimations().every(one => one.playState !== 'running')")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        found = axe.Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious] == []
