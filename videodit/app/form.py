"""A form: fields by the names that `Request` and `Sampling` have for them, and what a model is told besides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from videodit.app.asked import TOLD
from videodit.app.studio import Studio
from videodit.codec.sounds import SOUNDS

PICTURE, VIDEO = ["image"], ["video", "image"]  # GIF and WebP are both


class Form:
    """
    fields: by name, in the order in which their values come.
    """

    def __init__(self, studio: Studio):
        self.studio, self.own = studio, studio.own()
        self.fields: dict[str, Any] = {}

    def number(self, name: str, label: str, value: str = "", hint: str | None = None) -> None:
        """A text that holds a number or a few; `hint` where the model has none of its own."""
        hint = self.own.get(name, hint)
        self.fields[name] = gr.Textbox(value, label=label, placeholder=hint, max_lines=1, min_width=80)

    def file(self, name: str, label: str, kinds: list[str] | None) -> None:
        self.fields[name] = gr.File(
            label=label, file_types=kinds, type="filepath", height=120, min_width=140, elem_classes="v-file"
        )

    def told(self) -> None:
        """A field for each thing that the first model is told besides the prompt; nothing where there is none."""
        if not (told := self.studio.told()):
            return
        with gr.Accordion("Told besides", open=False, elem_classes="v-fold"):
            gr.Markdown("What the model was trained to be told; what is empty, it is not.", elem_classes="v-hint")
            with gr.Row():
                for one in told:
                    if one.kind == "vectors" and one.of not in SOUNDS:
                        self.number(TOLD + one.name, one.name, hint="a number, or [0.5, 1]")
                    else:
                        self.file(TOLD + one.name, one.name, VIDEO if one.kind == "channels" else None)

    @property
    def uploads(self) -> list[str]:
        return [name for name, field in self.fields.items() if isinstance(field, gr.File)]

    def values(self, said: Sequence[Any]) -> dict[str, Any]:
        """What the fields hold, by name; uploads are kept. ValueError: one is not what its field takes."""
        values = dict(zip(self.fields, said, strict=True))
        return values | {name: str(self.studio.given(name, values[name])) for name in self.uploads if values[name]}
