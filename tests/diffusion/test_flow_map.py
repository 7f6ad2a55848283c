"""Flow maps against what is known exactly: Gaussian data, whose flow has a closed form, and derivatives of a net."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from videodit.diffusion.flow_map import HALF, map_target, tamed, towards

SPREAD = 0.7  # standard deviation of the data


def of_frames(t: Tensor) -> Tensor:
    return t.reshape(*t.shape[:1], 1, *(t.shape[1:] or (1,)), 1, 1)


def width(t: Tensor) -> Tensor:
    """Standard deviation of x_t = (1 - t) x_0 + t n."""
    return ((1 - t) ** 2 * SPREAD**2 + t**2).sqrt()


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[n - x_0 | x_t], by the regression of one Gaussian on another."""
    at = of_frames(t)
    return x * (at - (1 - at) * SPREAD**2) / width(at) ** 2


def mean_velocity(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """The flow keeps x_t / width(t), so x_r = x_t width(r) / width(t)."""
    at, to = of_frames(t), of_frames(r)
    return torch.where(
        (at - to).abs() < 1e-9,
        velocity(x, t),
        x * (1 - width(to) / width(at)) / (at - to).where((at - to).abs() >= 1e-9, torch.ones_like(at)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frames", [False, True])
def test_the_exact_map_of_gaussian_data_is_its_own_target(frames: bool, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    shape = (64, 5) if frames else (64,)
    t, r = (torch.rand(shape, generator=g, dtype=dtype) for _ in range(2))
    t, r = torch.maximum(t, r), torch.minimum(t, r)
    t.view(-1)[:3], r.view(-1)[:4] = 1.0, 0.0  # the way from noise to data, and its ends
    x = of_frames(width(t)) * torch.randn(64, 2, 5, 3, 3, generator=g, dtype=dtype)
    for half, bound in ((4e-3, 1e-4), (HALF, 7e-4)):
        found = map_target(lambda y, s: mean_velocity(y, s, r), x, t, r, velocity(x, t), half)
        torch.testing.assert_close(found, mean_velocity(x, t, r), rtol=0, atol=bound)


def test_the_fixed_point_is_the_map_and_nothing_else() -> None:
    """A map that is off by a constant is told to come back: its target is nearer to the truth than itself."""
    t, r = torch.tensor([0.9, 0.6]), torch.tensor([0.1, 0.3])
    x = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    target = map_target(lambda y, s: mean_velocity(y, s, r) + 0.3, x, t, r, velocity(x, t), 4e-3)
    torch.testing.assert_close(target, mean_velocity(x, t, r), rtol=0, atol=1e-4)


def test_the_difference_is_the_derivative_along_the_way() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4)).double()
    t, r = torch.tensor([0.8, 0.5], dtype=torch.float64), torch.tensor([0.2, 0.0], dtype=torch.float64)

    def u(x: Tensor, s: Tensor) -> Tensor:
        told = torch.stack([s, r], dim=1)
        return net(torch.cat([x.flatten(1), told], dim=1)).reshape(x.shape)

    x, v = (torch.randn(2, 1, 1, 2, 2, dtype=torch.float64) for _ in range(2))
    _, slope = torch.func.jvp(u, (x, t), (v, torch.ones_like(t)))
    exact = v - of_frames(t - r) * slope
    errors = [float((map_target(u, x, t, r, v, half) - exact).abs().max().detach()) for half in (2e-2, 1e-2, 5e-3)]
    assert errors[2] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)  # the error of a central difference falls as h^2
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


def test_at_one_time_the_target_is_the_velocity_and_the_map_is_asked_as_at_any() -> None:
    """For processes that share its weights make its calls together, and in another times may differ."""
    t, v, calls = torch.tensor([0.0, 0.5, 1.0]), torch.randn(3, 1, 1, 2, 2), []
    assert torch.equal(map_target(lambda x, s: calls.append(s) or x * 3, v, t, t, v), v)  # type: ignore[func-returns-value]
    assert len(calls) == 2
    # and among others too
    r = torch.tensor([0.0, 0.1, 1.0])
    mixed = map_target(lambda x, s: x * of_frames(s) * 3, v, t, r, v)
    assert torch.equal(mixed[[0, 2]], v[[0, 2]])
    assert not torch.equal(mixed[1], v[1])


def test_a_frame_that_stays_asks_for_no_more_than_the_map_says() -> None:
    """Velocity zero moves no frame on the way to the two calls."""
    seen: list[Tensor] = []
    x, v = torch.randn(1, 1, 2, 2, 2), torch.randn(1, 1, 2, 2, 2)
    v[:, :, 0] = 0.0
    map_target(lambda y, s: seen.append(y) or y, x, torch.tensor([0.5]), torch.tensor([0.1]), v)  # type: ignore[func-returns-value]
    assert len(seen) == 2
    assert all(torch.equal(y[:, :, 0], x[:, :, 0]) and not torch.equal(y[:, :, 1], x[:, :, 1]) for y in seen)


def test_a_map_upwards_is_refused() -> None:
    x = torch.zeros(1, 1, 1, 2, 2)
    with pytest.raises(ValueError, match="lies above"):
        map_target(lambda y, s: y, x, torch.tensor([0.2]), torch.tensor([0.4]), x)


def test_two_times_are_put_in_order_or_made_one() -> None:
    t, other = torch.tensor([0.2, 0.9, 0.4]), torch.tensor([0.6, 0.1, 0.8])
    late, early = towards(t, other, torch.tensor([False, False, True]))
    assert late.tolist() == pytest.approx([0.6, 0.9, 0.4])
    assert early.tolist() == pytest.approx([0.2, 0.1, 0.4])
    frames = towards(t[:, None].expand(3, 2), other[:, None].expand(3, 2), torch.tensor([False, False, True]))
    assert torch.equal(frames[0], late[:, None].expand(3, 2))


def test_a_large_error_pulls_no_harder_than_a_small_one() -> None:
    off = torch.tensor([0.3, 3.0, 300.0], requires_grad=True)
    error = off**2
    found = tamed(error)
    torch.testing.assert_close(found, error)
    (pull,) = torch.autograd.grad(found.sum(), off)
    torch.testing.assert_close(pull, 2 * off.detach() / (error.detach() + 1e-2))
    assert pull[2] < pull[1] < pull[0]
