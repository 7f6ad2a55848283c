"""The laws of batches and of worlds hold of a Wan, whose text is of a fixed length and whose padding is seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import PROMPTS, tiny_wan_pipeline
from processes import launch
from runs import train_wan

from videodit.exchange import open_model, pipeline_from_diffusers
from videodit.models.formats.files import from_diffusers


def test_batch_law_a_row_of_a_wan_knows_nothing_of_its_neighbours_or_of_how_far_texts_were_padded() -> None:
    """In float64, so that what is left over is no rounding; each row with a time a frame, and frames that are given."""
    model = from_diffusers(tiny_wan_pipeline().transformer)[0].double()
    g = torch.Generator().manual_seed(0)
    x, text = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((3, 4, 3, 4, 6), (3, 7, 20)))
    t = 1000 * torch.rand(3, 3, generator=g)
    lengths = torch.tensor([7, 2, 5])
    mask, given = torch.arange(7) < lengths[:, None], torch.arange(3) < torch.tensor([[0], [1], [2]])
    together = model(x, t, text, mask, frame_mask=given).sample
    for i, length in enumerate(lengths):
        row = slice(i, i + 1)
        alone = model(x[row], t[row], text[row, :length], frame_mask=given[row]).sample
        torch.testing.assert_close(together[row], alone, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model(x[[2, 0]], t[[2, 0]], text[[2, 0]], mask[[2, 0]]).sample[1:], together[:1])


@pytest.mark.slow
@pytest.mark.parametrize("experts", [1, 2])
def test_batch_law_a_prompt_and_seed_give_one_clip_of_a_wan_alone_or_among_others(experts: int) -> None:
    pipe = pipeline_from_diffusers(tiny_wan_pipeline(experts))[0]
    pipe.set_progress_bar_config(disable=True)

    def clips(which: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(i) for i in which]
        size = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 4, "output_type": "pt"}
        return pipe([PROMPTS[i] for i in which], generator=generators, **size).frames

    together = clips([0, 1])
    for i in range(2):
        torch.testing.assert_close(clips([i]), together[i : i + 1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(*together, atol=1e-2)


STEPS = {"steps": 3, "schedule": "constant", "checkpoint_every": 3, "validate_every": 3, "sample_every": 3}


@pytest.fixture(scope="module", params=[{}, {"lora": {"rank": 2, "alpha": 2}}], ids=["whole", "lora"])
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    """Where one process has trained a Wan, in `alone` from `base`; what it was told; its losses."""
    folder, told = tmp_path_factory.mktemp("wan"), STEPS | request.param
    tiny_wan_pipeline().save_pretrained(folder / "base" / "theirs")
    open_model(folder / "base" / "theirs")[0].save_pretrained(folder / "base" / "ours")
    return folder, told, train_wan(folder / "alone", folder / "base", "none", **told)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_world_law_two_processes_train_a_wan_with_the_losses_of_one(
    alone: tuple[Path, dict, dict], sharding: str, tmp_path: Path
) -> None:
    folder, told, losses = alone
    shutil.copytree(folder / "alone" / "latents", tmp_path / "two" / "latents")
    found = launch(_train, tmp_path / "two", folder / "base", sharding, told)
    assert found[0] == found[1]
    assert list(found[0]) == list(losses) == [1, 2, 3]
    np.testing.assert_allclose([*found[0].values()], [*losses.values()], rtol=1e-5)
    assert len({*losses.values()}) == 3


def _train(folder: Path, base: Path, sharding: str, steps: dict) -> dict[int, float]:
    return train_wan(folder, base, sharding, **steps)
