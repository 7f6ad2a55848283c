"""Token routing in a run: drawn by keys, half of the places in the middle blocks; all of them where it is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import run
from tiny import tiny_dit

from videodit.geometry import ClipSize, Strides
from videodit.training.batches import Batches
from videodit.training.footprint import footprint
from videodit.training.trainer import Trainer

CLIPS = {"num_frames": 9, "image_share": 0.0}


def routed(folder: Path, **train: float) -> Trainer:
    return Trainer(run(folder, data=CLIPS, model={"num_layers": 3}, train={"routing": 0.5, **train}))


@pytest.mark.slow
def test_each_sample_has_places_of_its_own_whatever_the_number_of_processes(tmp_path: Path) -> None:
    trainer = routed(tmp_path)
    whole = [trainer.batches[step][0].routed for step in range(4)]
    assert all(kept is not None and kept.shape[1] == 2 for kept in whole)  # of 2 x 2 places
    for kept in whole:
        assert bool((kept[:, 1:] > kept[:, :-1]).all())
        assert 0 <= int(kept.min()) <= int(kept.max()) < 4
    assert len({tuple(row.tolist()) for kept in whole for row in kept}) > 3
    batches = trainer.batches
    shared = (batches.config, trainer.train_clips, batches.sampler, batches.path, batches.strides, batches.patch)
    for step, kept in enumerate(whole):
        parts = [Batches(*shared, process=(index, 2))[step][0].routed for index in range(2)]
        assert torch.equal(torch.cat(parts), kept)


@pytest.mark.slow
def test_a_step_is_routed_and_a_measure_is_not(tmp_path: Path) -> None:
    trainer = routed(tmp_path)
    widths: list[int] = []
    trainer.raw_model.transformer.blocks[2].register_forward_hook(lambda _, args, out: widths.append(out.shape[2]))
    trainer.step(0)
    assert set(widths) == {2}
    widths.clear()
    trainer.validate()
    assert set(widths) == {4}


@pytest.mark.slow
def test_a_routed_step_is_planned_to_take_less(tmp_path: Path) -> None:
    size, strides = ClipSize(9, 64, 64, 8.0), Strides(4, 8, 4)
    kept = {}
    for share in (0.0, 0.5):
        config = run(tmp_path, data=CLIPS, model={"num_layers": 3}, train={"routing": share})
        with torch.device("meta"):
            model = tiny_dit(num_layers=4)
        kept[share] = footprint(config, model, size, 4, strides).activations
    assert 0.55 < kept[0.5] / kept[0.0] < 0.9  # half of two patterns of four, and the text's as before


@pytest.mark.slow
def test_what_cannot_be_routed_is_refused_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.routing=0\.5: .*num_layers above 2"):
        Trainer(run(tmp_path, model={"num_layers": 2}, train={"routing": 0.5}))
    with pytest.raises(ValueError, match=r"train\.routing does not go with train\.sequence_parallel"):
        run(tmp_path, train={"routing": 0.5, "sequence_parallel": 2})
