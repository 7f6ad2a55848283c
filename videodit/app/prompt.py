"""The tab of prompts: a form with what the command line has, the clip, and those that were made before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from videodit.app import looks
from videodit.app.asked import again, requests_of, sampling_of
from videodit.app.form import PICTURE, VIDEO, Form
from videodit.app.studio import Studio
from videodit.app.work import Job
from videodit.clipset.requests import FILES

CHOOSE = """element.addEventListener("click", event => {
  const button = event.target.closest("button[data-name]");
  if (button) trigger("select", {value: button.dataset.name});
});"""
EMPTY: dict[str, Any] = {"loop": False, "count": "1"}


def prompt_tab(studio: Studio, blocks: gr.Blocks) -> None:
    with gr.Row(elem_classes="v-columns"):
        with gr.Column(scale=5, min_width=320):
            asked, make, stop, given = _form(studio)
            form, uploads = asked.fields, asked.uploads
        with gr.Column(scale=4, min_width=320, elem_classes="v-beside"):
            status = gr.HTML(elem_id="status", container=False)
            player = gr.HTML(elem_id="player")
            with gr.Row():
                another = gr.Button("Again with another seed", size="md", scale=2, min_width=180, interactive=False)
                take = gr.Button("Into the form", size="md", min_width=110, interactive=False)
    gr.Markdown("## Made so far", elem_classes="v-title")
    history = gr.HTML(elem_id="history", js_on_load=CHOOSE)
    chosen = gr.State()
    shown = [status, player, history, chosen, make, stop, another, take]

    def follow(job: Job) -> Iterator[dict[Any, Any]]:
        made = 0
        for _ in job.changes():
            news = {
                status: looks.progress(job, studio.worker.ahead(job)),
                make: gr.Button(interactive=job.ended),
                stop: gr.Button(interactive=not job.ended),
            }
            if len(job.made) > made:
                made = len(job.made)
                news |= show(job.made[-1].stem if job.made[-1].parent == studio.out else None)
            yield news

    def show(name: str | None) -> dict[Any, Any]:
        entries = studio.entries()
        entry = studio.entry(name) if name else next(iter(entries), None)
        named = None if entry is None else entry.path.stem
        return {
            player: looks.player(entry),
            history: looks.history(entries, named),
            chosen: named,
            another: gr.Button(interactive=entry is not None),
            take: gr.Button(interactive=entry is not None),
        }

    def begin(owner: str, said: Callable[[], dict[str, Any]]) -> Iterator[dict[Any, Any]]:
        try:
            values = said()
            job = studio.make(owner, requests_of(values), sampling_of(values), values.get("model"))
        except (ValueError, OSError) as error:
            yield {status: looks.failure(error)}
            return
        yield from follow(job)

    def from_form(request: gr.Request, *values: Any) -> Iterator[dict[Any, Any]]:
        yield from begin(str(request.session_hash), lambda: asked.values(values))

    def from_clip(request: gr.Request, name: str) -> Iterator[dict[Any, Any]]:
        entry = studio.entry(name)
        if entry is None:
            yield {status: looks.failure(f"{name}: the clip is gone from {studio.out}")}
            return
        yield from begin(str(request.session_hash), lambda: again(entry.settings))

    def opened(request: gr.Request) -> Iterator[dict[Any, Any]]:
        """What is there, and the jobs of pages that were closed, which are this one's now."""
        yield show(None)
        for job in studio.worker.adopt(str(request.session_hash)):
            yield from follow(job)

    def into_form(name: str) -> list[Any]:
        entry = studio.entry(name)
        values = again(entry.settings, entry.settings.get("seed", 0)) if entry else {}
        return [values.get(field, None if field in uploads else EMPTY.get(field, "")) for field in form]

    def look(event: gr.EventData) -> dict[Any, Any]:
        return show(event.value)

    def cancel(request: gr.Request) -> None:
        studio.worker.cancel(str(request.session_hash))

    def closed(request: gr.Request) -> None:
        studio.worker.leave(str(request.session_hash))

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    fields = list(form.values())
    gr.on([make.click, form["prompt"].submit], from_form, fields, shown, **private)
    another.click(from_clip, chosen, shown, **private)
    take.click(into_form, chosen, fields, **private)
    history.select(look, None, shown, **private)
    stop.click(cancel, None, None, **private)
    blocks.load(opened, None, shown, **private)
    blocks.unload(closed)
    for name in FILES:
        form[name].change(_kept(studio), [form[one] for one in FILES], [given, status], **private)


def _form(studio: Studio) -> tuple[Form, gr.Button, gr.Button, gr.HTML]:
    """The fields, the two buttons, and where the given pictures are shown."""
    asked = Form(studio)
    form, own, number, file = asked.fields, asked.own, asked.number, asked.file

    form["prompt"] = gr.Textbox(label="Prompt", lines=2, placeholder="face with tears of joy on a blue background")
    with gr.Row():
        number("seed", "Seed", value="0")
        number("count", "Clips", value="1")
        number("num_frames", "Frames")
    with gr.Row():
        make = gr.Button("Make", variant="primary", min_width=120)
        stop = gr.Button("Cancel", interactive=False, min_width=120)
    with gr.Accordion("Size, steps, guidance", open=False, elem_classes="v-fold"):
        gr.Markdown("What is left empty is the model's own.", elem_classes="v-hint")
        several = len(studio.models) > 1
        form["model"] = gr.Dropdown(studio.models, value=studio.models[0], label="Model", visible=several)
        with gr.Row():
            number("height", "Height")
            number("width", "Width")
            number("fps", "Frames a second")
        with gr.Row():
            number("steps", "Steps")
            number("guidance_scale", "Guidance")
            number("guidance_rescale", "Guidance rescale")
        form["negative_prompt"] = gr.Textbox(label="Away from (negative prompt)")
        with gr.Row():
            form["scheduler"] = gr.Textbox(label="Scheduler", placeholder=own["scheduler"], max_lines=1, min_width=140)
            form["cache"] = gr.Textbox(label="Feature cache", placeholder="none", max_lines=1, min_width=140)
    with gr.Accordion("Begin, end, go on, loop", open=False, elem_classes="v-fold"):
        gr.Markdown(
            "A model must have been trained for given frames; the packaged one has been.", elem_classes="v-hint"
        )
        with gr.Row():
            file("image", "First image", PICTURE)
            file("last_image", "Last image", PICTURE)
        with gr.Row():
            file("video", "Video to go on from, or remake", VIDEO)
            file("last_video", "Video to lead to", VIDEO)
        given = gr.HTML(elem_id="given")
        with gr.Row():
            number("given_frames", "Video frames", hint="1")
            number("last_given_frames", "Last video frames")
            number("strength", "Strength", hint="0 to 1")
        form["loop"] = gr.Checkbox(label="Loop: the clip goes on from its end to its beginning")
        with gr.Row():
            number("overlap", "Overlap", hint="frames")
            number("window", "Window", hint="frames")
            number("image_guidance_scale", "Image guidance", hint="1")
    asked.told()
    return asked, make, stop, given


def _kept(studio: Studio) -> Callable[..., Any]:
    """What was uploaded, looked at as soon as it is there."""

    def look(*files: str | None) -> tuple[str, str]:
        kept: list[tuple[str, Path]] = []
        wrong = []
        for name, file in zip(FILES, files, strict=True):
            try:
                if file:
                    kept.append((name.replace("_", " "), studio.given(name, file)))
            except (ValueError, OSError) as error:
                wrong.append(str(error))
        return looks.given(kept), "".join(map(looks.failure, wrong))

    return look
