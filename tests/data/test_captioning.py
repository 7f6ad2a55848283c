"""`videodit caption`: each clip gets the words of a model that sees its frames, and nothing else of it changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from readme import tool

from videodit.data.captioning import caption_clips, pictures_of
from videodit.data.manifest import read_manifest
from videodit.video import write_video

GRAYS = (0, 60, 120, 180, 240)
TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}answer{% endif %}"
)
WORDS = ("<pad>", "</s>", "<unk>", "<image>", "answer", "what", "moves", "red", "blue", "circle", "square", "left")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A manifest of a clip of five grays, a second each; a stretch of it; one with a caption; one that is damaged."""
    frames = np.concatenate([np.full((4, 32, 48, 3), gray, np.uint8) for gray in GRAYS])
    write_video(tmp_path / "grays.mp4", frames, 4.0)
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "grays.mp4").read_bytes()[:200])
    rows: list[dict[str, Any]] = [
        {"file": "grays.mp4", "caption": "", "motion": 0.5},
        {"file": "grays.mp4", "caption": "", "start": 1.0, "end": 3.0},
        {"file": "grays.mp4", "caption": ["kept", "as it is"], "start": 2.0, "end": 4.0},
        {"file": "broken.mp4", "caption": ""},
    ]
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "clips.jsonl"


def grays(pictures: list[np.ndarray]) -> str:
    return " ".join(str(min(GRAYS, key=lambda gray: abs(gray - float(one.mean())))) for one in pictures)


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_each_clip_is_described_from_its_own_frames(clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = clips.with_name("captioned.jsonl")
    count = caption_clips(str(clips), out, grays, "me", num_frames=5)
    assert dict(count) == {"before": 0, "captioned": 2, "kept": 1, "not captioned": 1}
    whole, stretch, kept, broken = rows_of(out)
    assert whole == {"file": "grays.mp4", "caption": "0 60 120 180 240", "motion": "0.5", "captioner": "me, 5 frames"}
    assert (stretch["caption"], stretch["start"], stretch["end"]) == (
        "60 60 120 120 120",
        1.0,
        3.0,
    )  # 1.2, 1.6, 2.0 ...
    assert (kept["caption"], "captioner" in kept) == (["kept", "as it is"], False)
    assert broken["caption"] == ""
    assert "broken.mp4" in broken["not_captioned"]
    assert "broken.mp4" in caplog.text
    items = read_manifest(out).items  # which training reads, without the one that has no caption
    assert [item.captions for item in items] == [(whole["caption"],), (stretch["caption"],), ("kept", "as it is")]
    assert {item.path for item in items} == {clips.with_name("grays.mp4")}


@pytest.mark.slow
def test_a_clip_in_several_rows_keeps_all_captions_and_a_second_captioner_fills_what_the_first_left(
    clips: Path,
) -> None:
    double = {"file": "grays.mp4", "caption": "and another", "start": 2.0, "end": 4.0}
    empty = {"file": "grays.mp4", "caption": "", "start": 2.0, "end": 4.0}
    with clips.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in (double, empty)))
    first, second = clips.with_name("first.jsonl"), clips.with_name("second.jsonl")
    count = caption_clips(str(clips), first, lambda pictures: "" if len(pictures) > 1 else "x", "one")
    assert dict(count) == {"before": 0, "not captioned": 3, "kept": 1}
    assert rows_of(first)[2]["caption"] == ["kept", "as it is", "and another"]
    count = caption_clips(str(first), second, grays, "two")
    assert dict(count) == {"before": 0, "captioned": 2, "kept": 1, "not captioned": 1}
    filled = rows_of(second)[0]
    assert (filled["captioner"], "not_captioned" in filled) == ("two, 8 frames", False)
    third = clips.with_name("third.jsonl")  # whose source has captions of another, which stay its own
    for _ in range(2):
        count = caption_clips(str(second), third, grays, "three")
    assert count["before"] == 4
    assert [row.get("captioner") for row in rows_of(third)[:2]] == ["two, 8 frames"] * 2


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_behind_its_last_whole_row(clips: Path) -> None:
    one, other = clips.with_name("one.jsonl"), clips.with_name("other.jsonl")
    caption_clips(str(clips), one, grays, "me")
    lines = one.read_bytes().splitlines(keepends=True)
    other.write_bytes(lines[0] + lines[1][:20])
    asked = []
    count = caption_clips(str(clips), other, lambda pictures: asked.append(1) or grays(pictures), "me")
    assert (count["before"], len(asked)) == (1, 1)
    assert other.read_bytes() == one.read_bytes()
    caption_clips(str(clips), other, lambda pictures: pytest.fail("all are there"), "me")
    assert other.read_bytes() == one.read_bytes()
    other.write_bytes(b"".join(lines[1:]))  # a row that is taken out is made again
    caption_clips(str(clips), other, grays, "me")
    assert sorted(other.read_bytes().splitlines(keepends=True)) == sorted(lines)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("out.csv", None, r"name a \.jsonl"),
        ("clips.jsonl", None, "is the source"),
        ("out.jsonl", '{"file": "else.mp4"}\n', "else.mp4 is no clip of"),
        ("out.jsonl", '{"file": "grays.mp4", "captioner": "you, 8 frames"}\n', "by you, 8 frames, not me, 8 frames"),
        ("out.jsonl", "[1]\n", "out.jsonl:1: is no row"),
    ],
)
def test_a_file_that_is_not_of_this_run_is_refused_and_left(
    clips: Path, name: str, content: str | None, said: str
) -> None:
    out = clips.with_name(name)
    if content is not None:
        out.write_text(content)
    before = out.read_bytes() if out.exists() else None
    with pytest.raises(ValueError, match=said):
        caption_clips(str(clips), out, grays, "me")
    assert (out.read_bytes() if out.exists() else None) == before


