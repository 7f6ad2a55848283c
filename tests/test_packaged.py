"""The packaged models by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from videodit import VideoDiTPipeline
from videodit.packaged import DEFAULT, PACKAGED, named_folder


def test_a_packaged_model_lies_in_the_package_and_the_first_is_the_default() -> None:
    for name, folder in PACKAGED.items():
        assert (folder / "model_index.json").is_file()
        assert named_folder(name) == str(folder)
    assert named_folder("shipped") == str(PACKAGED[DEFAULT])


def test_a_folder_that_is_here_is_meant_before_a_packaged_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(named_folder("shapes")).is_absolute()
    (tmp_path / "shapes").mkdir()
    assert named_folder("shapes") == "shapes"


def test_names_of_other_places_stay_as_they_are_and_a_path_to_nothing_is_an_error() -> None:
    assert named_folder("some-org/some-model") == "some-org/some-model"
    with pytest.raises(FileNotFoundError, match=r"\./nowhere: there is no such file or folder"):
        named_folder("./nowhere")


def test_what_is_not_packaged_is_refused_with_what_is() -> None:
    with pytest.raises(ValueError, match=r"nothing: no such packaged model; those that are: shapes"):
        VideoDiTPipeline.shipped("nothing")
