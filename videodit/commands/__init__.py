"""`videodit NAME ...`: the commands of this package, a file each; `tools/` has doors to the same.

A command's file is imported when it is called, and what it needs when its arguments are right.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version

from videodit.command import hide_torchao
from videodit.terminal import Parser

COMMANDS = {
    "sample": "make clips from prompts",
    "train": "train a transformer",
    "train-vae": "train a VAE",
    "encode": "encode a run's clips, once",
    "prepare": "make clips to train on out of raw videos",
    "caption": "describe clips, by a model that you have",
    "evaluate": "measure clips, or a model",
    "app": "a page to make, compare and look at clips",
    "convert": "bring a model in, give it back, or verify it",
    "inflate": "make a video model of an image model",
    "average": "another length of average, after training",
    "prune": "what of a model could be spared, and a model without it",
    "describe": "what a model is made of, and where its cost lies",
    "plot": "loss against steps, compute and clips, with fitted power laws",
    "benchmark": "speed and memory against what users would take instead",
    "make-emoji": "make the training set of the packaged model",
    "doctor": "what is installed, what is wrong, and the fix",
    "completion": "for bash, zsh or fish",
}


def main() -> int:
    """The console command `videodit`."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    parser = Parser(
        f"Text-to-video diffusion transformers with spatiotemporal patches.\n\n{listed}\n\n"
        "videodit NAME --help tells the options of each.",
        prog="videodit",
    )
    parser.add_argument("--version", action="version", version=f"videodit {version('videodit')}")
    parser.add_argument("name", metavar="NAME", choices=list(COMMANDS), help="one of these")
    name = parser.parse_args(sys.argv[1:2] or ["--help"]).name
    sys.argv = [f"videodit {name}", *sys.argv[2:]]  # whose first word is a command's name in what it says
    return run(name)


def run(name: str) -> int:
    """Runs a command with the arguments of the process; its exit status."""
    hide_torchao()
    return int(import_module(f"videodit.commands.{name.replace('-', '_')}").main())
