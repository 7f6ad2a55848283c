"""Models, and the folder that keeps what they make: `0000.mp4` with its settings beside it, and so on.

`given/` has the pictures and videos that clips begin or end with, `compare/` the pairs of a comparison and the votes.
One model is in memory at a time. The folder is the history: what was made is there when the page is opened again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from videodit.app.asked import TOLD
from videodit.app.work import Job, Worker
from videodit.attention_maps import ATTENTION, INDEX
from videodit.clipset import Request, Sampling, make_clips, weights_digest
from videodit.conditions import own_of
from videodit.data.columns import STATES
from videodit.disk import whole
from videodit.evaluation.report.votes import VOTES, Pair, Votes, load_votes
from videodit.memory import place, return_large_blocks
from videodit.models import Condition
from videodit.packaged import named_folder
from videodit.pipeline import VideoDiTPipeline
from videodit.terminal import shown
from videodit.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoError, probe, read_frames, stream_frames, write_video
from videodit.video.sound import SOUND_SUFFIXES

log = logging.getLogger(__name__)

MOST_SHOWN = 48  # clips of the history on the page
PREVIEWS = 4  # looks at a clip while it is made
PICTURES = ("image", "last_image")
VIDEOS = (*VIDEO_SUFFIXES, ".gif", ".webp")
TELLING = (*IMAGE_SUFFIXES, *VIDEOS, *SOUND_SUFFIXES, *STATES)
COPIES = (".mp4", ".gif", ".webp", ".png")  # what a clip can be had as

ALIKE = "both sides are alike: choose another model, steps or guidance for one"

Load = Callable[[str], VideoDiTPipeline]


@dataclass(frozen=True)
class Entry:
    """A clip that is there, and how it was made."""

    path: Path
    settings: dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a model, and how it samples."""

    model: str
    sampling: Sampling


def load(model: str) -> VideoDiTPipeline:
    """A model, where it is to work. ValueError or OSError where it is none."""
    return_large_blocks()
    pipe = VideoDiTPipeline.from_pretrained(named_folder(model))
    pipe.set_progress_bar_config(disable=True)
    place(pipe, "none")
    return pipe


