"""Growth: image weights become a video model that, before it is trained, is the image model on every frame.

New blocks are silent, so they add nothing; a patch over several frames carries the image's weights in one tap; more
latent channels share the weights of the old ones. Every tensor of the result is named in a report: copied, grown by a
rule, or fresh; and what of the source has no place is an error.

Inflation as in AnimateDiff and Open-Sora (zero-initialized temporal branches) and "Quo Vadis" (Carreira & Zisserman
2017, of kernels, here one tap instead of the mean, so that a causal latent's image keeps its place).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers.configuration_utils import FrozenDict
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import pad

from videodit.models.formats.table import ConversionError, Report
from videodit.models.transformer import VideoDiT

# in place of attention of all to all: what becomes of it
SEEN = {
    "window": "what is farther away than a window is no longer seen",
    "linear": "what is later is no longer seen, and of the rest sums: to be trained anew",
}


def grow(
    image_model: VideoDiT,
    *,
    axes: tuple[str, ...] = ("space", "time"),
    window: tuple[int, int, int] | None = None,
    num_layers: int | None = None,
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
    skips: str | None = None,
    seed: int = 0,
) -> tuple[VideoDiT, Report]:
    """A video model with an image model's weights.

    Args:
        image_model: usually of `space` blocks alone; a model with `time` blocks can be grown further.
        axes: the new pattern; the old one must lie in it, in order. Blocks between are new, and silent. Those of all to
            all become windows, or sums, where the pattern has `window` or `linear` and no `joint`: the same weights,
            which see what is near, or sums over what is not later.
        window: of `window` blocks, as in `VideoDiT`. None: as it is.
        num_layers: turns of the pattern, from the model's own upwards: what is new stands spread between the old ones,
            silent, so that a model goes on from what it has learned with more weights. None: as it is.
        time_blocks: `fresh`, new blocks are initialized, or `copied` (and silenced): along a new axis from their
            neighbour in `space`, in a new turn from the turn before.
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
        skips: `long` gives it long skips, silent at first. None: as it is.
        seed: of all that is initialized.

    Returns:
        The model, in evaluation mode, and what became of every tensor.

    Raises:
        ConversionError: the old pattern does not lie in the new one, or a change would lose weights.
        ValueError: an image model with time blocks behind its own (`TimeExtended`).
    """
    if not isinstance(image_model, VideoDiT):
        raise ValueError(f"{type(image_model).__name__} is extended already: train it as it is")
    old = _instead_of_joint(image_model.config, axes)
    was, origin = set(old.axes), _origins(old.axes, axes)
    layers = old.num_layers if num_layers is None else num_layers
    had, fresh = _normed(old.qk_norm, old.axes), {a for a, i in zip(axes, origin, strict=True) if i is None} - was
    if qk_norm is None:
        normed = tuple(sorted(had | fresh))
        qk_norm = set(normed) >= set(axes) or normed or False
    (before, *patch), inputs, outputs = image_model.patch_size, image_model.in_channels, image_model.out_channels
    pt = before if patch_frames is None else patch_frames
    channels = inputs if in_channels is None else in_channels
    states, text = old.caption_channels or caption_channels, list(cross_attention_axes or ())
    reads = list(old.cross_attention_axes or old.axes) if old.caption_channels else []
    sized = old.sample_size is not None and old.time_positions != "grid"
    looked = was != {"space"}
    positions = time_positions or (old.time_positions if looked else "rotary")
    for wrong, why in (
        (time_blocks not in ("fresh", "copied"), f"{time_blocks=} must be fresh or copied"),
        (layers < old.num_layers, f"{num_layers=}: this model has {old.num_layers}, and some would be lost"),
        (
            time_blocks == "copied" and None not in origin and layers == old.num_layers,
            f"{time_blocks=}: axes={list(axes)} has no new blocks",
        ),
        (had - _normed(qk_norm, axes), f"{qk_norm=}: this model has QK-norm along {sorted(had)}, which would be lost"),
        (
            any(one.kind == "tokens" or one.branch for one in image_model.own_conditions)
            and (layers != old.num_layers or tuple(axes) != tuple(old.axes)),
            "a model that is told tokens, or has a branch, reads behind blocks of a number, which would be others",
        ),
        (
            old.skips and (layers != old.num_layers or tuple(axes) != tuple(old.axes)),
            "long skips are between blocks of a number, which would be others",
        ),
        (
            pt != before and any(one.kind == "channels" for one in image_model.own_conditions),
            f"{patch_frames=}: a model that is told maps reads them frame by frame",
        ),
        (pt < 1 or before not in (1, pt), f"{patch_frames=}: this model has {before} and can be grown from 1 upwards"),
        (channels < inputs, f"{in_channels=}: this model has {inputs}, and some would be lost"),
        (channels != inputs and outputs % inputs, f"{in_channels=}: {outputs} outputs of {inputs} cannot be grown"),
        (sample_size is not None and not sample_size > 0, f"{sample_size=} must be positive"),
        (sample_size and not sized, f"{sample_size=}: the places of this model are of no size of its own"),
        (sample_fps is not None and not sample_fps > 0, f"{sample_fps=} must be positive"),
        (caption_channels not in (None, states), f"{caption_channels=}: this model reads states of {states}"),
        (text and not states, f"cross_attention_axes={text}: this model reads no text"),
        (text and set(reads) - set(text), f"cross_attention_axes={text}: the text of {reads} would be lost"),
        (drop_classes and old.num_classes is None, "drop_classes: this model is told no class"),
        (
            not looked and positions == "sincos",
            f"{time_positions=} would change what the image model computes; choose rotary or both",
        ),
    ):
        if wrong:
            raise ConversionError(why)
    config = {key: value for key, value in old.items() if not key.startswith("_")} | {
        "axes": tuple(axes),
        "window": window or old.window,
        "num_layers": layers,
        "patch_size": (pt, *patch) if pt != before else old.patch_size,
        "in_channels": channels,
        "out_channels": outputs * channels // inputs,
        "sample_size": sample_size or old.sample_size,
        "interpolation_scale": old.interpolation_scale * (sample_size / old.sample_size if sample_size else 1.0),
        "qk_norm": qk_norm,
        "time_positions": positions,
        "cross_attention_axes": cross_attention_axes or old.cross_attention_axes,
        "caption_channels": caption_channels or old.caption_channels,
        "num_classes": None if drop_classes else old.num_classes,
        "sample_fps": sample_fps or old.sample_fps,
        "skips": skips or old.skips,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VideoDiT(**config)
    report = _fill(model, image_model, origin, time_blocks == "copied")
    if looked and positions != old.time_positions and (old.time_positions, positions) != ("rotary", "both"):
        report.grown["time_positions"] = f"{old.time_positions} before: this changes what the model computes"
    if old.axes != image_model.config.axes:
        report.grown["axes"] = next(f"joint before: {SEEN[axis]}" for axis in SEEN if axis in axes)
    return model.eval(), report


def flow_map_of(teacher: VideoDiT, gate: float = 0.25) -> VideoDiT:
    """A flow map that is its teacher to whatever time it is asked to go, at whatever scale of guidance: its second time
    and the scale are silent, and what the sum of the two times takes from the first is made up for.

    Raises:
        ValueError: a model that is no VideoDiT, is a flow map or is told a scale already, or has not one embedding of
            the time for all blocks.
    """
    if not isinstance(teacher, VideoDiT):
        raise ValueError(f"a {type(teacher).__name__} stays as it is; a flow map is made of a VideoDiT")
    if teacher.config.flow_map_gate is not None:
        raise ValueError("this model is a flow map already")
    if teacher.config.guidance_embeds or teacher.config.norm_type != "ada_norm_single":
        raise ValueError("a flow map is made of a model with norm_type='ada_norm_single' that is told no guidance")
    if not 0 < gate < 1:
        raise ValueError(f"{gate=} must lie between 0 and 1")
    config = {key: value for key, value in teacher.config.items() if not key.startswith("_")}
    model = VideoDiT(**config | {"flow_map_gate": gate, "guidance_embeds": True})
    ours = model.state_dict() | {name: value.clone() for name, value in teacher.state_dict().items()}
    for name in ("weight", "bias"):
        ours[f"adaln_single.emb.timestep_embedder.linear_2.{name}"] /= 1 - gate
    model.load_state_dict(ours, assign=True)
    return model.train(teacher.training)


def _normed(qk_norm: bool | tuple[str, ...], axes: tuple[str, ...]) -> set[str]:
    return set(axes if qk_norm else ()) if isinstance(qk_norm, bool) else set(qk_norm)


def _instead_of_joint(config: FrozenDict, axes: tuple[str, ...]) -> FrozenDict:
    """The configuration as if attention of all to all were in windows or as sums, where the new pattern has one of
    these in its place."""
    cheaper = [axis for axis in SEEN if axis in axes and axis not in config.axes]
    if len(cheaper) != 1 or "joint" in axes:
        return config
    some = {key: config[key] for key in ("axes", "qk_norm", "cross_attention_axes")}
    near = {
        key: tuple(cheaper[0] if axis == "joint" else axis for axis in value)
        for key, value in some.items()
        if isinstance(value, tuple | list)
    }
    return FrozenDict(**config | near)


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


def _layers(old: int, new: int) -> list[tuple[int, bool]]:
    """For each layer of `new` the old one that it is or, if it is new (True), that stands before it: the first and the
    last stay what they are, and the others lie evenly between."""
    places = [(2 * layer * (new - 1) + old - 1) // (2 * (old - 1)) if old > 1 else 0 for layer in range(old)]
    return [(sum(place <= layer for place in places) - 1, layer not in places) for layer in range(new)]


def _fill(model: VideoDiT, source: VideoDiT, origin: list[int | None], copied: bool) -> Report:
    """Gives each tensor of the model the source's, as `RULES` change it, or leaves it as it is fresh."""
    report, theirs, ours, old = Report(), source.state_dict(), model.state_dict(), source.config
    neighbour = next((i for i, axis in enumerate(old.axes) if axis == "space"), 0)
    blocks = [  # of each block the one whose weights it has, or would have if they were copied, and whether it is new
        (layer * len(old.axes) + (neighbour if place is None else place), is_new or place is None)
        for layer, is_new in _layers(old.num_layers, model.config.num_layers)
        for place in origin
    ]
    laid = [number for number, (was, is_new) in enumerate(blocks) if not is_new and was in source.windows]
    if any(model.windows[number].shifted != source.windows[blocks[number][0]].shifted for number in laid):
        raise ConversionError(
            "windows that every second block lays anew would be laid otherwise: a layer that comes between must have "
            "two window blocks, or another come with it (num_layers)"
        )
    if model.config.num_classes is None:
        tables = (name for name in theirs if name.endswith("class_embedder.weight"))
        report.dropped = dict.fromkeys(tables, 'all but the class "none"')
    used = set(report.dropped)
    for name in ours:
        part, _, rest = name.partition(".")
        where, why = name, []
        if part == "blocks" or (part == "embedders" and not old.shared_embedder):
            index, _, rest = rest.partition(".")
            their, is_new = blocks[int(index)]
            why = ["a new block, silent"] if is_new and part == "blocks" else []
            where = f"{part}.{their}.{rest}"
        if where not in theirs or (why and not copied):
            report.fresh[name] = why[0] if why else _why_fresh(name, model, source)
            continue
        used.add(where)
        tensor = theirs[where]
        for rule in RULES:
            if name.endswith(rule.names) and model.config[rule.key] != old[rule.key]:
                tensor, why = rule.tensor(tensor, model, source, where), [*why, rule.words]
        ours[name] = tensor.clone()
        (report.grown if why else report.copied)[name] = f"{where}: {', '.join(why)}" if why else where
    if left := sorted(set(theirs) - used):
        raise ConversionError(f"{len(left)} tensors of the source would be lost: {', '.join(left[:5])}")
    for name in report.fresh.keys() & ours.keys():  # as from_pretrained would load them
        kept = any(part in name for part in VideoDiT._keep_in_fp32_modules)
        ours[name] = ours[name] if kept else ours[name].to(source.dtype)
    model.load_state_dict(ours, assign=True)
    for block, (_, is_new) in zip(model.blocks, blocks, strict=True):
        if is_new and (copied or model.config.norm_type == "ada_norm_single"):
            block.silence()  # type: ignore[operator]
    return report


