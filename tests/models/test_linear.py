"""Linear attention: against its quadratic form in float64, and what is held of the past against the whole clip."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from videodit.data.transforms import to_frames, to_pixels
from videodit.long import long_clip
from videodit.models import Condition
from videodit.models.attention import Attention, AttentionShape
from videodit.models.growth import grow
from videodit.models.linear import Running, with_past
from videodit.models.positions import rotate
from videodit.models.transformer import VideoDiT
from videodit.pipeline import VideoDiTPipeline

from ..tiny import awaken, tiny_dit

CLIP = (2, 4, 5, 4, 6)
POSITIONS = ["both", "rotary", "sincos", "frames", "grid"]


def model(axes: tuple[str, ...] = ("space", "linear"), **config: Any) -> VideoDiT:
    torch.manual_seed(0)
    shape = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "patch_size": (1, 2, 2)}
    return awaken(VideoDiT(4, axes=axes, **shape | config))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("turned", [False, True])
def test_a_token_sees_its_frame_and_those_before_by_its_positive_features(turned: bool) -> None:
    """As weights of all tokens to all, in float64, of which those of later frames are nothing."""
    f, s = 4, 3
    attention = Attention(24, AttentionShape(2, qk_norm="rms_norm"), "linear").double()
    x = drawn(2, f, s, 24).double()
    angles = drawn(1, f, s, 1, 6).double()
    rotary = (angles.cos(), angles.sin()) if turned else None
    seen = attention(x, rotary=rotary, layout=Running())
    query, key, value = (to(x).unflatten(-1, (2, 12)) for to in (attention.to_q, attention.to_k, attention.to_v))
    query, key = attention.norm_q(query).relu(), attention.norm_k(key).relu()
    asked, found = (one if rotary is None else rotate(one, rotary) for one in (query, key))
    frame = torch.arange(f).repeat_interleave(s)
    earlier = frame[:, None] >= frame
    up = torch.einsum("bnhe,bmhe->bhnm", asked.flatten(1, 2), found.flatten(1, 2)) * earlier
    down = torch.einsum("bnhe,bmhe->bhnm", query.flatten(1, 2), key.flatten(1, 2)) * earlier
    weights = up / down.sum(dim=-1, keepdim=True)
    wanted = attention.to_out[0](torch.einsum("bhnm,bmhe->bnhe", weights, value.flatten(1, 2)).flatten(-2))
    torch.testing.assert_close(seen.flatten(1, 2), wanted, rtol=0, atol=1e-6 if turned else 1e-12)  # turned in fp32


@pytest.mark.parametrize("positions", POSITIONS)
def test_no_frame_sees_a_later_one_and_each_all_before(positions: str) -> None:
    made, latents, times = model(time_positions=positions), drawn(*CLIP), torch.tensor([300.0, 700.0])
    whole = made(latents, times).sample
    for frame in range(5):
        other = latents.clone()
        other[:, :, frame] += 1
        moved = (made(other, times).sample - whole).abs().amax(dim=(0, 1, 3, 4))
        assert [bool(one > 0) for one in moved] == [later >= frame for later in range(5)]


@pytest.mark.parametrize("cuts", [(0, 2, 5), (0, 1, 2, 5), (0, 4, 5)])
@pytest.mark.parametrize("positions", POSITIONS)
def test_what_is_held_of_frames_is_all_that_later_ones_would_see_of_them(positions: str, cuts: tuple[int, ...]) -> None:
    made, latents, times = model(time_positions=positions), drawn(*CLIP), torch.tensor([300.0, 700.0])
    *done, (last, end) = pairwise(cuts)
    given = torch.arange(5).expand(2, -1) < last
    wanted = made(latents, times, fps=4.0, frame_mask=given).sample[:, :, last:]
    with torch.no_grad(), with_past(made) as past:
        for start, stop in done:
            with past.held():
                made(latents[:, :, start:stop], torch.zeros(2), fps=4.0)
            assert past.frames == stop
        here = made(latents[:, :, last:end], times, fps=4.0).sample
        torch.testing.assert_close(here, wanted)
        one = made(latents[:1, :, last:end], times[:1], fps=4.0).sample  # the rows that were held first
        torch.testing.assert_close(one, wanted[:1])
        assert past.frames == last  # what is not done is not held
    torch.testing.assert_close(made(latents, times, fps=4.0, frame_mask=given).sample[:, :, last:], wanted)


def test_what_is_held_does_not_grow_with_the_frames() -> None:
    made = model()
    sizes = []
    with torch.no_grad(), with_past(made) as past:
        for _ in range(3):
            with past.held():
                made(drawn(*CLIP), torch.zeros(2))
            sizes.append(
                {number: [one.untyped_storage().nbytes() for one in sums] for number, sums in past.sums.items()}
            )
    assert sizes[0] == sizes[1] == sizes[2]
    assert list(sizes[0]) == [1, 3]


def test_a_call_that_fails_is_not_held() -> None:
    made = model()
    with torch.no_grad(), with_past(made) as past:
        with pytest.raises(ValueError, match="not divided"), past.held():
            made(drawn(1, 4, 5, 3, 6), torch.zeros(1))
        assert (past.frames, past.sums) == (0, {})
    assert made.past is None


def test_half_precision_sums_in_float32() -> None:
    """Of keys that are alike, each token sees the mean of the values, over more tokens than bfloat16 can count."""
    query, value = (
        torch.ones(1, 600, 1, 1, 4),
        torch.linspace(0, 1, 600).reshape(1, 600, 1, 1, 1).expand(-1, -1, -1, -1, 4),
    )
    query, value = query.bfloat16(), value.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        seen = Running().attend(query, query, value, None)
    wanted = value.double().cumsum(dim=1) / torch.arange(1, 601).reshape(1, 600, 1, 1, 1)
    torch.testing.assert_close(seen.double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_checkpointed_and_traced_blocks_compute_the_same() -> None:
    made, latents, times = model(), drawn(*CLIP), torch.tensor([300.0, 700.0])
    wanted = made(latents, times).sample
    wanted.square().mean().backward()
    gradients = {name: weight.grad.clone() for name, weight in made.named_parameters() if weight.grad is not None}
    made.zero_grad()
    made.checkpoint_units(1)
    made.train()(latents, times).sample.square().mean().backward()
    for name, weight in made.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, gradients[name])
    made.checkpoint_units(0)
    torch._dynamo.reset()
    made.eval().compile_repeated_blocks(backend="eager", fullgraph=True)  # a break of the graph is an error
    torch.testing.assert_close(made(latents, times).sample, wanted)
    with torch.no_grad(), with_past(made) as past:
        with past.held():
            made(latents[:, :, :2], torch.zeros(2))
        here = made(latents[:, :, 2:], times).sample
    given = torch.arange(5).expand(2, -1) < 2
    torch.testing.assert_close(here, made(latents, times, frame_mask=given).sample[:, :, 2:])
    torch._dynamo.reset()


def test_attention_of_all_to_all_is_grown_into_sums() -> None:
    joint = model(("space", "joint"))
    grown, report = grow(joint, axes=("space", "linear"))
    assert grown.config.axes == ("space", "linear")
    assert "sums" in report.grown["axes"]
    theirs = joint.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in grown.state_dict().items())


class Seeing(VideoDiTPipeline):
    """Writes down the seed of each call."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.seeds.append(options["generator"][0].initial_seed())
        return super().__call__(*args, **options)


