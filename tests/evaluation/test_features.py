"""CLIP and DINO through transformers' own classes against direct computations; consistency against closed forms."""

import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import huggingface_hub
import numpy as np
import pytest
import torch
from networks import save_clip, save_dino, save_dinov2, save_videomae
from PIL import Image
from safetensors.torch import load_file, save_file
from standin import LEFT_EMPTY

from videodit.evaluation.measure.features import (
    FEATURE_METRICS,
    consistency,
    load_clip,
    load_dino,
    text_alignment,
)
from videodit.evaluation.measure.pixels import ConsistencyVariant, Undefined
from videodit.evaluation.measure.weights import MissingWeightsError
from videodit.weights import state_hash

VARIANTS = get_args(ConsistencyVariant)
CLIP_NORM = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "clip-tiny"
    save_clip(folder)
    return folder


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dino") / "dino-tiny"
    save_dino(folder)
    return folder


def frames(count: int = 5, height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def turning(count: int, step: float) -> np.ndarray:
    """Vectors of unequal lengths in a plane, each turned by `step` from the one before."""
    angles = step * np.arange(count)
    return (1 + np.arange(count))[:, None] * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)


@pytest.mark.parametrize("step", [0.0, 0.1, 0.7])
def test_consistency_of_turning_features_is_its_closed_form(step: float) -> None:
    count = 8
    pairs = [np.cos((i - j) * step) for i in range(count) for j in range(count) if i != j]
    first_prev = [(max(0, np.cos(step)) + max(0, np.cos(i * step))) / 2 for i in range(1, count)]
    features = turning(count, step)
    assert consistency(features, "consecutive")[0] == pytest.approx(np.cos(step), abs=1e-12)
    assert consistency(features, "all-pairs")[0] == pytest.approx(np.mean(pairs), abs=1e-12)
    assert consistency(features, "first+prev")[0] == pytest.approx(np.mean(first_prev), abs=1e-12)


def test_curves_are_aligned_to_frames_and_their_mean_is_the_value() -> None:
    features = np.eye(4)[[0, 0, 1, 1, 2]]  # a jump at frame 2 and one at frame 4
    assert consistency(features, "consecutive")[1] == (None, 1, 0, 1, 0)
    assert consistency(features, "first+prev")[1] == (None, 1, 0, 0.5, 0)
    assert consistency(features, "all-pairs")[1] == (0.25, 0.25, 0.25, 0.25, 0)
    for variant in VARIANTS:
        value, curve = consistency(features, variant)
        assert value == pytest.approx(np.mean([x for x in curve if x is not None]))


def test_only_first_and_previous_clamps_opposite_features() -> None:
    features = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert [consistency(features, variant)[0] for variant in VARIANTS] == [-1, -1, 0]


def test_features_without_a_direction_and_wrong_shapes_are_named() -> None:
    with pytest.raises(Undefined, match="features 1 are zero or not finite"):
        consistency(np.array([[1.0, 0.0], [0.0, 0.0]]), "consecutive")
    with pytest.raises(Undefined, match="features 0 are zero or not finite"):
        consistency(np.array([[np.nan, 0.0], [0.0, 1.0]]), "consecutive")
    with pytest.raises(Undefined, match="1 frames are too few"):
        consistency(np.ones((1, 2)), "all-pairs")
    with pytest.raises(ValueError, match="'mean' is none of consecutive"):
        consistency(np.ones((2, 2)), "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be n d and d"):
        text_alignment(np.ones((2, 3)), np.ones(2))


def test_text_alignment_is_the_mean_cosine_and_may_be_negative() -> None:
    value, curve = text_alignment(np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]), np.array([5.0, 0.0]))
    assert curve == (1, 0, -1)
    assert value == 0
    assert text_alignment(np.array([[-2.0, 0.0]]), np.array([1.0, 0.0]))[0] == -1


def by_pillow(frame: np.ndarray, size: tuple[int, int], filter: Image.Resampling) -> np.ndarray:
    """h w, as Pillow resizes a picture; float64 in [0, 1]."""
    return np.asarray(Image.fromarray(frame).resize(size[::-1], filter)) / 255


