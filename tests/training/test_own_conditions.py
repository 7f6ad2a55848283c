"""Conditions of one's own, from columns of a manifest to clips: each against what its file holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import launch
from runs import losses, run
from safetensors.torch import save_file
from tiny import tiny_dit

from videodit import VideoDiTPipeline
from videodit.codec.maps import blurred, map_of
from videodit.config import ConfigError, Run
from videodit.data.columns import tokens_in
from videodit.data.transforms import to_pixels
from videodit.geometry import ClipSize, Strides
from videodit.training import inputs
from videodit.training.trainer import Trainer
from videodit.video.writer import write_video

CONDITIONS = {
    "mask": {"kind": "channels", "of": "luma", "dropout": 0.3},
    "depth": {"kind": "channels"},
    "low": {"kind": "channels", "of": "small", "factor": 4, "from_clip": True},
    "outline": {"kind": "channels", "of": "edges", "from_clip": True},
    "loudness": {"kind": "vectors", "per": "frame", "dropout": 0.5},
    "camera": {"kind": "vectors", "width": 2},
    "picture": {"kind": "tokens", "width": 6},
}


def frames(seed: int, count: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def states(number: int, file: Path | None = None) -> np.ndarray:
    """Of a clip, some of which have more than others."""
    made = np.random.default_rng(300 + number).standard_normal((2 + number, 6)).astype(np.float32)
    if file is not None and file.suffix == ".npy":
        np.save(file, made)
    elif file is not None:
        save_file({"states": torch.from_numpy(made)}, file)
    return made


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips, lossless, each with two others beside it and numbers."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for number in range(10):
        for sort, seed in (("clip", 0), ("mask", 100), ("depth", 200)):
            write_video(folder / sort / f"{number}.mkv", frames(seed + number), 8.0)
        row = {"file": f"clip/{number}.mkv", "caption": f"clip number {number}", "mask": f"mask/{number}.mkv"}
        states(number, folder / f"{number}.npy" if number % 2 else folder / f"{number}.safetensors")
        row["picture"] = f"{number}.npy" if number % 2 else f"{number}.safetensors"
        row |= {"depth": f"depth/{number}.mkv", "loudness": [0.0, number / 10], "camera": [number, -1.5]}
        rows.append(json.dumps(row))
    (folder / "clips.jsonl").write_text("\n".join(rows))
    return folder / "clips.jsonl"


def told(folder: Path, manifest: Path, conditions: dict[str, Any] = CONDITIONS, **changes: Any) -> Any:
    data = {"source": str(manifest), "clips": None, "num_frames": 9, "start": "first"} | changes.pop("data", {})
    model = {"num_layers": 1, "mlp_ratio": 0.5, "conditions": conditions}
    kept = str(manifest.with_name("latents"))  # the same VAE has encoded what another test needed
    return run(folder, data=data, model=model, latents=kept, **changes)


def test_a_batch_tells_what_the_files_of_its_clips_hold(manifest: Path, tmp_path: Path) -> None:
    config = told(tmp_path, manifest, train={"batch_size": 6}, data={"image_share": 0.4})
    trainer = Trainer(config)
    codec, seen, images = inputs.load_codec(config), set(), 0
    for step in range(6):
        for batch in trainer.batches[step]:
            image = batch.size.num_frames == 1
            images += image
            for row, name in enumerate(batch.names):
                number = int(Path(name).stem)
                seen.add(number)
                mask, depth = (frames(seed + number)[: batch.size.num_frames] for seed in (100, 200))
                luma = (mask[::4].astype(np.float64) @ [0.299, 0.587, 0.114]) / 127.5 - 1
                wanted = luma.reshape(-1, 4, 8, 4, 8).transpose(2, 4, 0, 1, 3).reshape(64, -1, 4, 4)
                np.testing.assert_allclose(batch.own["own.mask"][row], wanted, atol=1e-3)  # kept in half precision
                torch.testing.assert_close(
                    batch.own["own.depth"][row], codec.encode(to_pixels(depth)[None])[0], rtol=2e-3, atol=2e-3
                )
                clip = to_pixels(frames(number)[: batch.size.num_frames])[None]
                torch.testing.assert_close(
                    batch.own["own.outline"][row], map_of(codec, clip, "edges")[0], rtol=0, atol=1e-3
                )
                small = codec.encode(blurred(clip, 4))[0]
                torch.testing.assert_close(batch.own["own.low"][row], small, rtol=2e-3, atol=2e-3)
                loud = [[0.0]] if image else [[0.0], [number / 20], [number / 10]]
                np.testing.assert_allclose(batch.own["own.loudness"][row], loud, atol=1e-6)
                assert batch.own["own.camera"][row].tolist() == [number, -1.5]
                picture, there = batch.own["own.picture"][row], batch.own["told.picture"][row]
                np.testing.assert_array_equal(picture[: 2 + number], states(number))
                assert picture[2 + number :].abs().sum() == 0
                assert there.sum() in (0, 2 + number)
    assert len(seen) > 4
    assert images


def test_each_is_left_out_by_chance_of_its_own(manifest: Path, tmp_path: Path) -> None:
    trainer = Trainer(told(tmp_path, manifest, train={"batch_size": 6}))
    rows: dict[str, list[bool]] = {name: [] for name in CONDITIONS}
    for step in range(60):
        for batch in trainer.batches[step]:
            for name, held in rows.items():
                those = batch.own[f"told.{name}"]
                held += those.reshape(len(those), -1).any(dim=1).tolist()
    for name, one in CONDITIONS.items():
        left = 1 - np.mean(rows[name])
        assert abs(left - float(one.get("dropout", 0.1))) < 0.08  # type: ignore[arg-type]
    assert abs(np.corrcoef(rows["mask"], rows["loudness"])[0, 1]) < 0.15


def test_noise_is_laid_on_maps_by_the_place_in_the_batch(manifest: Path, tmp_path: Path) -> None:
    plain, noisy = (
        Trainer(told(tmp_path / f"{noise}", manifest, {"depth": {"kind": "channels", "noise": noise}}))
        for noise in (0.0, 0.5)
    )
    spreads = []
    for step in range(8):
        for first, second in zip(plain.batches[step], noisy.batches[step], strict=True):
            moved = second.own["own.depth"] - first.own["own.depth"]
            spreads += moved.flatten(1).std(dim=1).tolist()
            again = noisy.batches[step][0].own["own.depth"]
            assert torch.equal(again, noisy.batches[step][0].own["own.depth"])
    assert 0 < min(spreads) < 0.2
    assert 0.35 < max(spreads) < 0.6


@pytest.mark.slow
def test_a_run_with_all_of_them_is_that_of_its_parts(manifest: Path, tmp_path: Path) -> None:
    """Resume law, and what is saved is told."""
    whole, parts = (told(tmp_path / name, manifest, objective={"given_frames": {"first": 0.3}}) for name in ("a", "b"))
    Trainer(whole).train()
    half = parts.model_copy(update={"train": parts.train.model_copy(update={"steps": 2, "decay_steps": 4})})
    Trainer(half).train()
    Trainer(parts).train()
    ends = [VideoDiTPipeline.from_pretrained(tmp_path / name / "pipeline").transformer for name in ("a", "b")]
    states = [end.state_dict() for end in ends]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    moved = [name for name in states[0] if name.startswith("condition_embedders") and states[0][name].abs().max() > 0]
    assert len(moved) > 20
    assert [one.name for one in ends[0].own_conditions] == list(CONDITIONS)
    again = told(tmp_path / "c", manifest, train={"start_from": str(tmp_path / "a" / "pipeline"), "steps": 1})
    Trainer(again).train()
    lora = {"start_from": str(tmp_path / "a" / "pipeline"), "lora": {"rank": 2}, "steps": 1}
    thin = Trainer(told(tmp_path / "lora", manifest, train=lora))
    assert all(".lora_" in name for name, weight in thin.raw_model.named_parameters() if weight.requires_grad)
    thin.train()
    with pytest.raises(ValueError, match=r"model.conditions.mask: begins silent, and train.lora trains no more"):
        inputs.tell(tiny_dit(), told(tmp_path / "silent", manifest, train=lora), Strides(4, 8, 4))
    with pytest.raises(ValueError, match=r"told 'mask': name it in model.conditions"):
        Trainer(told(tmp_path / "d", manifest, {}, train={"start_from": str(tmp_path / "a" / "pipeline")}))


@pytest.mark.slow
def test_samples_are_told_what_there_is_and_a_run_does_not_end_for_want_of_it(
    manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = ClipSize(9, 32, 32, 8.0)
    none_out = Trainer(told(tmp_path / "a", manifest, data={"validation": 0}))
    found = none_out._own(size, 2)  # of those that are trained on
    assert found is not None
    assert set(found) == set(CONDITIONS)
    other = replace(size, num_frames=5)
    assert none_out._own(other, 2) == {}
    assert "so they are made without what model.conditions names" in caplog.text
    never = {"mask": {"kind": "channels", "of": "luma", "dropout": 0.0}}
    must = Trainer(told(tmp_path / "b", manifest, never))
    assert must._own(other, 2) is None
    assert "left out: none can do without" in caplog.text


@pytest.mark.slow
def test_several_processes_have_the_losses_of_one(manifest: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(tmp_path / name)
    configs = {name: told(tmp_path / name, manifest, train={"log_every": 1}) for name in ("one", "two")}
    Trainer(configs["one"]).train()
    launch(trains, configs["two"].model_dump_json())
    found = [losses(tmp_path / name) for name in ("one", "two")]
    assert found[0].keys() == found[1].keys()
    for step in found[0]:
        assert found[1][step] == pytest.approx(found[0][step], rel=1e-4)


def trains(config: str) -> None:
    Trainer(Run.model_validate_json(config)).train()


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            {"mask": ""},
            "1 of 10 rows cannot tell the model 'mask', the first of .*clip/3.mkv: its column 'mask' is empty",
        ),
        ({"mask": None}, "its column 'mask' is empty or missing"),
        ({"mask": "mask/gone.mkv"}, "gone.mkv is no file here"),
        ({"loudness": "loud"}, "column 'loudness' holds 'loud' and no numbers"),
        ({"loudness": [[1, 2]]}, r"numbers of shape \(1, 2\); 1 finite ones, a list of them"),
        ({"picture": "gone.npy"}, "gone.npy is no file here"),
        ({"picture": "gone " * 99}, "gone gone .*is no file here"),
        ({"camera": [1]}, r"numbers of shape \(1, 1\); 2 finite ones, one such list"),
        ({"camera": [1, float("inf")]}, "2 finite ones"),
    ],
)
def test_a_row_that_cannot_tell_is_counted_and_named(
    manifest: Path, tmp_path: Path, row: dict[str, Any], why: str
) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[3] |= row
    other = manifest.with_name(f"{abs(hash(str(row)))}.jsonl")
    other.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=why):
        inputs.survey(told(tmp_path, other))


def test_states_are_read_of_files_that_hold_some(tmp_path: Path) -> None:
    states(3, tmp_path / "a.npy")
    assert tokens_in(tmp_path / "a.npy", 6).shape == (5, 6)
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    save_file({"a": torch.ones(2, 6), "b": torch.ones(2, 6)}, tmp_path / "two.safetensors")
    np.save(tmp_path / "nan.npy", np.full((2, 6), np.nan))
    (tmp_path / "text.npy").write_text("no numbers")
    for name, why in (
        ("object.npy", "no states can be read of it"),
        ("two.safetensors", "with one tensor"),
        ("text.npy", "no states can be read of it"),
        ("gone.npy", "no states can be read of it"),
        ("nan.npy", r"numbers of shape \(2, 6\); states are m x 6, all finite"),
    ):
        with pytest.raises(ValueError, match=why):
            tokens_in(tmp_path / name, 6)


@pytest.mark.slow
def test_files_of_another_shape_or_length_are_left_out_by_name(
    manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = manifest.parent
    write_video(folder / "wide.mkv", np.zeros((9, 32, 48, 3), np.uint8), 8.0)
    write_video(folder / "short.mkv", np.zeros((4, 32, 32, 3), np.uint8), 8.0)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[2]["mask"], rows[5]["mask"] = "wide.mkv", "short.mkv"
    (folder / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    trainer = Trainer(told(tmp_path, folder / "odd.jsonl", data={"max_bad_share": 0.5}))
    shown = {Path(s.name).stem for s in (*trainer.train_clips.samples, *trainer.validation_clips.samples)}
    assert shown == {str(number) for number in range(10)} - {"2", "5"}
    assert "wide.mkv (mask) is 32x48, its clip 32x32: both must be of one shape" in caplog.text
    assert "short.mkv" in caplog.text


def test_the_world_of_shapes_tells_of_its_own_frames(tmp_path: Path) -> None:
    conditions = {"outline": {"kind": "channels", "of": "edges", "from_clip": True}}
    trainer = Trainer(run(tmp_path, model={"num_layers": 1, "mlp_ratio": 0.5, "conditions": conditions}))
    assert next(iter(trainer.batches[0])).own["own.outline"].shape[1] == 64


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"data": {"source": "shapes", "clips": 12}},
            "mask is of a manifest's columns, or of a file's sound or past",
        ),
        ({"data": {"encode": "each_step"}}, "encoded once, with the clips"),
        ({"conditions": {"Mask": {"kind": "channels"}}}, "conditions"),
        ({"conditions": {"mask": {"kind": "channels", "width": 3}}}, "width is not of channels"),
        (
            {"conditions": {"camera": {"kind": "vectors", "of": "luma"}}},
            "vectors are made of numbers, loudness, mel, and not of luma",
        ),
        ({"conditions": {"low": {"kind": "channels", "factor": 2}}}, "factor is of `of: small`"),
    ],
)
def test_what_does_not_go_together_is_named(manifest: Path, tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises((ValueError, ConfigError), match=why):
        inputs.survey(told(tmp_path, manifest, **changes))
