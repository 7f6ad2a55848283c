"""Whole clips as vectors: which frames, and what of them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import save_clip, save_i3d, save_videomae
from PIL import Image
from standin import TORCHSCRIPT

from videodit.evaluation.measure.clip_features import PixelFeatures, evenly, load_i3d, load_videomae
from videodit.evaluation.measure.pixels import Undefined
from videodit.evaluation.measure.weights import MissingWeightsError


def frames(count: int = 16, height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_even_frames_are_the_middles_of_equal_parts() -> None:
    assert evenly(16, 16, "x") == list(range(16))
    assert evenly(48, 16, "x") == list(range(1, 48, 3))
    assert evenly(9, 2, "x") == [2, 6]
    for count in range(5, 40):
        chosen = evenly(count, 5, "x")
        assert np.ptp(np.diff(chosen)) <= 1
        assert 0 <= (count - 1 - chosen[-1]) <= chosen[0] + 1 <= count / 10 + 1
    with pytest.raises(Undefined, match="the clip has 7 frames, pixels_8x8x8 needs 8 or more"):
        PixelFeatures().frame_indices(7)


def test_pixel_features_are_box_means_of_luma() -> None:
    pixels = PixelFeatures()
    clip = frames(8, 16, 24)
    luma = clip @ np.array([0.2126, 0.7152, 0.0722]) / 255
    expected = luma.reshape(8, 8, 2, 8, 3).mean(axis=(2, 4)).reshape(-1)
    found = pixels(clip)
    assert found.dtype == np.float32
    assert found.shape == (512,)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert pixels(np.full((8, 5, 7, 3), 255, np.uint8)) == pytest.approx(1)


def test_pixel_features_count_a_pixel_across_an_edge_by_its_share() -> None:
    clip = frames(8, 12, 20)
    finer = clip.repeat(8, axis=1).repeat(8, axis=2)  # boxes of 12 x 20 fine pixels, which share none
    np.testing.assert_allclose(PixelFeatures()(clip), PixelFeatures()(finer), atol=1e-6)


@pytest.mark.cpu(TORCHSCRIPT)
def test_clip_features_refuse_other_frames_than_they_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="9 frames given, 8 wanted"):
        PixelFeatures()(frames(9))
    with pytest.raises(ValueError, match="give uint8 8 h w 3"):
        PixelFeatures()(frames(8) / 255)
    save_i3d(tmp_path / "i3d_torchscript.pt")
    with pytest.raises(ValueError, match="17 frames given, 16 wanted"):
        load_i3d(tmp_path / "i3d_torchscript.pt")(frames(17))


def test_videomae_features_are_the_mean_token_of_transformers_model(tmp_path: Path) -> None:
    model = save_videomae(tmp_path / "videomae-tiny")
    videomae = load_videomae(tmp_path / "videomae-tiny")
    clip = frames(32)[videomae.frame_indices(32)]
    pictures = [Image.fromarray(frame).resize((48, 32), Image.Resampling.BILINEAR) for frame in clip]
    pixels = np.stack([np.asarray(picture)[:, 8:40] for picture in pictures]) / 127.5 - 1
    with torch.no_grad():
        tokens = model(torch.from_numpy(pixels).float().movedim(-1, 1)[None]).last_hidden_state
    found = videomae(clip)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, tokens[0].mean(dim=0).numpy(), atol=1e-4)
    assert (videomae.name, videomae.sampling) == ("videomae-tiny", "16 evenly")
    with pytest.raises(Undefined, match="the clip has 15 frames, videomae-tiny needs 16"):
        videomae.frame_indices(15)
    save_clip(tmp_path / "clip")
    with pytest.raises(MissingWeightsError, match=r"VideoMAE from .*'clip', wanted 'videomae'"):
        load_videomae(tmp_path / "clip")


@pytest.mark.cpu(TORCHSCRIPT)
def test_i3d_is_called_as_stylegan_v_calls_it_for_fvd(tmp_path: Path) -> None:
    file = tmp_path / "i3d_torchscript.pt"
    save_i3d(file)
    i3d = load_i3d(file)
    clip = frames(20)[i3d.frame_indices(20)]
    found = i3d(clip)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, clip.mean(axis=(1, 2)).T.reshape(-1), rtol=1e-5)  # channels of frames, 0 to 255
    assert i3d.hash == hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    assert (i3d.name, i3d.sampling) == ("i3d_torchscript", "first 16")
    with pytest.raises(Undefined, match=r"the clip has 12 frames, i3d_torchscript reads 16.*num_frames="):
        i3d.frame_indices(12)
    assert load_i3d(file, num_frames=12).frame_indices(12) == list(range(12))
    with pytest.raises(ValueError, match="I3D needs 10 frames or more"):
        load_i3d(file, num_frames=9)


def test_another_module_than_i3d_is_refused_with_the_name_of_the_right_one(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "linear.pt"))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("nothing")
    for name, reason in {"linear.pt": "takes input, not the one", "state.pt": "", "text.pt": "", "none.pt": ""}.items():
        with pytest.raises(
            MissingWeightsError, match=rf"I3D from .*{name}: .*{reason}.*get i3d_torchscript.pt"
        ) as error:
            load_i3d(tmp_path / name)
        assert "\n" not in str(error.value)
