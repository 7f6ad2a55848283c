"""VBench's preprocessing and positions by brute force, its mean, and its file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import save_clip, save_dino, save_dinov2
from standin import LEFT_EMPTY

from videodit.evaluation.measure.features import FEATURE_METRICS, consistency, load_clip, load_dino
from videodit.evaluation.report.results import ClipResult, Failure, Metric, Protocol, Results, Score, Summary
from videodit.evaluation.report.vbench import (
    CLIP_PREPROCESSING,
    DINO_PREPROCESSING,
    clip_pixels,
    dino_pixels,
    dino_positions,
    to_vbench,
    vbench_mean,
)

CLIP_NORM = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DINO_NORM = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(37, 50), (50, 37), (224, 303), (300, 224), (256, 256)]  # 302.7 and a margin of 39.5 among them


def frames(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def linear(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


def cubic(distance: float) -> float:
    """Keys's kernel with a = -0.75, as in torch."""
    x, a = abs(distance), -0.75
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def sampling(length: int, places: np.ndarray, kernel: object) -> np.ndarray:
    """Weights that sample a line at places, its ends repeated outside."""
    weights = np.zeros((len(places), length))
    for row, place in enumerate(places):
        for index in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            weights[row, min(max(index, 0), length - 1)] += kernel(place - index)  # type: ignore[operator]
    return weights


def resized(image: np.ndarray, height: int, width: int, kernel: object) -> np.ndarray:
    """h w c sampled at the middles of the new pixels: no antialiasing, no rounding, no clamping."""
    rows, columns = (
        sampling(old, (np.arange(new) + 0.5) * old / new - 0.5, kernel)
        for old, new in zip(image.shape[:2], (height, width), strict=True)
    )
    return np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_dino_sees_whole_frames_sampled_bilinearly(height: int, width: int) -> None:
    clip = frames(2, height, width)
    short = min(height, width)
    size = (height * 224 // short, width * 224 // short)
    expected = [(resized(frame, *size, linear) / 255 - DINO_NORM[0]) / DINO_NORM[1] for frame in clip]
    np.testing.assert_allclose(dino_pixels(clip).numpy(), np.moveaxis(np.stack(expected), -1, 1), atol=1e-3)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_clip_sees_the_middle_sampled_bicubically_neither_rounded_nor_clamped(height: int, width: int) -> None:
    clip = frames(2, height, width)
    short = min(height, width)
    size = (height * 224 // short, width * 224 // short)
    top, left = (round((length - 224) / 2) for length in size)
    middles = [resized(frame, *size, cubic)[top : top + 224, left : left + 224] for frame in clip]
    expected = [(middle / 255 - CLIP_NORM[0]) / CLIP_NORM[1] for middle in middles]
    found = clip_pixels(clip)
    assert found.shape == (2, 3, 224, 224)
    np.testing.assert_allclose(found.numpy(), np.moveaxis(np.stack(expected), -1, 1), atol=1e-3)
    assert np.min(middles) < 0 or short == 224  # where it overshoots, that is kept


@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (7, 4), (4, 5)])
def test_positions_are_sampled_as_facebookresearch_dino_does(rows: int, columns: int) -> None:
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 17, 3)))
    weights = [sampling(4, (np.arange(new) + 0.5) * 4 / (new + 0.1) - 0.5, cubic) for new in (rows, columns)]
    expected = np.einsum("yh,hwc,xw->yxc", weights[0], table[0, 1:].numpy().reshape(4, 4, 3), weights[1])
    found = dino_positions(table, rows, columns)
    np.testing.assert_allclose(found[0, 1:].numpy(), expected.reshape(-1, 3), atol=1e-6)
    assert torch.equal(found[:, 0], table[:, 0])
    assert dino_positions(table, 4, 4) is table


@torch.no_grad()
def test_subject_consistency_is_that_of_the_original_networks_forward(tmp_path: Path) -> None:
    model = save_dino(tmp_path / "dino-vitb16", side=224)
    clip = frames(4, 40, 60)
    pixels = dino_pixels(clip)
    embeddings = model.embeddings
    tokens = embeddings.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2)  # 4 x 6 patches of 56 pixels
    tokens = torch.cat([embeddings.cls_token.expand(4, 1, 16), tokens], dim=1)
    states = tokens + dino_positions(embeddings.position_embeddings, 4, 6)
    for layer in model.layers:
        states = layer(states, None)
    features = model.layernorm(states)[:, 0].double().numpy()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = np.mean([(max(0, unit[t] @ unit[t - 1]) + max(0, unit[t] @ unit[0])) / 2 for t in range(1, 4)])

    dino = load_dino(tmp_path / "dino-vitb16", "vbench")
    assert dino.preprocessing == DINO_PREPROCESSING
    np.testing.assert_allclose(dino(clip), features, atol=1e-4)
    assert consistency(dino(clip), "first+prev")[0] == pytest.approx(expected, abs=1e-6)
    resized_to_size = model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0].numpy()
    assert np.abs(resized_to_size - features).max() > 1e-3  # transformers' own positions are others
    assert dino.hash == load_dino(tmp_path / "dino-vitb16").hash


