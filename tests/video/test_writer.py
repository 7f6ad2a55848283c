"""Clips written come back: pixels, times, colours and metadata, and nothing half-written is left."""

import json
import weakref

import av
import numpy as np
import pytest
from PIL import Image

from videodit.video import (
    VideoError,
    check_writable,
    contact_sheet,
    probe,
    read_clip,
    read_frames,
    read_metadata,
    write_video,
)

from .conftest import numbered, numbers

CLIP = np.stack([numbered(n) for n in range(17)])
METADATA = {"comment": "a b", "prompt": 'a "réd" circle; moves = right # \\\nsecond line 円', "seed": "3"}


@pytest.mark.parametrize("fps", [8, 24, 29.97])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".webp"])
def test_frames_and_times_come_back(tmp_path, suffix, fps):
    path = write_video(tmp_path / f"clip{suffix}", CLIP, fps)
    info = probe(path)
    assert (info.num_frames, info.height, info.width) == CLIP.shape[:3]
    assert info.fps == pytest.approx(fps, rel=0.02)
    clip = read_clip(path, 17, fps)
    assert numbers(clip) == list(range(17))
    if suffix in (".mkv", ".webp"):
        np.testing.assert_array_equal(clip, CLIP)


def test_mkv_is_lossless_at_odd_sizes_for_any_pixels(tmp_path):
    clip = np.random.default_rng(0).integers(0, 256, (3, 7, 9, 3), np.uint8)
    np.testing.assert_array_equal(read_clip(write_video(tmp_path / "noise.mkv", clip, 8), 3, 8), clip)


def test_one_frame_makes_one_png_and_more_make_a_folder(tmp_path):
    one = write_video(tmp_path / "still.png", CLIP[:1], 8)
    assert one == tmp_path / "still.png"
    np.testing.assert_array_equal(read_clip(one, 1, 8), CLIP[:1])
    folder = write_video(tmp_path / "out.png", CLIP, 8, metadata=METADATA)
    assert folder == tmp_path / "out"
    assert sorted(p.name for p in folder.iterdir()) == [f"{n:04d}.png" for n in range(17)]
    for number, frame in enumerate(CLIP):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"{number:04d}.png")), frame)
    assert read_metadata(folder / "0016.png") == METADATA
    assert write_video(tmp_path / "out.png", CLIP[:3], 8) == folder
    assert len(list(folder.iterdir())) == 3  # an earlier run's frames are gone


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(VideoError, match="is in the way"):
        write_video(tmp_path / "out.png", CLIP, 8)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_mp4_is_tagged_and_converted_as_bt709_limited(tmp_path):
    """Luma by the standard's own numbers: Y = 16 + 219 (.2126 R + .7152 G + .0722 B)."""
    colours = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]], np.uint8)
    frame = colours.repeat(16, axis=0)[None].repeat(16, axis=0)
    path = write_video(tmp_path / "bars.mp4", [frame] * 3, 8, crf=1)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.colorspace, stream.color_range, stream.color_primaries, stream.color_trc) == (1, 1, 1, 1)
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        luma = next(container.decode(stream)).to_ndarray()[:16]
    expected = 16 + 219 * (colours / 255) @ np.array([0.2126, 0.7152, 0.0722])
    assert np.abs(luma[8, 8::16] - expected).max() <= 1.5
    assert np.abs(read_clip(path, 1, 8)[0, 8, 8::16].astype(int) - colours).max() <= 4


def test_mp4_has_its_index_in_front(tmp_path):
    content = write_video(tmp_path / "clip.mp4", CLIP, 8).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_ntsc_rates_stay_exact(tmp_path):
    with av.open(str(write_video(tmp_path / "clip.mp4", CLIP, 30000 / 1001))) as container:
        rate = container.streams.video[0].average_rate
    assert (rate.numerator, rate.denominator) == (30000, 1001)


def test_lower_crf_is_closer_to_the_frames(tmp_path):
    clip = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8).repeat(3, axis=3)
    errors = []
    for crf in (5, 18, 40):
        read = read_clip(write_video(tmp_path / "clip.mp4", clip, 8, crf=crf), 4, 8)
        errors.append(float(np.abs(read.astype(int) - clip).mean()))
    assert errors == sorted(errors)
    assert errors[0] < errors[-1] / 3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".webp", ".png"])