@pytest.mark.slow
def test_a_model_that_says_nothing_is_told(clips: Path) -> None:
    out = clips.with_name("out.jsonl")
    assert caption_clips(str(clips), out, lambda pictures: "", "me")["not captioned"] == 3
    assert rows_of(out)[0]["not_captioned"] == "the model said nothing of it"


def test_an_image_is_one_picture_and_large_ones_are_scaled(tmp_path: Path) -> None:
    write_video(tmp_path / "large.png", np.full((1, 500, 900, 3), 60, np.uint8), 1.0)
    (picture,) = pictures_of(str(tmp_path / "large.png"), 0.0, None, 8)
    assert min(picture.shape[:2]) == 448


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA with random weights, as transformers saves it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, **names, additional_special_tokens=["<image>"], padding_side="left"
    )
    image = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        image, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    processor.chat_template = TEMPLATE
    text = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, image_seq_length=4)
    place = tmp_path_factory.mktemp("captioner") / "tiny-llava"
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight[:4] = 0.0  # it says words, and no pictures
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 1, 0
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return place


@pytest.mark.slow
def test_the_command_asks_a_model_of_transformers(clips: Path, folder: Path, capsys: Any) -> None:
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    out = clips.with_name("captioned.jsonl")
    options = ("--model", folder, "--out", out, "--frames", 2, "--prompt", "what moves", "--max-new-tokens", 6)
    assert tool("caption", clips, *options) == 0
    assert capsys.readouterr().out == f"{out}, 2 captioned, 1 kept, 1 not captioned\n"
    said = rows_of(out)[0]
    assert said["captioner"].startswith("tiny-llava ")
    processor, model = AutoProcessor.from_pretrained(folder), LlavaForConditionalGeneration.from_pretrained(folder)
    shown = list(pictures_of(str(clips.with_name("grays.mp4")), 0.0, None, 2))
    inputs = processor(text="<image> <image> what moves answer", images=shown, return_tensors="pt")
    tokens = inputs["input_ids"]
    for _ in range(6):  # greedily, a whole pass a token
        with torch.no_grad():
            logits = model(input_ids=tokens, pixel_values=inputs["pixel_values"]).logits
        tokens = torch.cat([tokens, logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    answer = [WORDS[number] for number in tokens[0, inputs["input_ids"].shape[1] :]]
    assert said["caption"] == " ".join(answer)
    assert not set(answer) & set(WORDS[:4])


@pytest.mark.slow
def test_a_folder_that_is_no_such_model_is_one_line(clips: Path, folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = clips.with_name("captioned.jsonl")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert tool("caption", clips, "--model", empty, "--out", out) == 2
    assert f"{empty}: is no image-text-to-text model" in capsys.readouterr().err
    for file in folder.iterdir():
        if file.name != "chat_template.jinja":
            (empty / file.name).write_bytes(file.read_bytes())
    assert tool("caption", clips, "--model", empty, "--out", out) == 2
    assert "has no chat template" in capsys.readouterr().err
    assert not out.exists()
