"""Describes clips in words, by a model that you have: `videodit caption CLIPS --model FOLDER --out FILE.jsonl`.

  videodit prepare raw/ --out data/clips
  videodit caption data/clips --model models/smolvlm --out data/clips/captioned.jsonl
  videodit train --config configs/sprites.yaml data.source=data/clips/captioned.jsonl

CLIPS is a folder, manifest, tar shards or a URL, as `data.source` of a config; FOLDER holds an image-text-to-text model
(LLaVA, Qwen-VL, SmolVLM ...) with its processor, as transformers saves them, or is a hub name. FILE receives a row a
clip: what the source says of it, and its caption. Clips that have one keep it. A run that was stopped goes on; a row
that you take out is made again.

Read some of what it wrote: a model learns the words that it is given.
"""

from __future__ import annotations

import logging

from videodit.command import command, load_without_bars
from videodit.config.kinds import File, Place, Positive, argument
from videodit.terminal import Parser, log_to_terminal


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("source", type=argument(Place), metavar="CLIPS", help="a folder, manifest, tar shards or URL")
    parser.add_argument("--model", type=argument(Place), required=True, metavar="FOLDER", help="of transformers")
    parser.add_argument("--out", type=argument(File), required=True, metavar="FILE.jsonl", help="new, or to go on with")
    parser.add_argument("--prompt", help="what it is asked (default: to describe in one or two sentences what moves)")
    parser.add_argument("--frames", type=argument(Positive), default=8, help="of each clip that it sees (8)")
    parser.add_argument("--max-new-tokens", type=argument(Positive), default=128, help="of an answer (128)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="(float32)")
    args = parser.parse_args()
    log_to_terminal(logging.WARNING)
    load_without_bars()
    from videodit.data.captioning import PROMPT, caption_clips, load_captioner

    describe, name = load_captioner(
        args.model, prompt=args.prompt or PROMPT, max_new_tokens=args.max_new_tokens, dtype=args.dtype
    )
    counted = caption_clips(args.source, args.out, describe, name, num_frames=args.frames)
    print(args.out, *(f"{count} {what}" for what, count in counted.items() if count), sep=", ")
    return 0
