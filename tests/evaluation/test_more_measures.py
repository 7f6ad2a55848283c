"""JEDi, VBench's aesthetic quality and dynamic degree, retrieval: tiny random networks against plain numpy, and what is
missing is told by name."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corruptions import CORRUPTIONS, parade
from footage import pan
from networks import save_clip, save_vjepa
from PIL import Image
from safetensors.torch import load_file, save_file

from videodit.evaluation.measure.aesthetic import load_aesthetic
from videodit.evaluation.measure.clip_features import load_vjepa
from videodit.evaluation.measure.clips import Clip, clip_from_array
from videodit.evaluation.measure.distances import jedi
from videodit.evaluation.measure.features import load_clip
from videodit.evaluation.measure.flow import Flow
from videodit.evaluation.measure.plan import Extractors
from videodit.evaluation.measure.retrieval import ranks
from videodit.evaluation.measure.streaming import follow
from videodit.evaluation.measure.weights import MissingWeightsError
from videodit.evaluation.measure.whole import VBENCH_DYNAMIC
from videodit.evaluation.suite import evaluate


def frames(count: int = 16, height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


# --- JEDi -------------------------------------------------------------------------------------------------------------


def test_jedi_is_the_distance_of_second_moments() -> None:
    """The kernel's mean over two sets is the product of their moments: 100 |M_a - M_b|^2 / d^2, in float64."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 5)), 1 + rng.standard_normal((9, 5))
    moments = [x.T @ x / len(x) for x in (a, b)]
    assert jedi(a, b) == pytest.approx(100 * np.square(moments[0] - moments[1]).sum() / 5**2, rel=1e-12)
    assert jedi(a, a) == pytest.approx(0, abs=1e-10)
    assert jedi(a, -a) == pytest.approx(0, abs=1e-10)  # the kernel is even
    assert jedi(b, a) == pytest.approx(jedi(a, b), rel=1e-12)


def test_jedi_of_two_samples_is_as_its_paper_computes() -> None:
    a, b = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]), np.array([[7.0, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]])
    means = [np.mean([(x @ y / 3) ** 2 for x in one for y in other]) for one, other in ((a, a), (b, b), (a, b))]
    assert jedi(a, b) == pytest.approx(100 * (means[0] + means[1] - 2 * means[2]), rel=1e-12)
    assert jedi(a, b) == pytest.approx(100 * 270.7, rel=1e-3)  # the value that its code prints for these


