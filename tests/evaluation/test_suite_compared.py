"""The evaluation as a whole: one set of clips beside another, or beside those that should have come out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from footage import pan
from sets import QUICK, moving, some

from videodit.evaluation.measure.clips import Clip, clip_from_array
from videodit.evaluation.measure.distances import frechet_distance, mmd
from videodit.evaluation.measure.plan import Extractors
from videodit.evaluation.report.compare import compare
from videodit.evaluation.suite import evaluate


def test_a_reference_is_compared_by_name_and_as_a_set() -> None:
    clips = [moving(f"{i}.mkv", i, 9) for i in range(3)]
    reference = [moving("0.mp4", 10), moving("1.mp4", 11, 12), moving("x.mp4", 12), moving("y.mp4", 13)]
    results = evaluate(clips, reference=reference, metrics=["paired_psnr", "*pixels_8x8x8"])
    scores = [clip.scores["paired_psnr"] for clip in results.clips]
    error = np.square(pan(0, 9).astype(float) - pan(10, 9)).mean()
    assert scores[0].value == pytest.approx(10 * np.log10(255**2 / error))
    assert "it has 9 frames" in scores[1].why
    assert scores[2].why == "the reference has no clip of this name"
    look = Extractors().pixels
    a, b = (np.stack([look(one(clip)) for clip in each]) for each, one in ((clips, evenly8), (reference, evenly8)))
    assert results.distances["fd_pixels_8x8x8"].value == pytest.approx(frechet_distance(a, b))
    assert results.distances["mmd_pixels_8x8x8"].value == pytest.approx(mmd(a, b))
    assert (results.distances["fd_pixels_8x8x8"].n, results.distances["fd_pixels_8x8x8"].n_reference) == (3, 4)


def test_a_name_without_its_ending_is_a_partner_only_where_it_is_the_only_one() -> None:
    reference = [moving(name, i) for i, name in enumerate(("a.mkv", "a.mov.mkv", "a.mp4", "b.webm"))]
    clips = [moving(name, 9) for name in ("a.gif", "a.mov.mp4", "b.mkv")]
    results = evaluate(clips, reference=reference, metrics=["paired_psnr"])
    values = {clip.name: clip.scores["paired_psnr"].value is not None for clip in results.clips}
    assert values == {"a.gif": False, "a.mov.mp4": True, "b.mkv": True}


def test_a_dot_in_a_name_is_no_ending() -> None:
    results = evaluate([moving("cfg7.5", 0)], reference=[moving("cfg7.0", 1)], metrics=["paired_psnr"])
    assert results.clips[0].scores["paired_psnr"].value is None
    with pytest.raises(ValueError, match="no clip has a partner"):
        compare(results, evaluate([moving("cfg7.0", 1)], metrics=QUICK), "other")


def test_figures_against_different_references_are_not_compared() -> None:
    first, second = (
        evaluate(some(2), reference=[moving(f"{i}.mkv", i + more) for i in range(2)], metrics=["paired_ssim", "*8x8x8"])
        for more in (10, 20)
    )
    for one in compare(first, second, "second").differences.values():
        if one.metric in ("paired_ssim", "fd_pixels_8x8x8", "mmd_pixels_8x8x8"):
            assert one.status == "skipped"
            assert "reference" in one.why


def test_a_name_pairs_nothing_that_prompts_or_seeds_contradict() -> None:
    cat, dog, one = (moving("0.mkv", i, prompt=p) for i, p in enumerate(("cat", "dog", None)))
    with pytest.raises(ValueError, match="contradict"):
        compare(evaluate([cat], metrics=QUICK), evaluate([dog], metrics=QUICK), "dogs")
    assert compare(evaluate([cat], metrics=QUICK), evaluate([one], metrics=QUICK), "unknown").paired_by == "name"


def test_pairs_of_different_sizes_are_left_out_and_counted() -> None:
    small = [clip_from_array(pan(i, 9)[:, :64, :64], 8, name=f"{i}") for i in range(2)]
    large = [moving("0", 0), clip_from_array(pan(5, 9)[:, :64, :64], 8, name="1")]
    found = compare(evaluate(small, metrics=QUICK), evaluate(large, metrics=QUICK), "large")
    assert found.differences["temporal_flickering"].n == 1
    assert found.differences["temporal_flickering"].left_out == {"of another size": 1}


def evenly8(clip: Clip) -> np.ndarray:
    frames = np.stack(list(clip.stream(None)))
    return frames[[int((i + 0.5) * len(frames) / 8) for i in range(8)]]


def test_distances_over_unequal_numbers_of_clips_are_not_compared() -> None:
    reference = [moving(f"r{i}", 20 + i) for i in range(4)]
    three, four = (evaluate(some(n), reference=reference, metrics=["fd_pixels_8x8x8"]) for n in (3, 4))
    found = compare(three, four, "four").differences["fd_pixels_8x8x8"]
    assert found.status == "skipped"
    assert "over 3 clips (reference 4) and over 4 (4)" in found.why
    same = compare(four, four, "four").differences["fd_pixels_8x8x8"]
    assert (same.status, same.value, same.low) == ("measured", 0, None)


def test_what_was_measured_in_another_way_is_not_compared() -> None:
    small, large = (evaluate(some(2), metrics=QUICK, side=side) for side in (64, None))
    found = compare(small, large, "large").differences["temporal_flickering"]
    assert found.status == "skipped"
    assert "preprocessing 'short side at most 64" in found.why


@pytest.mark.slow
def test_differences_are_those_of_pairs_and_count_who_is_better() -> None:
    clips = some(4)
    dim = [
        replace(clip_from_array(pan(i, 9) // 2, 8), name=f"x{i}", prompt=c.prompt, seed=c.seed)
        for i, c in enumerate(clips)
    ]
    ours, theirs = evaluate(clips, metrics=QUICK), evaluate(dim[::-1], metrics=QUICK)
    found = compare(ours, theirs, "dim")
    assert found.paired_by == "prompt and seed"
    assert found.pairs == tuple((f"{i}.mkv", f"x{i}") for i in range(4))
    one = found.differences["temporal_flickering"]
    expected = [
        a.scores["temporal_flickering"].value - b.scores["temporal_flickering"].value
        for a, b in zip(ours.clips, theirs.clips, strict=True)
    ]
    assert one.value == pytest.approx(np.mean(expected))
    assert (one.wins, one.losses, one.p) == (0, 4, 2 / 2**4)  # brighter clips flicker more, all four of them


def test_sets_without_a_common_clip_are_refused() -> None:
    with pytest.raises(ValueError, match="other: no clip has a partner"):
        compare(evaluate([moving("a", 0)], metrics=QUICK), evaluate([moving("b", 0)], metrics=QUICK), "other")
