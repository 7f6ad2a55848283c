"""The evaluation as a whole: what stands in the results, and what can change them."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from footage import pan
from networks import save_clip, save_dino, save_i3d, save_videomae
from sets import QUICK, moving, some, still
from standin import LEFT_EMPTY, TORCHSCRIPT

from videodit.evaluation.measure import clips as clips_room
from videodit.evaluation.measure.clips import Clip, clip_from_array, clip_from_file
from videodit.evaluation.measure.distances import frechet_distance
from videodit.evaluation.measure.feature_cache import FeatureCache
from videodit.evaluation.measure.features import consistency, text_alignment
from videodit.evaluation.measure.measures import MEASURES, PAIRED, measure
from videodit.evaluation.measure.plan import Extractors, all_metrics
from videodit.evaluation.report.compare import compare
from videodit.evaluation.report.results import Failure, Results, load_results
from videodit.evaluation.report.statistics import bootstrap_mean
from videodit.evaluation.suite import evaluate
from videodit.video import VideoError, write_video
from videodit.video.guarded import Guarded


@pytest.mark.slow
def test_every_clip_has_the_scores_of_the_streaming_measures_and_the_mean_is_theirs() -> None:
    results = evaluate(some(12), metrics=QUICK)
    for clip in results.clips:
        alone = measure(pan(int(clip.name.split(".")[0]), 9), 8)
        for name, score in clip.scores.items():
            assert score == alone[name]
    for name, summary in results.summaries.items():
        values = [clip.scores[name].value for clip in results.clips]
        assert summary.value == pytest.approx(np.mean(values))
        assert summary.protocol.n == 12
    found = results.summaries["consistency_consecutive"]
    by_prompt = defaultdict(list)
    for clip in results.clips:
        by_prompt[clip.prompt].append(clip.scores["consistency_consecutive"].value)
    of_prompts = bootstrap_mean([np.mean(pair) for pair in by_prompt.values()], list(by_prompt))
    assert (found.low, found.high) == pytest.approx((of_prompts.low, of_prompts.high))  # prompts are drawn whole


@pytest.mark.slow
def test_order_threads_and_a_second_run_change_nothing() -> None:
    clips = some(6)
    first = evaluate(clips, reference=[moving(f"{i}.mp4", i + 10) for i in range(6)], metrics=[*QUICK, "*pixels_8x8x8"])
    random.Random(1).shuffle(clips)
    others = [moving(f"{i}.mp4", i + 10) for i in (3, 1, 5, 0, 2, 4)]
    again = evaluate(clips, reference=others, metrics=[*QUICK, "*pixels_8x8x8"], workers=3)
    assert again.to_json() == first.to_json()


@pytest.mark.slow
def test_a_set_compared_with_itself_has_no_difference() -> None:
    results = evaluate([*some(12), still("12.mkv")], metrics=QUICK)
    found = compare(results, results, "itself")
    assert found.unpaired == 0
    for one in found.differences.values():
        assert (one.value, one.low, one.high, one.wins, one.losses, one.p) == (0, 0, 0, 0, 0, 1)
    assert found.differences["consistency_consecutive"].left_out == {"still": 1}
    assert found.differences["motion_per_second"].n == 13


@pytest.mark.slow
def test_a_still_clip_is_flagged_and_in_no_mean_that_it_would_win() -> None:
    clips = [*some(2), still("still.mkv")]
    results = evaluate(clips)
    without = evaluate(clips[:2])
    flags = {clip.name: clip.flags for clip in results.clips}
    assert flags == {"0.mkv": (), "1.mkv": (), "still.mkv": ("still",)}
    for name, summary in results.summaries.items():
        if MEASURES[name].metric.rewards_stillness:
            assert summary.value == without.summaries[name].value, name
            assert summary.left_out["still"] == 1
    assert results.summaries["change_per_second"].value == pytest.approx(
        2 / 3 * without.summaries["change_per_second"].value
    )


def test_a_clip_that_freezes_on_its_way_is_flagged_and_repeated_frames_are_not() -> None:
    frames = pan(0, 17)
    frozen = frames[[*range(12), *[12] * 5]]  # half a second
    on_twos = frames[np.arange(17) // 2]
    clips = [clip_from_array(each, 8, name=name) for name, each in (("frozen", frozen), ("on twos", on_twos))]
    results = evaluate(clips, metrics=["frozen_share"])
    assert [clip.flags for clip in results.clips] == [("frozen",), ()]


@pytest.mark.slow
def test_a_cut_is_flagged() -> None:
    clip = clip_from_array(np.concatenate([pan(0, 9), pan(7, 9)]), 8)
    (result,) = evaluate([clip]).clips
    assert result.flags == ("cut",)
    worst = [moment.frame for moment in result.worst if moment.metric == "consistency_consecutive"]
    assert worst[0] == 9  # where the second picture comes


@pytest.mark.slow
def test_a_broken_clip_among_good_ones_is_told_and_the_rest_is_measured() -> None:
    good = some(2)

    def breaks(side: int | None) -> Iterator[np.ndarray]:
        yield pan(0, 1)[0]
        raise VideoError("b.mkv: damaged in the middle")

    results = evaluate([*good, replace(good[0], name="b.mkv", stream=breaks)], failures=[Failure(name="a", why="gone")])
    assert results.failures == (
        Failure(name="a", why="gone"),
        Failure(name="b.mkv", why="b.mkv: damaged in the middle"),
    )
    assert results.summaries == evaluate(good).summaries


def test_a_network_that_cannot_take_a_clip_costs_that_clip_alone() -> None:
    good = some(2)

    def too_much(side: int | None) -> Iterator[np.ndarray]:
        raise RuntimeError("out of memory")

    results = evaluate([*good, replace(good[0], name="b.mkv", stream=too_much)], metrics=QUICK)
    assert results.failures == (Failure(name="b.mkv", why="out of memory"),)
    assert len(results.clips) == 2


def test_rates_that_differ_by_the_rounding_of_stamps_are_compared() -> None:
    ours, theirs, other = (
        evaluate([replace(moving("0.mkv", 0), fps=fps)], metrics=QUICK) for fps in (24.0, 23.988, 25.0)
    )
    assert compare(ours, theirs, "theirs").differences["temporal_flickering"].value == 0
    assert "fps" in compare(ours, other, "other").differences["temporal_flickering"].why


def test_unequal_lengths_and_sizes_are_measured_and_one_frame_says_what_it_lacks() -> None:
    odd = clip_from_array(pan(1, 12)[:, :37, :53], 8, name="odd")
    image = replace(clip_from_array(pan(2, 1), 8, name="image"), fps=0.0)
    results = evaluate([moving("long", 0, 30), odd, image], metrics=["temporal_flickering"])
    summary = results.summaries["temporal_flickering"]
    assert summary.protocol.n == 2
    assert summary.left_out == {"one frame: there is no transition": 1}
    flickering = {c.name: c.scores["temporal_flickering"].value for c in results.clips}
    change = np.abs(np.diff(pan(1, 12)[:, :37, :53].astype(float), axis=0)).mean()
    assert flickering["odd"] == pytest.approx((255 - change) / 255)


def test_clips_of_several_rates_are_refused_by_name() -> None:
    clips = [moving("a", 0), replace(moving("b", 1), fps=24.0)]
    with pytest.raises(ValueError, match=r"a has 8 frames a second, b 24.*--fps, 8"):
        evaluate(clips)
    assert evaluate([moving("a", 0), replace(moving("b", 1), fps=8.01)], metrics=["frozen_share"]).clips


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": []}, "no clip to measure"),
        ({"clips": [moving("a", 0), moving("a", 1)]}, "a occurs twice among clips"),
        ({"metrics": ["consistancy_consecutive"]}, "'consistancy_consecutive'; there is consistency_consecutive"),
    ],
)
def test_what_cannot_be_measured_is_an_error(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(**{"clips": some(1), **options})


@pytest.mark.cpu(LEFT_EMPTY)
@pytest.mark.slow
def test_clip_and_dino_and_videomae_agree_with_direct_calls(tmp_path: Path) -> None:
    save_clip(tmp_path / "clip")
    save_dino(tmp_path / "dino")
    save_videomae(tmp_path / "videomae")
    nets = Extractors.load(
        clip=str(tmp_path / "clip"), dino=str(tmp_path / "dino"), videomae=str(tmp_path / "videomae")
    )
    clips = [moving(f"{i}", i, 18, prompt="red") for i in range(2)]
    reference = [moving(f"r{i}", 30 + i, 18) for i in range(3)]
    names = ["clip_*", "dino_*", "fd_videomae"]
    results = evaluate(
        clips, reference=reference, extractors=nets, metrics=names, cache=FeatureCache(tmp_path / "cache")
    )
    seen = nets.clip(pan(0, 18))
    first = results.clips[0].scores
    assert first["clip_consistency_all_pairs"].value == pytest.approx(consistency(seen, "all-pairs")[0], abs=1e-6)
    assert first["clip_text_alignment"].value == pytest.approx(
        text_alignment(seen, nets.clip.text(["red"])[0])[0], abs=1e-6
    )
    of_dino = consistency(nets.dino(pan(0, 18)), "first+prev")[0]
    assert first["dino_consistency_first_prev"].value == pytest.approx(of_dino, abs=1e-6)

    def vector(clip: Clip) -> np.ndarray:
        frames = np.stack(list(clip.stream(None)))
        return nets.videomae(frames[nets.videomae.frame_indices(18)])

    expected = frechet_distance(np.stack(list(map(vector, clips))), np.stack(list(map(vector, reference))))
    assert results.distances["fd_videomae"].value == pytest.approx(expected, rel=1e-5)
    protocol = results.summaries["clip_consistency_all_pairs"].protocol
    assert (protocol.features, protocol.model_hash) == ("clip", nets.clip.hash)
    assert protocol.model_hash in results.summaries["clip_consistency_all_pairs"].signature
    again = evaluate(clips, reference=reference, extractors=nets, metrics=names, cache=FeatureCache(tmp_path / "cache"))
    assert again == results
    # VBench's rules need a model that reads 224 x 224; this one does not, so nothing stands in their place
    skipped = evaluate(clips, extractors=nets, metrics=["vbench_background_consistency"]).summaries
    assert skipped["vbench_background_consistency"].status == "skipped"
    assert "224" in skipped["vbench_background_consistency"].why


@pytest.mark.slow
def test_missing_weights_are_skipped_with_the_reason_and_the_way_to_get_them(tmp_path: Path) -> None:
    named = Extractors.load(clip=str(tmp_path / "nowhere"))
    by_default = evaluate(some(1), extractors=named).summaries
    assert by_default["clip_consistency_consecutive"].status == "skipped"
    assert "nowhere" in by_default["clip_consistency_consecutive"].why
    assert "dino_consistency_consecutive" not in by_default
    asked = evaluate(some(1), metrics=["dino_consistency_consecutive", "fvd", "paired_psnr"])
    assert "--dino" in asked.summaries["dino_consistency_consecutive"].why
    assert asked.summaries["dino_consistency_consecutive"].value is None
    assert "--reference" in asked.summaries["paired_psnr"].why
    assert asked.distances["fvd"].status == "skipped"
    with_reference = evaluate(some(2), reference=some(2), metrics=["fvd"])
    assert "--i3d" in with_reference.distances["fvd"].why


@pytest.mark.slow
def test_the_default_is_all_that_needs_nothing_more() -> None:
    assert set(evaluate(some(1)).summaries) == set(MEASURES)
    both = evaluate(some(2), reference=some(2))
    assert set(both.summaries) == {*MEASURES, *PAIRED}
    assert set(both.distances) == {"fd_pixels_8x8x8", "mmd_pixels_8x8x8"}
    assert {*MEASURES, *PAIRED} < set(all_metrics())


@pytest.mark.slow
def test_results_come_back_from_their_file_and_others_are_refused(tmp_path: Path) -> None:
    results = evaluate([*some(2), still("s")])
    file = tmp_path / "results.json"
    file.write_text(results.to_json())
    assert load_results(file) == results
    assert json.loads(file.read_text())["schema"] == "videodit.evaluation/1"
    assert Results.model_json_schema(by_alias=True)["properties"]["schema"]["const"] == "videodit.evaluation/1"
    file.write_text(results.to_json().replace("videodit.evaluation/1", "videodit.evaluation/0"))
    with pytest.raises(ValueError, match=r"its schema is 'videodit.evaluation/0'"):
        load_results(file)
    file.write_text(results.to_json().replace('"n": 2', '"n": "two"'))
    with pytest.raises(ValueError, match=r"results\.json: summaries\..*protocol\.n"):
        load_results(file)


@pytest.mark.slow
def test_a_signature_names_all_that_a_number_depends_on() -> None:
    signature = evaluate(some(2), resampled=True).summaries["warping_error"].signature
    assert signature == (
        "metric:warping_error|variant:visible and inside|features:dis-medium|frames:short side at most 256, bicubic, "
        "antialiased|sampling:all by time|fps:8|n:2|estimator:mean of clips|schema:videodit.evaluation/1"
    )


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips_room, "STRETCH", 400_000)

    def peak(count: int) -> int:
        def frames() -> Iterator[np.ndarray]:
            picture = np.random.default_rng(0).integers(0, 256, (64, 64 + count, 3), dtype=np.uint8)
            yield from (picture[:, i : i + 64] for i in range(count))

        file = write_video(tmp_path / f"{count}.mkv", frames(), 8)
        with Guarded() as guard:
            clip = clip_from_file(file, guard)
            tracemalloc.start()
            evaluate([clip], metrics=["consistency_*", "temporal_*", "high_frequency_energy"])
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return found

    short, long = peak(100), peak(300)  # 1.2 and 3.7 MB of frames
    assert long < short + 500_000


@pytest.mark.cpu(TORCHSCRIPT)
def test_i3d_reads_as_many_frames_as_are_asked_for(tmp_path: Path) -> None:
    save_i3d(tmp_path / "i3d_torchscript.pt")
    short = [moving(f"{i}.mkv", i, 12) for i in range(3)]
    for count, status in ((16, "skipped"), (12, "measured")):
        nets = Extractors.load(i3d=str(tmp_path / "i3d_torchscript.pt"), i3d_frames=count)
        found = evaluate(short, reference=short, extractors=nets, metrics=["fvd"]).distances["fvd"]
        assert found.status == status
        assert ("--i3d-frames" in found.why) == (status == "skipped")
