"""The cache of features: what hits, what misses, and what a damaged file costs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from videodit.evaluation.measure.feature_cache import FeatureCache

KEY = {"digest": "c0ffee", "sampling": "8fps/all", "preprocessing": "224 bicubic", "extractor": "clip@0123456789ab"}


def never() -> np.ndarray:
    raise AssertionError("computed again")


def counted(features: np.ndarray) -> tuple[Callable[[], np.ndarray], list[int]]:
    calls: list[int] = []

    def compute() -> np.ndarray:
        calls.append(1)
        return features

    return compute, calls


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_hit_gives_the_same_numbers_without_computing(tmp_path: Path, dtype: type) -> None:
    features = np.random.default_rng(0).random((3, 4)).astype(dtype).T  # not contiguous
    assert np.array_equal(FeatureCache(tmp_path / "a" / "b").get_or(**KEY, compute=lambda: features), features)
    found = FeatureCache(tmp_path / "a" / "b").get_or(**KEY, compute=never)
    assert found.dtype == dtype
    assert np.array_equal(found, features)


@pytest.mark.parametrize("part", KEY)
def test_anything_else_in_the_key_misses(tmp_path: Path, part: str) -> None:
    cache = FeatureCache(tmp_path)
    cache.get_or(**KEY, compute=lambda: np.zeros(2))
    compute, calls = counted(np.ones(2))
    assert cache.get_or(**{**KEY, part: KEY[part] + "x"}, compute=compute).tolist() == [1, 1]
    assert len(calls) == 1
    assert cache.get_or(**KEY, compute=never).tolist() == [0, 0]


def test_parts_of_a_key_do_not_run_into_each_other(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.get_or("ab", "c", "d", "e", lambda: np.zeros(2))
    compute, calls = counted(np.ones(2))
    cache.get_or("a", "bc", "d", "e", compute)
    assert len(calls) == 1


def test_without_a_folder_nothing_is_kept() -> None:
    compute, calls = counted(np.ones(2))
    cache = FeatureCache(None)
    cache.get_or(**KEY, compute=compute)
    cache.get_or(**KEY, compute=compute)
    assert len(calls) == 2


def cut(content: bytes) -> bytes:
    return content[:-3]


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def emptied(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, flipped, emptied])
def test_a_damaged_file_is_warned_of_and_computed_anew(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    cache = FeatureCache(tmp_path)
    cache.get_or(**KEY, compute=lambda: np.arange(5.0))
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    compute, calls = counted(np.arange(5.0))
    with pytest.warns(UserWarning, match=rf"{file.name} is damaged .* computed anew"):
        assert cache.get_or(**KEY, compute=compute).tolist() == [0, 1, 2, 3, 4]
    assert len(calls) == 1
    assert cache.get_or(**KEY, compute=never).tolist() == [0, 1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_written_costs_only_the_time(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.warns(UserWarning, match="cannot be written .* not kept"):
        assert cache.get_or(**KEY, compute=lambda: np.ones(2)).tolist() == [1, 1]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/cache: cannot be made a folder"):
        FeatureCache(tmp_path / "file" / "cache")


def full(*_: object) -> None:
    raise OSError("no space left on device")


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(UserWarning, match="no space left"):
        cache.get_or(**KEY, compute=lambda: np.ones(2))
    assert list(tmp_path.iterdir()) == []