@pytest.mark.cpu(LEFT_EMPTY)
def test_clip_features_are_those_of_transformers_on_pillows_resize(clip_folder: Path) -> None:
    model = save_clip(clip_folder)
    pictures = [by_pillow(frame, (32, 48), Image.Resampling.BICUBIC)[:, 8:40] for frame in frames()]  # the middle
    pixels = (np.stack(pictures) - CLIP_NORM[0]) / CLIP_NORM[1]
    with torch.no_grad():
        expected = model.get_image_features(torch.from_numpy(pixels).float().movedim(-1, 1)).pooler_output
    clip = load_clip(clip_folder)
    found = clip(frames())
    assert found.dtype == np.float32
    assert found.shape == (5, clip.width) == (5, 12)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert np.ptp(np.linalg.norm(found, axis=1)) > 0.01  # not normalized
    assert clip.name == "clip-tiny"
    assert clip.preprocessing == (
        "short side 32 bicubic antialias, center-crop 32x32, norm 0.481,0.458,0.408/0.269,0.261,0.276"
    )


def test_dino_features_are_the_class_token_after_the_last_norm_of_frames_that_are_not_square(dino_folder: Path) -> None:
    model = save_dino(dino_folder)
    pixels = np.stack([by_pillow(frame, (32, 48), Image.Resampling.BILINEAR) for frame in frames()]) * 2 - 1
    with torch.no_grad():
        states = model(torch.from_numpy(pixels).float().movedim(-1, 1), interpolate_pos_encoding=True).last_hidden_state
    dino = load_dino(dino_folder)
    np.testing.assert_allclose(dino(frames()), states[:, 0].numpy(), atol=1e-4)
    assert dino.preprocessing == "32x48 bilinear antialias, norm 0.5,0.5,0.5/0.5,0.5,0.5"
    assert dino.width == 16


def test_dinov2_features_are_its_class_token(tmp_path: Path) -> None:
    model = save_dinov2(tmp_path / "dinov2-tiny")
    pixels = np.stack([by_pillow(frame, (32, 48), Image.Resampling.BILINEAR) for frame in frames()]) * 2 - 1
    with torch.no_grad():
        states = model(torch.from_numpy(pixels).float().movedim(-1, 1)).last_hidden_state
    np.testing.assert_allclose(load_dino(tmp_path / "dinov2-tiny")(frames()), states[:, 0].numpy(), atol=1e-4)


@pytest.mark.cpu(LEFT_EMPTY)
@pytest.mark.slow
def test_batch_size_does_not_change_features(clip_folder: Path, dino_folder: Path) -> None:
    for load, folder in ((load_clip, clip_folder), (load_dino, dino_folder)):
        alone, all_at_once = (load(folder, batch_size=size)(frames(5)) for size in (1, 16))
        np.testing.assert_allclose(load(folder, batch_size=2)(frames(5)), all_at_once, atol=1e-5)
        np.testing.assert_allclose(alone, all_at_once, atol=1e-5)
    prompts = ["red", "a red cat", "b"]
    alone, together = (load_clip(clip_folder, batch_size=size).text(prompts) for size in (1, 3))
    np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.cpu(LEFT_EMPTY)
@torch.no_grad()
def test_text_features_are_those_of_transformers_and_a_cut_prompt_is_named(clip_folder: Path) -> None:
    model = save_clip(clip_folder)
    clip = load_clip(clip_folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = clip.text(["red", "redredr"])
    assert found.dtype == np.float32
    for row, prompt in zip(found, ["red", "redredr"], strict=True):
        tokens = clip.tokenizer(prompt, return_tensors="pt")
        expected = model.get_text_features(**tokens).pooler_output[0]
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-5)
    assert clip.max_tokens == 10
    assert clip.truncated(["a b c d e f g h", "a b c d e f g h i"]) == ["a b c d e f g h i"]
    with pytest.warns(UserWarning, match="reads 10 tokens: the end of 'a b c d e f g h i' is lost"):
        cut = clip.text(["red", "a b c d e f g h i"])
    np.testing.assert_allclose(cut[1], clip.text(["a b c d e f g h"])[0], atol=1e-5)
    for wrong in ([], "red"):
        with pytest.raises(ValueError, match="list of at least one prompt"):
            clip.text(wrong)


