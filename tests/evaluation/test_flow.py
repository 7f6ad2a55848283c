"""Optical flow and warping against shifts that are known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from footage import place

from videodit.evaluation.measure.flow import DIS, dis, inside, midpoint, visible, warp
from videodit.evaluation.measure.pixels import Undefined


def views(dx: int, dy: int, height: int = 96, width: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Two windows on one picture: what is at (x, y) in the first is at (x + dx, y + dy) in the second."""
    wide = place(3)
    return wide[40:, 60:][:height, :width], wide[40 - dy :, 60 - dx :][:height, :width]


def constant(u: float, v: float, height: int = 20, width: int = 30) -> np.ndarray:
    return np.broadcast_to(np.array([u, v], np.float32), (height, width, 2)).copy()


@pytest.mark.parametrize(("dx", "dy"), [(12, 0), (-5, 7), (0, -12), (1, 1)])
def test_flow_of_a_shift_is_the_shift(dx: int, dy: int) -> None:
    flow = dis(*views(dx, dy))
    assert flow.shape == (96, 120, 2)
    assert flow.dtype == np.float32
    within = inside(constant(dx, dy, 96, 120))
    assert np.abs(np.median(flow[within], axis=0) - [dx, dy]).max() < 0.1
    assert np.abs(flow[within] - [dx, dy]).mean() < 0.3


def test_nothing_moves_in_equal_frames() -> None:
    frame, _ = views(0, 0)
    assert np.abs(dis(frame, frame)).max() < 1e-3


def test_flow_is_the_same_on_any_number_of_threads() -> None:
    cv2 = pytest.importorskip("cv2")
    before, flows = cv2.getNumThreads(), []
    try:
        for threads in (1, 2, 5):
            cv2.setNumThreads(threads)
            flows.append(dis(*views(6, 3)))
    finally:
        cv2.setNumThreads(before)
    assert (flows[0] == flows[1]).all()
    assert (flows[0] == flows[2]).all()


@pytest.mark.parametrize("size", [(16, 16), (16, 160), (160, 16), (17, 33), (37, 53)])
def test_small_and_odd_frames_have_flow(size: tuple[int, int]) -> None:
    flow = DIS.between(*views(1, 0, *size))
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()
    assert np.abs(flow).max() < max(size)


@pytest.mark.parametrize("size", [(15, 80), (8, 8), (200, 12), (1, 1)])
def test_frames_too_small_for_flow_are_refused_before_opencv_sees_them(size: tuple[int, int]) -> None:
    with pytest.raises(Undefined, match=rf"{size[1]}x{size[0]} are too small for optical flow: 16 pixels"):
        dis(*views(1, 0, *size))


def test_warp_fetches_from_where_the_flow_ends() -> None:
    ramp = np.add.outer(10.0 * np.arange(20), np.arange(30)).astype(np.float32)  # 10 y + x
    moved = warp(ramp, constant(2.25, 3.5))
    within = inside(constant(2.25, 3.5))
    np.testing.assert_allclose(moved[within], (ramp + 2.25 + 35)[within], atol=0.01)
    np.testing.assert_array_equal(warp(ramp, constant(100, 0))[:, 0], ramp[:, -1])  # outside, the edge goes on


def test_inside_ends_with_the_last_pixel() -> None:
    assert inside(constant(0, 0)).all()
    assert inside(constant(3, -2)).sum() == 27 * 18
    assert inside(constant(29, 0))[:, 0].all()
    assert not inside(constant(29.01, 0)).any()


def test_flows_that_do_not_agree_are_an_occlusion() -> None:
    there = constant(3, 0)
    agree = visible(there, -there)
    assert (agree == inside(there)).all()
    # |F + B|^2 against 0.01 (|F|^2 + |B|^2) + 0.5 with F = (3, 0), B = (-3 + d, 0): the limit lies at d = 0.7986
    assert visible(there, constant(-3 + 0.79, 0)).any()
    assert not visible(there, constant(-3 + 0.81, 0)).any()


def test_pixels_at_motion_boundaries_are_not_visible() -> None:
    forward = constant(0, 0)
    forward[:, 15:, 0] = 0.6  # agrees with no flow back within half a pixel, but for the step
    seen = visible(forward, constant(0, 0))
    assert seen[:, :14].all()
    assert not seen[:, 14:16].any()
    assert seen[:, 16:29].all()


def test_the_midpoint_of_a_shift_is_half_a_shift() -> None:
    (a, b), (_, middle) = views(8, 4), views(4, 2)
    there = constant(8, 4, 96, 120)
    known = inside(there / 2) | inside(-there / 2)  # all but two corners
    np.testing.assert_allclose(midpoint(a, b, there, -there)[known], middle[known], atol=1e-3)
    assert known.mean() > 0.99


def test_the_midpoint_without_motion_is_the_mean() -> None:
    a, b = views(5, 0)
    none = constant(0, 0, 96, 120)
    np.testing.assert_allclose(midpoint(a, b, none, none), (a.astype(float) + b) / 2, atol=1e-3)


def test_without_opencv_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install \"videodit\[evaluation\]\""):
        dis(*views(1, 0))
