"""What a model is told of the frames before a window: bounded, by closed forms; from files, and in long clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny import awaken, tiny_pipeline

from videodit.codec.past import PACKED, past_tokens, past_width
from videodit.data.cache import before
from videodit.data.source import Span
from videodit.data.transforms import to_pixels
from videodit.geometry import ClipSize
from videodit.long import long_clip
from videodit.models import Condition
from videodit.pipeline import VideoDiTPipeline
from videodit.training import inputs
from videodit.training.trainer import Trainer
from videodit.video.writer import write_video

from .training.test_own_conditions import told  # type: ignore[import-not-found]

PAST = {"past": {"kind": "tokens", "of": "past", "frames": 9, "dropout": 0.2}}


def frames(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_the_newest_frame_is_whole_older_ones_are_means_and_there_is_a_bound() -> None:
    latents = torch.randn(3, 12, 4, 8, generator=torch.Generator().manual_seed(0))
    tokens = past_tokens(latents)
    sizes = [32] + [8] * 2 + [2] * 4 + [4]
    assert tokens.shape == (sum(sizes), past_width(3))
    newest, second, *others, older = tokens[:, :3].split(sizes)
    torch.testing.assert_close(newest, latents[:, 11].flatten(1).T)
    means = latents[:, 10].reshape(3, 2, 2, 4, 2).mean(dim=(2, 4))
    torch.testing.assert_close(second, means.flatten(1).T)
    torch.testing.assert_close(others[1], latents[:, 8].reshape(3, 1, 4, 2, 4).mean(dim=(2, 4)).flatten(1).T)
    torch.testing.assert_close(older, latents[:, :5].reshape(3, 5, 2, 2, 2, 4).mean(dim=(1, 3, 5)).flatten(1).T)
    assert len({tuple(row) for row in tokens[:, 3:].tolist()}) == len(tokens)  # each has a place of its own
    assert len(past_tokens(latents.repeat(1, 100, 1, 1))) == len(tokens)
    assert [len(past_tokens(latents[:, :n])) for n in (0, 1, 2, 7, 8)] == [0, 32, 40, 56, 60]
    assert sum(count for count, _ in PACKED) == 7


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for number in range(8):
        write_video(tmp_path / f"{number}.mkv", frames(number, 30), 8.0)
        (tmp_path / f"{number}.txt").write_text("a red circle")
    return tmp_path


def test_a_batch_tells_the_frames_before_each_clip_of_its_file(clips: Path, tmp_path: Path) -> None:
    data = {"source": str(clips), "num_frames": 5, "start": "random", "spans": 3, "image_share": 0.0}
    config = told(tmp_path / "run", clips / "clips.jsonl", PAST, data=data)
    trainer = Trainer(config)
    codec = inputs.load_codec(config)
    lengths, shares, seen = set(), [], 0
    for number in range(len(trainer.train_clips)):  # type: ignore[arg-type]
        own = trainer.train_clips.told(number, False)["past"][0]  # type: ignore[union-attr]
        lengths.add(len(own))
        seen += len(own) > 0
        assert len(trainer.train_clips.told(number, True)["past"][0]) == 0  # type: ignore[union-attr] # of an image
    assert seen > 6
    for step in range(6):
        for batch in trainer.batches[step]:
            there = batch.own["told.past"]
            assert batch.own["own.past"].shape[:2] == there.shape
            shares += there.any(dim=1).tolist()
    assert 0.3 < np.mean(shares) < 1
    assert len(lengths) > 1
    clip = inputs.open_data(config.data, config.seed).train
    span = next(clip.span(index, draw) for index in range(8) for draw in range(3) if clip.span(index, draw).start > 1.2)
    stretch = before(span, 9, codec.strides)
    assert stretch is not None
    assert stretch.start == pytest.approx(span.start - 9 / 8)
    (read,), (shown,) = clip.source.stream([stretch]), clip.source.stream([span])
    number = int(Path(clip.source.name(span.index)).stem)
    first = next(at for at in range(25) if np.array_equal(shown, frames(number, 30)[at : at + 5]))
    np.testing.assert_array_equal(read, frames(number, 30)[first - 9 : first])


@pytest.mark.slow
def test_a_run_is_trained_sampled_and_resumed_with_it(clips: Path, tmp_path: Path) -> None:
    data = {"source": str(clips), "num_frames": 5, "start": "random", "spans": 2, "image_share": 0.0}
    whole, parts = (told(tmp_path / n, clips / "clips.jsonl", PAST, data=data) for n in ("a", "b"))
    Trainer(whole).train()
    Trainer(parts.model_copy(update={"train": parts.train.model_copy(update={"steps": 2, "decay_steps": 4})})).train()
    Trainer(parts).train()
    ends = [VideoDiTPipeline.from_pretrained(tmp_path / n / "pipeline").transformer.state_dict() for n in ("a", "b")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    with pytest.raises(ValidationError, match=r"there is no past: set data\.start: random"):
        told(tmp_path / "c", clips / "clips.jsonl", PAST, data=data | {"start": "first"})


def test_before_a_clips_beginning_there_is_nothing() -> None:
    strides = tiny_pipeline().codec.strides
    size = ClipSize(5, 32, 32, 8.0)
    assert before(Span(0, size), 9, strides) is None
    assert before(Span(0, size.image(), 3.0), 9, strides) is None
    for start, count in ((0.13, 1), (0.5, 1), (0.625, 5), (1.2, 9), (9.0, 9)):
        found = before(Span(0, size, start), 9, strides)
        assert found is not None
        assert found.size.num_frames == count
        assert found.start + count / 8 == pytest.approx(start)


def pipeline() -> VideoDiTPipeline:
    pipe = tiny_pipeline()
    pipe.transformer.add_conditions([Condition("past", "tokens", past_width(4), True, of="past", frames=9)])
    awaken(pipe.transformer, seed=5)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_each_window_of_a_long_clip_is_told_the_frames_before_those_it_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, told_of = pipeline(), []
    plain = VideoDiTPipeline.__call__

    def call(self: Any, *args: Any, **options: Any) -> Any:
        told_of.append((options["conditions"].get("past"), options.get("video")))
        return plain(self, *args, **options)

    monkeypatch.setattr(VideoDiTPipeline, "__call__", call)
    how: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": 32, "width": 32}
    made = np.stack(list(long_clip(pipe, "a red circle", 33, window=9, overlap=5, **how)))
    assert made.shape == (33, 32, 32, 3)
    (first, _), *others = told_of
    assert first is None
    end = 9  # of what was made before
    for past, shared in others:
        np.testing.assert_array_equal(shared, made[end - 5 : end])
        before_it = made[: end - 5]
        count = (min(len(before_it), 9) - 1) // 4 * 4 + 1
        np.testing.assert_array_equal(past, before_it[-count:])
        end += 4


def test_a_past_that_is_given_is_that_of_later_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, told_of = pipeline(), []
    plain = VideoDiTPipeline.__call__

    def call(self: Any, *args: Any, **options: Any) -> Any:
        told_of.append(options["conditions"].get("past"))
        return plain(self, *args, **options)

    monkeypatch.setattr(VideoDiTPipeline, "__call__", call)
    how: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": 32, "width": 32}
    before = frames(1, 9)
    made = np.stack(list(long_clip(pipe, "red", 17, window=9, overlap=5, conditions={"past": before}, **how)))
    np.testing.assert_array_equal(told_of[0], before)
    np.testing.assert_array_equal(told_of[1], np.concatenate([before, made[:4]])[-9:])
    np.testing.assert_array_equal(told_of[2], np.concatenate([before, made[:8]])[-9:])


def test_the_pipeline_takes_frames_of_any_legal_number(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = pipeline()
    how: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 2.0, "output_type": "latent", "num_frames": 5}

    def made(**options: Any) -> torch.Tensor:
        return pipe("a red circle", generator=torch.Generator().manual_seed(0), **how, **options).frames

    seen: list[Any] = []
    pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["conditions"]["past"]), with_kwargs=True
    )
    told_it = made(conditions={"past": frames(1, 9)})
    latents = pipe.codec.encode(to_pixels(frames(1, 9))[None])[0]
    torch.testing.assert_close(seen[0][0], past_tokens(latents))
    seen.clear()
    pipe.transformer._forward_pre_hooks.clear()
    assert (made() - told_it).abs().max() > 1e-4
    assert made(conditions={"past": frames(1, 1)}).isfinite().all()
    with pytest.raises(ValueError, match="num_frames=8 is not 4k"):
        made(conditions={"past": frames(1, 8)})
    with pytest.raises(ValueError, match="13 frames; this model learned at most 9: give the last"):
        made(conditions={"past": frames(1, 13)})


@pytest.mark.parametrize(
    ("one", "why"),
    [
        ({"width": 3}, "width is not of past"),
        ({"dropout": 0.0}, "a clip's first frames have no past"),
        ({"of": "states", "frames": 9}, "frames is not of what is no past"),
        ({"of": "numbers"}, "tokens are made of states, past, and not of numbers"),
    ],
)
def test_what_is_no_past_is_named(tmp_path: Path, one: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        told(tmp_path, tmp_path / "clips.jsonl", {"past": PAST["past"] | {"frames": 65} | one})