def pipeline(tiny_pipe: VideoDiTPipeline) -> Seeing:
    parts = dict(tiny_pipe.components) | {"transformer": tiny_dit(axes=("space", "linear")).to(tiny_pipe.device)}
    pipe = Seeing(**parts, default_num_frames=9, default_height=32, default_width=32)
    pipe.set_progress_bar_config(disable=True)
    pipe.seeds = []
    return pipe


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "told"), [(1.0, False), (3.0, False), (3.0, True)])
def test_a_long_clip_goes_on_from_all_that_was(tiny_pipe: VideoDiTPipeline, scale: float, told: bool) -> None:
    """Against a walk in which all frames before are given frames of one clip, and nothing is held."""
    pipe = pipeline(tiny_pipe)
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": scale}
    if told:
        pipe.transformer.add_conditions([Condition("depth", "channels", 4, True, of="vae")])
        awaken(pipe.transformer.condition_embedders)
        shown = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
        options["conditions"] = {"depth": shown}
        maps = pipe.codec.encode(to_pixels(np.concatenate([shown, *[shown[-1:]] * 3]))[None])  # 33 are 9 latents
    frames = np.stack(list(long_clip(pipe, "a red circle", 30, seed=3, **options)))  # nine, twelve, and of twelve nine
    assert pipe.transformer.past is None
    states, mask, null, null_mask = pipe.encode_prompt("a red circle")
    text: dict[str, Any] = {
        "encoder_hidden_states": torch.cat([states, null]),
        "encoder_attention_mask": torch.cat([mask, null_mask]),
    }
    whole = torch.zeros(1, 4, 0, 4, 4, device=states.device)
    assert len(pipe.seeds) == 3
    for seed in pipe.seeds:
        latents = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(seed))[None].to(states.device)
        given = torch.arange(whole.shape[2] + 3, device=states.device).expand(2, -1) < whole.shape[2]
        pipe.scheduler.set_timesteps(3, device=states.device)
        for t in pipe.scheduler.timesteps:
            both = torch.cat([torch.cat([whole, latents], dim=2)] * 2)
            if told:
                text["conditions"] = {"depth": maps[:, :, : both.shape[2]].expand(2, -1, -1, -1, -1)}
                text["conditions_told"] = {"depth": torch.ones(2, dtype=torch.bool, device=both.device)}
            with torch.no_grad():
                said = pipe.transformer(both, t.expand(2), **text, fps=2.0, frame_mask=given).sample
            first, other = said[:, :, -3:].chunk(2)
            latents = pipe.scheduler.step(other + scale * (first - other), t, latents, return_dict=False)[0]
        whole = torch.cat([whole, latents], dim=2)
    np.testing.assert_allclose(frames.astype(int), to_frames(pipe.codec.decode(whole))[0][:30].astype(int), atol=1)


def test_what_cannot_go_on_from_the_past_says_why(tiny_pipe: VideoDiTPipeline) -> None:
    with pytest.raises(ValueError, match=r"overlap=0: only a model whose axes are space and linear"):
        long_clip(tiny_pipe, "a red circle", 30, overlap=0)
    pipe = pipeline(tiny_pipe)
    with pytest.raises(ValueError, match=r"overlap=0: a clip that comes back"):
        long_clip(pipe, "a red circle", 33, loop=True, overlap=0)
    assert long_clip(pipe, "a red circle", 33, loop=True)  # by frames that windows share
    end = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="last_image: no frame of this model sees a later one"):
        pipe(
            "red",
            last_image=end,
            generator=[torch.Generator()],
            num_inference_steps=1,
            height=32,
            width=32,
            num_frames=9,
        )
    with pytest.raises(ValueError, match="only a model whose axes are"), with_past(model(("space", "time"))):
        pass
