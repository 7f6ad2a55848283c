"""Paths, targets and their inverses, losses and weights: closed forms, and diffusers' schedulers as the reference."""

import math

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr
from torch.distributions import Normal, kl_divergence

from videodit.diffusion import (
    DiffusionPath,
    FlowPath,
    loss,
    min_snr_weight,
    split_learned_range,
    target,
    to_noise,
    to_x0,
    vlb_loss,
)

TYPES = ["flow", "epsilon", "v_prediction", "sample"]
SHAPE = (3, 2, 4, 3, 3)  # b c f h w


def schedule(**kwargs):
    return DDPMScheduler(clip_sample=False, **kwargs)


def path_and_times(name, per_frame=False):
    shape = SHAPE[:1] + (SHAPE[2:3] if per_frame else ())
    if name == "flow":
        return FlowPath(), torch.rand(shape, dtype=torch.float64).clamp(0.05, 0.95)
    alphas_cumprod = torch.linspace(0.9999, 0.98, 100, dtype=torch.float64).cumprod(0)
    return DiffusionPath(alphas_cumprod), torch.randint(0, 100, shape)


def latents(n=1, dtype=torch.float64):
    return tuple(torch.randn(SHAPE, dtype=dtype) for _ in range(n))


PATHS = pytest.mark.parametrize("path_name", ["flow", "diffusion"])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ----------------------------------------------------------------------------------------------------------- the paths


