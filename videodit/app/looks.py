"""What is shown, as HTML: clips, how far they are, what was made before, votes. All that is said is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from videodit.app.studio import COPIES, Entry
from videodit.app.work import Job
from videodit.evaluation.report.votes import Preference

SHARP = 256  # pixels of a side, up to which a clip is shown enlarged with its pixels sharp
TOLD = {  # settings under a clip, in this order
    "seed": "seed",
    "num_frames": "frames",
    "fps": "frames a second",
    "height": "height",
    "width": "width",
    "steps": "steps",
    "guidance_scale": "guidance",
    "guidance_rescale": "guidance rescale",
    "image_guidance_scale": "guidance of given frames",
    "scheduler": "scheduler",
    "cache": "cache",
    "negative_prompt": "away from",
    "image": "first image",
    "last_image": "last image",
    "video": "video",
    "last_video": "last video",
    "given_frames": "given frames",
    "last_given_frames": "last given frames",
    "strength": "strength",
    "loop": "loop",
    "overlap": "overlap",
    "window": "window",
    "model": "model",
    "model_digest": "weights",
}
USUAL = {"guidance_rescale": 0.0, "image_guidance_scale": 1.0, "negative_prompt": ""}  # and so not told
UNWATCHED = '<p class="v-empty">Nothing looked into yet. Write a prompt, make it, and look.</p>'
EMPTY = '<p class="v-empty">Nothing made yet. Say what a clip should show, and make it.</p>'


def player(entry: Entry | None) -> str:
    """A clip that plays, with its settings and its downloads."""
    if entry is None:
        return EMPTY
    name, settings = entry.path.stem, entry.settings
    links = " ".join(
        f'<a href="/copies/{name}{end}" download="{name}{end}">{end[1:].upper()}</a>'
        for end in COPIES
        if (end == ".png") == (entry.path.suffix == ".png")
    )
    told = "".join(
        f"<div><dt>{label}</dt><dd>{escape(_short(settings[key]))}</dd></div>"
        for key, label in TOLD.items()
        if key in settings and settings[key] != USUAL.get(key)
    )
    return (
        f'<figure class="v-clip">{_shown(f"/clips/{name}{entry.path.suffix}", settings, controls=True)}'
        f'<figcaption><p class="v-prompt">{escape(settings["prompt"])}</p>'
        f'<p class="v-links"><span>Download</span> {links}</p>'
        f'<details><summary>Settings</summary><dl class="v-settings">{told}</dl></details></figcaption></figure>'
    )


def words(entry: Entry, found: Sequence[Mapping[str, Any]]) -> str:
    """A clip, and beside it a clip for each word of its prompt."""
    clips = [(entry.path.name, entry.settings["prompt"], "the clip")]
    clips += [
        (one["file"], one["word"], f"{one['mean']:.1%} of the attention, {one['most']:.1%} where most") for one in found
    ]
    shown = "".join(
        f'<figure class="v-clip">{_shown(f"/clips/{quote(file)}", {"prompt": word})}'
        f"<figcaption><b>{escape(word)}</b><br><small>{said}</small></figcaption></figure>"
        for file, word, said in clips
    )
    return f'<div class="v-words">{shown}</div>'


def history(entries: Iterable[Entry], chosen: str | None = None) -> str:
    """The clips that are there; each is a button."""
    items = "".join(
        f'<li><button type="button" data-name="{entry.path.stem}" '
        f'aria-pressed="{"true" if entry.path.stem == chosen else "false"}" '
        f'aria-label="{escape(f"Show {_title(entry)}")}" title="{escape(_title(entry))}">'
        f"{_shown(f'/clips/{entry.path.name}', entry.settings, playing=False)}"
        f"<span>{escape(entry.settings['prompt'])}</span></button></li>"
        for entry in entries
    )
    return f'<ul class="v-history">{items}</ul>' if items else ""


def progress(job: Job, ahead: int = 0) -> str:
    """How far a job is, or how it ended."""
    made, notes = len(job.made), "".join(f'<p class="v-note">{escape(note)}</p>' for note in job.notes)
    if job.state == "waiting":
        line = f"Waiting for its turn: {ahead} ahead" if ahead else "Waiting for its turn"
        return _bar(line, None)
    if job.state == "working":
        number = f"Clip {made + 1} of {job.clips}" if job.clips > 1 else "Clip"
        if not job.steps:
            return _bar(f"{number}: getting ready", None) + notes
        line = f"{number}: step {job.step} of {job.steps}" if job.step < job.steps else f"{number}: decoding"
        return _bar(line, (made + job.step / job.steps) / job.clips) + _sheet(job) + notes
    kept = f"{made} of {job.clips} made, and kept" if job.clips > 1 else ""
    if job.state == "failed":
        return failure(". ".join(filter(None, (job.error, kept)))) + notes
    if job.state == "stopped":
        return f'<p class="v-line" role="status">Stopped. {kept or "Nothing was made"}.</p>{notes}'
    return f'<p class="v-line" role="status">{"Made" if job.clips == 1 else f"{made} made"}.</p>{notes}'


def failure(message: object) -> str:
    return f'<p class="v-error" role="alert">{escape(str(message))}</p>'


def given(files: Sequence[tuple[str, Path]]) -> str:
    """What a clip begins or ends with."""
    shown = "".join(
        f"<figure>{_shown(f'/clips/given/{quote(file.name)}', {'prompt': label}, playing=False)}"
        f"<figcaption>{escape(label)}</figcaption></figure>"
        for label, file in files
    )
    return f'<div class="v-given">{shown}</div>' if shown else ""


def pair(clips: tuple[Entry, Entry] | None, left: int, gone: int) -> str:
    """Two clips beside each other, of whom nobody says which is whose."""
    lost = f" Of {gone} pairs the clips are gone." if gone else ""
    if clips is None:
        return f'<p class="v-empty">No pair waits for a vote. Make some above.{lost}</p>'
    shown = "".join(
        f'<figure class="v-clip">{_shown(f"/clips/compare/{quote(clip.path.name)}", clip.settings, controls=True)}'
        f"<figcaption>{side}</figcaption></figure>"
        for clip, side in zip(clips, ("Left", "Right"), strict=True)
    )
    said = f"{escape(clips[0].settings['prompt'])} <small>· {left} to vote on.{lost}</small>"
    return f'<div class="v-pair">{shown}</div><p class="v-prompt">{said}</p>'


def votes(found: Sequence[Preference]) -> str:
    """Who was preferred, and how sure that is."""
    if not found:
        return '<p class="v-empty">No votes yet.</p>'
    rows = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in _cells(one)) + "</tr>" for one in found)
    names = ("Side", "Against", "Win rate", "95 % interval", "Won – lost – same", "Prompts", "p")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="v-table" tabindex="0" role="region" aria-label="Votes">{table}</div>'


def _cells(one: Preference) -> tuple[str, ...]:
    counts = f"{one.wins} – {one.losses} – {one.ties}"
    rate = f"<b>{one.rate.value:.0%}</b>"
    return escape(one.side), escape(one.other), rate, _between(one), counts, str(one.prompts), f"{one.p:.3g}"


def _between(one: Preference) -> str:
    low, high = one.rate.low, one.rate.high
    return "too few prompts" if low is None or high is None else f"{low:.0%} to {high:.0%}"


def _bar(line: str, share: float | None) -> str:
    value = "" if share is None else f'value="{share:.3f}"'
    return (
        f'<p class="v-line" role="status">{escape(line)}</p><progress max="1" {value} aria-label="Progress"></progress>'
    )


def _sheet(job: Job) -> str:
    if job.preview is None or not job.preview.exists():
        return ""
    return f'<img class="v-sheet" alt="The clip so far" src="/clips/{job.preview.name}?{job.step}">'


def _shown(url: str, settings: dict[str, Any], *, controls: bool = False, playing: bool = True) -> str:
    """A picture or a video, by its ending."""
    side = max(settings.get("height", 0), settings.get("width", 0))
    sharp = ' class="v-sharp"' if 0 < side <= SHARP else ""
    said = escape(str(settings["prompt"]))
    if url.endswith((".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")):
        how = "autoplay loop" if playing else 'preload="metadata" tabindex="-1"'
        url += "" if playing else "#t=0.05"  # or a phone shows nothing of it
        return f'<video{sharp} src="{url}" muted playsinline {how}{" controls" * controls} aria-label="{said}"></video>'
    return f'<img{sharp} src="{url}" alt="{said}">'


def _title(entry: Entry) -> str:
    return f"{entry.settings['prompt']}, seed {entry.settings.get('seed')}"


def _short(value: object) -> str:
    return (
        f"{value:g}"
        if isinstance(value, float)
        else Path(value).name
        if isinstance(value, str) and "/given/" in value
        else str(value)
    )
