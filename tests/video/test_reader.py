"""Frames read by time are the frames that are there: checked by numbers in the pixels and by sequential decoding."""

import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from videodit.video import (
    UnsuitableError,
    VideoError,
    decoders,
    probe,
    read_clip,
    read_frames,
    stream_frames,
    write_video,
)

from .conftest import GOP, HEIGHT, WIDTH, numbered, numbers, sequential

OPEN_GOP = "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"  # B-frames shown before their keyframe
KINDS = {
    "b_frames.mp4": {"options": GOP},
    "b_frames.mkv": {"options": GOP},
    "transport.ts": {"options": GOP},
    "no_stamps.h264": {"options": GOP},
    "no_display_order.avi": {"options": GOP},
    "open_gop.mp4": {"options": {"x264-params": OPEN_GOP}},
    "open_gop.mkv": {"options": {"x264-params": OPEN_GOP}},
    "open_gop.ts": {"options": {"x264-params": OPEN_GOP}},
    "open_gop.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "g": "9"}},
    "hidden_packets.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": OPEN_GOP + ":log-level=none"}},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_read_alone_is_the_one_a_sequential_decode_gives(encode, name):
    path = encode(name, **KINDS[name])
    reference = sequential(path)
    assert numbers(reference) == list(range(40))
    info = probe(path)
    assert (info.num_frames, info.height, info.width, info.is_image) == (40, HEIGHT, WIDTH, False)
    assert info.fps == pytest.approx(30, rel=2e-3)
    assert info.duration == pytest.approx(40 / 30, rel=2e-3)
    for number in (0, 1, 11, 12, 13, 23, 24, 38, 39):
        np.testing.assert_array_equal(read_frames(path, [number / 30])[0], reference[number])


@pytest.mark.parametrize("name", KINDS)
def test_frames_come_in_the_order_asked_for(encode, name):
    path = encode(name, **KINDS[name])
    assert numbers(read_frames(path, [n / 30 for n in (37, 2, 2, 25, 0)])) == [37, 2, 2, 25, 0]


def test_a_frame_stays_on_screen_until_the_next(encode):
    path = encode("clip.mp4")
    assert numbers(read_frames(path, [0.0, 0.99 / 30, 1.0 / 30, 1.5 / 30, 1.99 / 30])) == [0, 0, 1, 1, 1]


def test_a_container_clock_that_rounds_does_not_move_frames(encode):
    """Matroska counts milliseconds: frame 2 of 30 fps is stamped 67 ms, later than 2/30 s."""
    assert numbers(read_clip(encode("clip.mkv"), 40, 30)) == list(range(40))


def test_variable_rate_shows_what_is_on_screen(encode):
    pts = [0, 1, 2, 10, 11, 30]
    path = encode("variable.mp4", num_frames=6, pts=pts)
    assert numbers(read_frames(path, [n / 30 for n in (0, 2, 5, 9, 10, 11, 29, 30)])) == [0, 2, 2, 2, 3, 4, 4, 5]


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_time_counts_from_the_first_frame_whatever_its_stamp(encode, name):
    path = encode(name, pts=range(1000, 1040), options=GOP)
    assert numbers(read_frames(path, [0, 17 / 30, 39 / 30])) == [0, 17, 39]


def test_frames_hidden_by_an_edit_list_do_not_count(encode):
    """Negative stamps make an MP4 whose edit list hides the first five frames, a keyframe among them."""
    path = encode("edited.mp4", pts=range(-5, 35), options={"bf": "0"})
    with av.open(str(path)) as container:
        assert sum(packet.is_discard for packet in container.demux(video=0) if packet.size) == 5
    assert probe(path).num_frames == 35
    assert numbers(read_clip(path, 35, 30)) == list(range(5, 40))


