"""The store of latents: named by content, whole or not there, checked when read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import launch
from runs import encode as encode_run
from runs import mixed
from safetensors.torch import load_file, save_file
from tiny import tiny_wan

from videodit.codec import VideoCodec
from videodit.config import Data
from videodit.data import cache
from videodit.data.buckets import fill, sizes_of
from videodit.data.cache import Latents, encode_clips
from videodit.data.clips import open_data
from videodit.data.store import CacheError, Store
from videodit.training.inputs import load_codec, open_clips
from videodit.video import VideoError
from videodit.video.writer import write_video

SIZE = {"num_frames": 5, "height": 32, "width": 32, "validation": 0}


def write(folder: Path, name: str, seed: int, frames: int = 5) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 4, 4, 3), dtype=np.uint8)
    write_video(folder / f"{name}.mkv", pixels.repeat(8, axis=1).repeat(8, axis=2), 8)
    (folder / f"{name}.txt").write_text(f"clip {name}")


def encode(folder: Path, codec: VideoCodec, *, images: bool = True, **data: object) -> tuple[Latents, Data]:
    config = Data(source=str(folder / "clips"), **(SIZE | data))
    clips = open_data(config, 0).train
    return encode_clips(clips, fill(clips, sizes_of(config), config.spans), codec, folder, None, images=images), config


@pytest.fixture
def codec() -> VideoCodec:
    return VideoCodec(tiny_wan())


@pytest.fixture
def encoded(tmp_path: Path, codec: VideoCodec, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips each call of the VAE encoded, in a folder of five clips, three a shard."""
    monkeypatch.setattr(cache, "SHARD", 3)
    calls: list[int] = []
    encode = VideoCodec.encode
    monkeypatch.setattr(VideoCodec, "encode", lambda self, pixels: calls.append(len(pixels)) or encode(self, pixels))
    (tmp_path / "clips").mkdir()
    for i in range(5):
        write(tmp_path / "clips", str(i), i)
    return calls


@pytest.mark.slow
def test_latents_are_those_of_the_codec(tmp_path: Path, codec: VideoCodec, encoded: list[int]) -> None:
    latents, config = encode(tmp_path, codec)
    frames = open_data(config, 0).train.read(3, 0)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.no_grad():
        torch.testing.assert_close(latents[3, False], codec.encode(pixels)[0], rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(latents[3, True], codec.encode(pixels[:, :, :1])[0], rtol=1e-2, atol=1e-2)
    assert [s.captions for s in latents.samples] == [(f"clip {i}",) for i in range(5)]


@pytest.mark.slow
def test_only_what_is_new_is_encoded(tmp_path: Path, codec: VideoCodec, encoded: list[int]) -> None:
    first, _ = encode(tmp_path, codec)
    assert sum(encoded) == 10  # five clips, and their first frames
    encoded.clear()
    again, _ = encode(tmp_path, codec)
    assert encoded == []
    assert again.samples == first.samples
    (tmp_path / "clips" / "2.txt").write_text("other words")
    worded, _ = encode(tmp_path, codec)
    assert encoded == []
    assert worded.samples[2].captions == ("other words",)
    (tmp_path / "clips" / "1.mkv").rename(tmp_path / "clips" / "9.mkv")
    (tmp_path / "clips" / "1.txt").rename(tmp_path / "clips" / "9.txt")
    moved, _ = encode(tmp_path, codec)
    assert encoded == []
    assert torch.equal(moved[4, False], first[1, False])
    write(tmp_path / "clips", "3", seed=77)
    changed, _ = encode(tmp_path, codec)
    assert encoded == [1, 1]
    assert not torch.equal(changed[2, False], first[3, False])


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"num_frames": 1}, {"fps": 4.0, "num_frames": 1}, {"height": 16, "width": 16}])
def test_another_size_is_another_latent(change: dict, tmp_path: Path, codec: VideoCodec, encoded: list[int]) -> None:
    encode(tmp_path, codec, images=False)
    encoded.clear()
    encode(tmp_path, codec, images=False, **change)
    assert sum(encoded) == 5


