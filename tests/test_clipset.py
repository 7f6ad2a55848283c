"""Sets of clips: what is asked for is what is made, once; what is there is found with its prompt and seed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from footage import pan

from videodit import VideoDiTPipeline
from videodit.clipset import (
    ClipFile,
    Request,
    Sampling,
    find_clips,
    is_model,
    make_clips,
    making,
    open_clips,
    output_paths,
    read_requests,
)
from videodit.video import read_clip, write_video
from videodit.video.guarded import Guarded

SMALL = {"num_frames": 5, "height": 16, "width": 16}


@pytest.fixture
def calls(tiny_pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The prompts of all clips of each call of the pipeline from here on."""
    made: list[list[str]] = []
    sample = making._sample

    def spied(pipe: VideoDiTPipeline, settings: list[dict[str, str]], *rest: object) -> object:
        made.append([one["prompt"] for one in settings])
        return sample(pipe, settings, *rest)

    monkeypatch.setattr(making, "_sample", spied)
    return made


def make(pipe: VideoDiTPipeline, requests: list[Request], folder: Path, **options: object) -> list[Path]:
    paths = [folder / f"{i}.mkv" for i in range(len(requests))]
    return list(make_clips(pipe, requests, paths, **{"model": "tiny", "sampling": Sampling(1), **options}))


def three() -> list[Request]:
    return [
        Request(prompt, seed, **SMALL) for seed, prompt in enumerate(("a red circle", "two blue stars", "a red star"))
    ]


def test_lines_of_a_text_and_rows_of_a_table_are_requests(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a\n\n b \n")
    assert read_requests(tmp_path / "p.txt", 5) == [Request("a", 5), Request("b", 6)]
    rows = [
        {"caption": "a", "seed": 7, "num_frames": 9, "fps": 12.5},
        {"prompt": "b", "negative_prompt": "c", "width": 64},
    ]
    expected = [Request("a", 7, num_frames=9, fps=12.5), Request("b", 1, "c", width=64)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "p.json").write_text(json.dumps(rows))
    (tmp_path / "p.csv").write_text("prompt,seed,num_frames,fps,negative_prompt,width\na,7,9,12.5,,\nb,,,,c,64\n")
    (tmp_path / "p.tsv").write_text((tmp_path / "p.csv").read_text().replace(",", "\t"))
    for ending in ("jsonl", "json", "csv", "tsv"):
        assert read_requests(tmp_path / f"p.{ending}") == expected, ending


def test_columns_that_say_nothing_of_a_clip_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "p.csv").write_text("prompt,colour,file\na,red,x.mp4\n")
    with caplog.at_level(logging.WARNING):
        assert read_requests(tmp_path / "p.csv") == [Request("a")]
    assert "the columns colour say nothing" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "\n \n", "holds no prompt"),
        ("p.jsonl", '{"prompt": "a"}\n{"seed": 1}', "p.jsonl:2: no prompt"),
        ("p.jsonl", '{"prompt": "a"', "p.jsonl:1: is no JSON"),
        ("p.jsonl", '["a"]', "p.jsonl:1: must be an object"),
        ("p.json", '{"prompt": "a"}', "must hold a list"),
        ("p.csv", "prompt,seed\na,one", "p.csv:2: seed is 'one'; it must be a whole number"),
        ("p.csv", "prompt,num_frames\na,9.5", "num_frames is '9.5'"),
        ("p.csv", "prompt,seed\na,red,1", "p.csv:2: more values"),
    ],
)
def test_what_is_wrong_in_a_prompts_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        read_requests(tmp_path / name)


