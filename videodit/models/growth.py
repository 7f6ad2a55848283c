"""Growth: image weights become a video model that, before it is trained, is the image model on every frame.

New blocks are silent, so they add nothing; a patch over several frames carries the image's weights in one tap; more
latent channels share the weights of the old ones. Every tensor of the result is named in a report: copied, grown by a
rule, or fresh; and what of the source has no place is an error.

Inflation as in AnimateDiff and Open-Sora (zero-initialized temporal branches) and "Quo Vadis" (Carreira & Zisserman
2017, of kernels, here one tap instead of the mean, so that a causal latent's image keeps its place).
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor

from videodit.models.block import DiTBlock
from videodit.models.formats.table import ConversionError, Report
from videodit.models.transformer import VideoDiT


def grow(
    image_model: VideoDiT,
    *,
    axes: tuple[str, ...] = ("space", "time"),
    time_blocks: str = "fresh",
    patch_frames: int | None = None,
    in_channels: int | None = None,
    sample_size: int | None = None,
    qk_norm: bool | tuple[str, ...] | None = None,
    time_positions: str | None = None,
    cross_attention_axes: tuple[str, ...] | None = None,
    caption_channels: int | None = None,
    drop_classes: bool = False,
    sample_fps: float | None = None,
    seed: int = 0,
) -> tuple[VideoDiT, Report]:
    """A video model with an image model's weights.

    Args:
        image_model: usually of `space` blocks alone; a model with `time` blocks can be grown further.
        axes: the new pattern; the old one must lie in it, in order. Blocks between are new, and silent.
        time_blocks: `fresh`, new blocks are initialized, or `copied` from their neighbour in `space` (and silenced).
        patch_frames: latent frames a token, from one upwards: the last tap carries the weights. None: as it is.
        in_channels: more latent channels. Each new channel reads and writes what channel number `new % old` did; inputs
            are divided among those that share one. None: as it is.
        sample_size: tokens a side that count as the model's own; the places in between are interpolated. None: as is.
        qk_norm: QK-norm in all self-attention, in none, or along these axes. None: the new blocks alone have it. Asked
            for along an axis that had none, it changes what the model computes, and the report says so.
        time_positions: `rotary`, `sincos` or `both`. None: the model's own, or rotary where it looked along no time. To
            change a model's own changes what it computes, and the report says so; sin-cos positions are added to the
            states of all blocks, so an image model can be given rotary ones, or both (the added ones silent), only.
        cross_attention_axes: axes whose blocks read the text. None: the model's own choice; without one, all.
        caption_channels: gives a model without text cross-attention, silent at first, to states of this width.
        drop_classes: of a model that is told a class, keep what it does when told "none": the way from a DiT to a model
            that is told a text.
        sample_fps: latent frames a second where a call names none. None: as it is.
        seed: of all that is initialized.

    Returns:
        The model, in evaluation mode, and what became of every tensor.

    Raises:
        ConversionError: the old pattern does not lie in the new one, or a change would lose weights.
    """
    old = dict(image_model.config)
    was = tuple(old["axes"])
    origin = _origins(was, tuple(axes))
    if time_blocks not in ("fresh", "copied"):
        raise ConversionError(f"time_blocks={time_blocks!r} must be fresh or copied")
    if time_blocks == "copied" and None not in origin:
        raise ConversionError(f"time_blocks='copied': axes={list(axes)} has no new blocks")
    had = {axis for axis in was if (old["qk_norm"] if isinstance(old["qk_norm"], bool) else axis in old["qk_norm"])}
    new_axes = {axis for axis, source in zip(axes, origin, strict=True) if source is None} - set(was)
    if qk_norm is None:
        qk_norm = tuple(sorted(had | new_axes)) or False
    if had - set(_normed(qk_norm, axes)):
        raise ConversionError(f"qk_norm={qk_norm}: this model has QK-norm along {sorted(had)}, which would be lost")
    pt = old["patch_size"][0] if patch_frames is None else patch_frames
    if pt < 1 or old["patch_size"][0] not in (1, pt):
        raise ConversionError(
            f"patch_frames={pt}: this model has {old['patch_size'][0]} and can be grown from 1 upwards"
        )
    channels = old["in_channels"] if in_channels is None else in_channels
    halves = image_model.out_channels // old["in_channels"]
    if channels < old["in_channels"]:
        raise ConversionError(f"in_channels={channels}: this model has {old['in_channels']}, and some would be lost")
    if halves * old["in_channels"] != image_model.out_channels:
        raise ConversionError(f"{image_model.out_channels} outputs of {old['in_channels']} channels cannot be grown")
    for name, value in (("sample_size", sample_size), ("sample_fps", sample_fps)):
        if value is not None and not value > 0:
            raise ConversionError(f"{name}={value} must be positive")
    if caption_channels is not None and old["caption_channels"] not in (None, caption_channels):
        raise ConversionError(
            f"caption_channels={caption_channels}: this model reads states of {old['caption_channels']}"
        )
    if drop_classes and old["num_classes"] is None:
        raise ConversionError("drop_classes: this model is told no class")
    reads = (old["cross_attention_axes"] or was) if old["caption_channels"] else ()
    if cross_attention_axes is not None:
        if not (reads or caption_channels):
            raise ConversionError(f"cross_attention_axes={list(cross_attention_axes)}: this model reads no text")
        if set(reads) - set(cross_attention_axes):
            raise ConversionError(
                f"cross_attention_axes={list(cross_attention_axes)}: the text of {list(reads)} would be lost"
            )
    looked = bool({"time", "joint"} & set(was))
    positions = time_positions or (old["time_positions"] if looked else "rotary")
    if positions == "sincos" and not looked:
        raise ConversionError(
            "time_positions='sincos' would change what the image model computes; choose rotary or both"
        )
    if sample_size is not None and (old["sample_size"] is None or positions == "grid"):
        raise ConversionError(f"sample_size={sample_size}: the places of this model are of no size of its own")
    size = sample_size or old["sample_size"]
    config = {key: value for key, value in old.items() if not key.startswith("_")} | {
        "axes": tuple(axes),
        "patch_size": (pt, *old["patch_size"][1:]),
        "in_channels": channels,
        "out_channels": halves * channels,
        "sample_size": size,
        "interpolation_scale": old["interpolation_scale"] * (size / old["sample_size"] if sample_size else 1.0),
        "qk_norm": qk_norm,
        "time_positions": positions,
        "cross_attention_axes": cross_attention_axes or old["cross_attention_axes"],
        "caption_channels": caption_channels or old["caption_channels"],
        "num_classes": None if drop_classes else old["num_classes"],
        "sample_fps": sample_fps or old["sample_fps"],
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VideoDiT(**config)
    report = _fill(model, image_model, origin, time_blocks, had)
    if looked and positions != old["time_positions"] and (old["time_positions"], positions) != ("rotary", "both"):
        report.grown["time_positions"] = f"{old['time_positions']} before: this changes what the model computes"
    return model.eval(), report


def _normed(qk_norm: bool | tuple[str, ...], axes: tuple[str, ...]) -> tuple[str, ...]:
    return (axes if qk_norm else ()) if isinstance(qk_norm, bool) else tuple(qk_norm)


def _origins(was: tuple[str, ...], axes: tuple[str, ...]) -> list[int | None]:
    """For each block of the new pattern its number in the old one, or None where it is new."""
    origin: list[int | None] = []
    place = 0
    for axis in axes:
        known = place < len(was) and was[place] == axis
        origin.append(place if known else None)
        place += known
    if place < len(was):
        raise ConversionError(f"axes={list(axes)}: the model's own pattern {list(was)} does not lie in it, in order")
    return origin


def _fill(model: VideoDiT, source: VideoDiT, origin: list[int | None], time_blocks: str, had: set[str]) -> Report:
    report, theirs, ours = Report(), source.state_dict(), model.state_dict()
    old, period = len(source.config.axes), len(origin)
    neighbour = next((i for i, axis in enumerate(source.config.axes) if axis == "space"), 0)
    used = set()
    for name in ours:
        where, why = name, ""
        if name.startswith("blocks.") or (name.startswith("embedders.") and not source.config.shared_embedder):
            part, index, rest = name.split(".", 2)
            layer, place = divmod(int(index), period)
            before = origin[place]
            if before is None and part == "blocks":
                why = "a new block, silent"
                if time_blocks == "fresh":
                    report.fresh[name] = why
                    continue
            where = f"{part}.{layer * old + (neighbour if before is None else before)}.{rest}"
        if where not in theirs:
            report.fresh[name] = why or _why_fresh(name, model, had)
            continue
        used.add(where)
        tensor, rule = _changed(name, theirs[where], model, source)
        table = where.replace("timestep_embedder.linear_2.bias", "class_embedder.weight")
        if table != where and table in theirs and table not in ours:
            tensor, rule = tensor + theirs[table][-1], 'the class "none" added'
            report.dropped[table] = 'all but the class "none"'
            used.add(table)
        ours[name] = tensor.clone()
        if rule or why:
            report.grown[name] = f"{where}: {rule or why}"
        else:
            report.copied[name] = where
    if left := sorted(set(theirs) - used):
        raise ConversionError(f"{len(left)} tensors of the source would be lost: {', '.join(left[:5])}")
    fp32 = VideoDiT._keep_in_fp32_modules
    for name in report.fresh.keys() & ours.keys():  # as from_pretrained would load them
        ours[name] = ours[name] if any(part in name for part in fp32) else ours[name].to(source.dtype)
    model.load_state_dict(ours, assign=True)
    for i, block in enumerate(model.blocks):
        assert isinstance(block, DiTBlock)
        if origin[i % period] is None and (block.modulation is None or time_blocks == "copied"):
            block.silence()
    return report


def _why_fresh(name: str, model: VideoDiT, had: set[str]) -> str:
    """Why a tensor has no counterpart in the source; ConversionError where there is no good reason."""
    if name == "time_scale":
        return "scale of the added time positions, zero"
    if name.startswith("caption_projection.") or ".attn2." in name or ".norm_cross." in name:
        return "cross-attention to a text, silent"
    if ".norm_q." in name or ".norm_k." in name:
        axis = model.blocks[int(name.split(".")[1])].axis
        return "QK-norm" if axis in had else "QK-norm: this changes what the model computes; train it"
    raise ConversionError(f"{name}: the source has nothing to make it from")


def _changed(name: str, tensor: Tensor, model: VideoDiT, source: VideoDiT) -> tuple[Tensor, str]:
    """A tensor of the tokenizer or the head at the new patch and channels, and the rule; others as they are."""
    (pt, ph, pw), before = model.patch_size, source.patch_size[0]
    channels, was = model.config.in_channels, source.config.in_channels
    if (pt, channels) == (before, was) or not (name.startswith("proj_out.") or name == "patch_embed.proj.weight"):
        return tensor, ""
    rules = []
    take = torch.arange(channels) % was
    if name == "patch_embed.proj.weight":
        kernel = rearrange(tensor, "d (c pt ph pw) -> d c pt ph pw", c=was, ph=ph, pw=pw)
        if channels != was:
            shared = torch.bincount(take, minlength=was)[take].to(tensor)
            kernel = kernel[:, take] / rearrange(shared, "c -> c 1 1 1")
            rules.append(f"{was} channels shared by {channels}, divided")
        if pt != before:
            taps = kernel.new_zeros(*kernel.shape[:2], pt, ph, pw)
            taps[:, :, -1:] = kernel
            kernel = taps
            rules.append(f"in the last of {pt} taps, zeros before")
        return rearrange(kernel, "d c pt ph pw -> d (c pt ph pw)"), ", ".join(rules)
    halves = source.out_channels // was
    rows = rearrange(tensor, "(pt ph pw half c) ... -> pt ph pw half c ...", ph=ph, pw=pw, half=halves, c=was)
    if channels != was:
        rows = rows[:, :, :, :, take]
        rules.append(f"{was} channels repeated to {channels}")
    if pt != before:
        rows = repeat(rows, "1 ... -> pt ...", pt=pt)
        rules.append(f"repeated for each of {pt} frames")
    return rearrange(rows, "pt ph pw half c ... -> (pt ph pw half c) ..."), ", ".join(rules)
