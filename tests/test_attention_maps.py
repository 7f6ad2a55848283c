"""Maps of words: what each place attends to, of every block, head and step, while the clip stays what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import sd3
from sampling import run
from tiny import tiny_dit, tiny_pipeline
from tokenizers import Tokenizer, models, pre_tokenizers

from videodit import LearnedCaptions, TimeExtended, VideoDiTPipeline, sample_with_attention
from videodit.attention_maps import WordMap, maps_of, overlay, watching, write_overlays
from videodit.caching import set_cache
from videodit.geometry import Strides
from videodit.text import Word
from videodit.text.words import words_of_tokens

PROMPTS = ["a red circle moving left", "two blue stars"]
OPTIONS: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}


def seeds() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(2)]


def softmax(scores: np.ndarray) -> np.ndarray:
    """Along the last axis, -inf being nothing."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def double(x: torch.Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def by_hand(attn: Any, given: dict[str, Any], clips: int) -> np.ndarray:
    """The mean over heads, b f s m, in float64, from the weights alone."""
    query = double(given["hidden"])[:clips] @ double(attn.to_q.weight).T + double(attn.to_q.bias)
    b, f, s, d = query.shape
    key, heads = double(given["key"])[:clips], attn.heads
    query = query.reshape(b, f, s, heads, d // heads)
    if attn.norm_q.__class__ is torch.nn.RMSNorm:
        query = query / np.sqrt((query**2).mean(-1, keepdims=True) + 1e-6) * double(attn.norm_q.weight)
    scores = np.einsum("bfshe,bmhe->bfshm", query, key) / np.sqrt(d // heads)
    scores = np.where(given["mask"][:clips].numpy()[:, :, None], scores, -np.inf)  # b 1 1 1 m
    return softmax(scores).mean(3)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_maps_are_the_mean_of_the_softmax_of_every_block_and_step(qk_norm: bool) -> None:
    pipe, seen = tiny_pipeline(), list[np.ndarray]()
    pipe.register_modules(transformer=tiny_dit(cross_attention_qk_norm=qk_norm))

    def note(attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {"hidden": args[0], "mask": args[2], "key": kwargs["text_memory"][0]}
        seen.append(by_hand(attn, given, len(PROMPTS)))

    for block in pipe.transformer.blocks:
        block.attn2.register_forward_pre_hook(note, with_kwargs=True)
    with watching(pipe, len(PROMPTS)) as watched:
        pipe(PROMPTS, generator=seeds(), **OPTIONS)
    maps = watched.maps()
    assert len(seen) == watched.looks == 2 * 4  # steps, blocks
    assert maps.shape == (2, 3, 2, 2, 6)
    np.testing.assert_allclose(maps.flatten(2, 3).numpy(), np.mean(seen, axis=0), atol=1e-6)
    np.testing.assert_allclose(maps.sum(-1).numpy(), 1, atol=1e-6)
    assert (maps[1, ..., 4:] == 0).all()  # three words and the end: the rest is padding
    assert (maps[0] > 0).all()


def test_words_are_those_that_the_model_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videodit.text.encoder.known_words", lambda tokenizer: None)  # as of one that spells any word
    pipe = tiny_pipeline()
    captions = ["red circle", "blue star", "old green circle", *PROMPTS]
    learned = LearnedCaptions.of(captions, pipe.text)
    learned.register_to_config(far=-0.99, words=["red", "circle", "a"], common=0)
    pipe.register_modules(learned=learned)
    clip = sample_with_attention(pipe, "a red square", generator=seeds()[:1], **OPTIONS)[0]
    read = pipe.text.read("a red square")
    assert read.otherwise
    assert [word.text for word in clip.words] == read.prompt.split()


def test_a_text_of_which_nothing_stands_out_is_shared_evenly() -> None:
    pipe = tiny_pipeline()
    for block in pipe.transformer.blocks:
        torch.nn.init.zeros_(block.attn2.to_q.weight)
        torch.nn.init.zeros_(block.attn2.to_q.bias)
    clips = sample_with_attention(pipe, PROMPTS, generator=seeds(), **OPTIONS)
    assert [[word.text for word in clip.words] for clip in clips] == [prompt.split() for prompt in PROMPTS]
    for clip, tokens in zip(clips, (6, 4), strict=True):  # words, and the end of the text
        for word in clip.words:
            np.testing.assert_allclose(word.places, 1 / tokens, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_frames", [1, 9])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_clip_is_bit_for_bit_the_one_that_is_not_watched(num_frames: int, scale: float) -> None:
    pipe = tiny_pipeline()
    options = OPTIONS | {"num_frames": num_frames, "guidance_scale": scale}
    plain = pipe(PROMPTS, generator=seeds(), **options).frames
    watched = sample_with_attention(pipe, PROMPTS, generator=seeds(), **options)
    assert np.array_equal(plain, [clip.frames for clip in watched])
    assert not any(block.attn2._forward_pre_hooks for block in pipe.transformer.blocks)
    assert np.array_equal(plain, pipe(PROMPTS, generator=seeds(), **options).frames)


@pytest.mark.slow
def test_maps_of_a_prompt_are_its_own_whatever_is_beside_it() -> None:
    pipe = tiny_pipeline()
    both = sample_with_attention(pipe, PROMPTS, generator=seeds(), **OPTIONS)
    alone = sample_with_attention(pipe, PROMPTS[1], generator=seeds()[1:], **OPTIONS)[0]
    for one, other in zip(both[1].words, alone.words, strict=True):
        np.testing.assert_allclose(one.places, other.places, atol=1e-5)
    twice = sample_with_attention(pipe, PROMPTS[1], generator=seeds(), num_videos_per_prompt=2, **OPTIONS)
    assert [[word.text for word in clip.words] for clip in twice] == [PROMPTS[1].split()] * 2
    np.testing.assert_allclose(twice[1].words[0].places, alone.words[0].places, atol=1e-5)


@pytest.mark.parametrize(
    ("num_frames", "patch", "tokens", "of_frames"),
    [
        (1, 1, 1, [0]),
        (9, 1, 3, [0, 1, 1, 1, 1, 2, 2, 2, 2]),
        (9, 2, 2, [0, 1, 1, 1, 1, 1, 1, 1, 1]),  # three latents: the first is alone, behind padding
        (5, 2, 1, [0] * 5),
    ],
)
def test_a_frame_has_the_map_of_the_token_that_it_is_in(
    num_frames: int, patch: int, tokens: int, of_frames: list[int]
) -> None:
    class Seen:
        def maps(self) -> torch.Tensor:
            return torch.arange(tokens).float()[None, :, None, None, None].expand(1, tokens, 2, 2, 3)

    words = [[Word("red", (0,)), Word("spinning", (1, 2))]]
    ((red, spinning),) = maps_of(Seen(), words, num_frames, Strides(4, 8, 4), (patch, 2, 2))  # type: ignore[arg-type]
    assert red.over(6, 8).shape == (num_frames, 6, 8)
    assert red.over(6, 8).mean((1, 2)).tolist() == of_frames
    assert (spinning.over(6, 8) == 2 * red.over(6, 8)).all()  # a word has all that its tokens have


def test_words_are_put_together_from_pieces_by_the_tokenizer_s_own_places() -> None:
    pieces = ["[UNK]", "a", "red", "-", "hair", "##ed", "girl", "spin", "##ning", ",", "fast"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    text = "a red-haired girl, spinning fast"
    read = tokenizer.encode(text)
    assert read.tokens == ["a", "red", "-", "hair", "##ed", "girl", ",", "spin", "##ning", "fast"]
    found = words_of_tokens(text, zip([None, *read.word_ids], [(0, 0), *read.offsets], strict=True))
    assert [(word.text, word.tokens) for word in found] == [
        ("a", (1,)),
        ("red", (2,)),
        ("haired", (4, 5)),
        ("girl", (6,)),
        ("spinning", (8, 9)),
        ("fast", (10,)),
    ]


def test_words_are_parted_by_spaces_where_the_tokenizer_parts_them_not() -> None:
    pieces = [("<unk>", 0.0), ("▁a", -1.0), ("▁spin", -1.0), ("ning", -1.0), ("▁sta", -1.0), ("r", -1.0), (".", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    text = "a spinning star."
    read = tokenizer.encode(text)
    assert read.tokens == ["▁a", "▁spin", "ning", "▁sta", "r", "."]
    found = words_of_tokens(text, zip(read.word_ids, read.offsets, strict=True))
    assert [(word.text, word.tokens) for word in found] == [("a", (0,)), ("spinning", (1, 2)), ("star", (3, 4))]


@pytest.mark.slow
def test_what_cannot_be_watched_is_refused_by_name() -> None:
    pipe = tiny_pipeline()
    set_cache(pipe, "taylorseer")
    with pytest.raises(ValueError, match="feature cache"):
        sample_with_attention(pipe, PROMPTS)
    set_cache(pipe, None)
    pipe.transformer.set_sequence_group(object())
    with pytest.raises(ValueError, match="spread over several"):
        sample_with_attention(pipe, PROMPTS)
    pipe.transformer.set_sequence_group(None)
    pipe.transformer.compile_repeated_blocks()
    with pytest.raises(ValueError, match="compiled"):
        sample_with_attention(pipe, PROMPTS)
    pipe.transformer = tiny_dit(caption_channels=None)
    with pytest.raises(ValueError, match="reads no text"):
        sample_with_attention(pipe, PROMPTS)
    pipe.transformer = tiny_dit(caption_in="context")
    with pytest.raises(ValueError, match="among a frame's tokens"):
        sample_with_attention(pipe, PROMPTS)
    pipe.transformer = TimeExtended(sd3())
    with pytest.raises(ValueError, match="SD3Transformer2DModel attends"):
        sample_with_attention(pipe, PROMPTS)
    with pytest.raises(ValueError, match="no attention was seen"), watching(tiny_pipeline(), 1) as watched:
        watched.maps()


def test_an_overlay_is_gray_where_a_map_is_lowest_and_brightest_where_it_is_highest() -> None:
    frames = np.full((2, 4, 4, 3), (200, 0, 0), np.uint8)
    shares = np.zeros((2, 4, 4), np.float32)
    shares[1, 2, 3] = 1e-6  # of whatever size
    shown = overlay(frames, shares)
    lowest = shown[shares == 0]
    assert (lowest == lowest[0]).all()
    assert len(set(lowest[0].tolist())) == 1
    assert shown[1, 2, 3].min() > lowest.max()
    assert (overlay(frames, np.ones_like(shares)) == lowest[0]).all()  # a map that is even shows nothing


def test_overlays_lie_in_a_folder_that_is_made_anew_and_no_other_is(tmp_path: Path) -> None:
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    words = [WordMap(text, np.random.default_rng(0).random((1, 2, 2), np.float32), np.zeros(1, int)) for text in "ab/"]
    write_overlays(tmp_path / "x.attention", frames, words, 8.0)
    folder = write_overlays(tmp_path / "x.attention", frames, words[1:], 8.0)
    assert sorted(file.name for file in folder.iterdir()) == ["00_b.png", "01_.png", "maps.json", "sheet.png"]
    assert [file.name for file in tmp_path.iterdir()] == ["x.attention"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="holds no attention maps"):
        write_overlays(tmp_path / "mine", frames, words, 8.0)


@pytest.mark.slow
def test_the_command_writes_maps_beside_a_clip_that_they_do_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    common = ("--model", tmp_path / "model", "--steps", "2", "--prompt", *PROMPTS, "--out")
    assert run(monkeypatch, *common, tmp_path / "plain") == 0
    assert run(monkeypatch, *common, tmp_path / "maps") == 0  # first without
    assert run(monkeypatch, *common, tmp_path / "maps", "--attention-maps") == 0
    for name in ("0000.mp4", "0001.mp4"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "maps" / name).read_bytes()
    names = sorted(file.name for file in (tmp_path / "maps/0001.attention").iterdir())
    assert names == ["00_two.mp4", "01_blue.mp4", "02_stars.mp4", "maps.json", "sheet.png"]
    before = (tmp_path / "maps/0001.attention/sheet.png").stat().st_mtime_ns
    assert run(monkeypatch, *common, tmp_path / "maps", "--attention-maps") == 0  # all is there
    assert (tmp_path / "maps/0001.attention/sheet.png").stat().st_mtime_ns == before
    capsys.readouterr()
    for refused in (("--cache", "taylorseer"), ("--compile",), ("--overlap", "5")):
        assert run(monkeypatch, *common, tmp_path / "other", "--attention-maps", *refused) == 2
    (tmp_path / "other/0000.attention").mkdir(parents=True)
    assert run(monkeypatch, *common, tmp_path / "other", "--attention-maps") == 2
    assert "holds no attention maps" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["0000.attention"]


@pytest.mark.slow
def test_a_saved_pipeline_is_watched_as_well(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    pipe = VideoDiTPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    there = sample_with_attention(pipe, PROMPTS, generator=seeds(), **OPTIONS)
    here = sample_with_attention(tiny_pipeline(), PROMPTS, generator=seeds(), **OPTIONS)
    assert np.array_equal(here[0].words[1].places, there[0].words[1].places)
