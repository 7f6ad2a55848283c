"""Growth: image weights become a video model that is the image model until it is trained, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import awaken, tiny_dit

from videodit.models.formats.files import to_diffusers
from videodit.models.formats.table import ConversionError
from videodit.models.growth import grow
from videodit.models.transformer import VideoDiT


def image_model(norm_type: str = "ada_norm_single", **config: object) -> VideoDiT:
    kind: dict = {"qk_norm": False, "axes": ("space",), "out_channels": 8}
    if norm_type == "ada_norm_zero":
        kind |= {"norm_type": norm_type, "num_classes": 5, "caption_channels": None}
    return tiny_dit(**(kind | config))


def call(model: VideoDiT, x: torch.Tensor) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    t = torch.tensor([10.0, 700.0])
    if model.config.num_classes is not None:
        kwargs = {"class_labels": torch.tensor([1, 5])}
        if model.config.caption_channels:
            kwargs["encoder_hidden_states"] = torch.randn(2, 5, model.config.caption_channels, generator=g)
        return model(x, t, **kwargs).sample
    return model(x, t, torch.randn(2, 5, 24, generator=g)).sample


@pytest.mark.parametrize("norm_type", ["ada_norm_single", "ada_norm_zero"])
@pytest.mark.parametrize("time_blocks", ["fresh", "copied"])
@pytest.mark.parametrize("axes", [("space", "time"), ("time", "space"), ("space", "joint"), ("space", "time", "joint")])
def test_image_law_a_grown_model_is_the_image_model_on_every_frame(
    axes: tuple[str, ...], time_blocks: str, norm_type: str
) -> None:
    image = image_model(norm_type)
    video, report = grow(image, axes=axes, time_blocks=time_blocks, sample_fps=4.0)
    x = torch.randn(2, 4, 8, 8, 8)
    clip = call(video, x)
    for frame in range(8):
        expected = call(image, x[:, :, frame : frame + 1])
        assert (clip[:, :, frame : frame + 1] - expected).norm() < 1e-5 * expected.norm()
    assert len(report.copied) + len(report.grown) + len(report.fresh) == len(video.state_dict())
    assert set(report.copied) | set(report.grown) == set(video.state_dict()) - set(report.fresh)
    assert bool(report.fresh) == (time_blocks == "fresh" or video.config.qk_norm is not False)


@pytest.mark.parametrize("norm_type", ["ada_norm_single", "ada_norm_zero"])
@pytest.mark.parametrize("time_blocks", ["fresh", "copied"])
@pytest.mark.parametrize(("had", "layers", "kept"), [(2, 5, [0, 4]), (3, 4, [0, 2, 3]), (1, 3, [0]), (2, 2, [0, 1])])
def test_a_deeper_model_is_the_model_and_the_old_layers_lie_spread_in_it(
    had: int, layers: int, kept: list[int], time_blocks: str, norm_type: str
) -> None:
    old = image_model(norm_type, num_layers=had, shared_embedder=norm_type == "ada_norm_single")
    with torch.no_grad():  # of `ada_norm_zero` blocks are silent as they are built
        for weight in old.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    deep, report = grow(old, axes=("space", "time"), num_layers=layers, time_blocks=time_blocks)
    assert deep.config.num_layers == layers
    x = torch.randn(2, 4, 5, 8, 8)
    expected = torch.cat([call(old, x[:, :, frame : frame + 1]) for frame in range(5)], dim=2)
    assert (call(deep, x) - expected).norm() < 1e-5 * expected.norm()
    for layer, place in enumerate(kept):
        theirs, ours = old.blocks[layer].state_dict(), deep.blocks[2 * place].state_dict()
        assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    new = [number for number in range(2 * layers) if number % 2 or number // 2 not in kept]
    told = report.fresh if time_blocks == "fresh" else report.grown
    assert {int(name.split(".")[1]) for name in told if name.startswith("blocks.")} >= set(new)


def test_fewer_layers_are_refused() -> None:
    with pytest.raises(ConversionError, match="num_layers=1: this model has 2"):
        grow(image_model(num_layers=2), num_layers=1)


@pytest.mark.slow
@pytest.mark.parametrize("norm_type", ["ada_norm_single", "ada_norm_zero"])
@pytest.mark.parametrize("time_blocks", ["fresh", "copied"])
def test_silent_blocks_are_not_dead(time_blocks: str, norm_type: str) -> None:
    """Gradients reach them, so that training wakes them; an image stays what it was, bit for bit."""
    video, _ = grow(image_model(norm_type), time_blocks=time_blocks)
    x = torch.randn(2, 4, 3, 8, 8)
    before, image_before = call(video, x).detach(), call(video, x[:, :, :1]).detach()
    time = [p for block in video.blocks if block.axis == "time" for p in block.parameters()]
    optimizer = torch.optim.SGD(time, 0.1)
    for _ in range(20):
        call(video, x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (call(video, x) - before).abs().max() > 1e-4
    assert torch.equal(call(video, x[:, :, :1]), image_before)


@pytest.mark.parametrize("patch_frames", [2, 4])
def test_a_patch_in_time_carries_the_image_in_its_last_tap(patch_frames: int) -> None:
    image = image_model()
    video, report = grow(image, patch_frames=patch_frames)
    x = torch.randn(2, 4, 2 * patch_frames, 8, 8)
    torch.testing.assert_close(call(video, x[:, :, :1]), call(image, x[:, :, :1]))
    clip = call(video, x)
    for last in (patch_frames - 1, 2 * patch_frames - 1):  # the last frame of a patch decides for all of it
        expected = call(image, x[:, :, last : last + 1])
        for frame in range(last - patch_frames + 1, last + 1):
            torch.testing.assert_close(clip[:, :, frame : frame + 1], expected, rtol=1e-4, atol=1e-4)
    assert set(report.grown) >= {"patch_embed.proj.weight", "proj_out.weight", "proj_out.bias"}


def test_more_latent_channels_share_the_old_ones() -> None:
    """A latent whose new channels repeat the old ones gives the old prediction, repeated, in both halves."""
    image = image_model()
    video, _ = grow(image, in_channels=10)
    assert (video.config.in_channels, video.out_channels) == (10, 20)
    x = torch.randn(2, 4, 1, 8, 8)
    expected = call(image, x)
    take = torch.arange(10) % 4
    actual = call(video, x[:, take])
    torch.testing.assert_close(
        actual, torch.cat([expected[:, take], expected[:, 4 + take]], dim=1), rtol=1e-4, atol=1e-4
    )
    fewer, _ = grow(image, in_channels=4, patch_frames=2)
    assert fewer.config.in_channels == 4


def test_another_sample_size_interpolates_the_places() -> None:
    """At any size a picture has, the numbers stay; what counts as the model's own size is another."""
    image = image_model()
    video, _ = grow(image, sample_size=8)
    assert (video.config.sample_size, video.config.interpolation_scale) == (8, 2.0)
    for side in (8, 16):
        x = torch.randn(2, 4, 1, side, side)
        torch.testing.assert_close(call(video, x), call(image, x), rtol=1e-4, atol=1e-4)


