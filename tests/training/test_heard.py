"""What sounds and pictures tell a model, from files of a manifest to clips that are heard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import run
from tiny import awaken, tiny_pipeline
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from videodit.codec.sounds import rows_at, sound_rows
from videodit.codec.states import StatesEncoder, states_encoder
from videodit.commands import sample
from videodit.models import Condition
from videodit.training.trainer import Trainer
from videodit.video import VideoError, read_clip
from videodit.video.sound import read_sound
from videodit.video.writer import write_video

from ..video.test_sound import tone, write_wav  # type: ignore[import-not-found]

LOUD = {"kind": "vectors", "per": "frame", "of": "loudness"}
MEL = {"kind": "vectors", "per": "frame", "of": "mel", "width": 6}


def frames(seed: int, count: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def swelling(number: int) -> np.ndarray:
    return tone(1.2, pitch=200.0 + 300 * number) * np.linspace(0.01, 1, 19_200).astype(np.float32)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    shape = {"hidden_size": 6, "num_attention_heads": 2, "intermediate_size": 8, "image_size": 16, "patch_size": 8}
    ViTModel(ViTConfig(**shape, num_hidden_layers=1)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Eight clips, each with a sound of its own, another beside it, and a picture."""
    rows = []
    for number in range(8):
        music = write_wav(tmp_path / f"{number}.wav", swelling(number))
        write_video(
            tmp_path / f"{number}.mkv",
            frames(number),
            8.0,
            sound=write_wav(tmp_path / f"own_{number}.wav", swelling(8 - number)),
        )
        Image.fromarray(frames(50 + number)[0]).save(tmp_path / f"{number}.png")
        row = {"file": f"{number}.mkv", "caption": f"clip {number}", "music": music.name, "look": f"{number}.png"}
        rows.append(json.dumps(row))
    (tmp_path / "clips.jsonl").write_text("\n".join(rows))
    return tmp_path / "clips.jsonl"


def told(folder: Path, manifest: Path, conditions: dict[str, Any], **data: Any) -> Any:
    shown = {"source": str(manifest), "clips": None, "num_frames": 9, "start": "first", "image_share": 0.0}
    model = {"num_layers": 1, "mlp_ratio": 0.5, "conditions": conditions}
    return run(folder, data=shown | data, model=model)


def test_a_batch_tells_what_is_heard_and_seen_in_the_files_of_its_clips(
    manifest: Path, tmp_path: Path, encoder: Path
) -> None:
    conditions = {
        "music": LOUD,
        "own": MEL | {"from_clip": True},
        "look": {"kind": "tokens", "width": 6, "encoder": str(encoder), "dropout": 0.0},
    }
    batches, vit, times = (
        Trainer(told(tmp_path / "run", manifest, conditions)).batches,
        StatesEncoder.from_pretrained(str(encoder)),
        np.array([0, 0.5, 1]),
    )
    seen = set()
    for step in range(4):
        for batch in batches[step]:
            for row, name in enumerate(batch.names):
                number = int(Path(name).stem)
                seen.add(number)
                loud = rows_at(sound_rows(swelling(number), "loudness"), times, "loudness")
                np.testing.assert_allclose(batch.own["own.music"][row], loud, atol=5e-3)
                mel = rows_at(sound_rows(read_sound(manifest.parent / f"own_{number}.wav"), "mel", 6), times, "mel")
                np.testing.assert_allclose(batch.own["own.own"][row], mel, atol=0.05)
                torch.testing.assert_close(batch.own["own.look"][row], vit(frames(50 + number)[0]))
    assert len(seen) > 3
    made = sorted((tmp_path / "run" / "latents").glob("*/*.safetensors"))
    assert len([file for file in made if file.parent.name == "loudness-1"]) == 8


def test_a_sound_that_cannot_be_heard_leaves_its_clip_out_by_name(manifest: Path, tmp_path: Path) -> None:
    (manifest.parent / "3.wav").write_text("no sound at all" * 100)
    trainer = Trainer(told(tmp_path / "run", manifest, {"music": LOUD}, max_bad_share=0.3))
    names = {
        Path(sample.name).stem for part in (trainer.train_clips, trainer.validation_clips) for sample in part.samples
    }
    assert names == {"0", "1", "2", "4", "5", "6", "7"}
    with pytest.raises(VideoError, match=r"music: .*3\.wav cannot be read as a sound"):
        Trainer(told(tmp_path / "run", manifest, {"music": LOUD}, max_bad_share=0.01))  # it is known by then


def test_an_encoder_of_another_width_is_named(manifest: Path, tmp_path: Path, encoder: Path) -> None:
    wrong = {"look": {"kind": "tokens", "width": 4, "encoder": str(encoder)}}
    with pytest.raises(ValueError, match="gives states of 6 numbers: width: 6"):
        Trainer(told(tmp_path / "run", manifest, wrong))


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (LOUD | {"per": "clip"}, "of: loudness is per frame"),
        (LOUD | {"width": 2}, "of: loudness is one number"),
        ({"kind": "vectors", "from_clip": True}, "from_clip is of channels, and of vectors that are of a sound"),
        ({"kind": "channels", "of": "mel"}, "channels are made of vae, small, luma, edges, and not of mel"),
        ({"kind": "channels", "encoder": "x"}, "encoder is not of channels"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path: Path, manifest: Path, one: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        told(tmp_path, manifest, {"x": one})


@pytest.mark.slow
def test_the_command_tells_files_and_its_clips_are_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tiny_pipeline()
    pipe.transformer.add_conditions(
        [
            Condition("music", "vectors", 1, True, per="frame", of="loudness"),
            Condition("look", "tokens", 6, True, of="states", encoder=str(encoder)),
        ]
    )
    awaken(pipe.transformer, seed=5)
    pipe.register_to_config(default_num_inference_steps=2)
    pipe.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    write_wav(Path("a.wav"), swelling(0))
    Image.fromarray(frames(1)[0]).save("look.png")

    def made(out: str, *said: str) -> int:
        words = [word for one in said for word in ("--condition", one)]
        monkeypatch.setattr(
            "sys.argv", ["sample", "--model", "model", "--prompt", "a red circle", "--out", out, *words]
        )
        return sample.main()

    assert made("heard.mkv", "music=a.wav", "look=look.png") == 0
    np.testing.assert_allclose(read_sound("heard.mkv")[2000:16_000], swelling(0)[2000:16_000], atol=5e-3)
    loud = rows_at(sound_rows(read_sound("a.wav"), "loudness"), np.array([0, 0.5, 1.0]), "loudness")
    states = states_encoder(str(encoder))(frames(1)[0])
    whole = clip_of(pipe, {"music": loud.tolist(), "look": states})
    for value in (Image.fromarray(frames(1)[0]), "look.png", frames(1)[0]):
        np.testing.assert_array_equal(clip_of(pipe, {"music": "a.wav", "look": value}), whole)
    np.testing.assert_allclose(read_clip("heard.mkv", 9, 8.0), np.rint(whole * 255), atol=1)
    assert made("silent.webp", "music=[0.1, 0.2, 0.3]") == 0
    assert made("x.mkv", "music=none.wav") == 2
    assert "none.wav cannot be opened" in capsys.readouterr().err


def clip_of(pipe: Any, conditions: dict[str, Any]) -> np.ndarray:
    return pipe("a red circle", generator=[torch.Generator().manual_seed(0)], conditions=conditions).frames[0]
