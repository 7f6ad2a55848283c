"""What of a model could be spared: against walks that are really made without it, and sums by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from tiny import tiny_dit, tiny_pipeline
from torch import Tensor

from videodit.caching import set_cache
from videodit.commands import prune, sample
from videodit.pipeline import VideoDiTPipeline
from videodit.pruning import Level, levels_of, outs_of, schedule, spared, units_worth

PROMPTS = ["a red circle", "two blue stars"]
OPTIONS: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "latent"}


def made(pipe: VideoDiTPipeline, **options: Any) -> Tensor:
    generators = [torch.Generator().manual_seed(number) for number in range(2)]
    return pipe(PROMPTS, generator=generators, **OPTIONS | options).frames


def levels(pipe: VideoDiTPipeline, count: int = 2) -> list[Level]:
    return levels_of(pipe, PROMPTS, count, num_inference_steps=4, guidance_scale=2.0)


@pytest.fixture
def pipe(tiny_pipe: VideoDiTPipeline) -> VideoDiTPipeline:
    """One of its own, since its settings change."""
    return tiny_pipeline().to(tiny_pipe.device)


@pytest.mark.slow
def test_blocks_are_left_out_at_their_noise_levels_alone(pipe: VideoDiTPipeline) -> None:
    """Against a model whose every call is made without them, from the step on at which the level begins."""
    forward = pipe.transformer.forward
    pipe.scheduler.set_timesteps(4)
    times = pipe.scheduler.timesteps

    def without(latents: Tensor, timestep: Tensor, **told: Any) -> Any:
        out = [1, 2] if times[2] <= timestep[0] <= times[1] else []
        return forward(latents, timestep, **told, skip_layers=out)

    between = (float(times[3]) / 1000, float(times[1]) / 1000)  # without the first, and with the second
    skipped = made(pipe, skipped_blocks=[(*between, [1, 2])])
    pipe.transformer.forward = without
    try:
        wanted = made(pipe)
    finally:
        del pipe.transformer.forward
    assert torch.equal(skipped, wanted)
    assert not torch.equal(skipped, made(pipe))
    pipe.register_to_config(default_skipped_blocks=[[*between, [1, 2]]])
    assert torch.equal(made(pipe), wanted)  # the model's own
    assert torch.equal(made(pipe, skipped_blocks=[]), made(tiny_pipeline().to(pipe.device)))


def test_a_level_says_how_far_clips_end_that_go_astray_there(pipe: VideoDiTPipeline) -> None:
    """Of the block that matters least there, what is estimated is what comes; where nothing follows, of any."""
    found = levels_of(pipe, PROMPTS, 4, num_inference_steps=4, guidance_scale=1.0)
    assert (found[0].high, found[-1].low) == (1.0, 0.0)
    assert all(before.low == after.high for before, after in pairwise(found))
    whole = made(pipe, guidance_scale=1.0)

    def end(level: Level, out: list[int]) -> float:
        moved = made(pipe, guidance_scale=1.0, skipped_blocks=[(level.low, level.high, out)]) - whole
        return float(moved.square().mean())

    for level in found:
        number, moved = next(spared([level], 1, range(4)))
        assert moved == pytest.approx(end(level, [number]), rel=1e-3)
    assert found[-1].gain == pytest.approx(1, rel=1e-3)
    assert found[-1].moved([1, 3]) == pytest.approx(end(found[-1], [1, 3]), rel=1e-3)


def known(cost: Callable[[frozenset[int]], float]) -> Level:
    class Known(Level):
        def moved(self, without: Any) -> float:
            return cost(frozenset(without))

    return Known(0.0, 1.0, None, torch.zeros(1))  # type: ignore[arg-type]


def test_blocks_are_taken_by_what_changes_beside_those_already_taken() -> None:
    """0 is the cheapest alone, 1 the next; but without 0, 2 costs nothing more."""
    table = {
        frozenset(one): cost for one, cost in [((0,), 1.0), ((1,), 2.0), ((2,), 3.0), ((0, 1), 5.0), ((0, 2), 1.5)]
    }
    level = known(lambda out: table.get(out, 9.0))
    assert list(spared([level], 2, range(3))) == [(0, 1.0), (2, 1.5)]
    assert [number for number, _ in spared([level, level], 2, range(3), lambda out: 0 not in out)] == [1, 2]
    assert list(spared([level], 5, range(2))) == [(0, 1.0), (1, 5.0)]


def test_a_schedule_takes_the_next_block_of_the_level_where_that_costs_least() -> None:
    early, late = (known(lambda out, each=each: each * len(out) ** 2) for each in (1.0, 3.0))
    early.low, late.high = 0.5, 0.5
    found, moved = schedule([early, late], 0.5, range(4))  # rises of 1, 3, 5 and of 3, 9
    assert found == [(0.5, 1.0, [0, 1, 2]), (0.0, 0.5, [0])]
    assert moved == 9 + 3
    for share in (0.01, 0.9):
        with pytest.raises(ValueError, match="between one and all but one"):
            schedule([early, late], share, range(4))


def test_units_are_worth_what_they_add(pipe: VideoDiTPipeline) -> None:
    """The mean square of each unit's own part of the output, summed over its numbers."""
    model, found = pipe.transformer, levels(pipe)
    seen: list[Tensor] = []
    hook = outs_of(model)[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].double()))
    for level in found:
        level.call()
    hook.remove()
    weight = outs_of(model)[1].weight.detach().double()
    wanted = sum(
        (level.high - level.low) ** 2
        * torch.einsum("...k,dk->...kd", states, weight).square().sum(-1).flatten(0, -2).mean(0)
        for level, states in zip(found, seen, strict=True)
    )
    torch.testing.assert_close(units_worth(model, found)[1].double(), wanted.cpu(), rtol=1e-4, atol=1e-8)


