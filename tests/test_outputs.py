"""What is written never takes the place of what is read, nor, unasked, of a file that was not made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models import attention_dispatch
from footage import pan
from safetensors.torch import load_file, save_file

from videodit import VideoDiTPipeline
from videodit.clipset import Request, Sampling, make_clips, write_texts
from videodit.models.transformer import VideoDiT
from videodit.video import read_clip, write_video

SMALL = {"num_frames": 5, "height": 16, "width": 16}


def make(pipe: VideoDiTPipeline, out: Path, steps: int = 1, size: dict[str, Any] = SMALL, **options: Any) -> Path:
    given = {name: str(options.pop(name)) for name in ("video", "image") if name in options}
    requests = [Request("a red circle", **{**size, **given})]
    (path,) = make_clips(pipe, requests, [out], Sampling(steps), model="tiny", **options)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("own", ['{"boxes": [1]}', "[1]", "no json", '{"prompt": "mine", "seed": 1}', "[" * 100_000])
def test_settings_do_not_take_the_place_of_a_json_of_others(
    tiny_pipe: VideoDiTPipeline, tmp_path: Path, own: str
) -> None:
    (tmp_path / "x.json").write_text(own)
    for renew in (False, True):
        with pytest.raises(ValueError, match=r"x\.json: is there already, .*--overwrite"):
            make(tiny_pipe, tmp_path / "x.mkv", renew=renew)
    assert contents(tmp_path) == {str(tmp_path / "x.json"): own.encode()}
    make(tiny_pipe, tmp_path / "x.mkv", overwrite=True)
    assert json.loads((tmp_path / "x.json").read_text())["prompt"] == "a red circle"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.mkv", "x.png", "x.gif"])
def test_a_clip_is_renewed_where_it_was_made_here_and_nowhere_else(
    tiny_pipe: VideoDiTPipeline, tmp_path: Path, name: str
) -> None:
    write_video(tmp_path / name, pan(0, 5), 8)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"{name}: is there already, and was not made here; give --overwrite"):
        make(tiny_pipe, tmp_path / name, renew=True)
    assert contents(tmp_path) == before
    make(tiny_pipe, tmp_path / name, overwrite=True)
    (tmp_path / "x.json").unlink()  # as after a kill: known by the settings in it
    make(tiny_pipe, tmp_path / name, steps=2, renew=True)
    assert json.loads((tmp_path / "x.json").read_text())["steps"] == 2


def test_an_image_is_not_stopped_by_a_folder_that_it_does_not_touch(
    tiny_pipe: VideoDiTPipeline, tmp_path: Path
) -> None:
    write_video(tmp_path / "x.png", pan(0, 5), 8)
    before = contents(tmp_path)
    make(tiny_pipe, tmp_path / "x.png", size={**SMALL, "num_frames": 1})
    assert before.items() <= contents(tmp_path).items()


def test_what_is_read_is_never_written_over(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mkv", pan(0, 9)[:, :32, :32], 8)
    frames = write_video(tmp_path / "walk.png", pan(0, 5)[:, :32, :32], 8)
    (tmp_path / "linked.mkv").symlink_to(film)
    (tmp_path / "p.json").write_text("[]")
    before = contents(tmp_path)
    for out, options in (
        ("film.mkv", {"video": film}),
        ("linked.mkv", {"video": film}),
        ("film.mkv", {"video": tmp_path / "linked.mkv"}),
        ("p.mkv", {"inputs": [tmp_path / "p.json"]}),
        ("walk.png", {"image": frames / "0003.png"}),
    ):
        with pytest.raises(ValueError, match=r"is read, and making .* would write over it; give another --out"):
            make(tiny_pipe, tmp_path / out, overwrite=True, **options)
    assert contents(tmp_path) == before
    make(tiny_pipe, tmp_path / "new.mkv", video=film)


def test_text_states_take_the_place_of_their_like_alone(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    file = tmp_path / "states.safetensors"
    write_texts(file, tiny_pipe.text, ["red"])
    write_texts(file, tiny_pipe.text, ["red", "blue"])
    with pytest.raises(ValueError, match=r"states\.safetensors: .*holds states of 1 other prompts; .*--overwrite"):
        write_texts(file, tiny_pipe.text, ["red"])
    assert len(load_file(file)) == 2
    write_texts(file, tiny_pipe.text, ["red"], overwrite=True)
    assert len(load_file(file)) == 1
    with pytest.raises(ValueError, match=r"notes\.json: .*give it that ending"):
        write_texts(tmp_path / "notes.json", tiny_pipe.text, ["red"], overwrite=True)
    save_file({"weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="holds something else than text states"):
        write_texts(file, tiny_pipe.text, ["red"])
    file.write_text("mine")
    with pytest.raises(ValueError, match="holds something else than text states"):
        write_texts(file, tiny_pipe.text, ["red"])
    assert file.read_text() == "mine"


def test_an_attention_backend_that_is_not_installed_is_named_before_anything_is_made(
    tiny_pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(attention_dispatch, "_CAN_USE_FLASH_ATTN", False)
    flash = attention_dispatch.AttentionBackendName.FLASH
    with monkeypatch.context() as patch:
        patch.setattr(attention_dispatch._AttentionBackendRegistry, "_active_backend", flash)
        with pytest.raises(ValueError, match=r"attention backend 'flash' cannot be used here: .*flash-attn"):
            make(tiny_pipe, tmp_path / "x.mkv")
    model: VideoDiT = tiny_pipe.transformer
    with monkeypatch.context() as patch:
        patch.setattr(model.blocks[0].attn1.processor, "_attention_backend", "flash")
        with pytest.raises(ValueError, match="attention backend 'flash' cannot be used here"):
            make(tiny_pipe, tmp_path / "x.mkv")
    assert not list(tmp_path.iterdir())
    assert read_clip(make(tiny_pipe, tmp_path / "x.mkv"), 5, 8).shape == (5, 16, 16, 3)


@pytest.mark.parametrize("option", ["batch_size", "preview"])
def test_numbers_of_the_making_are_above_nothing(tiny_pipe: VideoDiTPipeline, tmp_path: Path, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=0 must be at least 1"):
        make(tiny_pipe, tmp_path / "x.mkv", **{option: 0})
