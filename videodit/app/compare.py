"""The tab of comparisons: two models, or two ways to sample from one, on the same prompts and seeds, voted on blind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from videodit.app import looks
from videodit.app.asked import requests_of, sampling_of
from videodit.app.form import Form
from videodit.app.studio import Side, Studio
from videodit.evaluation.report.votes import Pair, preferences

CHOICES = {"Left is better": "first", "The same": "same", "Right is better": "second"}


def compare_tab(studio: Studio, blocks: gr.Blocks) -> None:
    form = Form(studio)
    with gr.Accordion("Make pairs", elem_classes="v-fold"):
        prompts = gr.Textbox(label="Prompts, one a line", lines=4)
        with gr.Row():
            form.number("seed", "First seed", "0")
            form.number("count", "Seeds a prompt", "1")
            form.number("num_frames", "Frames")
        form.told()
        with gr.Row():
            sides = [_side(form, "One side", 0), _side(form, "The other", -1)]
        with gr.Row():
            make = gr.Button("Make pairs", variant="primary", min_width=120)
            stop = gr.Button("Cancel", interactive=False, min_width=120)
    status = gr.HTML(elem_id="compare-status")
    shown = gr.HTML(elem_id="pair")
    waiting = gr.State()
    with gr.Row():
        buttons = [gr.Button(label, size="md", interactive=False, min_width=90) for label in CHOICES]
    with gr.Accordion("Votes so far (this tells who is who)", open=False, elem_classes="v-fold"):
        tell = gr.Button("Show")
        result = gr.HTML(elem_id="votes")
    outputs = [status, shown, waiting, *buttons, make, stop]

    def next_pair() -> dict[Any, Any]:
        left = [(pair, studio.clips(pair)) for pair in studio.votes().pairs if pair.choice is None]
        there = [(pair, clips) for pair, clips in left if clips]
        first, clips = there[0] if there else (None, None)
        can = {button: gr.Button(interactive=first is not None) for button in buttons}
        return {
            shown: looks.pair(clips, len(there), len(left) - len(there)),
            waiting: first and first.model_dump(mode="json"),
            **can,
        }

    def begin(request: gr.Request, *values: Any) -> Iterator[dict[Any, Any]]:
        said, *common, a_model, a_steps, a_guidance, b_model, b_steps, b_guidance = values
        try:
            lines = [line.strip() for line in (said or "").splitlines() if line.strip()]
            if not lines:
                raise ValueError("the prompts are empty; write one a line")
            both = form.values(common)
            asked = [one for line in lines for one in requests_of(both | {"prompt": line})]
            a = Side(a_model, sampling_of(both | {"steps": a_steps, "guidance_scale": a_guidance}))
            b = Side(b_model, sampling_of(both | {"steps": b_steps, "guidance_scale": b_guidance}))
            job = studio.compare(str(request.session_hash), asked, (a, b))
        except (ValueError, OSError) as error:
            yield {status: looks.failure(error)}
            return
        for _ in job.changes():
            busy = {make: gr.Button(interactive=job.ended), stop: gr.Button(interactive=not job.ended)}
            yield {status: looks.progress(job, studio.worker.ahead(job)), **busy}
        yield next_pair()

    def vote(label: str, one: dict[str, Any] | None) -> dict[Any, Any]:
        try:
            known = one is None or studio.vote(Pair.model_validate(one), CHOICES[label])
            said = "" if known else looks.failure("somebody else voted on this pair already; here is the next")
            return {status: said, **next_pair()}
        except (ValueError, OSError) as error:
            return {status: looks.failure(error)}

    def opened() -> dict[Any, Any]:
        try:
            return next_pair()
        except ValueError as error:
            return {status: looks.failure(error)}

    def told() -> str:
        try:
            return looks.votes(preferences(studio.votes()))
        except ValueError as error:
            return looks.failure(error)

    def cancel(request: gr.Request) -> None:
        studio.worker.cancel(str(request.session_hash))

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    make.click(begin, [prompts, *form.fields.values(), *sides[0], *sides[1]], outputs, **private)
    stop.click(cancel, None, None, **private)
    for button in buttons:
        button.click(vote, [button, waiting], outputs, **private)
    tell.click(told, None, result, **private)
    blocks.load(opened, None, outputs, **private)


def _side(form: Form, label: str, number: int) -> list[Any]:
    models, own = form.studio.models, form.own
    with gr.Column(min_width=280):
        model = gr.Dropdown(models, value=models[number], label=f"{label}: model")
        with gr.Row():
            steps = gr.Textbox(label=f"{label}: steps", placeholder=own["steps"], max_lines=1, min_width=80)
            guidance = gr.Textbox(
                label=f"{label}: guidance", placeholder=own["guidance_scale"], max_lines=1, min_width=80
            )
    return [model, steps, guidance]