def test_a_stopped_run_goes_on_and_makes_what_is_missing_alone(
    tiny_pipe: VideoDiTPipeline, calls: list[list[str]], tmp_path: Path
) -> None:
    whole = make(tiny_pipe, three(), tmp_path / "whole", batch_size=2)
    assert calls == [["a red circle", "two blue stars"], ["a red star"]]
    stopped = make_clips(
        tiny_pipe, three(), output_paths(tmp_path / "x.mkv", 3), Sampling(1), model="tiny", batch_size=1
    )
    next(stopped)
    stopped.close()
    calls.clear()
    again = list(make_clips(tiny_pipe, three(), output_paths(tmp_path / "x.mkv", 3), Sampling(1), model="tiny"))
    assert calls == [["two blue stars", "a red star"]]
    assert [path.name for path in again] == ["x_0000.mkv", "x_0001.mkv", "x_0002.mkv"]
    for one, other in zip(whole, again, strict=True):
        apart = np.abs(read_clip(one, 5, 8).astype(int) - read_clip(other, 5, 8))
        assert apart.max() <= 1


def test_after_a_kill_what_is_missing_is_made_and_a_clip_without_settings_beside_it_is_known_by_those_in_it(
    tiny_pipe: VideoDiTPipeline, calls: list[list[str]], tmp_path: Path
) -> None:
    paths = make(tiny_pipe, three(), tmp_path)
    whole = paths[1].with_suffix(".json").read_bytes()
    paths[1].with_suffix(".json").unlink()  # as after a kill between the clip and its settings
    paths[2].unlink()
    calls.clear()
    make(tiny_pipe, three(), tmp_path)
    assert calls == [["a red star"]]
    assert paths[1].with_suffix(".json").read_bytes() == whole


