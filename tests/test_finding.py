"""Clips that lie somewhere are found with what is said of them: in the order in which people count, and no more."""

import json
import os

import pytest

from videodit.clipset import find_clips


def put(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ["{}", "clip {}", "take{}b", "{:02}"])
def test_line_n_is_of_clip_n(tmp_path, name):
    for number in range(12):
        put(tmp_path / "clips" / f"{name.format(number)}.mp4")
    prompts = put(tmp_path / "prompts.txt", "".join(f"prompt of {name.format(n)}\n" for n in range(12)))
    clips = find_clips(tmp_path / "clips", prompts)
    assert [clip.prompt for clip in clips] == [f"prompt of {clip.name.removesuffix('.mp4')}" for clip in clips]
    assert [clip.name for clip in clips] == [f"{name.format(number)}.mp4" for number in range(12)]


def test_prompts_beside_clips_are_whole_lines_in_utf_8(tmp_path):
    put(tmp_path / "a.mp4")
    put(tmp_path / "a.txt", "ein\u2028Bär\nanother\n")
    put(tmp_path / "b.MP4")
    put(tmp_path / "b.TXT", "a dog")
    put(tmp_path / "c.mp4")
    put(tmp_path / "c.json", json.dumps({"prompt": "ein Bär", "seed": 3}, ensure_ascii=False))
    assert [(clip.prompt, clip.seed) for clip in find_clips(tmp_path)] == [
        ("ein\u2028Bär", None),
        ("a dog", None),
        ("ein Bär", 3),
    ]


def test_what_lies_beside_a_clip_and_is_not_its_own_is_not_read(tmp_path, caplog):
    secret = put(tmp_path / "private" / "secret.txt", "secret words")
    for name in "abcd":
        put(tmp_path / "clips" / f"{name}.mp4")
    (tmp_path / "clips" / "a.txt").symlink_to(secret)
    (tmp_path / "clips" / "b.json").symlink_to(put(tmp_path / "private" / "x.json", '{"prompt": "secret"}'))
    os.mkfifo(tmp_path / "clips" / "c.json")
    with put(tmp_path / "clips" / "d.txt").open("wb") as text:
        text.truncate(50_000_000)
    clips = find_clips(tmp_path / "clips")
    assert [clip.prompt for clip in clips] == [None] * 4
    assert sum("unknown" in message for message in caplog.messages) == 3


def test_linked_folders_are_looked_into_and_what_is_no_clip_is_told(tmp_path, caplog):
    put(tmp_path / "other" / "b.mp4")
    put(tmp_path / "clips" / "a.mp4")
    put(tmp_path / "clips" / "c.heic")
    (tmp_path / "clips" / "linked").symlink_to(tmp_path / "other")
    assert [clip.name for clip in find_clips(tmp_path / "clips")] == ["a.mp4", "linked/b.mp4"]
    assert "1 x files that end in .heic are not read" in caplog.text
