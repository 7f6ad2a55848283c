"""`videodit sample` as its user meets it: files, settings, errors in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from footage import pan
from PIL import Image
from processes import launch, run_tool, start
from sampling import run

from videodit import VideoDiTPipeline
from videodit.clipset import find_clips
from videodit.commands import sample as sample_video
from videodit.models.sequence import Part
from videodit.video.reader import probe, read_clip
from videodit.video.writer import read_metadata, write_video


def test_one_prompt_makes_one_file_with_its_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    out = tmp_path / "new" / "clip.mp4"
    args = ("--prompt", "a red circle", "--model", model, "--steps", "2", "--seed", "3", "--guidance-scale", "2")
    size = ("--num-frames", "5", "--height", "16", "--width", "48", "--fps", "4", "--negative-prompt", "blue")
    assert run(monkeypatch, *args, *size, "--out", out) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    info = probe(out)
    assert (info.num_frames, info.height, info.width, info.fps) == (5, 16, 48, 4)
    beside = json.loads(out.with_suffix(".json").read_text())
    assert json.loads(read_metadata(out)["comment"]) == beside
    expected = {"prompt": "a red circle", "seed": 3, "steps": 2, "guidance_scale": 2.0, "negative_prompt": "blue"}
    assert expected.items() <= beside.items()


@pytest.mark.slow
def test_clips_of_a_prompts_file_have_a_seed_each_and_equal_those_made_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n\ntwo blue stars\na red circle\n")
    common = ("--model", model, "--steps", "2", "--num-frames", "5", "--height", "16", "--width", "16")
    assert run(monkeypatch, "--prompts-file", prompts, *common, "--batch-size", "2", "--out", tmp_path / "c.mkv") == 0
    clips = [read_clip(tmp_path / f"c_{i:04d}.mkv", 5, 8.0).astype(int) for i in range(3)]
    assert not np.array_equal(clips[0], clips[2])
    assert run(monkeypatch, "--prompt", "a red circle", *common, "--seed", "2", "--out", tmp_path / "alone.mkv") == 0
    assert np.abs(read_clip(tmp_path / "alone.mkv", 5, 8.0).astype(int) - clips[2]).max() <= 1


@pytest.mark.slow
def test_every_option_of_sampling_reaches_the_clip_and_its_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    common = ("--prompt", "a red circle", "--model", model, "--steps", "4", "--num-frames", "9")
    source = write_video(tmp_path / "source.mkv", pan(0, 9)[:, :32, :32], 8)
    image = write_video(tmp_path / "image.png", pan(3, 1)[:, :32, :32], 8)
    assert run(monkeypatch, *common, "--out", tmp_path / "plain.mkv") == 0
    plain = read_clip(tmp_path / "plain.mkv", 9, 8.0)
    options: dict[str, tuple[tuple[str | Path, ...], dict[str, object]]] = {
        "image": (("--image", image), {"image": str(image)}),
        "on": (("--video", source, "--given-frames", "5"), {"video": str(source), "given_frames": 5}),
        "anew": (("--video", source, "--strength", "0.5"), {"video": str(source), "strength": 0.5}),
        "end": (("--first-image", image, "--last-image", source), {"image": str(image), "last_image": str(source)}),
        "lead": (
            ("--last-video", source, "--last-given-frames", "4"),
            {"last_video": str(source), "last_given_frames": 4},
        ),
        "loop": (("--loop",), {"loop": True}),
        "scale": (("--image", image, "--image-guidance-scale", "2"), {"image_guidance_scale": 2.0}),
        "interval": (("--guidance-interval", "0.3", "0.8"), {"guidance_interval": [0.3, 0.8]}),
        "rescale": (("--guidance-rescale", "0.7"), {"guidance_rescale": 0.7}),
        "scheduler": (("--scheduler", "UniPCMultistepScheduler"), {"scheduler": "UniPCMultistepScheduler"}),
    }
    options |= {
        "cache": (("--cache", "taylorseer=2"), {"cache": "taylorseer=2"}),
        "half": (("--dtype", "bfloat16"), {"dtype": "bfloat16"}),
        "eighth": (("--layerwise-casting",), {"layerwise_casting": True}),
    }
    for name, (words, settings) in options.items():
        out = tmp_path / f"{name}.mkv"
        assert run(monkeypatch, *common, *words, "--out", out) == 0, name
        assert settings.items() <= json.loads(out.with_suffix(".json").read_text()).items()
        assert not np.array_equal(read_clip(out, 9, 8.0), plain), name


@pytest.mark.slow
def test_a_long_clip_is_made_window_after_window(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str) -> None:
    words = ("--prompt", "a red circle", "--model", model, "--steps", "1", "--num-frames", "20", "--overlap", "5")
    assert run(monkeypatch, *words, "--out", tmp_path / "long.mkv") == 0
    assert run(monkeypatch, *words, "--window", "13", "--out", tmp_path / "other.mkv") == 0
    long, other = (read_clip(tmp_path / f"{name}.mkv", 20, 8.0) for name in ("long", "other"))
    assert not np.array_equal(long[9:], other[9:])
    settings = json.loads((tmp_path / "other.json").read_text())
    assert (settings["num_frames"], settings["overlap"], settings["window"]) == (20, 5, 13)


def test_the_text_encoder_is_gone_while_clips_are_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    seen, whole = [], VideoDiTPipeline.__call__

    def call(self: VideoDiTPipeline, *args: object, **options: object) -> object:
        seen.append(self.text_encoder)
        return whole(self, *args, **options)

    monkeypatch.setattr(VideoDiTPipeline, "__call__", call)
    words = ("--prompt", "red", "blue", "--model", model, "--steps", "1", "--batch-size", "1", "--out", tmp_path)
    assert run(monkeypatch, *words) == 0
    assert seen == [None, None]


@pytest.mark.slow
def test_a_preview_shows_a_clip_on_its_way_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    common = ("--prompt", "a red circle", "--model", model, "--steps", "5")
    assert run(monkeypatch, *common, "--out", tmp_path / "plain.mkv") == 0
    assert run(monkeypatch, *common, "--preview", "2", "--out", tmp_path / "clip.mkv") == 0
    plain, clip = (read_clip(tmp_path / f"{name}.mkv", 9, 8.0) for name in ("plain", "clip"))
    assert np.array_equal(plain, clip)
    sheet = np.asarray(Image.open(tmp_path / "clip.preview.png"))
    assert sheet.shape == (2 * 34, 8 * 34, 3)  # after two steps and after four, eight frames each
    rows = sheet.reshape(2, 34, 8, 34, 3)[:, :32, :, :32].transpose(0, 2, 1, 3, 4).astype(int)
    apart = [np.abs(row - clip[[0, 1, 2, 3, 5, 6, 7, 8]]).mean() for row in rows]
    assert apart[0] > apart[1] > 0
    assert [found.name for found in find_clips(tmp_path)] == ["clip.mkv", "plain.mkv"]
    words = ("--num-frames", "13", "--overlap", "5", "--preview", "5", "--out", tmp_path / "long.mkv")
    assert run(monkeypatch, *common, *words) == 0
    assert Image.open(tmp_path / "long.preview.png").size == (8 * 34, 34)  # of the last window alone


def test_every_flag_is_given_to_the_command_by_a_test() -> None:
    flags = re.findall(r'add_argument\(\s*"(--[a-z-]+)"', Path(sample_video.__file__).read_text())
    assert len(flags) > 30
    files = (
        Path(__file__),
        Path(__file__).with_name("test_sampling_cheaply.py"),
        Path(__file__).with_name("test_sampling_families.py"),
        Path(__file__).parents[1] / "test_words.py",
        Path(__file__).parents[1] / "test_attention_maps.py",
        *(Path(__file__).parents[1] / f"test_{name}.py" for name in ("skip_layers", "pruning", "controls", "tiles")),
        Path(__file__).parents[1] / "training" / "test_branches.py",
    )
    calls = "".join(file.read_text() for file in files)
    assert [flag for flag in flags if f'"{flag}"' not in calls] == []


def test_given_frames_are_those_of_the_files_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, tiny_pipe: VideoDiTPipeline
) -> None:
    frames = pan(0, 9)[:, :32, :32]
    source = write_video(tmp_path / "source.mkv", frames, 8)
    words = ("--prompt", "a red circle", "--model", model, "--steps", "2", "--num-frames", "13", "--given-frames", "5")
    assert run(monkeypatch, *words, "--video", source, "--last-video", source, "--out", tmp_path / "x.mkv") == 0
    found = read_clip(tmp_path / "x.mkv", 13, 8.0)
    pixels = torch.from_numpy(np.concatenate([frames[-5:], frames[:1], frames[:4]])).float() / 127.5 - 1
    for part, where in ((pixels[:5], slice(0, 5)), (pixels[5:], slice(8, 13))):  # its last, and its first behind a copy
        with torch.no_grad():
            kept = tiny_pipe.codec.decode(tiny_pipe.codec.encode(part.permute(3, 0, 1, 2)[None]))[0]
        expected = ((kept + 1) * 127.5).clamp(0, 255).permute(1, 2, 3, 0).cpu().numpy()
        begin = 1 if where.stop == 13 else 0
        assert np.abs(found[where][begin:] - expected[begin:]).max() <= 4  # the file's colours are YUV


def test_rows_of_a_file_say_what_their_clips_begin_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    write_video(tmp_path / "image.png", pan(3, 1)[:, :32, :32], 8)
    (tmp_path / "p.csv").write_text("prompt,image,loop\na red circle,image.png,\na red circle,,yes\n")
    words = ("--prompts-file", tmp_path / "p.csv", "--model", model, "--steps", "1", "--out", tmp_path / "x.mkv")
    assert run(monkeypatch, *words) == 0
    settings = [json.loads((tmp_path / f"x_{i:04d}.json").read_text()) for i in range(2)]
    assert settings[0]["image"] == str(tmp_path / "image.png")
    assert "image" not in settings[1]
    assert [one.get("loop") for one in settings] == [None, True]


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png"])
def test_the_ending_chooses_the_format(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, ending: str
) -> None:
    out = tmp_path / f"clip{ending}"
    size = ("--height", "16", "--width", "16", "--num-frames", "1")
    assert run(monkeypatch, "--prompt", "red", "--model", model, "--steps", "1", *size, "--out", out) == 0
    assert probe(out).num_frames == 1


def test_words_that_the_model_never_saw_are_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, model: str
) -> None:
    out = tmp_path / "clip.mp4"
    assert run(monkeypatch, "--prompt", "a red Zebra moving", "--model", model, "--steps", "1", "--out", out) == 0
    assert "never saw the words Zebra" in caplog.text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt", " "], "the prompt is empty"),
        (["--prompt", "red", "--num-frames", "6"], "num_frames=6 is not 4k + 1; nearest: 5 or 9"),
        (["--prompt", "red", "--height", "50"], "height=50 is not a multiple of 16; nearest: 48 or 64"),
        (["--prompt", "red", "--steps", "0"], "--steps 0 must be greater than or equal to 1"),
        (["--prompt", "red", "--fps", "0"], "--fps 0 must be greater than or equal to 0.001"),
        (["--prompt", "red", "--out", "clip.avi"], "clip.avi"),
        (["--prompt", "red", "--scheduler", "DDIMScheduler"], "does not fit this model; these do: FlowMatchEuler"),
        (["--prompt", "red", "--image", "gone.png"], "gone.png cannot be opened"),
        (["--prompt", "red", "--strength", "0.5"], "are about a video: name it"),
        (["--prompt", "red", "--window", "9"], "give overlap too"),
        (["--prompt", "red", "--cache", "magic"], "cache 'magic' is none of first-block"),
        (["--prompt", "red", "--cache", "taylorseer=0.5"], "must be a whole number of steps"),
        (["--prompt", "red", "--last-given-frames", "4"], "name it as last_video"),
        (["--prompt", "red", "--loop", "--last-image", "x.png"], "a loop ends where it begins"),
        (["--prompt", "red", "--last-image", "gone.png"], "gone.png cannot be opened"),
        (["--prompt", "red", "--image-guidance-scale", "2"], "is of given frames"),
        (["--prompt", "red", "--overlap", "5", "--num-frames", "9"], "fit into one window of 9"),
        (["--prompt", "red", "--guidance-interval", "0.8", "0.2"], "guidance_interval"),
        (["--prompt", "red", "--preview", "0"], "--preview 0 must be greater than 0"),
        (
            ["--prompt", "red", "--compile", "--cache", "sea=0.2"],
            "--compile: --cache sea=0.2 works inside of the blocks",
        ),
        (["--prompt", "red", "--compile", "--layerwise-casting"], "--compile: --layerwise-casting works inside"),
        (["--prompt", "red", "--compile", "--offload", "sequential"], "--compile: --offload sequential works inside"),
        (["--prompt", "red", "--quantize", "int8", "--layerwise-casting"], "say how the weights are kept: give one"),
        (["--prompt", "red", "--batch-size", "0"], "--batch-size 0 must be greater than 0"),
        (["--prompts-file", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--prompt", "red", "--out", "/dev/null/clip.mp4"], "/dev/null"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    model: str,
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "--model", model, *args) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("sample_video: ")
    assert message in error
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator to offload from")
@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offload_needs_an_accelerator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, offload: str
) -> None:
    out = tmp_path / "clip.mkv"
    assert run(monkeypatch, "--prompt", "red", "--model", model, "--offload", offload, "--out", out) == 2
    assert f"sample_video: --offload {offload} needs an accelerator" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_clips_of_other_settings_are_made_anew_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    common = ("--prompt", "red", "blue", "--model", model, "--num-frames", "1", "--out", tmp_path)
    assert run(monkeypatch, *common, "--steps", "1") == 0
    assert run(monkeypatch, *common, "--steps", "2") == 2
    assert "made with another steps; give --overwrite" in capsys.readouterr().err
    assert run(monkeypatch, *common, "--steps", "2", "--overwrite") == 0
    assert json.loads((tmp_path / "0001.json").read_text())["steps"] == 2


@pytest.mark.slow
def test_the_command_itself_fails_in_one_line_on_a_folder_that_is_no_model(tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    assert start(run_tool, "sample_video", ["--prompt", "red", "--model", str(tmp_path)], out, err) == 2
    assert "Traceback" not in err.read_text()
    assert str(tmp_path) in err.read_text().strip().splitlines()[-1]


def made(*args: str) -> tuple[int, int]:
    """How the command ends, and how often tokens were sent around."""
    sent, exchange = [], Part._exchange
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Part, "_exchange", lambda part, x: sent.append(1) or exchange(part, x))
        return run(patch, *args), len(sent)


@pytest.mark.slow
def test_several_processes_make_one_clip_together(model: str, tmp_path: Path) -> None:
    """Of which the main one writes: two long clips, as one process makes them."""
    common = ("--prompt", "a red circle", "two blue stars", "--model", model, "--steps", "2", "--num-frames", "13")
    size = ("--overlap", "5", "--height", "16", "--width", "48")
    assert made(*common, *size, "--out", str(tmp_path / "alone.mkv")) == (0, 0)
    ends = launch(made, *common, *size, "--out", str(tmp_path / "together.mkv"))
    assert ends == 2 * [
        (0, 2 * 2 * 2 * 4)
    ]  # clips, windows, steps; switches between four blocks, and the last to whole
    for number in range(2):
        alone, together = (tmp_path / f"{name}_{number:04d}" for name in ("alone", "together"))
        frames = [read_clip(file.with_suffix(".mkv"), 13, 8.0).astype(int) for file in (alone, together)]
        assert np.abs(frames[0] - frames[1]).max() <= 1
        assert alone.with_suffix(".json").read_text() == together.with_suffix(".json").read_text()