def test_qk_norm_is_had_by_the_new_blocks_alone_unless_asked_for() -> None:
    image = image_model()
    video, report = grow(image)
    assert list(video.config.qk_norm) == ["time"]
    assert all("changes" not in why for why in report.fresh.values())
    everywhere, report = grow(image, qk_norm=True)
    assert any("changes what the model computes" in why for why in report.fresh.values())
    assert everywhere.blocks[0].attn1.norm_q.weight.shape == (16,)
    with pytest.raises(ConversionError, match=r"QK-norm along \['space'\], which would be lost"):
        grow(image_model(qk_norm=True), qk_norm=False)


def test_a_class_model_learns_to_read() -> None:
    """A DiT is given cross-attention that adds nothing until it is trained."""
    image = image_model("ada_norm_zero")
    video, report = grow(image, caption_channels=12, cross_attention_axes=("space",))
    x = torch.randn(2, 4, 3, 8, 8)
    expected = torch.cat([call(image, x[:, :, f : f + 1]) for f in range(3)], dim=2)
    torch.testing.assert_close(call(video, x), expected, rtol=1e-4, atol=1e-4)
    assert any(name.startswith("caption_projection.") for name in report.fresh)
    assert video.blocks[0].attn2 is not None
    assert video.blocks[1].attn2 is None


def test_a_class_model_without_its_classes_does_what_it_did_for_none() -> None:
    image = image_model("ada_norm_zero")
    video, report = grow(image, caption_channels=12, drop_classes=True)
    x, t = torch.randn(2, 4, 1, 8, 8), torch.tensor([10.0, 700.0])
    expected = image(x, t, class_labels=torch.tensor([5, 5])).sample
    torch.testing.assert_close(video(x, t, torch.randn(2, 3, 12)).sample, expected, rtol=1e-4, atol=1e-5)
    assert report.dropped == {"embedders.0.class_embedder.weight": 'all but the class "none"'}
    with pytest.raises(ValueError, match="takes no class_labels"):
        video(x, t, torch.randn(2, 3, 12), class_labels=torch.tensor([1, 1]))