@pytest.mark.cpu(LEFT_EMPTY)
@torch.no_grad()
def test_background_consistency_is_on_clips_projection(tmp_path: Path) -> None:
    model = save_clip(tmp_path / "clip", side=224)
    clip = frames(3, 40, 60)
    expected = model.get_image_features(clip_pixels(clip)).pooler_output
    found = load_clip(tmp_path / "clip", "vbench")
    assert found.preprocessing == CLIP_PREPROCESSING
    np.testing.assert_allclose(found(clip), expected.numpy(), atol=1e-4)
    assert np.abs(found(clip) - load_clip(tmp_path / "clip")(clip)).max() > 1e-3


def test_vbench_is_refused_for_other_networks_than_its_own(tmp_path: Path) -> None:
    save_clip(tmp_path / "clip")
    with pytest.raises(ValueError, match="clip reads 32 x 32: take openai/clip-vit-base-patch32"):
        load_clip(tmp_path / "clip", "vbench")
    save_dinov2(tmp_path / "dinov2")
    with pytest.raises(ValueError, match="dinov2 is a DINOv2: facebook/dino-vitb16"):
        load_dino(tmp_path / "dinov2", "vbench")


def test_the_mean_weighs_steps_alike() -> None:
    assert vbench_mean([0.5, 1.0], [1, 3]) == (0.5 + 3 * 1.0) / 4
    for wrong in ([], [0], [1, 1]):
        with pytest.raises(ValueError, match="numbers of steps"):
            vbench_mean([0.5], wrong)


FLICKERING = Metric(name="temporal_flickering", title="", definition="")
PROTOCOLS = {
    "vbench_subject_consistency": {"features": "dino-vitb16", "preprocessing": DINO_PREPROCESSING},
    "vbench_background_consistency": {"features": "clip-vit-base-patch32", "preprocessing": CLIP_PREPROCESSING},
    "temporal_flickering": {"features": "pixels", "preprocessing": "native"},
}


def results(**changes: dict[str, object]) -> Results:
    """Three metrics on clips of 2 and 4 frames, 0.5 and 1.0 each; `changes` to protocols by metric."""
    summaries = {}
    for name, protocol in PROTOCOLS.items():
        fields = {"metric": name, "sampling": "all", "fps": 8, **protocol, **changes.get(name, {})}
        summaries[name] = Summary(
            metric={**FEATURE_METRICS, "temporal_flickering": FLICKERING}[name],
            status="measured",
            value=0.5,  # without the still clip
            protocol=Protocol.model_validate(fields),
            signature="",
        )
    clips = [
        ClipResult(
            name=name,
            path=path,
            digest="",
            num_frames=count,
            fps=8,
            height=8,
            width=8,
            scores={metric: Score(value=value) for metric in PROTOCOLS},
        )
        for name, path, count, value in (("a", "clips/a.mp4", 2, 0.5), ("b", None, 4, 1.0))
    ]
    return Results(version="0", summaries=summaries, clips=tuple(clips))


def test_the_export_has_vbenchs_format_and_weights() -> None:
    found, left_out = to_vbench(results())
    videos = [{"video_path": "clips/a.mp4", "video_results": 0.5}, {"video_path": "b", "video_results": 1.0}]
    assert json.loads(json.dumps(found)) == {
        "subject_consistency": [3.5 / 4, videos],
        "background_consistency": [3.5 / 4, videos],
        "temporal_flickering": [0.75, videos],
    }
    assert left_out == []


@pytest.mark.parametrize(
    ("metric", "change", "reason"),
    [
        ("vbench_subject_consistency", {"features": "dino-vits8"}, "by 'dino-vits8'; VBench's is 'dino-vitb16'"),
        ("vbench_background_consistency", {"preprocessing": "short side 256"}, "on frames of 'short side 256'"),
        ("vbench_background_consistency", {"sampling": "all by time"}, "on frames 'all by time', not on all"),
        ("vbench_subject_consistency", {"sampling": "16 evenly"}, "on frames '16 evenly', not on all"),
        ("temporal_flickering", {"preprocessing": "short side 256"}, "'short side 256', not at native size"),
        ("temporal_flickering", {"sampling": "all by time"}, "on frames 'all by time', not on all"),
    ],
)
def test_what_was_not_measured_as_vbench_does_is_left_out_with_its_reason(
    metric: str, change: dict[str, object], reason: str
) -> None:
    found, left_out = to_vbench(results(**{metric: change}))
    assert len(found) == 2
    assert metric.removeprefix("vbench_") not in found
    (line,) = left_out
    assert line.startswith(metric.removeprefix("vbench_"))
    assert reason in line


def test_what_is_missing_is_said() -> None:
    whole = results()
    subject = whole.summaries["vbench_subject_consistency"]
    skipped = subject.model_copy(update={"status": "skipped", "why": "no weights"})
    summaries = {"vbench_subject_consistency": skipped, "temporal_flickering": whole.summaries["temporal_flickering"]}
    still = whole.clips[0].model_copy(update={"scores": {"temporal_flickering": Score(value=None, why="one frame")}})
    found, left_out = to_vbench(
        whole.model_copy(
            update={
                "summaries": summaries,
                "clips": (still, whole.clips[1]),
                "failures": (Failure(name="c", why="cannot be read"),),
            }
        )
    )
    assert found == {"temporal_flickering": [1.0, [{"video_path": "b", "video_results": 1.0}]]}
    assert left_out == [
        "subject_consistency: vbench_subject_consistency was skipped: no weights",
        "background_consistency: vbench_background_consistency was not asked for",
        "temporal_flickering: a has no value: one frame",
        "all: c is left out: cannot be read",
    ]