@PATHS
@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("prediction_type", TYPES)
def test_data_and_noise_come_back_from_x_t_and_target(path_name, prediction_type, per_frame):
    path, t = path_and_times(path_name, per_frame)
    x0, noise = latents(2)
    x_t = path.add_noise(x0, noise, t)
    prediction = target(path, prediction_type, x0, noise, t)
    torch.testing.assert_close(to_x0(path, prediction_type, prediction, x_t, t), x0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(to_noise(path, prediction_type, prediction, x_t, t), noise, rtol=1e-10, atol=1e-10)


@PATHS
@pytest.mark.parametrize("prediction_type", TYPES)
def test_frames_with_times_of_their_own_are_what_each_would_be_alone(path_name, prediction_type):
    path, t = path_and_times(path_name, per_frame=True)
    x0, noise = latents(2)
    x_t, said = path.add_noise(x0, noise, t), target(path, prediction_type, x0, noise, t)
    for f in range(SHAPE[2]):
        alone = slice(f, f + 1)
        assert torch.equal(x_t[:, :, alone], path.add_noise(x0[:, :, alone], noise[:, :, alone], t[:, f]))
        assert torch.equal(
            said[:, :, alone], target(path, prediction_type, x0[:, :, alone], noise[:, :, alone], t[:, f])
        )
    one = t[:, :1].expand_as(t)
    assert torch.equal(path.add_noise(x0, noise, one), path.add_noise(x0, noise, t[:, 0]))
    assert torch.equal(to_x0(path, prediction_type, said, x_t, one), to_x0(path, prediction_type, said, x_t, t[:, 0]))


def test_flow_is_a_straight_line_whose_velocity_is_the_target():
    x0, noise = latents(2)
    path, h = FlowPath(), 1e-3
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    assert torch.equal(path.add_noise(x0, noise, torch.zeros_like(t)), x0)
    assert torch.equal(path.add_noise(x0, noise, torch.ones_like(t)), noise)
    velocity = (path.add_noise(x0, noise, t + h) - path.add_noise(x0, noise, t)) / h
    torch.testing.assert_close(target(path, "flow", x0, noise, t), velocity)


def test_flow_agrees_with_the_flow_matching_scheduler():
    scheduler = FlowMatchEulerDiscreteScheduler()
    x0, noise = latents(2, torch.float32)
    t = scheduler.sigmas[[10, 500, 998]]
    path = FlowPath()
    assert torch.equal(path.model_time(t), scheduler.timesteps[[10, 500, 998]])
    torch.testing.assert_close(path.add_noise(x0, noise, t), scheduler.scale_noise(x0, path.model_time(t), noise))

    scheduler.set_timesteps(1)  # one step from noise to data: the scheduler's own reading of a flow prediction
    prediction = latents(1, torch.float32)[0]
    stepped = scheduler.step(prediction, scheduler.timesteps[0], noise).prev_sample
    torch.testing.assert_close(to_x0(path, "flow", prediction, noise, torch.ones(3)), stepped)


@pytest.mark.parametrize("schedule_name", ["linear", "squaredcos_cap_v2"])
def test_diffusion_agrees_with_the_ddpm_scheduler(schedule_name):
    scheduler = schedule(beta_schedule=schedule_name)
    path = DiffusionPath.from_scheduler(scheduler)
    x0, noise = latents(2, torch.float32)
    t = torch.tensor([0, 400, 999])
    assert torch.equal(path.model_time(t), t)
    torch.testing.assert_close(path.add_noise(x0, noise, t), scheduler.add_noise(x0, noise, t))
    velocity = scheduler.get_velocity(x0, noise, t)
    torch.testing.assert_close(target(path, "v_prediction", x0, noise, t), velocity)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_x0_is_what_the_ddpm_scheduler_makes_of_the_prediction(prediction_type):
    scheduler = schedule(prediction_type=prediction_type)
    path = DiffusionPath.from_scheduler(scheduler)
    prediction, x_t = latents(2, torch.float32)
    for t in (0, 300, 999):
        expected = scheduler.step(prediction, t, x_t).pred_original_sample
        found = to_x0(path, prediction_type, prediction, x_t, torch.full((3,), t))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_where_x_t_holds_nothing_of_the_answer_it_is_not_finite_and_elsewhere_it_is():
    prediction, x_t = latents(2)
    data, noise = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for prediction_type in TYPES:
        x0 = to_x0(FlowPath(), prediction_type, prediction, x_t, noise)
        assert bool(x0.isfinite().any()) == (prediction_type != "epsilon")
        assert to_x0(FlowPath(), prediction_type, prediction, x_t, data).isfinite().all()
        implied = to_noise(FlowPath(), prediction_type, prediction, x_t, data)
        assert bool(implied.isfinite().any()) == (prediction_type != "sample")
        assert to_noise(FlowPath(), prediction_type, prediction, x_t, noise).isfinite().all()


def test_zero_terminal_snr_leaves_only_noise_and_v_still_tells_the_data():
    path = DiffusionPath.from_scheduler(schedule(rescale_betas_zero_snr=True))
    x0, noise = latents(2)
    last = torch.full((3,), 999)
    assert torch.equal(path.add_noise(x0, noise, last), noise)
    torch.testing.assert_close(to_x0(path, "v_prediction", -x0, noise, last), x0)


def test_schedulers_of_flow_sigmas_have_no_diffusion_path():
    for scheduler in (FlowMatchEulerDiscreteScheduler(), DPMSolverMultistepScheduler(use_flow_sigmas=True)):
        with pytest.raises(ValueError, match=r"use FlowPath\(\)"):
            DiffusionPath.from_scheduler(scheduler)


def test_precision_is_kept_and_halves_are_widened():
    x0, noise = latents(2, torch.bfloat16)
    t = torch.tensor([0.1234567, 0.5, 0.9])
    assert FlowPath().add_noise(x0, noise, t).dtype == torch.float32
    assert FlowPath().alpha(t.double()).dtype == torch.float64
    assert len(FlowPath().model_time(torch.arange(1000) / 1000).unique()) == 1000
    assert loss(x0, noise).dtype == torch.float32
    torch.testing.assert_close(loss(x0, noise), (x0.float() - noise.float()).square().mean(dim=(1, 2, 3, 4)))


def test_times_of_the_wrong_kind_or_shape_are_refused():
    x0, noise = latents(2)
    diffusion, _ = path_and_times("diffusion")
    for dtype in (torch.bfloat16, torch.float16, torch.int64):
        with pytest.raises(ValueError, match="float32 or float64"):
            FlowPath().alpha(torch.ones(3, dtype=dtype))
    for dtype in (torch.float32, torch.bool, torch.uint8):
        with pytest.raises(ValueError, match="index"):
            diffusion.alpha(torch.ones(3, dtype=dtype))
    for shape in ((), (1,), (4,), (3, 1), (3, 3), (3, 4, 1)):
        with pytest.raises(ValueError, match="one a sample"):
            FlowPath().add_noise(x0, noise, torch.rand(shape))
    with pytest.raises(ValueError, match="one shape"):
        FlowPath().add_noise(x0, noise[:, :1], torch.rand(3))
    with pytest.raises(ValueError, match="b c f h w"):
        FlowPath().add_noise(x0[:, :, 0], noise[:, :, 0], torch.rand(3))
    with pytest.raises(ValueError, match="alphas_cumprod"):
        DiffusionPath(torch.ones(3, 3))
    with pytest.raises(ValueError, match="alphas_cumprod"):
        DiffusionPath(torch.ones(3).half())


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("call", [target, to_x0, to_noise])
def test_clips_that_would_be_broadcast_are_refused_whatever_is_predicted(call, prediction_type):
    x, y = latents(2)
    for other in (y[:, :1], y[:1], y[:, :, :1]):
        for pair in ((x, other), (other, x)):
            with pytest.raises(ValueError, match="one shape"):
                call(FlowPath(), prediction_type, *pair, torch.rand(len(pair[1])))


def test_a_schedule_has_two_steps_at_least_and_one_axis():
    path = DiffusionPath(torch.tensor([0.9, 0.1]))
    assert path.alpha(torch.tensor([0, 1])).tolist() == pytest.approx([0.9**0.5, 0.1**0.5])
    for wrong in (torch.tensor([0.9]), torch.ones(0), torch.tensor(0.9), torch.full((4, 4), 0.5)):
        with pytest.raises(ValueError, match="must be"):
            DiffusionPath(wrong)


@pytest.mark.parametrize("call", [target, to_x0, to_noise])
def test_unknown_prediction_types_are_refused_with_the_known_ones(call):
    with pytest.raises(ValueError, match="'velocity': choose one of flow, epsilon, v_prediction, sample"):
        call(FlowPath(), "velocity", *latents(2), torch.rand(3))
    with pytest.raises(ValueError, match="'velocity': choose one of flow"):
        min_snr_weight(FlowPath(), "velocity", torch.rand(3))


# ------------------------------------------------------------------------------------------------------------ the loss


def test_loss_is_each_samples_mean_squared_error():
    prediction, wanted = latents(2)
    expected = torch.stack([torch.nn.functional.mse_loss(*pair) for pair in zip(prediction, wanted, strict=True)])
    torch.testing.assert_close(loss(prediction, wanted), expected)
    weight = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)
    torch.testing.assert_close(loss(prediction, wanted, weight), weight * expected)