def test_metadata_comes_back(tmp_path, suffix):
    path = write_video(tmp_path / f"clip{suffix}", CLIP[:1], 8, metadata=METADATA)
    assert read_metadata(path) == METADATA
    plain = write_video(tmp_path / f"plain{suffix}", CLIP[:1], 8)
    assert read_metadata(plain) == {}


def test_a_comment_of_others_comes_back_as_comment(tmp_path):
    Image.fromarray(CLIP[0]).save(tmp_path / "theirs.gif", comment=b"made elsewhere")
    assert read_metadata(tmp_path / "theirs.gif") == {"comment": "made elsewhere"}
    with pytest.raises(VideoError, match=r"nowhere\.mp4"):
        read_metadata(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_are_taken_one_by_one(tmp_path, suffix):
    given: list[weakref.ref] = []
    most = 0

    def frames():
        nonlocal most
        for frame in CLIP:
            copy = frame.copy()
            given.append(weakref.ref(copy))
            yield copy
            del copy
            most = max(most, sum(reference() is not None for reference in given))

    write_video(tmp_path / f"clip{suffix}", frames(), 8)
    assert len(given) == 17
    assert most <= 3  # the first two are looked at together


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".webp", ".png"])
@pytest.mark.parametrize("good", [1, 3])
def test_an_error_on_the_way_leaves_what_was_there(tmp_path, suffix, good):
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(b"an earlier file")

    def frames():
        yield from CLIP[:good]
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        write_video(path, frames(), 8)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"an earlier file"


