"""Words: scripts without spaces, punctuation, what is near to an unknown word, and what a model says that it knows."""

from __future__ import annotations

import sys
import unicodedata

import pytest
import torch
from transformers import AutoTokenizer

from videodit.commands import sample as sample_video
from videodit.conditions import encoded
from videodit.packaged import PACKAGED
from videodit.text import TextEncoder, words_of

# "A red circle moves left", "a blue circle moves right"; and one more of their signs: "a blue circle moves left".
UNSPACED = {
    "Chinese": (["一个红色的圆向左移动", "一个蓝色的圆向右移动"], "一个蓝色的圆向左移动"),
    "Japanese": (["赤い円が左へ動く", "青い円が右へ動く"], "青い円が左へ動く"),
    "Thai": (["วงกลมสีแดงเคลื่อนไปทางซ้าย", "วงกลมสีน้ำเงินเคลื่อนไปทางขวา"], "วงกลมสีน้ำเงินเคลื่อนไปทางซ้าย"),
    "Korean": (["빨간 원이 왼쪽으로 움직인다", "파란 원이 오른쪽으로 움직인다"], "파란원이 왼쪽으로 움직인다"),
}


def small(*captions: str) -> TextEncoder:
    return TextEncoder.from_captions(captions, width=8, depth=1, heads=2)


def pieces(encoder: TextEncoder, prompt: str) -> list[str]:
    return encoder.tokenizer.convert_ids_to_tokens(encoder.tokenizer(prompt)["input_ids"])[:-1]


@pytest.mark.parametrize("language", UNSPACED)
def test_a_new_sentence_of_known_signs_is_read_sign_by_sign(language: str) -> None:
    captions, new = UNSPACED[language]
    encoder = small(*captions)
    found = pieces(encoder, new)
    assert encoder.unknown_words(new) == []
    assert "".join(found) == unicodedata.normalize("NFKC", new).replace(" ", "")
    letters = [c for c in found if not unicodedata.category(c[0]).startswith("M")]
    assert letters == found, "a mark is never apart from what it stands on"
    assert max(sum(not unicodedata.category(c).startswith("M") for c in piece) for piece in found) == 1


def test_of_an_unknown_sentence_the_unknown_signs_are_named_alone() -> None:
    encoder = small(*UNSPACED["Chinese"][0])
    assert encoder.unknown_words("一个红色的星，向左") == ["星"]


def test_words_among_signs_stay_words() -> None:
    assert pieces(small("红色的LED灯2个"), "红色的led灯2个") == ["红", "色", "的", "led", "灯", "2", "个"]


def test_one_word_is_one_word_however_its_letters_are_stored() -> None:
    encoder = small("die größe über café", "ガラス")
    for form in ("NFC", "NFD"):
        assert encoder.unknown_words(unicodedata.normalize(form, "Größe über CAFÉ ガラス")) == []
    assert encoder.unknown_words("ｸ ｶﾞﾗｽ ＣＡＦＥ") == ["ｸ", "ＣＡＦＥ"]  # narrow and wide forms, as written


@torch.no_grad()
def test_punctuation_that_no_caption_has_is_no_word_and_changes_nothing() -> None:
    encoder = small("a red circle, it's left", "[two]")
    plain = encoder(["a red circle"]).states
    for prompt in (
        "a red circle.",
        "«a red circle»!",
        'a "red" circle?',
        "a red\\circle",
        "a red ^ circle - …",
        "a_red。circle",
    ):
        assert encoder.unknown_words(prompt) == []
        torch.testing.assert_close(encoder([prompt]).states, plain)
    assert pieces(encoder, "[it's, two]") == ["[", "it", "'", "s", ",", "two", "]"]
    assert encoder.unknown_words("a red circle \N{SNOWMAN} ½") == ["\N{SNOWMAN}", "½"]


def test_the_packaged_model_reports_no_punctuation_and_keeps_its_numbers() -> None:
    """A tokenizer that is saved stays what it was, whatever new ones are like."""
    encoder = TextEncoder.from_pretrained(PACKAGED["shapes"])
    prompt = "A red circle, falling! (and 星)"
    assert encoder.unknown_words(prompt) == ["falling", "星"]
    vocabulary = encoder.tokenizer.get_vocab()
    words = ["a", "red", "circle", "<unk>", "<unk>", "<unk>", "<unk>", "and", "<unk>", "<unk>", "</s>"]
    assert encoder.tokenizer(prompt.lower())["input_ids"] == [vocabulary[word] for word in words]
    assert AutoTokenizer.from_pretrained(PACKAGED["shapes"] / "tokenizer").get_vocab() == vocabulary


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("falling", ["falls"]),
        ("Spin", ["spinning", "spins"]),
        ("moved", ["moves", "moving"]),
        ("biggest", ["big", "bigger"]),
        ("carry", ["carried", "carrying"]),
        ("crosses", ["cross"]),
        ("grey", ["gray"]),
        ("traingle", ["triangle"]),
        ("zebra", []),
        ("so", []),
        ("星", []),
    ],
)
def test_the_nearest_words_are_those_of_the_same_stem_or_of_nearly_the_same_letters(word: str, near: list[str]) -> None:
    encoder = small(
        "falls fast spins, spinning, moves and moving: big, bigger, carried and carrying", "gray cross triangle 圆"
    )
    assert encoder.nearest_words(word) == near


def test_a_warning_names_the_nearest_words(caplog: pytest.LogCaptureFixture) -> None:
    encoded(small("a star falls"), ["a zebra, falling!"])
    assert "the model never saw the words zebra, falling (it knows falls); they have" in caplog.text


def test_words_lists_what_a_model_knows(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sample_video", "--words", *args])
        return sample_video.main(), *capsys.readouterr()

    small("a red circle", "two 红").save_pretrained(str(tmp_path))
    capsys.readouterr()
    assert run("--model", str(tmp_path)) == (0, "a\ncircle\nred\ntwo\n红\n", "")
    code, out, _ = run("--model", "shapes")
    assert code == 0
    assert {"circle", "green", "falls"} < set(out.split())
    assert not {"<pad>", "</s>", "<unk>"} & set(out.split())
    code, _, error = run("--model", str(tmp_path) + "/nowhere")
    assert code == 2
    assert "nowhere: there is no such file or folder" in error


def test_a_tokenizer_of_pieces_has_no_list_of_words(tmp_path: object) -> None:
    from test_text import t5

    encoder = t5()
    encoder.save_pretrained(str(tmp_path))
    assert words_of(str(tmp_path)) is None
    assert encoder.nearest_words("catt") == []