class Studio:
    """
    Args:
        out: the folder; it is made.
        models: folders or names that may be sampled from, the first unless another is asked for.
        load: gives a model by its name.
        controls: branches put onto the first model, as `VideoDiTPipeline.control` takes them.
    """

    def __init__(self, out: Path, models: Sequence[str], load: Load = load, controls: Sequence[str] = ()):
        self.out, self.models, self.worker = out.absolute(), list(models), Worker()
        self._controls, self._scales = list(controls), dict[str, float]()
        self._load, self._loaded = load, ""
        self._pipe: VideoDiTPipeline | None = None
        self._digest = ""
        self._voting = threading.Lock()
        for folder in (self.out, self.out / "given", self.out / "compare"):
            folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        self.worker.close()

    # --- making -------------------------------------------------------------------------------------------------------

    def make(
        self,
        owner: str,
        requests: Sequence[Request],
        sampling: Sampling,
        model: str | None = None,
        *,
        attention: bool = False,
    ) -> Job:
        """Has clips made, when it is their turn, and (`attention`) maps of their words. ValueError: no such model."""
        named = self.named(model)

        def work(job: Job) -> None:
            for request in requests:
                path = self._free(self.out, request.num_frames == 1)
                self._make(job, request, Side(named, sampling), path, attention=attention)

        return self.worker.begin(Job(owner, len(requests)), work)

    def compare(self, owner: str, requests: Sequence[Request], sides: tuple[Side, Side]) -> Job:
        """Has each clip made by both sides, and kept as a pair to vote on, whose order is drawn.

        Raises:
            ValueError: both sides are the same.
        """
        if sides[0] == sides[1]:
            raise ValueError(ALIKE)
        for side in sides:
            self.named(side.model)
        turns = [(number, k) for number in range(len(requests)) for k in (0, 1)]
        if sides[0].model != sides[1].model:
            turns.sort(key=lambda turn: turn[1])  # each model is loaded once

        def work(job: Job) -> None:
            places = [self._pair(2 * number, one.num_frames == 1) for number, one in enumerate(requests)]
            made: set[tuple[int, int]] = set()
            for number, k in turns:
                self._make(job, requests[number], sides[k], places[number][k], shows=False)
                made.add((number, k))
                if (number, 1 - k) in made:
                    self._add_pair(requests[number], places[number])

        return self.worker.begin(Job(owner, len(turns)), work)

    def named(self, model: str | None) -> str:
        """A model's name, the first one's for None. ValueError: it is none of those that the page was started with."""
        if model is not None and model not in self.models:
            raise ValueError(f"{model!r} is no model of this page; start it with --model to have it here")
        return self.models[0] if model is None else model

    def own(self) -> dict[str, str]:
        """The first model's own numbers, by their fields, for who leaves them empty."""
        pipe = self.pipe(self.models[0])
        size, sampling = pipe.default_size, Sampling().resolved(pipe)
        numbers = {
            **{name: getattr(size, name) for name in ("num_frames", "height", "width", "fps")},
            **{name: getattr(sampling, name) for name in ("steps", "guidance_scale", "guidance_rescale")},
        }
        return {name: f"{value:g}" for name, value in numbers.items()} | {"scheduler": type(pipe.scheduler).__name__}

    def told(self) -> list[Condition]:
        """What the first model is told besides the prompt."""
        return own_of(self.pipe(self.models[0]).transformer)

    def pipe(self, model: str) -> VideoDiTPipeline:
        """A model, loaded unless it is there; the one before goes."""
        if self._loaded != model or self._pipe is None:
            self._pipe, self._loaded = None, ""
            self._pipe = self._load(model)
            self._scales = self._pipe.control(self._controls) if model == self.models[0] else {}
            self._digest, self._loaded = weights_digest(self._pipe), model
        return self._pipe

    def _make(
        self, job: Job, request: Request, side: Side, path: Path, *, shows: bool = True, attention: bool = False
    ) -> None:
        job.check()
        job.tell(step=0, steps=0)
        pipe = self.pipe(side.model)
        told = {said.partition("=")[0] for said in side.sampling.conditions or ()}
        scales = {name: scale for name, scale in self._scales.items() if name in told}
        sampling = replace(side.sampling, condition_scale=scales or None)
        scheduler, steps = pipe.scheduler, sampling.resolved(pipe).steps or 1
        sheet = path.with_suffix(".preview.png")
        job.preview = sheet if shows else None
        try:
            (made,) = make_clips(
                pipe,
                [request],
                [path],
                sampling,
                model=side.model,
                model_digest=self._digest,
                preview=max(1, steps // PREVIEWS) if shows else None,
                attention=attention,
                watch=job.watch,
            )
        finally:
            pipe.scheduler = scheduler
            job.preview = None
            sheet.unlink(missing_ok=True)
        log.info("%s: %s", made, shown(request.prompt))
        job.made.append(made)
        job.tell()

    def _pair(self, beyond: int, is_image: bool) -> tuple[Path, Path]:
        """Two free names in compare/ for the clips of the sides, whose order says nothing of who is who."""
        first = self._free(self.out / "compare", is_image)
        names = [first.with_stem(f"{int(first.stem) + beyond + k:04d}") for k in (0, 1)]
        random.shuffle(names)
        return names[0], names[1]

    def _free(self, folder: Path, is_image: bool) -> Path:
        """A name that nothing there has."""
        taken = [int(file.stem) for file in folder.iterdir() if file.stem.isdecimal()]
        return folder / f"{max(taken, default=-1) + 1:04d}{'.png' if is_image else '.mp4'}"

    # --- what is there ------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """The clips in the folder, the newest first, `MOST_SHOWN` at most."""
        names = sorted((file for file in self.out.glob("*.json") if file.stem.isdecimal()), key=lambda f: -int(f.stem))
        found = (self.entry(file.stem) for file in names)
        return [entry for entry, _ in zip(filter(None, found), range(MOST_SHOWN), strict=False)]

    def entry(self, name: str) -> Entry | None:
        """The clip of a name, as "0000"; None where there is none."""
        return self._entry(self.out / name) if name.isdecimal() else None

    def words(self, entry: Entry) -> list[dict[str, Any]]:
        """What `attention_maps` wrote of a clip's words: word, file, mean and most; none for others."""
        folder = entry.path.with_suffix(ATTENTION)
        try:
            found = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [one | {"file": f"{folder.name}/{one['file']}"} for one in found]

    def clips(self, pair: Pair) -> tuple[Entry, Entry] | None:
        """The clips of a pair; None where one is gone."""
        left, right = (self._entry(self.out / "compare" / Path(name).stem) for name in pair.clips)
        return (left, right) if left and right else None

    def _entry(self, stem: Path) -> Entry | None:
        clip = next((file for end in (".mp4", ".png") if (file := stem.with_suffix(end)).is_file()), None)
        try:
            settings = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8")) if clip else None
        except (OSError, ValueError):
            return None
        return Entry(clip, settings) if clip and isinstance(settings, dict) and "prompt" in settings else None

    def copy(self, name: str, suffix: str, folder: Path) -> Path:
        """A clip of the folder in another format, written into a folder of copies unless it is there.

        Raises:
            ValueError: no such clip or format.
        """
        entry = self.entry(name)
        if entry is None or suffix not in COPIES:
            raise ValueError(f"{name}{suffix}: there is no such clip here")
        if entry.path.suffix == suffix:
            return entry.path
        copied = folder / f"{name}-{entry.path.stat().st_mtime_ns}{suffix}"  # of this clip, not of one before it
        if not copied.exists():
            frames = (frame for _, frame in stream_frames(entry.path))
            said = {"comment": json.dumps(entry.settings), "title": entry.settings["prompt"]}
            write_video(copied, frames, entry.settings["fps"], metadata=said)
        return copied

    def given(self, field: str, upload: str | Path) -> Path:
        """A file that was uploaded for a field, kept in `given/` under its digest, so that it is there for "again".

        Raises:
            ValueError: it is none of those that the field takes (a picture, a video; what a model is told besides may
                be a sound or states too); names the file.
        """
        upload = Path(upload)
        suffix = upload.suffix.lower()
        kind = "picture" if field in PICTURES else "file to tell" if field.startswith(TOLD) else "video"
        known = {"picture": {*IMAGE_SUFFIXES}, "video": {*VIDEOS}, "file to tell": {*TELLING}}[kind]
        if suffix not in known:
            raise ValueError(f"{upload.name}: is no {kind} by its ending; upload one of {', '.join(sorted(known))}")
        try:
            if suffix in IMAGE_SUFFIXES and kind != "video":
                read_frames(upload, [0.0])
            elif suffix in VIDEOS:
                probe(upload)
        except VideoError as error:
            reason = str(error).replace(str(upload), upload.name)
            raise ValueError(f"{reason}; upload another {kind}") from None
        with upload.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()[:12]
        kept = self.out / "given" / f"{digest}{suffix}"
        if not kept.exists():
            with whole(kept) as scratch:
                shutil.copyfile(upload, scratch)
        return kept

    # --- votes --------------------------------------------------------------------------------------------------------

    @property
    def votes_file(self) -> Path:
        return self.out / "compare" / VOTES

    def votes(self) -> Votes:
        """All pairs, voted on or not. ValueError where the file cannot be read."""
        return load_votes(self.votes_file) if self.votes_file.exists() else Votes(pairs=())

    def vote(self, pair: Pair, choice: str) -> bool:
        """Keeps a vote; False where somebody else voted on the pair already, whose vote stays."""
        with self._voting:
            votes = self.votes()
            number = next((i for i, one in enumerate(votes.pairs) if one.clips == pair.clips), None)
            if number is None or votes.pairs[number].choice is not None:
                return False
            votes.with_choice(number, choice).write(self.votes_file)
        return True

    def _add_pair(self, request: Request, clips: tuple[Path, Path]) -> None:
        left, right = sorted(clips)
        sides = (_side(left), _side(right))
        if sides[0] == sides[1]:
            raise ValueError(ALIKE)
        pair = Pair(prompt=request.prompt, seed=request.seed, clips=(left.name, right.name), sides=sides)
        with self._voting:
            votes = self.votes()
            votes.model_copy(update={"pairs": (*votes.pairs, pair)}).write(self.votes_file)


def _side(clip: Path) -> str:
    """Whose a clip is, as its settings say: the model, its weights, and how it sampled."""
    made = json.loads(clip.with_suffix(".json").read_text(encoding="utf-8"))
    return f"{made['model']} {made['model_digest']} steps={made['steps']} guidance_scale={made['guidance_scale']:g}"