def test_what_cannot_be_measured_or_left_out_says_why(pipe: VideoDiTPipeline) -> None:
    for skipped, why in (
        ([(0.5, 0.2, [0])], r"skipped_blocks: 0.5 to 0.2 are no noise levels"),
        ([(0.0, 0.5, [4])], "skipped_blocks: 4 is no block of this model: 0 to 3"),
        ([(0.0, 0.5, [0, 1, 2, 3])], "no block would be run"),
    ):
        with pytest.raises(ValueError, match=why):
            made(pipe, skipped_blocks=skipped)
    with pytest.raises(ValueError, match="levels=5: there are 4 steps"):
        levels(pipe, 5)
    set_cache(pipe, "taylorseer")
    with pytest.raises(ValueError, match="under a feature cache"):
        levels(pipe)
    with pytest.raises(ValueError, match="skipped_blocks does not go with a feature cache"):
        made(pipe, skipped_blocks=[(0.0, 0.5, [0])])
    set_cache(pipe, None)
    pipe.scheduler = DDIMScheduler()
    with pytest.raises(ValueError, match="trained by flow, not of a DDIMScheduler"):
        levels(pipe)


@pytest.fixture
def folder(tmp_path: Path, pipe: VideoDiTPipeline) -> Path:
    pipe.transformer = tiny_dit(time_positions="both")
    pipe.register_to_config(default_num_inference_steps=3)
    pipe.save_pretrained(tmp_path / "whole")
    (tmp_path / "prompts.txt").write_text("a red circle\ntwo blue stars\n")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, command: Any, *options: object) -> int:
    monkeypatch.setattr("sys.argv", ["videodit", *map(str, options)])
    return command.main()


@pytest.mark.slow
def test_the_command_shows_what_matters_and_writes_what_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--from", folder / "whole", "--prompts", folder / "prompts.txt", "--levels", 2)
    assert run(monkeypatch, prune, *common) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if "space" in line or "time" in line]) == 4
    assert run(monkeypatch, prune, *common, "--to", folder / "fewer", "--blocks", 2) == 0
    fewer = VideoDiTPipeline.from_pretrained(folder / "fewer")
    assert len(fewer.transformer.blocks) == 2
    assert run(monkeypatch, prune, *common, "--to", folder / "narrow", "--mlp-ratio", 1.5) == 0
    narrow = VideoDiTPipeline.from_pretrained(folder / "narrow")
    assert [out.in_features for out in outs_of(narrow.transformer)] == [48] * 4
    assert run(monkeypatch, prune, *common, "--to", folder / "spared", "--save", 0.25) == 0
    spared = VideoDiTPipeline.from_pretrained(folder / "spared")
    assert sum(len(out) for _, _, out in spared.config.default_skipped_blocks) == 2
    clip = folder / "clip.mkv"
    asked = ("--model", folder / "spared", "--prompt", "a red circle", "--out", clip, "--overwrite")
    for options, count in (((), 2), (("--all-blocks",), 0)):
        assert run(monkeypatch, sample, *asked, *options) == 0
        said = json.loads(clip.with_suffix(".json").read_text())
        assert sum(len(out) for _, _, out in said["skipped_blocks"]) == count
    capsys.readouterr()
    for options, why in (
        (("--to", folder / "x"), "--to goes with one of"),
        (("--blocks", 2), "--to goes with one of"),
        (("--to", folder / "fewer", "--blocks", 2), "fewer exists"),
        (("--to", folder / "x", "--blocks", 4), "--blocks 4: this model has 4; name fewer"),
        (("--to", folder / "x", "--mlp-ratio", 4), "--mlp-ratio 4.0: this model has 4; name less"),
        (("--to", folder / "x", "--save", 0.99), "between one and all but one"),
    ):
        assert run(monkeypatch, prune, *common, *options) == 2
        assert why in capsys.readouterr().err
    assert not (folder / "x").exists()
