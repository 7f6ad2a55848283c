"""`--dry-run`: what it says is what is then trained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from runs import mixed, run
from tiny import tiny_wan

from videodit.codec import VideoCodec
from videodit.commands import train as tool
from videodit.config import Run
from videodit.models.transformer import VideoDiT
from videodit.training.plan import plan, strides_of
from videodit.training.trainer import Trainer
from videodit.training.vae import build_vae
from videodit.video.writer import write_video


@pytest.mark.slow
def test_a_plan_is_what_training_then_feeds(tmp_path: Path) -> None:
    config = mixed(tmp_path)
    planned = plan(config)
    trainer = Trainer(config)
    steps = planned.steps_per_epoch
    fed: Counter = Counter()
    batches: Counter = Counter()
    for step in range(steps):
        pieces = trainer.batches[step]
        size, count = pieces[0].size, sum(len(piece.names) for piece in pieces)
        fed[size] += count
        batches[size] += 1
        row = next(row for row in planned.rows if row.size == size)
        assert count <= row.batch
        _, _, f, h, w = pieces[0].shown.shape
        assert row.tokens == f * (h // 2) * (w // 2)
    assert {row.size: (row.shown, row.batches) for row in planned.rows} == {s: (fed[s], batches[s]) for s in fed}
    assert planned.held_out == len(trainer.validation_clips)
    assert planned.parameters == sum(p.numel() for p in trainer.raw_model.transformer.parameters())


@pytest.mark.slow
def test_activations_are_those_that_autograd_keeps(tmp_path: Path) -> None:
    """Against a real step: what is kept grows by what the plan says, from one batch size to another."""
    kept: list[float] = []
    for size in (2, 4):
        config = run(tmp_path / str(size), data={"image_share": 0.0}, train={"batch_size": size})
        said = plan(config).memory["activations"] * 1e9
        trainer = Trainer(config)
        counted: dict[int, torch.Tensor] = {}
        weights = {p.untyped_storage()._cdata for p in trainer.raw_model.transformer.parameters()}

        def keep(x: torch.Tensor, counted: dict = counted, weights: set = weights) -> torch.Tensor:
            if x.untyped_storage()._cdata not in weights:
                counted[x.untyped_storage()._cdata] = x
            return x

        piece = trainer.batches[0][0]
        text = torch.zeros(size, 64, 24)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            trainer.raw_model.transformer(piece.shown, 1000 * piece.times, text)
        kept += [said, sum(x.untyped_storage().nbytes() for x in counted.values())]
    assert kept[0] == pytest.approx(kept[1], rel=0.1)
    assert kept[2] - kept[0] == pytest.approx(kept[3] - kept[1], rel=0.1)


@pytest.mark.slow
def test_a_token_budget_sets_each_batch(tmp_path: Path) -> None:
    config = mixed(tmp_path, batch_tokens=60)
    values = config.model_dump()
    for bucket in values["data"]["buckets"]:
        bucket["batch_size"] = None
    rows = plan(Run.model_validate(values)).rows
    assert {str(row.size): (row.tokens, row.batch) for row in rows} == {
        "5x32x32 at 8 fps": (8, 7),
        "9x32x48 at 8 fps": (18, 3),
        "images 32x32": (4, 15),
        "images 32x48": (6, 10),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "processes", "shares"),
    [
        ({}, 1, (1, 1, 2, 1)),  # weights, gradients, Adam's two moments, one average
        ({"optimizer": "muon", "ema_sigma_rels": [0.05, 0.1]}, 1, (1, 1, None, 3)),
        ({}, 4, (1, 1, 2, 1)),  # each has all of it
        ({"sharding": "fsdp"}, 4, (1 / 4, 1 / 4, 2 / 4, 1 / 4)),
    ],
)
def test_memory_is_four_bytes_of_each_number_that_a_process_holds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train: dict[str, Any],
    processes: int,
    shares: tuple[float | None, ...],
) -> None:
    monkeypatch.setattr("videodit.training.plan.PartialState", lambda: SimpleNamespace(num_processes=processes))
    planned = plan(run(tmp_path, train=train))
    gigabytes = 4 * planned.parameters / 1e9
    if shares[2] is None:  # a momentum of the blocks' matrices, two moments of all else
        like = run(tmp_path).model
        model = VideoDiT.sized(
            "tiny",
            **{"num_layers": 1, "mlp_ratio": 0.5, "in_channels": 4, "caption_channels": 24},
            time_positions=like.time_positions,
        )
        assert sum(p.numel() for p in model.parameters()) == planned.parameters
        inner = sum(m.weight.numel() for m in model.blocks.modules() if isinstance(m, torch.nn.Linear))
        shares = (*shares[:2], 2 - inner / planned.parameters, *shares[3:])
    found = [planned.memory[name] for name in ("weights", "gradients", "optimizer", "averages")]
    assert found == pytest.approx([float(share or 0) * gigabytes for share in shares])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{}, {"patch_size": 1}, {"dim_mult": [2, 4, 4, 4]}, {"patch_size": 4}])
def test_a_vae_that_is_not_trained_yet_is_counted_on_as_it_will_compress(tmp_path: Path, shape: dict) -> None:
    config = Run.model_validate(
        {"output": str(tmp_path), "vae": {"channels": 6, "encoder_dim": 4, "decoder_dim": 4} | shape}
    )
    vae = build_vae(config.vae)
    strides, side = strides_of(config), 64
    with torch.no_grad():
        latents = VideoCodec(vae.eval()).encode(torch.zeros(1, 3, 9, side, side))
    assert latents.shape == (1, strides.channels, 1 + 8 // strides.time, side // strides.space, side // strides.space)
    assert VideoCodec(vae).strides == strides
    assert (vae.config.scale_factor_temporal, vae.config.scale_factor_spatial) == (strides.time, strides.space)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, shape in {"a": (5, 32, 32), "b": (7, 40, 32), "short": (3, 32, 32), "small": (9, 16, 16)}.items():
        write_video(folder / f"{name}.mkv", np.zeros((*shape, 3), dtype=np.uint8), 8)
        (folder / f"{name}.txt").write_text(name)
    return folder


def config_file(folder: Path, clips: Path, more: str = "") -> Path:
    tiny_wan().save_pretrained(folder / "run" / "vae")
    file = folder / "run.yaml"
    file.write_text(
        f"output: {folder}/run\n"
        f"data: {{source: {clips}, num_frames: 5, height: 32, width: 32, validation: 0, image_share: 0.5{more}}}\n"
        f"text: {{width: 24, depth: 1}}\nmodel: {{num_layers: 1}}\n"
        f"train: {{steps: 4, batch_size: 2, precision: 'no', warmup_steps: 1}}\n"
    )
    return file


def dry_run(file: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> int:
    monkeypatch.setattr("sys.argv", ["train.py", "--config", str(file), "--dry-run", *overrides])
    return tool.main()


@pytest.mark.slow
def test_the_dry_run_counts_names_and_writes_no_weights(
    tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run(config_file(tmp_path, clips), monkeypatch) == 0
    said = capsys.readouterr().out
    assert "5x32x32 at 8 fps                  2         1        2        1       8        16" in said
    assert "2 left out" in said
    assert "1 x 0.375 s are too short for 5 frames at 8 a second: short.mkv" in said
    assert "1 x 16x16 pixels are less than 32x32: small.mkv" in said
    assert "2 steps an epoch; 4 steps are 2.0" in said
    assert "fewer than a batch: raise data.repeat (1)" in said
    assert sorted(f.name for f in (tmp_path / "run").iterdir()) == ["latents", "vae"]
    assert [f.name for f in (tmp_path / "run" / "latents").iterdir()] == ["files.json"]


@pytest.mark.slow
def test_an_empty_bucket_is_an_error_that_names_it(
    tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(tmp_path, clips, ", buckets: [{num_frames: 5}, {num_frames: 33}]")
    assert dry_run(file, monkeypatch) == 2
    said = capsys.readouterr().err.splitlines()  # a busy machine shows a bar too, after two seconds
    (error,) = (line for line in said if line and not line.startswith("measuring files"))
    assert "data.buckets.1: no clip of" in error
    assert "fills 33x32x32 at 8 fps; the first left out: " in error
    assert "3.mkv" not in error


@pytest.mark.slow
def test_a_small_manifest_says_what_no_run_can_be_made_of(
    tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run(config_file(tmp_path, clips), monkeypatch, "data.height=512") == 2
    assert "data: no clip of" in capsys.readouterr().err