@pytest.mark.slow
def test_each_crop_of_a_clip_is_a_latent_of_its_own(tmp_path: Path, codec: VideoCodec, encoded: list[int]) -> None:
    """Spans of one time that differ in nothing but the part of the picture that is kept: as many latents."""
    few = {"crop": "random", "start": "first", "spans": 3, "width": 16, "height": 32}
    latents, config = encode(tmp_path, codec, images=True, **few)
    assert len(latents) == 15
    assert len({sample.latent for sample in latents.samples}) == 15
    assert len({sample.image for sample in latents.samples}) == 15
    train = open_data(config, 0).train
    spans = [span for of_size in fill(train, sizes_of(config), 3).spans.values() for span in of_size]
    for number in (0, 1, 2, 7):
        with torch.no_grad():
            frames = next(iter(train.source.stream([spans[number]])))
            pixels = torch.from_numpy(frames.copy()).permute(3, 0, 1, 2)[None] / 127.5 - 1
            torch.testing.assert_close(latents[number, False], codec.encode(pixels)[0], rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_another_vae_has_latents_of_its_own(tmp_path: Path, codec: VideoCodec, encoded: list[int]) -> None:
    first, _ = encode(tmp_path, codec)
    torch.manual_seed(9)
    other = VideoCodec(tiny_wan())
    with torch.no_grad():
        next(other.vae.parameters()).add_(0.1)
    second, _ = encode(tmp_path, other)
    assert not torch.equal(first[0, False], second[0, False])
    assert torch.equal(encode(tmp_path, codec)[0][0, False], first[0, False])


@pytest.mark.slow
def test_encoding_goes_on_where_it_was_stopped(
    tmp_path: Path, codec: VideoCodec, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    add, files = Store.add, []

    def stop_after_one(self: Store, *args: object) -> None:
        if files:
            raise KeyboardInterrupt
        files.append(add(self, *args))

    monkeypatch.setattr(Store, "add", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path, codec)
    monkeypatch.undo()
    calls: list[int] = []
    wrapped = VideoCodec.encode
    monkeypatch.setattr(VideoCodec, "encode", lambda self, pixels: calls.append(len(pixels)) or wrapped(self, pixels))
    latents, _ = encode(tmp_path, codec)
    assert len(latents) == 5
    assert sum(calls) == 4  # the two clips of the second shard, and their first frames


@pytest.mark.slow
def test_changed_bytes_are_noticed_when_read(tmp_path: Path, codec: VideoCodec, encoded: list[int]) -> None:
    latents, _ = encode(tmp_path, codec)
    file = latents.store._where[latents.samples[0].latent]
    tensors, facts = load_file(file), latents.store._open
    from safetensors import safe_open

    with safe_open(file, "pt") as shard:
        metadata = shard.metadata()
    tensors[latents.samples[0].latent].view(-1)[3] += 1
    facts.clear()
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(
        CacheError, match=r"its bytes have changed since it was written; delete it, and run videodit encode"
    ):
        latents[0, False]
    latents[1, False]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CacheError, match="damaged"):
        encode(tmp_path, codec)


def test_what_a_kill_left_half_written_is_nobodys(
    tmp_path: Path, codec: VideoCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str]) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("videodit.data.store.save_file", torn)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            Store(tmp_path / "s").add({"a": torch.ones(2)})
    assert len(list((tmp_path / "s").iterdir())) == 1
    assert Store(tmp_path / "s").missing(["a"]) == ["a"]


def test_a_file_of_latents_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    """Also with reasons in its header: libraries order several keys there at random."""
    kept = []
    for number in range(6):
        Store(tmp_path / str(number)).add({"a": torch.ones(2)}, {"b": "cannot be read"})
        (file,) = (tmp_path / str(number)).iterdir()
        kept.append(file.read_bytes())
        assert Store(tmp_path / str(number)).failed == {"b": "cannot be read"}
    assert kept == kept[:1] * 6


def damaged_late(file: Path) -> bytes:
    """Writes a file of sixty frames whose end does not decode, though its head says nothing of it; returns it sound."""
    pixels = np.random.default_rng(2).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    sound = write_video(file, pixels, 8).read_bytes()
    late = len(sound) * 8 // 10
    file.write_bytes(sound[:late] + bytes(3000) + sound[late + 3000 :])
    return sound


@pytest.mark.slow
def test_a_damaged_clip_is_left_out_whole_and_counted_until_it_is_mended(
    tmp_path: Path, codec: VideoCodec, encoded: list[int]
) -> None:
    (tmp_path / "clips" / "2.mkv").unlink()
    file = tmp_path / "clips" / "2.mp4"
    sound = damaged_late(file)
    spans = {"spans": 8, "max_bad_share": 0.5}
    latents, _ = encode(tmp_path, codec, **spans)
    assert sum(encoded) > 2 * len(latents)  # of the damaged file too some spans could be read
    assert {Path(s.name).stem for s in latents.samples} == {"0", "1", "3", "4"}
    again, _ = encode(tmp_path, codec, **spans)
    assert again.samples == latents.samples
    with pytest.raises(VideoError, match=r"1 of 5 clips cannot be read, more than data\.max_bad_share=0\.1"):
        encode(tmp_path, codec, spans=8, max_bad_share=0.1)
    file.write_bytes(sound)
    encoded.clear()
    mended, _ = encode(tmp_path, codec)
    assert len(mended) == 5


@pytest.mark.slow
def test_clips_of_a_film_that_is_damaged_elsewhere_are_left_out_too(
    tmp_path: Path, codec: VideoCodec, encoded: list[int]
) -> None:
    damaged_late(tmp_path / "clips" / "film.mp4")
    stretches = [("film.mp4", 0.0, 1.0), ("film.mp4", 6.0, 7.5), ("3.mkv", 0.0, None), ("film.mp4", 2.0, 3.0)]
    rows = [{"file": name, "start": start, "end": end, "caption": "noise"} for name, start, end in stretches]
    (tmp_path / "clips" / "clips.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    latents, _ = encode(tmp_path, codec, max_bad_share=0.8, start="first")
    assert [Path(sample.name).name for sample in latents.samples] == ["3.mkv"]


@pytest.mark.slow
def test_several_processes_encode_a_share_each_and_any_number_goes_on(tmp_path: Path) -> None:
    names = launch(encode_run, tmp_path / "two")
    assert names[0] == names[1]
    config = mixed(tmp_path / "two")
    store = next((tmp_path / "two" / "latents").glob("vae-*"))
    files = sorted(store.glob("*.safetensors"))
    files[0].unlink()  # as if one of them had been stopped
    latents, _ = open_clips(config, load_codec(config))
    alone, _ = open_clips(mixed(tmp_path / "one"), load_codec(mixed(tmp_path / "one")))
    assert [s.latent for s in latents.samples] == [s.latent for s in alone.samples]
    for number in range(len(alone)):
        for image in (False, True):
            torch.testing.assert_close(latents[number, image], alone[number, image], rtol=1e-3, atol=1e-3)