def test_weights_of_frames_weigh_each_frames_error():
    prediction, wanted = latents(2)
    weight = torch.rand(SHAPE[0], SHAPE[2], dtype=torch.float64)
    frames = [loss(prediction[:, :, f : f + 1], wanted[:, :, f : f + 1]) * weight[:, f] for f in range(SHAPE[2])]
    torch.testing.assert_close(loss(prediction, wanted, weight), torch.stack(frames).mean(dim=0))


def test_frames_that_do_not_count_are_not_judged_and_take_no_share_of_the_mean():
    prediction, wanted = latents(2)
    mask = torch.tensor([[True] * 4, [False, True, False, True], [False] * 4])
    spoilt = prediction.clone()
    spoilt[1, :, 0] = math.inf
    prediction.requires_grad_()
    judged = loss(prediction, wanted, mask=mask)
    torch.testing.assert_close(judged[0], loss(prediction, wanted)[0])
    torch.testing.assert_close(judged[1], loss(prediction[:, :, [1, 3]], wanted[:, :, [1, 3]])[1])
    assert judged[2] == 0
    assert torch.equal(loss(spoilt, wanted, mask=mask), judged)
    judged.sum().backward()
    assert prediction.grad.isfinite().all()
    assert prediction.grad.ne(0).any(dim=(1, 3, 4)).equal(mask)


