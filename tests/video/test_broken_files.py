"""Files that are cut, damaged or no video at all: an error that names them, or the frames that are there."""

from contextlib import suppress

import av
import numpy as np
import pytest

from videodit.video import (
    VideoError,
    probe,
    read_clip,
    read_frames,
    stream_frames,
)

from .conftest import GOP, numbers, sequential


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.webm", "cut.avi"])
def test_a_file_cut_anywhere_is_an_error_or_reads_as_the_whole(encode, name):
    """Only an index at the end may be lost without harm."""
    codec = {"cut.webm": "libvpx", "cut.avi": "mpeg4"}.get(name, "libx264")
    container = {"movflags": "faststart"} if name == "cut.mp4" else {}
    path = encode(name, codec, options=GOP, container=container)
    whole, messages = path.read_bytes(), []
    for share in (0.02, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.995):
        path.write_bytes(whole[: int(share * len(whole))])
        try:
            assert numbers(read_clip(path, probe(path).num_frames, 30)) == list(range(40))
        except VideoError as error:
            messages.append(str(error))
    assert len(messages) >= 5
    assert all(str(path) in message for message in messages)


def test_a_transport_stream_cut_anywhere_gives_no_wrong_frame(encode):
    """It has no header that promises a length: what is left is a shorter stream, or an error."""
    path = encode("cut.ts", options=GOP)
    whole, lengths = path.read_bytes(), []
    for share in np.linspace(0.1, 0.95, 12):
        path.write_bytes(whole[: int(share * len(whole))])
        try:
            lengths.append(probe(path).num_frames)
            got = numbers(read_frames(path, [n / 30 for n in range(0, lengths[-1], 7)]))
        except VideoError:
            continue
        assert got == list(range(0, lengths[-1], 7))
    assert len(set(lengths)) > 3


def test_most_damage_that_ffmpeg_paints_over_is_an_error(encode):
    """One wrong bit, early in a group of pictures, must not show in a later frame that is whole itself.

    What is wrong and still well-formed nobody can tell: most is asked for, not all.
    """
    path = encode("rotten.mp4", options={"g": "40", "bf": "0", "sc_threshold": "0"})
    whole, reference = path.read_bytes(), sequential(path)[39]
    begin = whole.index(b"mdat") + 800  # beyond the encoder's own text
    painted_over, caught = 0, 0
    for offset in range(begin, begin + 600, 40):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 8]) + whole[offset + 1 :])
        with suppress(av.error.FFmpegError):
            if np.array_equal(sequential(path)[-1], reference):
                continue
            painted_over += 1
            try:
                read_frames(path, [39 / 30])
            except VideoError:
                caught += 1
    assert painted_over >= 4
    assert caught > painted_over / 2


def test_a_last_packet_cut_in_two_is_seen_by_probe_already(encode):
    path = encode("cut.mp4", container={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(VideoError, match="cut short or damaged"):
        probe(path)


def test_tags_in_another_encoding_do_no_harm(encode):
    path = encode("tagged.mp4", num_frames=3, tags={"comment": "WXYZ"})
    content = path.read_bytes()
    assert content.count(b"WXYZ") == 1
    path.write_bytes(content.replace(b"WXYZ", b"\xff\xfe\xe9\xff"))
    assert numbers(read_clip(path, 3, 30)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"this is no video\n" * 50, "text.mp4 cannot be decoded"),
        ("noise.mkv", bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8)), "noise.mkv"),
        ("text.png", b"this is no image\n" * 50, "text.png cannot be read as an image"),
        ("empty.png", b"", "is empty"),
        ("notes.txt", b"FFmpeg would show text as a video\n", "is no video or image by its name"),
    ],
)
def test_what_is_no_video_is_an_error_that_names_the_file(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (probe, lambda p: read_frames(p, [0.0]), lambda p: read_clip(p, 1, 8)):
        with pytest.raises(VideoError, match=reason):
            read(path)


def test_missing_files_folders_and_sound_are_errors(tmp_path):
    with pytest.raises(VideoError, match=r"nowhere\.mp4 cannot be opened"):
        probe(tmp_path / "nowhere.mp4")
    with pytest.raises(VideoError, match="is a folder"):
        probe(tmp_path)
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(VideoError, match=r"sound\.mp4 has no video"):
        probe(tmp_path / "sound.mp4")


def test_a_stream_of_a_damaged_file_ends_in_an_error(encode):
    path = encode("rotten.mp4", options={"g": "12", "qp": "1"})
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(range(200)) + whole[middle + 200 :])
    with pytest.raises(VideoError, match=r"rotten\.mp4 (does not decode to its end|cannot be decoded)"):
        list(stream_frames(path))