@pytest.mark.parametrize(
    ("name", "frames", "options", "reason"),
    [
        ("a.avi", CLIP, {}, r"suffix '\.avi' is unknown; pick one of \.mp4 \.mkv \.gif \.webp \.png"),
        ("a.mp4", CLIP[:, :31, :63], {}, r"31 x 63 .* even sizes \(32 x 64 or 30 x 62\)"),
        ("a.mp4", CLIP[:0], {}, "no frames to write"),
        ("a.mp4", CLIP / 255.0, {}, "frame 0 is float64"),
        ("a.mp4", CLIP[..., 0], {}, "uint8 h w 3"),
        (
            "a.mkv",
            [CLIP[0], CLIP[1], CLIP[2][:16]],
            {},
            r"frame 2 has shape \(16, 64, 3\), the first has \(32, 64, 3\)",
        ),
        ("a.mp4", CLIP, {"fps": 0}, "fps=0 is out of range"),
        ("a.mp4", CLIP, {"fps": float("nan")}, "fps=nan is out of range"),
        ("a.gif", CLIP, {"fps": 60}, "use fps <= 50"),
        ("a.mp4", CLIP, {"crf": 60}, "crf=60 is out of range"),
        ("a.mp4", CLIP, {"metadata": {"Prompt": "x"}}, "keys are made of a-z"),
        ("a.mp4", CLIP, {"metadata": {"encoder": "x"}}, "free"),
        ("a.mp4", CLIP, {"metadata": {"seed": 3}}, "values are strings"),
    ],
)
def test_what_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path, name, frames, options, reason):
    options = {"fps": 8, **options}
    with pytest.raises(ValueError, match=reason):
        write_video(tmp_path / name, frames, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png"])
def test_a_path_that_cannot_be_written_is_named(tmp_path, suffix):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(VideoError, match=r"file/clip.* cannot be written"):
        write_video(tmp_path / "file" / f"clip{suffix}", CLIP, 8)
    with pytest.raises(VideoError, match=r"file/clip.* cannot be written"):
        check_writable(tmp_path / "file" / f"clip{suffix}")


def test_a_path_can_be_checked_before_there_are_frames(tmp_path):
    check_writable(tmp_path / "a" / "clip.mp4")
    assert [p.name for p in tmp_path.rglob("*")] == ["a"]
    with pytest.raises(ValueError, match=r"suffix '\.avi' is unknown"):
        check_writable(tmp_path / "clip.avi")
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(VideoError, match="it is a folder"):
        check_writable(tmp_path / "clip.mp4")


def test_folders_on_the_way_are_made(tmp_path):
    assert write_video(tmp_path / "a" / "b" / "clip.mkv", CLIP, 8).is_file()


def test_equal_neighbours_keep_their_time_on_screen(tmp_path):
    still_then_move = [CLIP[0]] * 4 + [CLIP[9]] * 4
    for suffix in (".gif", ".webp"):
        path = write_video(tmp_path / f"clip{suffix}", still_then_move, 8)
        assert numbers(read_frames(path, [n / 8 for n in range(8)])) == [0] * 4 + [9] * 4


def test_metadata_of_gifs_is_plain_json(tmp_path):
    path = write_video(tmp_path / "clip.gif", CLIP, 8, metadata=METADATA)
    assert json.loads(Image.open(path).info["comment"]) == METADATA


def test_a_contact_sheet_shows_first_to_last_frame_of_every_clip(tmp_path):
    short = CLIP[:2, :16, :32]
    path = contact_sheet([CLIP, short], tmp_path / "sheet.png", columns=5)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (32 + 2 + 16 + 2, 5 * (64 + 2), 3)
    shown = np.stack([sheet[:32, column * 66 : column * 66 + 64] for column in range(5)])
    assert numbers(shown) == [0, 4, 8, 12, 16]
    np.testing.assert_array_equal(sheet[34:50, :32], short[0])
    np.testing.assert_array_equal(sheet[34:50, 34:66], short[1])
    assert (sheet[34:, 68:] == 255).all()


def test_a_contact_sheet_enlarges_and_labels(tmp_path):
    plain = Image.open(contact_sheet([CLIP], tmp_path / "plain.png", columns=2))
    large = Image.open(contact_sheet([CLIP], tmp_path / "large.png", columns=2, scale=3))
    assert large.size == (2 * (64 * 3 + 2), 32 * 3 + 2)
    words = "a red circle moving right on a black background"
    labelled = np.asarray(Image.open(contact_sheet([CLIP], tmp_path / "l.png", columns=2, labels=[words])))
    height = labelled.shape[0] - plain.height
    assert labelled.shape[1] == plain.width
    assert height >= 2 * 10  # wrapped
    assert (labelled[:height] < 128).any()
    np.testing.assert_array_equal(labelled[height:], np.asarray(plain))


@pytest.mark.slow
def test_a_word_wider_than_a_contact_sheet_goes_on_in_the_next_line(tmp_path):
    def label(*words):
        sheet = np.asarray(Image.open(contact_sheet([CLIP[:1]], tmp_path / "s.png", labels=[" ".join(words)])))
        return sheet[:-34]

    word = "l" * 60  # all lines full of one sign, which stand alike
    lines = label(word).shape[0] // 13
    assert lines > 1
    each = max(n for n in range(1, 61) if label("l" * n).shape[0] == 13)
    assert lines == -(-60 // each)
    np.testing.assert_array_equal(label(word), label(*(word[at : at + each] for at in range(0, 60, each))))


@pytest.mark.parametrize(
    ("clips", "name", "options"),
    [([], "s.png", {}), ([CLIP], "s.jpg", {}), ([CLIP], "s.png", {"labels": ["a", "b"]}), ([CLIP[:0]], "s.png", {})],
)
def test_a_contact_sheet_of_nothing_is_an_error(tmp_path, clips, name, options):
    with pytest.raises(ValueError, match=r"contact sheet|labels for|without frames"):
        contact_sheet(clips, tmp_path / name, **options)


def test_keyframes_come_as_often_as_asked_and_nothing_leans_across_them(tmp_path):
    frames = [numbered(n) for n in range(40)]
    path = write_video(tmp_path / "clip.mp4", frames, 8, keyframe_every=16)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = [packet.pts for packet in packets if packet.is_keyframe]
    assert len(keys) == 3
    for key in keys:  # closed: what follows a keyframe in the file is not shown before it
        place = next(n for n, packet in enumerate(packets) if packet.pts == key)
        assert all(packet.pts >= key for packet in packets[place:])
    assert numbers(read_clip(path, 40, 8)) == list(range(40))
    with pytest.raises(ValueError, match="keyframe_every=0"):
        write_video(tmp_path / "clip.mp4", frames, 8, keyframe_every=0)
