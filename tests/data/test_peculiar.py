"""Clips whose pixels are no plain ones are trained on as they are stored, which is told."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest

from videodit.config import Data
from videodit.data.clips import open_data
from videodit.data.files import Files

KINDS = {
    "plain": lambda context: None,
    "hdr": lambda context: setattr(context, "color_trc", 16),
    "nonsquare": lambda context: setattr(context, "sample_aspect_ratio", Fraction(4, 3)),
}


@pytest.fixture
def folder(tmp_path):
    for kind, prepare in KINDS.items():
        path = tmp_path / "set" / f"{kind}.mp4"
        path.parent.mkdir(exist_ok=True)
        with av.open(str(path), "w") as output:
            stream = output.add_stream("libx264", rate=8)
            stream.height = stream.width = 32
            stream.pix_fmt = "yuv420p10le"
            prepare(stream.codec_context)
            for _ in range(8):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
            output.mux(stream.encode())
        path.with_suffix(".txt").write_text("a clip")
        path.with_suffix(".jpg").write_bytes(b"x")
    return tmp_path / "set"


@pytest.mark.slow
def test_hdr_and_odd_pixels_are_told_a_line_a_kind(folder, tmp_path, caplog):
    data = Data(source=f"{folder}/*.mp4", validation=1, num_frames=5, height=32, width=32)
    split = open_data(data, 0, tmp_path / "files.json")
    split.files.measure(split.train.source.fetch() + split.validation.source.fetch(), "measuring", show=False)
    split.tell()
    hdr, nonsquare = caplog.messages
    assert hdr.startswith("1 x HDR (PQ or HLG): read as stored")
    assert hdr.endswith(str(folder / "hdr.mp4"))
    assert nonsquare.startswith("1 x of pixels that are not square")
    assert nonsquare.endswith(str(folder / "nonsquare.mp4"))


@pytest.mark.slow
def test_what_was_measured_before_anyone_asked_is_measured_again(folder, tmp_path):
    memory, path = tmp_path / "files.json", folder / "hdr.mp4"
    files = Files(memory)
    files.measure([path], "measuring", show=False)
    assert Files(memory).peculiar(path) == ["hdr"]
    stored = {
        name: (*stamp, {k: v for k, v in f.items() if k != "peculiar"})
        for name, (*stamp, f) in json.loads(memory.read_text()).items()
    }
    memory.write_text(json.dumps(stored))
    old = Files(memory)
    assert old.peculiar(path) == []
    old.facts(path)
    assert old.peculiar(path) == ["hdr"]


def test_what_a_manifest_notes_is_told(folder, caplog):
    split = open_data(Data(source=str(folder), validation=1, num_frames=5, height=32, width=32), 0)
    split.tell()
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "3 x one caption for several files of the same name"
    ]
