"""LPIPS and RAFT: what is given to them and what is made of their answers; themselves where torchvision imports."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch

from videodit.evaluation.measure.perceptual import Lpips, load_lpips, load_raft
from videodit.evaluation.measure.pixels import Undefined
from videodit.evaluation.measure.streaming import follow
from videodit.evaluation.measure.weights import MissingWeightsError


def frames(count: int = 3, height: int = 64, width: int = 72) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


class Absolute(torch.nn.Module):
    """In place of LPIPS: the mean absolute difference, of values that must fill [-1, 1]."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert a.shape[:2] == (1, 3)
        assert (a.min(), a.max()) == (-1, 1)
        return (a - b).abs().mean(dim=(1, 2, 3), keepdim=True)


def test_lpips_measures_neighbours_and_pairs_of_values_in_minus_one_to_one() -> None:
    clip, other = frames(), frames()[::-1]
    lpips = Lpips(Absolute())
    steps = np.abs(np.diff(clip / 127.5, axis=0)).mean(axis=(1, 2, 3))
    temporal = follow([clip], 8, {"x": lpips.temporal})["x"]
    assert temporal.curve[0] is None
    np.testing.assert_allclose(np.array(temporal.curve[1:], dtype=float), steps, rtol=1e-5)
    assert temporal.value == pytest.approx(steps.mean(), rel=1e-5)
    pairs = np.abs(clip / 127.5 - other / 127.5).mean(axis=(1, 2, 3))
    paired = follow([clip, other], 8, {"x": lpips.paired})["x"]
    np.testing.assert_allclose(np.array(paired.curve, dtype=float), pairs, rtol=1e-5)
    assert lpips.temporal.features().startswith("lpips-alex-0.1@")
    with pytest.raises(ValueError, match="same size"):
        lpips(clip[0], clip[0, :-1])


def unreachable(**_: Any) -> None:
    raise URLError("no route to host")


def test_lpips_that_cannot_be_had_says_why_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(MissingWeightsError, match=r"LPIPS: .*pip install lpips torchvision"):
        load_lpips()
    package: Any = ModuleType("lpips")
    package.LPIPS = unreachable
    monkeypatch.setitem(sys.modules, "lpips", package)
    with pytest.raises(MissingWeightsError, match=r"no route to host.*alexnet-owt"):
        load_lpips()


class Sideways(torch.nn.Module):
    """In place of RAFT: flow that tells each pixel's red value in the first frame, and green in the second."""

    def __init__(self, weights: None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, a: torch.Tensor, b: torch.Tensor, num_flow_updates: int) -> list[torch.Tensor]:
        assert a.shape[0] == 1
        assert a.shape[2] % 8 == a.shape[3] % 8 == 0
        assert num_flow_updates == 20
        flow = torch.stack([a[:, 0], b[:, 1]], dim=1)
        return [0 * flow, flow]


def test_raft_gives_the_last_flow_of_each_pixel_whatever_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torchvision", "torchvision.models", "torchvision.models.optical_flow"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["torchvision.models.optical_flow"].raft_large = Sideways  # type: ignore[attr-defined]
    torch.save({"weight": torch.ones(1)}, tmp_path / "raft.pth")
    raft = load_raft(tmp_path / "raft.pth")
    for size in ((128, 136), (129, 135), (131, 140)):
        a, b = frames(2, *size)
        flow = raft.between(a, b)
        assert flow.dtype == np.float32
        np.testing.assert_allclose(flow, np.stack([a[..., 0], b[..., 1]], axis=-1) / 127.5 - 1, atol=1e-6)
    with pytest.raises(Undefined, match="frames of 128x120 are too small for RAFT"):
        raft.between(*frames(2, 120, 128))

    torch.save({"other": torch.ones(1)}, tmp_path / "other.pth")
    for name in ("other.pth", "nowhere.pth"):
        with pytest.raises(MissingWeightsError, match=rf"RAFT from .*{name}.*raft_large_C_T_SKHT_V2"):
            load_raft(tmp_path / name)


def test_raft_without_torchvision_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingWeightsError, match="pip install torchvision"):
        load_raft(tmp_path / "raft.pth")


def test_raft_of_torchvision_runs_on_odd_sizes(tmp_path: Path) -> None:
    optical_flow = pytest.importorskip("torchvision.models.optical_flow", exc_type=ImportError)
    torch.manual_seed(0)
    model = optical_flow.raft_large(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "raft.pth")
    raft = load_raft(tmp_path / "raft.pth", "cpu")
    a, b = frames(2, 128, 136)
    pair = (torch.from_numpy(frame).movedim(-1, 0)[None] / 127.5 - 1 for frame in (a, b))
    with torch.no_grad():
        expected = model(*pair, num_flow_updates=20)[-1][0].movedim(0, -1).numpy()
    np.testing.assert_allclose(raft.between(a, b), expected, rtol=1e-3, atol=1e-3)
    assert raft.between(*frames(2, 130, 141)).shape == (130, 141, 2)


def test_lpips_of_the_package_is_zero_for_equal_frames_only(monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("lpips", exc_type=ImportError)
    lpips = Lpips(package.LPIPS(net="alex", pnet_rand=True, verbose=False), "cpu")  # AlexNet at random: no download
    a, b = frames(2)
    assert lpips(a, a) == 0
    assert lpips(a, b) > 0
