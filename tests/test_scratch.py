"""What a killed process leaves half written goes when its folder is taken up again; nobody else's file does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from videodit.clipset import Request, Sampling, make_clips
from videodit.disk import DiskError, clear_scratch, held, scratch_beside, whole
from videodit.pipeline import VideoDiTPipeline
from videodit.training.parallel import one_run
from videodit.video import write_video

OTHERS = (".DS_Store", ".b-0123abcd.mkv", ".a-0123abcg.mkv", ".a.mkv", "a-0123abcd.mkv", ".gitignore")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def leave(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.b.mp4", "a", ".a", "a-0123abcd.png", "ä\n.json"])
@pytest.mark.parametrize("keeps_ending", [True, False])
def test_what_is_called_as_scratch_of_a_file_is_cleared_with_that_file_alone(
    tmp_path: Path, name: str, keeps_ending: bool
) -> None:
    scratch = leave(scratch_beside(tmp_path / name, Path(name).suffix if keeps_ending else ""))
    assert scratch.name.startswith(".")
    clear_scratch([scratch], {"other.mkv"})
    assert scratch.exists()
    clear_scratch([scratch], {name})
    assert not scratch.exists()


def test_what_somebody_writes_stays_until_he_ends(tmp_path: Path) -> None:
    file, folder = tmp_path / ".a-0123abcd.mp4", tmp_path / ".b-0123abcd"
    with held(file), held(folder, is_folder=True):
        (folder / "0000.png").write_bytes(b"half")
        clear_scratch(tmp_path.iterdir())
        assert names(tmp_path) == {file.name, folder.name}
    clear_scratch(tmp_path.iterdir())
    assert names(tmp_path) == set()


def test_what_is_being_written_is_held(tmp_path: Path) -> None:
    def frames(count: int):
        for _ in range(count):
            clear_scratch(tmp_path.iterdir())
            yield np.zeros((16, 16, 3), np.uint8)

    for name in ("a.mp4", "a.mkv", "a.png"):
        assert write_video(tmp_path / name, frames(3), 8).exists()
    with whole(tmp_path / "a.json") as scratch:
        clear_scratch(tmp_path.iterdir())
        scratch.write_text("{}")
    assert names(tmp_path) == {"a.mp4", "a.mkv", "a", "a.json"}


def test_a_link_is_left_alone(tmp_path: Path) -> None:
    kept = leave(tmp_path / "kept" / "0000.png")
    (tmp_path / ".a-0123abcd").symlink_to(kept.parent)
    clear_scratch(tmp_path.iterdir())
    assert names(tmp_path) == {"kept", ".a-0123abcd"}
    assert kept.exists()


def test_a_set_that_is_taken_up_again_clears_what_was_begun_of_its_clips(
    tiny_pipe: VideoDiTPipeline, tmp_path: Path
) -> None:
    begun = (".a-0123abcd.mkv", ".a.json-0123abcd", ".a.preview-0123abcd.png")
    for name in (*begun, *OTHERS):
        leave(tmp_path / name)
    leave(tmp_path / ".c-0123abcd" / "0000.png")
    requests = [Request("a red circle", number, num_frames=5, height=16, width=16) for number in range(2)]
    paths = [tmp_path / "a.mkv", tmp_path / "c.png"]
    list(make_clips(tiny_pipe, requests, paths, Sampling(1), model="tiny"))
    assert names(tmp_path) == {*OTHERS, "a.mkv", "a.json", "c", "c.json"}


def test_a_run_that_is_taken_up_again_clears_all_of_its_folder(tmp_path: Path) -> None:
    begun = [leave(tmp_path / place) for place in (".config.json-0123abcd", "samples/000100/.a-0123abcd.mp4")]
    other = leave(tmp_path / "samples" / ".DS_Store")
    with one_run(tmp_path):
        assert not any(path.exists() for path in begun)
        assert other.exists()


def test_a_disk_that_takes_no_file_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskError, match=r"gone/a\.json: cannot be written \(No such file"),
        whole(tmp_path / "gone" / "a.json"),
    ):
        pass