@pytest.mark.parametrize(("degrees", "hflip"), [(90, False), (-90, False), (180, False), (0, True), (90, True)])
def test_display_orientation_is_applied(encode, degrees, hflip):
    """FFmpeg's angles turn counterclockwise; its flip comes after the turn."""
    path = encode("turned.mp4", num_frames=2, rotate=(degrees, hflip))
    stored = sequential(path)
    expected = np.rot90(stored, degrees // 90, axes=(1, 2))
    expected = expected[:, :, ::-1] if hflip else expected
    np.testing.assert_array_equal(read_clip(path, 2, 30), expected)
    assert (probe(path).height, probe(path).width) == expected.shape[1:3]


def test_clips_are_sampled_at_the_fps_asked_for(encode):
    path = encode("clip.mp4")
    assert numbers(read_clip(path, 10, 10)) == list(range(0, 30, 3))
    assert numbers(read_clip(path, 5, 7.5, start=0.5)) == [15, 19, 23, 27, 31]


def test_too_short_says_how_long_and_how_many(encode):
    path = encode("clip.mp4")
    assert numbers(read_clip(path, 11, 8)) == [0, 3, 7, 11, 15, 18, 22, 26, 30, 33, 37]
    with pytest.raises(VideoError, match=r"clip\.mp4 is too short: 1\.333 s long, it gives 11 frames at 8 fps"):
        read_clip(path, 12, 8)
    with pytest.raises(VideoError, match="gives 3 frames at 8 fps from 1 s"):
        read_clip(path, 4, 8, start=1.0)


def test_a_slower_source_is_not_padded_by_repeats(encode):
    path = encode("slow.mp4", rate=5)
    with pytest.raises(VideoError, match=r"slow\.mp4 has 5\.000 frames a second.*fps <= 5"):
        read_clip(path, 8, 8)
    assert numbers(read_clip(path, 8, 5)) == list(range(8))


def test_a_slower_source_is_held_on_screen_where_that_is_the_choice(encode):
    path = encode("slow.mp4", rate=5)
    assert numbers(read_clip(path, 8, 8, slower="repeat")) == [0, 0, 1, 1, 2, 3, 3, 4]  # floor(5 i / 8)
    assert numbers(read_clip(path, 63, 8, slower="repeat"))[-1] == 38
    with pytest.raises(UnsuitableError, match="gives 64 frames at 8 fps"):
        read_clip(path, 65, 8, slower="repeat")


def test_a_source_slower_by_less_than_one_percent_is_read_at_its_own_pace(encode):
    path = encode("ntsc.mp4", rate=Fraction(30000, 1001))
    assert numbers(read_clip(path, 40, 30)) == list(range(40))
    assert numbers(read_clip(path, 30, 30, start=10 * 1001 / 30000)) == list(range(10, 40))
    with pytest.raises(VideoError, match="gives 40 frames at 30 fps"):
        read_clip(path, 41, 30)


@pytest.mark.parametrize("time", [-0.1, 40 / 30, 1e9, float("nan")])
def test_times_outside_the_file_are_errors(encode, time):
    with pytest.raises(VideoError, match="there is no frame at"):
        read_frames(encode("clip.mp4"), [0.0, time])


@pytest.mark.parametrize(("num_frames", "fps", "start"), [(0, 8, 0), (3, 0, 0), (3, 8, -1), (3, float("nan"), 0)])
def test_impossible_requests_are_errors(encode, num_frames, fps, start):
    with pytest.raises(ValueError, match="are needed"):
        read_clip(encode("clip.mp4", num_frames=4), num_frames, fps, start=start)


def test_a_file_written_anew_is_not_read_from_memory_of_the_old(tmp_path):
    path = write_video(tmp_path / "clip.gif", [numbered(n) for n in range(4)], 8)
    long = path.read_bytes()
    write_video(path, [numbered(n) for n in range(3)], 8)
    path.write_bytes(path.read_bytes().ljust(len(long), b"\0"))  # of the same size, told apart by its date
    assert probe(path).num_frames == 3
    path.write_bytes(long)
    assert probe(path).num_frames == 4


@pytest.mark.parametrize("name", ["open_gop.mp4", "hevc.mp4"])
def test_a_seek_that_lands_late_costs_time_not_frames(encode, monkeypatch, name):
    """Whatever the demuxer does on a seek, passes from earlier on make up for it; never a half-decoded picture."""
    path = encode(name, **KINDS[name])
    reference, passes, collect = sequential(path), [], decoders._collect

    def late(container, stream, index, wanted, *others, **options):
        passes.append(set(wanted))
        if len(passes) < 3:
            container.seek(int(index.keys[-1]), stream=stream)
        return collect(container, stream, index, wanted, *others, **options)

    monkeypatch.setattr(decoders, "_collect", late)
    np.testing.assert_array_equal(read_frames(path, [13 / 30, 34 / 30]), reference[[13, 34]])
    assert len(passes) >= 3


def test_pictures_shown_before_their_keyframe_do_not_force_a_second_pass(encode, monkeypatch):
    """In `open_gop.mp4` frames 9 to 11 follow keyframe 12 in the file, and lean on what a seek to 12 leaves out."""
    path = encode("open_gop.mp4", **KINDS["open_gop.mp4"])
    passes, collect = [], decoders._collect
    monkeypatch.setattr(
        decoders, "_collect", lambda *arguments, **options: passes.append(0) or collect(*arguments, **options)
    )
    assert numbers(read_frames(path, [12 / 30])) == [12]
    assert len(passes) == 1


def test_only_the_groups_of_pictures_needed_are_decoded(encode, monkeypatch):
    path = encode("clip.mp4", options={"g": "5", "bf": "0", "sc_threshold": "0"})
    decoded, stamped = [], decoders.stamped

    def counting(*arguments):
        for stamp, frame in stamped(*arguments):
            decoded.append(stamp)
            yield stamp, frame

    monkeypatch.setattr(decoders, "stamped", counting)
    assert numbers(read_frames(path, [1 / 30, 36 / 30])) == [1, 36]
    assert len(decoded) == 4  # 0, 1 and 35, 36


def test_decord_gives_the_same_frames(encode):
    pytest.importorskip("decord")
    path = encode("clip.mp4", options=GOP)
    times = [n / 30 for n in (37, 2, 2, 25, 0)]
    np.testing.assert_array_equal(read_frames(path, times, backend="decord"), read_frames(path, times))


@pytest.mark.parametrize("name", ["late.avi", "transport.ts"])
def test_decord_is_refused_where_it_gives_other_frames(encode, name):
    pytest.importorskip("decord")
    path = encode(name, options=GOP)
    with pytest.raises(VideoError, match="backend='pyav'"):
        read_frames(path, [0.5], backend="decord")


@pytest.mark.parametrize("name", ["decord", "torchcodec"])
def test_a_missing_library_names_the_install(encode, monkeypatch, name):
    monkeypatch.setitem(sys.modules, {"torchcodec": "torchcodec.decoders"}.get(name, name), None)
    with pytest.raises(ImportError, match=f"pip install {name}"):
        read_frames(encode("clip.mp4", num_frames=2), [0.0], backend=name)


def test_an_unknown_backend_is_an_error(encode):
    with pytest.raises(ValueError, match="pick one of pyav, decord, torchcodec"):
        read_frames(encode("clip.mp4", num_frames=2), [0.0], backend="opencv")


def test_what_is_written_is_read(tmp_path):
    frames = np.stack([numbered(n) for n in range(17)])
    path = write_video(tmp_path / "clip.mp4", frames, 8)
    assert numbers(read_clip(path, 17, 8)) == list(range(17))


@pytest.mark.parametrize("name", KINDS)
def test_a_stream_gives_every_frame_with_its_time(encode, name):
    path = encode(name, **KINDS[name])
    times, frames = zip(*stream_frames(path), strict=True)
    assert times == pytest.approx([n / 30 for n in range(40)], abs=2e-3)
    np.testing.assert_array_equal(np.stack(frames), sequential(path))


def test_a_stream_is_scaled_to_its_shorter_side_and_never_enlarged(encode):
    path = encode("clip.mp4", num_frames=3)
    assert {frame.shape for _, frame in stream_frames(path, short_side=16)} == {(16, 32, 3)}
    assert {frame.shape for _, frame in stream_frames(path, short_side=300)} == {(HEIGHT, WIDTH, 3)}


def test_pictures_that_nobody_leans_on_are_not_decoded_unasked(encode, monkeypatch):
    """Of an H.264 file with three B-frames in a row, two of which nothing refers to."""
    path = encode("clip.mp4", options={"x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:keyint=40"})
    decoded, stamped = [], decoders.stamped

    def counting(*arguments):
        for stamp, frame in stamped(*arguments):
            decoded.append(stamp)
            yield stamp, frame

    monkeypatch.setattr(decoders, "stamped", counting)
    assert numbers(read_frames(path, [39 / 30])) == [39]
    assert len(decoded) < 25


def test_interlaced_chroma_is_converted_field_by_field(encode):
    """Lines that are red and blue in turn: each field has one colour, which must not bleed into the other's."""
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[0::2], lines[1::2] = (200, 30, 30), (30, 30, 200)
    path = encode("fields.mp4", pixels="yuv420p", num_frames=1)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"x264-params": "interlaced=1:tff=1:qp=1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        fields = [av.VideoFrame.from_ndarray(np.ascontiguousarray(lines[i::2]), format="rgb24") for i in (0, 1)]
        planes = [field.reformat(format="yuv420p").to_ndarray() for field in fields]
        woven = np.empty((96, 64), np.uint8)
        woven[0:64:2], woven[1:64:2] = planes[0][:32], planes[1][:32]
        chroma = [plane[32:].reshape(2, 16, 32) for plane in planes]
        mixed = np.empty((2, 32, 32), np.uint8)
        mixed[:, 0::2], mixed[:, 1::2] = chroma
        woven[64:] = mixed.reshape(32, 64)
        output.mux([*stream.encode(av.VideoFrame.from_ndarray(woven, format="yuv420p")), *stream.encode()])
    assert probe(path).interlaced
    assert np.abs(read_clip(path, 1, 25)[0].astype(int) - lines).max() < 25


def test_pixels_that_are_not_square_are_told(encode):
    path = encode("wide.mp4", num_frames=2, options={"x264-params": "sar=4/3"})
    assert probe(path).pixel_aspect == pytest.approx(4 / 3)
    turned = encode("tall.mp4", num_frames=2, options={"x264-params": "sar=4/3"}, rotate=(90, False))
    assert probe(turned).pixel_aspect == pytest.approx(3 / 4)


@pytest.mark.parametrize(("transfer", "hdr"), [("smpte2084", True), ("arib-std-b67", True), ("bt709", False)])
def test_brightness_coded_for_hdr_is_told(encode, transfer, hdr):
    options = {"x264-params": f"colorprim=bt2020:colormatrix=bt2020nc:transfer={transfer}"}
    path = encode("bright.mp4", num_frames=2, pixels="yuv420p10le", options=options)
    assert probe(path).hdr == hdr