def _why_fresh(name: str, model: VideoDiT, source: VideoDiT) -> str:
    """Why a tensor has no counterpart in the source; ConversionError where there is no good reason."""
    if name == "time_scale":
        return "scale of the added time positions, zero"
    if name.startswith("skip_projections."):
        return "long skips, silent"
    if name.startswith("caption_projection.") or ".attn2." in name or ".norm_cross." in name:
        return "cross-attention to a text, silent"
    if ".norm_q." in name or ".norm_k." in name:
        had = model.axis_of(name) in _normed(source.config.qk_norm, source.config.axes)
        return "QK-norm" if had else "QK-norm: this changes what the model computes; train it"
    raise ConversionError(f"{name}: the source has nothing to make it from")


class Rule(NamedTuple):
    """Of tensors whose names end so, where the new configuration has another `key`: what is made of them, in words."""

    names: tuple[str, ...]
    key: str
    tensor: Callable[[Tensor, VideoDiT, VideoDiT, str], Tensor]
    words: str


def _last_tap(x: Tensor, new: VideoDiT, old: VideoDiT, name: str) -> Tensor:
    taps = pad(rearrange(x, "d (c p) -> d c 1 p", c=old.in_channels), (0, 0, new.patch_size[0] - 1, 0))
    return rearrange(taps, "d c pt p -> d (c pt p)")


