"""The page: its tabs, a file each, and what they look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from videodit.app.attention import attention_tab
from videodit.app.compare import compare_tab
from videodit.app.prompt import prompt_tab
from videodit.app.report import report_tab
from videodit.app.studio import Studio

CSS = Path(__file__).with_name("page.css")
SANS, MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # of the machine: none is fetched
HEAD = '<meta name="referrer" content="no-referrer"><meta name="color-scheme" content="light dark">'


def page(studio: Studio, reports: Sequence[Path]) -> gr.Blocks:
    """All tabs on one page."""
    with gr.Blocks(title="videodit", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML('<h1 class="v-head">videodit</h1>')
        with gr.Tabs():
            with gr.Tab("Prompt"):
                prompt_tab(studio, blocks)
            with gr.Tab("Compare"):
                compare_tab(studio, blocks)
            with gr.Tab("Words"):
                attention_tab(studio, blocks)
            with gr.Tab("Report"):
                report_tab(reports)
    blocks.queue(default_concurrency_limit=None)  # jobs wait in the studio, where all can see and stop theirs
    return blocks


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.gray,
        font=list(SANS),
        font_mono=list(MONO),
    ).set(  # greys that can be read: 4.5 to 1 and more
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        block_info_text_color="*neutral_600",
        input_placeholder_color="*neutral_500",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        block_border_width="0px",
        block_padding="0px",
        block_radius="0px",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )
