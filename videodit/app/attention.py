"""The tab of words: a clip, and for each word of its prompt where and when the model looked at it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from videodit.app import looks
from videodit.app.asked import requests_of, sampling_of
from videodit.app.form import Form
from videodit.app.studio import Studio


def attention_tab(studio: Studio, blocks: gr.Blocks) -> None:
    gr.Markdown(
        "Each word's clip is bright where and when places of the clip attended to it, over all blocks, heads and "
        "steps.",
        elem_classes="v-hint",
    )
    form = Form(studio)
    prompt = gr.Textbox(label="Prompt to look into", placeholder="dog face on a blue background", max_lines=2)
    form.fields["prompt"] = prompt
    with gr.Row():
        form.number("seed", "Its seed", "0")
        form.number("num_frames", "Its frames")
    form.told()
    with gr.Row():
        make = gr.Button("Make, and look", variant="primary", min_width=140)
        stop = gr.Button("Cancel", interactive=False, min_width=120)
    status = gr.HTML(elem_id="attention-status")
    shown = gr.HTML(elem_id="attention")
    outputs = [status, shown, make, stop]

    def begin(request: gr.Request, *said: Any) -> Iterator[dict[Any, Any]]:
        try:
            values = form.values(said)
            job = studio.make(str(request.session_hash), requests_of(values), sampling_of(values), attention=True)
        except (ValueError, OSError) as error:
            yield {status: looks.failure(error)}
            return
        for _ in job.changes():
            busy = {make: gr.Button(interactive=job.ended), stop: gr.Button(interactive=not job.ended)}
            yield {status: looks.progress(job, studio.worker.ahead(job)), **busy}
        yield {shown: latest()}

    def latest() -> str:
        watched = ((entry, studio.words(entry)) for entry in studio.entries())
        return next((looks.words(entry, words) for entry, words in watched if words), looks.UNWATCHED)

    def cancel(request: gr.Request) -> None:
        studio.worker.cancel(str(request.session_hash))

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    gr.on([make.click, prompt.submit], begin, list(form.fields.values()), outputs, **private)
    stop.click(cancel, None, None, **private)
    blocks.load(latest, None, shown, **private)
