"""The packaged models by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from videodit import VideoDiTPipeline
from videodit.codec import VideoCodec
from videodit.packaged import DEFAULT, PACKAGED, named_folder


def test_a_packaged_model_lies_in_the_package_and_the_first_is_the_default() -> None:
    for name, folder in PACKAGED.items():
        assert (folder / "model_index.json").is_file()
        assert named_folder(name) == str(folder)
    assert named_folder("shipped") == str(PACKAGED[DEFAULT])


def test_a_folder_that_is_here_is_meant_before_a_packaged_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(named_folder("shapes")).is_absolute()
    (tmp_path / "shapes").mkdir()
    assert named_folder("shapes") == "shapes"


def test_names_of_other_places_stay_as_they_are_and_a_path_to_nothing_is_an_error() -> None:
    assert named_folder("some-org/some-model") == "some-org/some-model"
    with pytest.raises(FileNotFoundError, match=r"\./nowhere: there is no such file or folder"):
        named_folder("./nowhere")


def test_what_is_not_packaged_is_refused_with_what_is() -> None:
    with pytest.raises(ValueError, match=r"nothing: no such packaged model; those that are: emoji, shapes"):
        VideoDiTPipeline.shipped("nothing")


def test_the_vae_of_a_packaged_model_is_there_where_others_are_trained_on_it() -> None:
    strides = VideoCodec.strides_of(named_folder("emoji"))
    assert (strides.channels, strides.time, strides.space) == (64, 4, 8)
    codec = VideoCodec.from_pretrained(named_folder("emoji"))
    row = torch.linspace(-1, 1, 64).view(1, 1, 1, 1, 64)
    ground = torch.cat([row, -row, 0 * row], dim=1).expand(1, 3, 5, 64, 64)  # colours that change slowly
    with torch.no_grad():
        error = (codec.decode(codec.encode(ground)) - ground).square().mean()
    assert 10 * torch.log10(4 / error) > 25


def test_a_folder_of_something_else_says_what_it_holds(tiny_pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path / "run" / "pipeline")
    for folder, holds in (
        (tmp_path / "run", f"no pipeline here .* name {tmp_path / 'run' / 'pipeline'}"),
        (tmp_path / "run" / "pipeline" / "vae", "one AutoencoderKLWan: name it in codec:"),
        (tmp_path / "run" / "pipeline" / "transformer", "one VideoDiT: a part of one"),
        (tmp_path, r"no pipeline here \(no model_index.json\)$"),
    ):
        with pytest.raises(OSError, match=holds):
            VideoDiTPipeline.from_pretrained(folder)
    for damaged in ("[1", "[1]", "{}", '{"_class_name": 3}'):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(OSError, match=r"no model_index.json\)$"):
            VideoDiTPipeline.from_pretrained(str(tmp_path))
