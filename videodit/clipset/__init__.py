"""A set of clips on disk: what is asked for, the clips that a model makes of it, and what is there to be looked at.

Every clip that is made has its settings in its metadata and in a `.json` file beside it. So a run that was stopped goes
on: what was made with the same settings, by the same weights, is not made again; what was made with others, or not
here, is never overwritten unasked, and what is read never. And so prompt and seed of each clip are known where the set
is measured.
"""

from videodit.clipset.finding import ClipFile, find_clips, is_model, open_clips
from videodit.clipset.making import Sampling, make_clips, weights_digest
from videodit.clipset.outputs import output_paths
from videodit.clipset.requests import Request, read_requests
from videodit.clipset.texts import prompts_of, read_texts, write_texts
from videodit.clipset.upscaling import SecondStage, second_stage

__all__ = [
    "ClipFile",
    "Request",
    "Sampling",
    "SecondStage",
    "find_clips",
    "is_model",
    "make_clips",
    "open_clips",
    "output_paths",
    "prompts_of",
    "read_requests",
    "read_texts",
    "second_stage",
    "weights_digest",
    "write_texts",
]