def test_a_file_of_somebody_else_is_not_overwritten(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    mine = write_video(tmp_path / "1.mkv", pan(0, 3), 8).read_bytes()
    with pytest.raises(ValueError, match=r"1\.mkv: is there already"):
        make(tiny_pipe, three(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1.mkv"]
    assert (tmp_path / "1.mkv").read_bytes() == mine


def test_clips_of_other_settings_or_weights_are_not_overwritten_unasked(
    tiny_pipe: VideoDiTPipeline, calls: list[list[str]], tmp_path: Path
) -> None:
    make(tiny_pipe, three(), tmp_path)
    calls.clear()
    with pytest.raises(ValueError, match=r"0\.mkv: is there already, made with another steps; give --overwrite"):
        make(tiny_pipe, three(), tmp_path, sampling=Sampling(2))
    other = [replace(three()[0], prompt="a blue star"), *three()[1:]]
    with pytest.raises(ValueError, match="another prompt"):
        make(tiny_pipe, other, tmp_path)
    head = tiny_pipe.transformer.state_dict()
    name = next(iter(head))
    kept = head[name].clone()
    try:
        with torch.no_grad():
            head[name].add_(1)
        with pytest.raises(ValueError, match="another model_digest"):
            make(tiny_pipe, three(), tmp_path)
    finally:
        with torch.no_grad():
            head[name].copy_(kept)
    assert calls == []
    make(tiny_pipe, other, tmp_path, overwrite=True)
    assert json.loads((tmp_path / "0.json").read_text())["prompt"] == "a blue star"


def test_clips_of_one_size_are_made_together_and_every_one_at_its_own(
    tiny_pipe: VideoDiTPipeline, calls: list[list[str]], tmp_path: Path
) -> None:
    sizes = ({}, {}, {"num_frames": 1}, {"width": 32})
    requests = [Request("a red circle", i, **{**SMALL, **size}) for i, size in enumerate(sizes)]
    found = make(tiny_pipe, requests, tmp_path)
    assert list(map(len, calls)) == [2, 1, 1]
    assert [read_clip(path, 1, 8).shape[2] for path in found] == [16, 16, 16, 32]
    assert json.loads((tmp_path / "2.json").read_text())["num_frames"] == 1


@pytest.mark.slow
def test_a_clip_of_every_kind_is_the_same_alone_as_in_a_set(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    image = str(write_video(tmp_path / "image.png", pan(3, 1)[:, :32, :32], 8))
    kinds = ({}, {"num_frames": 13, "overlap": 1}, {"loop": True, "overlap": 1}, {"image": image}, {"image": image}, {})
    requests = [Request(("a red circle", "two blue stars")[i % 2], i, **kind) for i, kind in enumerate(kinds)]
    found = make(tiny_pipe, requests, tmp_path / "set", sampling=Sampling(2))
    for request, path in zip(requests, found, strict=True):
        (alone,) = make(tiny_pipe, [request], tmp_path / f"{request.seed}", sampling=Sampling(2))
        count = request.num_frames or 9
        apart = read_clip(path, count, 8).astype(int) - read_clip(alone, count, 8)
        assert np.abs(apart).max() <= 1


def test_two_clips_never_share_a_file(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.mkv: several clips"):
        list(make_clips(tiny_pipe, three()[:2], [tmp_path / "x.mkv"] * 2, model="tiny"))


def test_what_was_made_is_found_with_its_prompt_and_seed(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    make(tiny_pipe, three(), tmp_path)
    found = find_clips(tmp_path)
    assert [(c.name, c.prompt, c.seed) for c in found] == [
        (f"{i}.mkv", r.prompt, r.seed) for i, r in enumerate(three())
    ]
    assert find_clips(tmp_path / "1.mkv") == [replace(found[1], name="1.mkv")]


def test_settings_that_cannot_be_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_video(tmp_path / "a.mkv", pan(0, 3), 8)
    (tmp_path / "a.json").write_text("{")
    assert find_clips(tmp_path)[0].prompt is None
    assert "a.json: cannot be read: prompt and seed of a.mkv stay unknown" in caplog.text


def folder_of_clips(folder: Path) -> Path:
    for name in ("b/x.mkv", "a.mkv", "c.mkv"):
        write_video(folder / name, pan(0, 3), 8)
    (folder / "a.txt").write_text("\na caption\nanother\n")
    return folder


def test_a_folder_is_read_at_any_depth_in_the_order_of_names(tmp_path: Path) -> None:
    found = find_clips(folder_of_clips(tmp_path))
    assert [(c.name, c.prompt) for c in found] == [("a.mkv", "a caption"), ("b/x.mkv", None), ("c.mkv", None)]


def test_a_manifest_gives_captions_stretches_and_what_it_lacks(tmp_path: Path) -> None:
    folder_of_clips(tmp_path)
    rows = [
        {"file": "a.mkv", "caption": ["one", "two"], "seed": 4},
        {"file": "c.mkv", "start": 0.0, "end": 0.125},
        {"file": "c.mkv", "start": 0.125},
        {"file": "gone.mkv", "caption": "x"},
    ]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "clips.jsonl").write_text("\n".join(json.dumps({"caption": "", **row}) for row in rows) + "\n")
    found = find_clips(tmp_path)
    good = [clip for clip in found if not clip.failure]
    assert [(c.name, c.prompt, c.seed, c.end) for c in good] == [
        ("a.mkv", "one", 4, None),
        ("c.mkv from 0 s to 0.125 s", None, None, 0.125),
        ("c.mkv from 0.125 s", None, None, None),
    ]
    (bad,) = [clip for clip in found if clip.failure]
    assert "gone.mkv" in bad.failure


def test_what_stands_twice_in_a_manifest_has_two_names(tmp_path: Path) -> None:
    folder_of_clips(tmp_path)
    rows = [{"file": "a.mkv", "end": end, "caption": "x"} for end in (0.25, 0.375, 0.375)]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    names = ["a.mkv from 0 s to 0.25 s", "a.mkv from 0 s to 0.375 s", "a.mkv from 0 s to 0.375 s (2)"]
    assert [clip.name for clip in find_clips(tmp_path)] == names


def test_prompts_are_matched_by_name_or_in_the_order_of_names(tmp_path: Path) -> None:
    clips = folder_of_clips(tmp_path / "clips")
    (tmp_path / "p.txt").write_text("one\ntwo\nthree\n")
    assert [(c.prompt, c.seed) for c in find_clips(clips, tmp_path / "p.txt")] == [
        ("one", None),
        ("two", None),
        ("three", None),
    ]
    (tmp_path / "p.csv").write_text("name,prompt,seed\nc,see,3\nb/x.mkv,bee,\na.mkv,ay,1\n")
    found = find_clips(clips, tmp_path / "p.csv")
    assert [(c.prompt, c.seed) for c in found] == [("ay", 1), ("bee", None), ("see", 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt\na\nb\n", "2 prompts for 3 clips"),
        ("name,prompt\na,x\nb/x,y\n", "no row for c.mkv"),
        ("name,prompt\na,x\na,y\nc,z\n", "or one that another has"),
        ("name,prompt\na,x\nb/x,y\nc,z\nd,v\n", "names d, which is no clip here"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_clips(folder_of_clips(tmp_path / "clips"), tmp_path / "p.csv")


def test_an_empty_or_missing_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: nothing to measure"):
        find_clips(tmp_path / "empty")
    with pytest.raises(ValueError, match="gone"):
        find_clips(tmp_path / "gone")


@pytest.fixture
def guard() -> Iterator[Guarded]:
    with Guarded() as one:
        yield one


@pytest.mark.slow
def test_what_cannot_be_opened_is_a_failure_with_its_name(tmp_path: Path, guard: Guarded) -> None:
    folder_of_clips(tmp_path)
    (tmp_path / "c.mkv").write_bytes(b"no video")
    files = [*find_clips(tmp_path), ClipFile(Path("row 5"), "row 5", failure="no file")]
    clips, failures = open_clips(files, guard)
    assert [clip.name for clip in clips] == ["a.mkv", "b/x.mkv"]
    assert [failure.name for failure in failures] == ["c.mkv", "row 5"]
    assert failures[1].why == "no file"


def test_a_model_is_told_from_clips(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path / "model")
    assert is_model(tmp_path / "model")
    assert is_model("org/name")
    assert is_model("shipped")
    assert is_model("shapes")
    for clips in (tmp_path, "clips/x.mp4", "clips", "./clips/x", "/a/b", "a/b/c"):
        assert not is_model(clips), clips


@pytest.mark.slow
def test_a_set_that_was_stopped_ends_in_the_same_bytes(
    tiny_pipe: VideoDiTPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was: what is missing is made among the same clips as it would have been, and floats round alike."""
    prompts = ("a red circle", "two blue stars", "a red star", "a circle moving left", "two stars")
    requests = [Request(prompt, seed, **SMALL) for seed, prompt in enumerate(prompts)]
    whole = [path.read_bytes() for path in make(tiny_pipe, requests, tmp_path / "whole", batch_size=3)]
    seen: list[int] = []
    call = tiny_pipe.transformer.forward
    monkeypatch.setattr(
        tiny_pipe.transformer,
        "forward",
        lambda latents, *a, **k: (seen.append(len(latents)), call(latents, *a, **k))[1],
    )
    for left in ([0, 1], [1, 3], [4]):
        folder = tmp_path / str(left)
        for number, path in enumerate(make(tiny_pipe, requests, folder, batch_size=3)):
            if number not in left:
                path.unlink()
        seen.clear()
        again = make(tiny_pipe, requests, folder, batch_size=3)
        assert [path.read_bytes() for path in again] == whole
        assert set(seen) <= {2 * 3, 2 * 2}  # whole batches, with guidance


def test_settings_say_the_models_own_numbers_where_none_are_asked_for(
    tiny_pipe: VideoDiTPipeline, tmp_path: Path
) -> None:
    sizes = {name: tiny_pipe.config[name] for name in ("default_num_frames", "default_height", "default_width")}
    own = {"default_num_inference_steps": 2, "default_guidance_scale": 1.5}
    pipe = VideoDiTPipeline(**tiny_pipe.components, **sizes, **own)
    pipe.set_progress_bar_config(disable=True)
    list(make_clips(pipe, [Request("a red circle", seed=1)], [tmp_path / "a.mkv"], model="tiny"))
    settings = json.loads((tmp_path / "a.json").read_text())
    assert (settings["steps"], settings["guidance_scale"]) == (2, 1.5)
    said = Sampling(steps=2, guidance_scale=1.5)  # the same said aloud is the same clip, and is not made anew
    assert list(make_clips(pipe, [Request("a red circle", seed=1)], [tmp_path / "a.mkv"], said, model="tiny"))