@pytest.mark.cpu(LEFT_EMPTY)
def test_threads_do_not_disturb_each_other(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = load_clip(clip_folder)
    inside: list[int] = []

    def tokenizer(*args: Any, **kwargs: Any) -> Any:
        inside.append(1)
        for _ in range(1000):
            pass  # long enough for another thread to have its turn
        assert len(inside) == 1, "two threads in one tokenizer, which remembers how it was called last"
        inside.pop()
        return real(*args, **kwargs)

    real = clip.tokenizer
    tokenizer.model_max_length = real.model_max_length  # type: ignore[attr-defined]
    monkeypatch.setattr(clip, "tokenizer", tokenizer)
    prompts, interval = list("abcdefgh"), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            texts = list(pool.map(lambda prompt: clip.text([prompt])[0], prompts))
            images = list(pool.map(lambda seed: clip(frames(2, seed=seed)), range(8)))
    finally:
        sys.setswitchinterval(interval)
    np.testing.assert_allclose(texts, clip.text(prompts), atol=1e-5)
    np.testing.assert_allclose(images, [clip(frames(2, seed=seed)) for seed in range(8)], atol=1e-5)


def test_the_hash_is_of_names_types_shapes_and_bytes(dino_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(dino_folder, other)
    assert load_dino(other).hash == load_dino(dino_folder).hash
    weights = load_file(other / "model.safetensors")
    weights["layernorm.bias"][3] += 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert load_dino(other).hash != load_dino(dino_folder).hash

    state = {"a": torch.zeros(2, 3), "b": torch.zeros(2, dtype=torch.bfloat16), "c": torch.tensor(1)}
    assert state_hash(state) == state_hash(dict(reversed(state.items())))
    changed = [
        {**state, "a": torch.zeros(3, 2)},
        {**state, "b": torch.zeros(2, dtype=torch.float16)},
        {**state, "c": torch.tensor(2)},
        {"a": state["a"], "b": state["b"], "d": state["c"]},
    ]
    hashes = {state_hash(one) for one in (state, *changed)}
    assert len(hashes) == 5
    assert all(len(one) == 12 and int(one, 16) >= 0 for one in hashes)


def test_frames_of_another_kind_are_refused(dino_folder: Path) -> None:
    dino = load_dino(dino_folder)
    for wrong in (frames() / 255, frames()[0], frames()[..., :2], frames()[:0]):
        with pytest.raises(ValueError, match="give uint8 n h w 3"):
            dino(wrong)
    with pytest.raises(ValueError, match="batch_size=0"):
        load_dino(dino_folder, batch_size=0)


def test_weights_that_cannot_be_had_are_an_error_that_says_why_and_how(
    tmp_path: Path, clip_folder: Path, dino_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_videomae(tmp_path / "videomae")
    (tmp_path / "empty").mkdir()
    shutil.copytree(clip_folder, tmp_path / "no tokenizer")
    (tmp_path / "no tokenizer/tokenizer.json").unlink()
    shutil.copytree(clip_folder, tmp_path / "damaged")
    (tmp_path / "damaged/model.safetensors").write_bytes(b"x" * 100)
    shutil.copytree(clip_folder, tmp_path / "part")
    weights = load_file(tmp_path / "part/model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "part/model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for source, reason in {
        tmp_path / "nowhere": "there is no such folder",
        "./nowhere": "there is no such folder",
        Path("nowhere"): "there is no such folder",  # a path is never a hub name
        tmp_path / "empty": "config.json",
        dino_folder: "it is of type 'vit', wanted 'clip'",
        tmp_path / "no tokenizer": "tokenizer",
        tmp_path / "damaged": "",
        tmp_path / "part": "its weights lack visual_projection.weight, 1 in all",
        "openai/clip-vit-base-patch32": "",
    }.items():
        with pytest.raises(MissingWeightsError) as error:
            load_clip(source)
        said = str(error.value)
        assert said.startswith(f"CLIP from {source}: ")
        assert reason in said
        assert "hf download openai/clip-vit-base-patch32 --local-dir clip-vit-base-patch32" in said
        assert "\n" not in said
    with pytest.raises(MissingWeightsError, match="'videomae', wanted 'vit' or 'dinov2'"):
        load_dino(tmp_path / "videomae")


def test_metrics_say_what_they_are() -> None:
    assert list(FEATURE_METRICS) == [
        "clip_consistency_consecutive",
        "clip_consistency_all_pairs",
        "clip_consistency_first_prev",
        "dino_consistency_consecutive",
        "dino_consistency_all_pairs",
        "dino_consistency_first_prev",
        "vbench_subject_consistency",
        "vbench_background_consistency",
        "clip_text_alignment",
        "lpips_temporal",
        "lpips_paired",
    ]
    for name, metric in FEATURE_METRICS.items():
        assert metric.name == name
        assert metric.rewards_stillness == ("consistency" in name or name == "lpips_temporal")
        assert metric.better == ("lower" if "lpips" in name else "higher")
        assert metric.variant in VARIANTS if "consistency" in name else metric.variant == ""