def test_loss_refuses_what_would_be_broadcast():
    prediction, wanted = latents(2)
    with pytest.raises(ValueError, match="one shape"):
        loss(prediction, wanted[:, :, :1])
    with pytest.raises(ValueError, match="mask of frames"):
        loss(prediction, wanted, mask=torch.ones(3, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask of frames"):
        loss(prediction, wanted, mask=torch.ones(3, 4))
    with pytest.raises(ValueError, match="weights"):
        loss(prediction, wanted, weight=torch.ones(3, 1))


@pytest.mark.parametrize(
    ("prediction_type", "share"),
    [("sample", lambda snr: 1.0), ("epsilon", lambda snr: 1 / snr), ("v_prediction", lambda snr: 1 / (snr + 1))],
)
def test_min_snr_weights_are_the_papers(prediction_type, share):
    scheduler = schedule()
    t = torch.arange(0, 1000, 37)
    snr = compute_snr(scheduler, t)
    weight = min_snr_weight(DiffusionPath.from_scheduler(scheduler), prediction_type, t, gamma=5.0)
    torch.testing.assert_close(weight, snr.clamp(max=5.0) * share(snr), rtol=1e-4, atol=1e-6)


def test_min_snr_makes_the_same_error_count_the_same_in_every_prediction_type():
    path, t = path_and_times("diffusion")
    x0, noise, wrong = latents(3)
    x_t = path.add_noise(x0, noise, t)
    guess = {"sample": wrong, "epsilon": to_noise(path, "sample", wrong, x_t, t)}
    guess["v_prediction"] = target(path, "v_prediction", guess["sample"], guess["epsilon"], t)
    losses = [loss(guess[k], target(path, k, x0, noise, t), min_snr_weight(path, k, t)) for k in guess]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


def test_min_snr_is_finite_at_both_ends_and_not_defined_for_flow():
    ends = torch.tensor([0.0, 1.0])
    assert min_snr_weight(FlowPath(), "sample", ends).tolist() == [5, 0]
    assert min_snr_weight(FlowPath(), "epsilon", ends).tolist() == [0, 1]
    assert min_snr_weight(FlowPath(), "v_prediction", ends).tolist() == [0, 0]
    with pytest.raises(ValueError, match="not for flow"):
        min_snr_weight(FlowPath(), "flow", ends)
    with pytest.raises(ValueError, match="gamma must be positive"):
        min_snr_weight(FlowPath(), "epsilon", ends, gamma=0)


# --------------------------------------------------------------------------------------------- the learned variance


def test_learned_range_is_the_second_half_of_the_channels():
    whole = torch.randn(3, 6, 4, 2, 2)
    parts = split_learned_range(whole)
    assert torch.equal(torch.cat([parts.prediction, parts.v], dim=1), whole)
    with pytest.raises(ValueError, match="even number of channels"):
        split_learned_range(whole[:, :5])


def bits_by_bayes(scheduler, epsilon, v, x0, x_t, t):
    """The variational term of one sample at one t, another way: both steps back by Bayes' rule on Gaussians."""
    alphas_cumprod = scheduler.alphas_cumprod.double()
    alpha_bar, before = alphas_cumprod[t], alphas_cumprod[t - 1] if t > 0 else torch.ones((), dtype=torch.float64)
    guess = (x_t - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()
    log_variance = scheduler._get_variance(t, v, "learned_range").double()
    if t == 0:
        first = scheduler._get_variance(1, -torch.ones(()), "learned_range").double()
        log_variance = (v + 1) / 2 * scheduler.betas[0].double().log() + (1 - v) / 2 * first
        bins = torch.linspace(-1, 1, 256, dtype=torch.float64)
        edges = torch.cat([torch.tensor([-math.inf]), (bins[1:] + bins[:-1]) / 2, torch.tensor([math.inf])]).double()
        number = ((x0 + 1) * 127.5).round().long()
        model = Normal(guess, (log_variance / 2).exp())
        return -(model.cdf(edges[number + 1]) - model.cdf(edges[number])).clamp(min=1e-12).log2().mean()
    alpha = alpha_bar / before  # of this step alone: x_t = sqrt(alpha) x_{t-1} + sqrt(1 - alpha) noise
    precision = alpha / (1 - alpha) + 1 / (1 - before)

    def mean(data):
        return (alpha.sqrt() * x_t / (1 - alpha) + before.sqrt() * data / (1 - before)) / precision

    truth = Normal(mean(x0), precision**-0.5 * torch.ones_like(x0))
    return kl_divergence(truth, Normal(mean(guess), (log_variance / 2).exp())).mean() / math.log(2)


@pytest.mark.parametrize("t", [0, 1, 50, 998, 999])
def test_variational_term_agrees_with_bayes_rule_and_the_schedulers_variances(t):
    scheduler = schedule()
    path = DiffusionPath.from_scheduler(scheduler)
    x0 = (torch.randint(0, 256, SHAPE) / 127.5 - 1).double()
    x0[0, 0, 0, 0, 0], x0[0, 0, 0, 0, 1] = -1, 1
    noise, v = latents(2)
    times = torch.full((3,), t)
    x_t = path.add_noise(x0, noise, times)
    epsilon, v = noise + 0.1 * torch.randn_like(noise), v.tanh()
    found = vlb_loss(path, "epsilon", epsilon, v, x0, x_t, times)
    expected = torch.stack([bits_by_bayes(scheduler, *sample, t) for sample in zip(epsilon, v, x0, x_t, strict=True)])
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-7)  # the scheduler's variances are float32
    in_v = target(path, "v_prediction", to_x0(path, "epsilon", epsilon, x_t, times), epsilon, times)
    torch.testing.assert_close(vlb_loss(path, "v_prediction", in_v, v, x0, x_t, times), found, rtol=1e-5, atol=1e-9)


def test_variational_term_is_zero_for_the_true_step_and_trains_the_variance_alone():
    path, _ = path_and_times("diffusion")
    x0, noise, wrong = latents(3)
    t = torch.tensor([1, 40, 99])
    x_t = path.add_noise(x0, noise, t)
    v = torch.full(SHAPE, -1.0, dtype=torch.float64)
    assert vlb_loss(path, "epsilon", noise, v, x0, x_t, t).abs().max() < 1e-12
    prediction = wrong.requires_grad_()
    v.requires_grad_()
    vlb_loss(path, "epsilon", prediction, v, x0, x_t, t).sum().backward()
    assert prediction.grad is None
    assert v.grad.ne(0).all()


def test_the_decoder_shares_out_all_probability_among_the_256_values():
    path, _ = path_and_times("diffusion")
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None, None, None, None]
    for mean in (-1.2, -0.3, 0.99):
        x_t = path.alpha(torch.tensor(0)) * torch.full_like(values, mean)
        t = torch.zeros(256, dtype=torch.int64)
        bits = vlb_loss(path, "epsilon", torch.zeros_like(values), torch.zeros_like(values), values, x_t, t)
        torch.testing.assert_close((2**-bits).sum(), torch.ones((), dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_variational_term_of_frames_with_times_of_their_own_is_their_mean_over_those_that_count():
    path, _ = path_and_times("diffusion")
    x0, noise, v = latents(3)
    t = torch.tensor([[0, 5, 50, 99], [1, 0, 0, 2], [7, 7, 7, 7]])
    x_t = path.add_noise(x0, noise, t)
    inputs = (noise + 0.1, v.tanh(), x0, x_t)
    frames = [vlb_loss(path, "epsilon", *(x[:, :, f : f + 1] for x in inputs), t[:, f]) for f in range(4)]
    torch.testing.assert_close(vlb_loss(path, "epsilon", *inputs, t), torch.stack(frames).mean(dim=0))
    mask = torch.tensor([[False, True, False, True]] * 3)
    counted = torch.stack([frames[1], frames[3]]).mean(dim=0)
    torch.testing.assert_close(vlb_loss(path, "epsilon", *inputs, t, mask), counted)