def _every_tap(x: Tensor, new: VideoDiT, old: VideoDiT, name: str) -> Tensor:
    return repeat(x, "p ... -> (pt p) ...", pt=new.patch_size[0])


def _divided(x: Tensor, new: VideoDiT, old: VideoDiT, name: str) -> Tensor:
    take = torch.arange(new.in_channels) % old.in_channels
    kernel = rearrange(x, "d (c p) -> d c p", c=old.in_channels)[:, take]
    return rearrange(kernel / rearrange(take.bincount()[take].to(x), "c -> c 1"), "d c p -> d (c p)")


def _repeated(x: Tensor, new: VideoDiT, old: VideoDiT, name: str) -> Tensor:
    rows = rearrange(x, "(p c) ... -> p c ...", c=old.in_channels)  # p: of the patch, and of both halves
    return rearrange(rows[:, torch.arange(new.in_channels) % old.in_channels], "p c ... -> (p c) ...")


def _with_none(x: Tensor, new: VideoDiT, old: VideoDiT, name: str) -> Tensor:
    return x + old.get_parameter(name.replace(TIME_BIAS, "class_embedder.weight"))[-1]


TOKENIZER, HEAD = ("patch_embed.proj.weight",), ("proj_out.weight", "proj_out.bias")
TIME_BIAS = "timestep_embedder.linear_2.bias"
RULES = (
    Rule(TOKENIZER, "patch_size", _last_tap, "in the last tap of the patch, zeros before"),
    Rule(HEAD, "patch_size", _every_tap, "repeated for each frame of the patch"),
    Rule(TOKENIZER, "in_channels", _divided, "divided among the channels that share it"),
    Rule(HEAD, "in_channels", _repeated, "repeated for the channels that share it"),
    Rule((TIME_BIAS,), "num_classes", _with_none, 'the class "none" added'),
)
