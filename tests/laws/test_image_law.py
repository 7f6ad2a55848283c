"""Image law: a clip of one frame gives exactly what the image model gives."""

from __future__ import annotations

import torch
from tiny import tiny_dit, tiny_wan

from videodit.codec import VideoCodec
from videodit.models.transformer import VideoDiT


def image_model_of(video: VideoDiT) -> VideoDiT:
    """The `space` blocks alone, as a model of images."""
    image = tiny_dit(axes=("space",))
    weights = {k: v for k, v in video.state_dict().items() if not k.startswith("blocks.")}
    spatial = [i for i, block in enumerate(video.blocks) if block.axis == "space"]
    for place, i in enumerate(spatial):
        prefix = f"blocks.{i}."
        weights |= {
            f"blocks.{place}.{k.removeprefix(prefix)}": v for k, v in video.state_dict().items() if k.startswith(prefix)
        }
    image.load_state_dict(weights)
    return image


def test_image_law_one_frame_is_the_image_model_bit_for_bit() -> None:
    video = tiny_dit()
    x, t, text = torch.randn(2, 4, 1, 8, 8), torch.tensor([10.0, 700.0]), torch.randn(2, 5, 24)
    assert torch.equal(video(x, t, text).sample, image_model_of(video)(x, t, text).sample)


def test_image_law_silent_time_blocks_give_the_image_model_on_every_frame() -> None:
    video = tiny_dit()
    for block in video.blocks:
        if block.axis == "time":
            block.silence()
    image = image_model_of(video)
    x, t, text = torch.randn(2, 4, 8, 8, 8), torch.tensor([10.0, 700.0]), torch.randn(2, 5, 24)
    clip = video(x, t, text).sample
    for frame in range(8):
        expected = image(x[:, :, frame : frame + 1], t, text).sample
        torch.testing.assert_close(clip[:, :, frame : frame + 1], expected, rtol=1e-5, atol=1e-5)


def test_image_law_fresh_time_blocks_are_silent() -> None:
    torch.manual_seed(0)
    model = VideoDiT(in_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=16, caption_channels=24)
    x, modulation, text = torch.randn(2, 3, 4, 32), torch.randn(2, 1, 192), torch.randn(2, 5, 32)
    for block in model.blocks:
        assert torch.equal(block(x, modulation, text), x) == (block.axis == "time")


def test_image_law_an_image_with_a_patch_in_time() -> None:
    """A patch of two frames sees an image in its last tap: the image model's weights are that tap."""
    video, image = tiny_dit(patch_size=(2, 2, 2)), tiny_dit(axes=("space",))
    weights = image_model_of(tiny_dit()).state_dict() | {
        k: v for k, v in image.state_dict().items() if k.startswith("blocks.")
    }
    own = video.state_dict()
    for place, i in enumerate(i for i, b in enumerate(video.blocks) if b.axis == "space"):
        own |= {
            k.replace(f"blocks.{place}.", f"blocks.{i}."): v
            for k, v in weights.items()
            if k.startswith(f"blocks.{place}.")
        }
    for name in ("scale_shift_table", "adaln_single.linear.weight", "adaln_single.linear.bias"):
        own[name] = weights[name]
    own |= {k: v for k, v in weights.items() if k.startswith(("adaln_single", "caption_projection"))}
    taps = torch.randn(32, 4, 2, 2, 2)
    taps[:, :, 1] = weights["patch_embed.proj.weight"].reshape(32, 4, 2, 2)
    own["patch_embed.proj.weight"], own["patch_embed.proj.bias"] = (
        taps.reshape(32, -1),
        weights["patch_embed.proj.bias"],
    )
    own["proj_out.weight"] = torch.cat([torch.randn(16, 32), weights["proj_out.weight"]])
    own["proj_out.bias"] = torch.cat([torch.randn(16), weights["proj_out.bias"]])
    video.load_state_dict(own)
    image.load_state_dict(weights)
    x, t, text = torch.randn(2, 4, 1, 8, 8), torch.tensor([10.0, 700.0]), torch.randn(2, 5, 24)
    torch.testing.assert_close(video(x, t, text).sample, image(x, t, text).sample, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_image_law_the_codec_of_the_package_is_causal() -> None:
    codec = VideoCodec(tiny_wan())
    clip = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    latents = codec.encode(clip)
    torch.testing.assert_close(codec.encode(clip[:, :, :1]), latents[:, :, :1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(codec.decode(latents[:, :, :1]), codec.decode(latents)[:, :, :1], rtol=1e-6, atol=1e-6)
