"""A page on this machine: make clips from prompts, compare two models blind, look at reports.

  videodit app                                             the packaged model, at http://127.0.0.1:7860
  videodit app --model runs/mine/pipeline --out clips/     a model of yours
  videodit app --model runs/new runs/old                   two, which the tab Compare shows side by side
  videodit app --model emoji --control outline/            with a branch that reads a map, on the first model
  videodit app --report evaluation/                        with the report of an evaluation

Needs videodit[app]. Only this machine can open it, unless --host says otherwise. What is made lies in --out, each clip
with its settings in a .json beside it; nothing but that folder and the reports is served, and nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
from pathlib import Path
from typing import Annotated

from pydantic import Field

from videodit.command import command, load_without_bars
from videodit.config.kinds import File, Place, argument
from videodit.disk import locked
from videodit.terminal import Parser, log_to_terminal

PORT = 7860
Port = Annotated[int, Field(ge=0, le=65535)]


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--model",
        nargs="+",
        type=argument(Place),
        default=["shipped"],
        help="pipeline folders or hub names; the first is used unless another is chosen (default: the packaged model)",
    )
    parser.add_argument(
        "--control",
        nargs="+",
        default=[],
        metavar="FOLDER[=WEIGHT]",
        help="branches that read a map, put onto the first model (videodit convert --control), each with its weight",
    )
    parser.add_argument(
        "--out", type=argument(File), default=Path("clips"), help="a folder for what is made (default: clips)"
    )
    parser.add_argument(
        "--report", nargs="+", type=argument(File), default=[], help="folders that videodit evaluate wrote"
    )
    parser.add_argument("--port", type=argument(Port), default=PORT, help=f"0: any that is free (default {PORT})")
    parser.add_argument("--host", default="127.0.0.1", help="who can open it (default 127.0.0.1: this machine alone)")
    return parser.parse_args()


@command
def main() -> int:
    args = parse()
    log_to_terminal(logging.WARNING)
    if importlib.util.find_spec("gradio") is None:
        raise ImportError('the page needs Gradio: pip install "videodit[app]"')
    from videodit.app.serving import bound, reports_in, serve

    reports = reports_in(args.report)
    taken = bound(args.host, args.port)
    load_without_bars()
    from videodit.app.studio import Studio

    studio = Studio(args.out, args.model, controls=args.control)
    with locked(studio.out):
        studio.pipe(args.model[0])
        host, port = taken.getsockname()[:2]
        print(f"http://{host}:{port} is the page, {studio.out} has what it makes; Ctrl-C ends it", flush=True)
        serve(taken, args.host, studio, reports)
    return 0
