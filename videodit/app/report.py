"""The tab of reports: what `videodit evaluate` wrote into the folders that the page was started with."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import gradio as gr

NONE = (
    '<p class="v-empty">No report here. <code>videodit evaluate CLIPS --out DIR</code> writes one; start the page with '
    "<code>--report DIR</code> to have it.</p>"
)


def report_tab(reports: Sequence[Path]) -> None:
    if not reports:
        gr.HTML(NONE)
        return
    choices = [(str(folder), number) for number, folder in enumerate(reports)]
    chosen = gr.Dropdown(choices, value=0, label="Evaluation", visible=len(reports) > 1)
    shown = gr.HTML(_frame(0, reports))
    chosen.change(lambda number: _frame(number, reports), chosen, shown, api_visibility="private")


def _frame(number: int, reports: Sequence[Path]) -> str:
    """The report's own scripts run, and reach nothing of this page."""
    title = escape(f"Report of {reports[number]}")
    return f'<iframe class="v-report" title="{title}" sandbox="allow-scripts" src="/reports/{number}"></iframe>'