def test_a_video_model_grows_on() -> None:
    """Latte's structure keeps its sin-cos times; asked for rotary ones, the report says that numbers change."""
    latte = tiny_dit(qk_norm=False, cross_attention_axes=("space",), time_positions="sincos", out_channels=8)
    x = torch.randn(2, 4, 4, 8, 8)
    same, report = grow(latte, patch_frames=1)
    torch.testing.assert_close(call(same, x), call(latte, x))
    assert not report.fresh
    both, report = grow(image_model(), time_positions="both")
    assert report.fresh["time_scale"] == "scale of the added time positions, zero"
    expected = torch.cat([call(image_model(), x[:, :, f : f + 1]) for f in range(4)], dim=2)
    torch.testing.assert_close(call(both, x), expected, rtol=1e-4, atol=1e-5)
    rotary, report = grow(latte, time_positions="rotary")
    assert "changes what the model computes" in report.grown["time_positions"]
    assert not torch.allclose(call(rotary, x), call(latte, x))
    assert grow(latte, patch_frames=2)[0].config.patch_size == (2, 2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": ("time", "joint")}, r"pattern \['space'\] does not lie in it"),
        ({"axes": ("depth",)}, "pattern"),
        ({"caption_channels": 12}, "reads states of 24"),
        ({"cross_attention_axes": ("time",)}, r"the text of \['space'\] would be lost"),
        ({"in_channels": 2}, "in_channels=2: this model has 4, and some would be lost"),
        ({"patch_frames": 0}, "patch_frames=0"),
        ({"sample_size": -4}, "sample_size=-4 must be positive"),
        ({"sample_fps": 0.0}, r"sample_fps=0\.0 must be positive"),
        ({"time_positions": "sincos"}, "would change what the image model computes; choose rotary or both"),
        ({"drop_classes": True}, "told no class"),
        ({"time_blocks": "cpoied"}, "'cpoied' must be fresh or copied"),
        ({"time_blocks": "copied", "axes": ("space",)}, "no new blocks"),
    ],
)
def test_what_would_lose_weights_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        grow(image_model(), **changes)


def test_what_would_lose_weights_is_refused_of_other_models() -> None:
    with pytest.raises(ConversionError, match="grown from 1 upwards"):
        grow(image_model(patch_size=(2, 2, 2)), patch_frames=4)
    with pytest.raises(ConversionError, match="reads no text"):
        grow(image_model("ada_norm_zero"), cross_attention_axes=("space",))


def test_a_joint_model_keeps_its_positions() -> None:
    model = tiny_dit(axes=("joint",), qk_norm=False, time_positions="sincos", out_channels=8)
    grown, report = grow(model, axes=("joint", "space"))
    x = torch.randn(2, 4, 3, 8, 8)
    torch.testing.assert_close(call(grown, x), call(model, x), rtol=1e-4, atol=1e-5)
    assert "time_positions" not in report.grown


def test_each_weight_keeps_its_precision(tmp_path: Path) -> None:
    """A model loaded in bfloat16 keeps its modulation in float32; so does what is grown from it."""
    image_model().save_pretrained(tmp_path)
    image = VideoDiT.from_pretrained(tmp_path, dtype=torch.bfloat16)
    video, _ = grow(image)
    dtypes = {name: tensor.dtype for name, tensor in image.state_dict().items()}
    assert len(set(dtypes.values())) == 2
    for name, tensor in video.state_dict().items():
        axis = video.blocks[int(name.split(".")[1])].axis if name.startswith("blocks.") else ""
        kept = any(part in name for part in ("adaln_single", "scale_shift_table"))
        assert tensor.dtype == (torch.float32 if kept else torch.bfloat16), (name, axis)
    x = torch.randn(2, 4, 3, 8, 8, dtype=torch.bfloat16)
    g = torch.Generator().manual_seed(1)
    text, t = torch.randn(2, 5, 24, generator=g, dtype=torch.bfloat16), torch.tensor([10.0, 700.0])
    clip = video(x, t, text).sample
    for frame in range(3):
        still = image(x[:, :, frame : frame + 1], t, text).sample
        torch.testing.assert_close(clip[:, :, frame : frame + 1], still, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("config", "family", "message"),
    [
        ({}, "pixart", r"PixArtTransformer2DModel needs axes=\['space'\]"),
        ({"axes": ("space",)}, "pixart", "needs qk_norm=False"),
        ({"axes": ("space",), "qk_norm": False, "mlp_ratio": 2.0}, "pixart", r"needs mlp_ratio=4\.0"),
        ({"axes": ("space",), "qk_norm": False, "patch_size": (2, 2, 2)}, "pixart", "square patches of one frame"),
        ({"qk_norm": False}, "latte", r"needs cross_attention_axes=\['space'\], but this model has None"),
        ({"qk_norm": False, "cross_attention_axes": ("space",)}, "latte", "needs time_positions='sincos'"),
        ({"axes": ("space",), "qk_norm": False}, "dit", "needs norm_type='ada_norm_zero'"),
        ({}, "mochi", "none of dit, pixart, latte, wan"),
    ],
)
def test_what_a_diffusers_class_cannot_hold_is_named(config: dict, family: str, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        to_diffusers(tiny_dit(**config), family)


def test_fresh_weights_follow_from_the_seed() -> None:
    image = image_model()
    first, again, other = (grow(image, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert awaken(image) is image