def test_jedi_grows_with_the_share_of_samples_from_elsewhere() -> None:
    """Second moments mix as samples do, so the distance goes with the share's square: the ordering law of sets."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((8, 4)), 1 + rng.standard_normal((8, 4))
    for share in (0, 1, 2, 3, 4):
        mixed = np.concatenate([a] * (4 - share) + [b] * share)
        assert jedi(mixed, a) == pytest.approx((share / 4) ** 2 * jedi(b, a), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("probed", [False, True])
def test_v_jepa_sees_the_middle_square_of_even_frames(tmp_path: Path, probed: bool) -> None:
    model = save_vjepa(tmp_path / "vjepa-tiny", probed=probed)
    features = load_vjepa(tmp_path / "vjepa-tiny", "cpu")
    clip = frames(height=32, width=48)  # as high as the network's side: nothing is resized
    shown = (clip[:, :, 8:40] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    pixels = torch.from_numpy(shown).float().permute(0, 3, 1, 2)[None]
    with torch.no_grad():
        encoder: Any = model.vjepa2 if probed else model
        tokens = encoder(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state
        expected = model.pooler(tokens)[0] if probed else tokens[0].mean(dim=0)
    np.testing.assert_allclose(features(clip), expected.numpy(), atol=1e-5)
    assert features.name == f"vjepa-tiny {'probe' if probed else 'mean'}"
    assert features.frame_indices(32) == list(range(1, 32, 2))
    large = np.stack([np.asarray(Image.fromarray(frame).resize((96, 64), Image.Resampling.BICUBIC)) for frame in clip])
    small = [np.asarray(Image.fromarray(one).resize((48, 32), Image.Resampling.BICUBIC)) for one in large]
    np.testing.assert_allclose(features(large), features(np.stack(small)), atol=1e-5)


@pytest.mark.slow
def test_jedi_of_sets_is_that_of_their_features(tmp_path: Path) -> None:
    save_vjepa(tmp_path / "vjepa-tiny")
    extractors = Extractors.load(vjepa=str(tmp_path / "vjepa-tiny"))
    sets = [[clip_from_array(pan(i, 17), 8, name=f"{i}.mkv") for i in numbers] for numbers in ((0, 1, 2), (3, 4, 5, 6))]
    results = evaluate(sets[0], reference=sets[1], metrics=["jedi*"], extractors=extractors)
    even = [(2 * i + 1) * 17 // 32 for i in range(16)]
    seen = [np.stack([extractors.vjepa(pan(i, 17)[even]) for i in numbers]) for numbers in ((0, 1, 2), (3, 4, 5, 6))]
    found = results.distances["jedi_vjepa2"]
    assert found.value == pytest.approx(jedi(*seen), rel=1e-6)
    assert "features:vjepa-tiny mean@" in found.signature
    assert "kernel of degree 2, biased, times 100" in found.signature
    short = [replace(clip, num_frames=9) for clip in sets[0]]
    why = evaluate(short, reference=sets[1], metrics=["jedi*"], extractors=extractors).distances["jedi_vjepa2"].why
    assert "the clip has 9 frames, vjepa-tiny mean needs 16" in why


def test_a_folder_without_v_jepa_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"V-JEPA 2 from .*no such folder; .*vjepa2-vitl-fpc16-256-ssv2"):
        load_vjepa(tmp_path / "none")
    save_clip(tmp_path / "clip")
    with pytest.raises(MissingWeightsError, match=r"it is of type 'clip', wanted 'vjepa2'"):
        load_vjepa(tmp_path / "clip")
    save_vjepa(tmp_path / "vjepa")
    state = load_file(tmp_path / "vjepa" / "model.safetensors")
    state.pop("encoder.layernorm.weight")
    save_file(state, tmp_path / "vjepa" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingWeightsError, match=r"its weights lack encoder.layernorm.weight"):
        load_vjepa(tmp_path / "vjepa")


# --- aesthetic quality ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aesthetic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("aesthetic")
    save_clip(folder / "clip-tiny", side=224)
    torch.manual_seed(1)
    torch.save({"weight": torch.randn(1, 12), "bias": torch.randn(1)}, folder / "head.pth")
    return {"clip": str(folder / "clip-tiny"), "aesthetic": str(folder / "head.pth")}


@pytest.mark.slow
def test_aesthetic_quality_is_a_tenth_of_the_linear_score_of_directions(aesthetic: dict[str, str]) -> None:
    clip, extractors = parade(0)[:5], Extractors.load(**aesthetic)
    features = load_clip(aesthetic["clip"], "vbench")(clip).astype(np.float64)
    head = torch.load(aesthetic["aesthetic"], weights_only=True)
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = (directions @ head["weight"].double().numpy()[0] + head["bias"].double().numpy()[0]) / 10
    results = evaluate([clip_from_array(clip, 8)], metrics=["vbench_aesthetic_quality"], extractors=extractors)
    score = results.clips[0].scores["vbench_aesthetic_quality"]
    np.testing.assert_allclose(np.array(score.curve, dtype=float), expected, atol=1e-6)
    assert score.value == pytest.approx(expected.mean(), abs=1e-6)
    assert "features:clip-tiny+linear@" in results.summaries["vbench_aesthetic_quality"].signature


def test_an_aesthetic_head_that_is_missing_or_another_says_what_to_give(
    aesthetic: dict[str, str], tmp_path: Path
) -> None:
    clip = load_clip(aesthetic["clip"], "vbench")
    with pytest.raises(MissingWeightsError, match=r"there is no CLIP; give sa_0_4_vit_l_14_linear.pth .*--clip openai"):
        load_aesthetic(aesthetic["aesthetic"], None)
    with pytest.raises(MissingWeightsError, match=r"head from .*none.pth: .*No such file.*; give sa_0_4"):
        load_aesthetic(tmp_path / "none.pth", clip)
    torch.save({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, tmp_path / "large.pth")
    with pytest.raises(MissingWeightsError, match=r"size mismatch for weight.*clip-vit-large-patch14"):
        load_aesthetic(tmp_path / "large.pth", clip)
    (tmp_path / "text.pth").write_text("<html>")
    with pytest.raises(MissingWeightsError, match=r"head from .*text.pth"):
        load_aesthetic(tmp_path / "text.pth", clip)
    missing = Extractors.load(aesthetic=aesthetic["aesthetic"]).missing["aesthetic"]
    assert "there is no CLIP" in missing


# --- dynamic degree ---------------------------------------------------------------------------------------------------


def moved_by(speeds: dict[tuple[int, int], float], share: float = 0.06) -> Flow:
    """A flow that knows between which frames (by their gray) how fast a share of the pixels moves."""

    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        flow = np.zeros((*a.shape[:2], 2), np.float32)
        rows = round(share * len(flow))
        flow[:rows, :, 0], flow[:rows, :, 1] = (
            0.6 * speeds[int(a[0, 0, 0]), int(b[0, 0, 0])],
            -0.8 * speeds[int(a[0, 0, 0]), int(b[0, 0, 0])],
        )
        return flow

    return Flow("raft-large@0", between)


def grays(count: int, side: int = 128) -> list[np.ndarray]:
    return [np.full((side, side, 3), i, np.uint8) for i in range(count)]


@pytest.mark.parametrize(("fps", "step", "slower"), [(8, 1, 1), (24, 3, 1), (16, 2, 1), (4, 1, 2), (9.0, 1, 1)])
def test_dynamic_degree_is_vbenchs_rule(fps: float, step: int, slower: int) -> None:
    """Of 16 frames at its rate 4 transitions must pass 6 pixels of 256: 3 of 128, and twice that at 4 a second."""
    count = 15 * step + 1
    for fast, moving in ((3, 0), (4, 1)):
        steps = [(i * step, (i + 1) * step) for i in range(15)]
        speeds = {pair: (3.01 if i < fast else 2.99) * slower for i, pair in enumerate(steps)}
        score = follow([grays(count)], fps, {"x": VBENCH_DYNAMIC}, moved_by(speeds))["x"]
        assert score.value == moving
        values = [value for value in score.curve if value is not None]
        assert values == pytest.approx(list(speeds.values()), rel=1e-5)


@pytest.mark.slow
def test_a_clip_that_freezes_longer_is_never_more_dynamic() -> None:
    freeze = CORRUPTIONS["freeze"]
    clips = [freeze(parade(0), strength, parade(1)) for strength in freeze.strengths]
    found = [follow([clip], 8, {"x": VBENCH_DYNAMIC})["x"].value for clip in clips]
    assert found == sorted(found, key=lambda value: -float(value or 0))
    assert (found[0], found[-1]) == (1, 0)


def test_dynamic_degree_of_too_few_frames_is_not_known() -> None:
    """VBench asks for round(4 * 2 / 16) = 0 transitions of two frames: each such clip moves."""
    score = follow([grays(2)], 8, {"x": VBENCH_DYNAMIC}, moved_by({(0, 1): 0.0}))["x"]
    assert score.value is None
    assert "3 are needed" in score.why


def test_dynamic_degree_is_of_raft_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clip = clip_from_array(pan(0, 9), 8)
    without = evaluate([clip], metrics=["vbench_dynamic_degree"]).summaries["vbench_dynamic_degree"]
    assert "give --raft with a file of RAFT's weights; pip install torchvision" in without.why
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    with pytest.raises(MissingWeightsError, match=r"RAFT from .*pip install torchvision"):
        Extractors.load(raft=str(tmp_path / "raft.pth"))
    raft = Flow("raft-large@0", lambda a, b: np.full((*a.shape[:2], 2), 9, np.float32))
    results = evaluate([clip], metrics=["vbench_dynamic_degree"], extractors=Extractors(flow=raft))
    assert results.summaries["vbench_dynamic_degree"].value == 1
    assert "features:raft-large@0" in results.summaries["vbench_dynamic_degree"].signature


# --- retrieval --------------------------------------------------------------------------------------------------------


def test_ranks_are_places_among_others_with_ties_against() -> None:
    texts = np.eye(3)
    videos = np.array([[2.0, 1, 0], [1, 3, 0], [0, 2, 1], [0, 0, 5]])  # of prompts 0, 1, 2, 2
    by_text, by_video = ranks(videos, texts, [0, 1, 2, 2])
    assert by_text.tolist() == [1, 1, 1, 1]  # prompt 2 finds its second clip first
    assert by_video.tolist() == [1, 1, 2, 1]
    same = np.ones((4, 3))
    by_text, by_video = ranks(same, texts, [0, 1, 2, 2])
    assert by_text.tolist() == [4, 4, 3, 3]  # all alike: all others come before
    assert by_video.tolist() == [3, 3, 3, 3]


def test_more_clips_under_a_wrong_prompt_are_found_less() -> None:
    texts = np.eye(6)
    shares = []
    for wrong in (0, 2, 4, 6):
        shown = [*np.roll(range(wrong), 1), *range(wrong, 6)]
        shares.append([float(np.mean(places == 1)) for places in ranks(np.eye(6)[shown], texts, range(6))])
    assert shares == [[1, 1], [2 / 3, 2 / 3], [1 / 3, 1 / 3], [0, 0]]


class Letters:
    """In place of CLIP: a frame is the direction of its mean colour, a prompt that of its letter."""

    name, hash, preprocessing, width = "letters", "0", "none", 3

    def __call__(self, shown: np.ndarray) -> np.ndarray:
        return shown.mean(axis=(1, 2)).astype(np.float32)

    def text(self, prompts: list[str]) -> np.ndarray:
        return np.stack([np.eye(3)["rgb".index(prompt)] for prompt in prompts]).astype(np.float32)


def coloured(name: str, prompt: str | None, shown: str) -> Clip:
    colour = 40 + 200 * np.eye(3)["rgb".index(shown)]
    return clip_from_array((pan(1, 5) * 0.1 + colour * 0.9).astype(np.uint8), 8, name=name, prompt=prompt)


@pytest.mark.slow
def test_retrieval_is_of_the_whole_set_and_counts_what_is_found() -> None:
    clips = [coloured("0", "r", "r"), coloured("1", "g", "g"), coloured("2", "b", "r"), coloured("3", None, "b")]
    results = evaluate(clips, metrics=["clip_*_r1", "clip_*_r5"], extractors=Extractors(clip=Letters()))
    for name, values in (("clip_video_to_text_r1", [1, 1, 0]), ("clip_text_to_video_r1", [0, 1, 0])):
        summary = results.summaries[name]
        assert [clip.scores[name].value for clip in results.clips] == [*values, None], name
        assert summary.value == pytest.approx(np.mean(values))
        assert summary.left_out == {"the clip has no prompt": 1}
    assert "there are 3 to find it among" in results.summaries["clip_video_to_text_r5"].why
