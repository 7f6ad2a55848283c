"""What a model can be, what a call can give it, what its weights must be: each wrong thing is named, with the fix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from videodit.models.attention import AXES, QK_NORMS, TextMemory
from videodit.models.positions import TIME_POSITIONS

if TYPE_CHECKING:
    from videodit.models.transformer import VideoDiT

NORM_TYPES = ("ada_norm_single", "ada_norm_zero", "layer_norm")
CAPTION_IN = ("cross", "context")
OF_CROSS = ("cross_attention_axes", "cross_attention_norm", "cross_attention_qk_norm")
OF_TEXT = (
    "caption_length",
    "null_caption_length",
    "caption_in",
)
OF_SINGLE = ("use_additional_conditions", "fps_embedding", "freq_dim", "flow_map_gate", "guidance_embeds")
# what a call is given for a condition of a kind
NAMES = {
    "text": "encoder_hidden_states",
    "pooled": "pooled_projections",
    "guidance": "guidance",
    "class": "class_labels",
    "size": "added_cond_kwargs",
    "until": "r_timestep",
}


def check_config(c: Any, options: Mapping[str, Parameter]) -> None:
    """ValueError for a configuration that no model can have; names the key. `options`: as the constructor has them."""
    dim = c.num_attention_heads * c.attention_head_dim
    for key, allowed in (("axes", AXES), ("cross_attention_axes", tuple(c.axes)), ("qk_norm", tuple(c.axes))):
        value = c[key]
        if not (isinstance(value, bool) or value is None) and (not value or any(axis not in allowed for axis in value)):
            raise ValueError(f"{key}={list(value)} must be some of {', '.join(dict.fromkeys(allowed))}")
    if c.attention_head_dim % 2 or dim % 4:
        raise ValueError(f"attention_head_dim={c.attention_head_dim} must be even and the width {dim} a multiple of 4")
    if c.flow_map_gate is not None and not 0 < c.flow_map_gate <= 1:
        raise ValueError(f"flow_map_gate={c.flow_map_gate} must be above 0 and at most 1")
    choices = {
        "norm_type": NORM_TYPES,
        "time_positions": TIME_POSITIONS,
        "qk_norm_type": QK_NORMS,
        "caption_in": CAPTION_IN,
    }
    for key, some in choices.items():
        if c[key] not in some:
            raise ValueError(f"{key}={c[key]!r} must be one of {', '.join(some)}")
    zero, single = (c.norm_type == f"ada_norm_{kind}" for kind in ("zero", "single"))
    text = c.caption_channels is not None
    for reads, why, keys in (
        (zero, "needs norm_type='ada_norm_zero'", ("shared_embedder",)),
        (not single, "needs norm_type='ada_norm_zero' or 'layer_norm'", ("num_classes", "timestep_freq_shift")),
        (single, "needs norm_type='ada_norm_single'", OF_SINGLE),
        (c.caption_in == "cross", "is of cross-attention, and caption_in='context' has none", OF_CROSS),
        (text, "is of a text, and caption_channels=None", OF_TEXT),
        (c.qk_norm or c.cross_attention_qk_norm, "is of a QK-norm, and this model has none", ("qk_norm_type",)),
        (c.time_positions in ("rotary", "both"), "is of rotary positions by the second", ("rotary_periods",)),
        (
            c.time_positions != "grid",
            "is of sin-cos places, and time_positions='grid' has none",
            ("interpolation_scale",),
        ),
        ("time" in c.axes, "is of time blocks, and axes has none", ("images_skip_time",)),
        ("window" in c.axes, "is of window blocks, and axes has none", ("window",)),
    ):
        for key in keys if not reads else ():
            if (tuple(c[key]) if isinstance(c[key], list) else c[key]) != options[key].default:
                raise ValueError(f"{key}={c[key]}: no block would read it: it {why}")
    if "window" in c.axes and (c.window is None or len(c.window) != 3 or min(c.window) < 1):
        raise ValueError(f"window={c.window}: window blocks need tokens that see each other, as window=(4, 8, 8)")
    if c.caption_in == "context" or c.norm_type == "layer_norm":
        told = "caption_in='context'" if c.caption_in == "context" else "norm_type='layer_norm'"
        if unfit := [axis for axis in c.axes if axis in ("window", "linear")]:
            raise ValueError(f"{told}: tokens among a frame's own have no place in {unfit[0]} blocks (axes)")
        if c.time_positions == "grid":
            raise ValueError(f"{told}: tokens among a frame's own have no row and column (time_positions='grid')")
    if c.skips not in (None, "long") or (c.skips and c.num_layers < 2):
        raise ValueError(
            f"skips={c.skips!r} must be None, or 'long' with two layers or more (num_layers={c.num_layers})"
        )
    if c.caption_length and c.null_caption_length:
        raise ValueError("caption_length and null_caption_length: without a mask there is no text that stands for none")


def check_route(model: Any) -> None:
    """ValueError for a model in which no places can pass blocks by; says why."""
    config = model.config
    why = ""
    if not isinstance(getattr(model, "blocks", None), nn.ModuleList) or "axes" not in config:
        why = "is of a VideoDiT"
    elif len(model.blocks) <= 2 * len(config.axes):
        why = f"needs blocks between the first and the last of each axis, so num_layers above {config.num_layers}"
    elif config.time_positions == "grid":
        why = "is of models whose places are added, not turned (time_positions='grid')"
    elif config.skips:
        why = "leaves no states for long skips (skips)"
    elif "window" in config.axes:
        why = "leaves no window of a clip whole (axes)"
    elif model.sequence_group is not None:
        why = "does not go with a sequence group"
    if why:
        raise ValueError(f"routing of tokens {why}")


def check_call(
    model: VideoDiT,
    latent: Tensor,
    timestep: Tensor,
    text: Tensor | TextMemory | None,
    labels: Tensor | None,
    added: dict[str, Tensor] | None,
    frame_mask: Tensor | None,
    routed: Tensor | None,
    ends: Tensor | None,
    guidance: Tensor | None,
    own: Mapping[str, Tensor] | None,
) -> None:
    """ValueError where what a call gives does not fit the model, or each other; names what."""
    (b, c, f, h, w), config = latent.shape, model.config
    _check_own(model, own or {}, (b, f, h, w), routed is not None)
    if c != config.in_channels:
        raise ValueError(f"hidden_states has {c} channels, this model takes {config.in_channels}")
    if h % model.patch_size[1] or w % model.patch_size[2]:
        raise ValueError(f"a latent of {h} x {w} is not divided by the patch {model.patch_size[1:]}")
    if timestep.shape not in ((b,), (b, f)):
        raise ValueError(f"timestep has shape {tuple(timestep.shape)}; it must be ({b},) or ({b}, {f})")
    if ends is not None and config.flow_map_gate is None:
        raise ValueError("this model takes no r_timestep: it is no flow map (flow_map_gate=None)")
    if ends is not None and ends.shape not in ((b,), (b, f)):
        raise ValueError(f"r_timestep has shape {tuple(ends.shape)}; it must be ({b},) or ({b}, {f})")
    if frame_mask is not None and frame_mask.shape != (b, f):
        raise ValueError(f"frame_mask has shape {tuple(frame_mask.shape)}; it must be ({b}, {f})")
    if model.patch_size[0] > 1 and (timestep.ndim == 2 or frame_mask is not None):
        raise ValueError("times or masks a frame need a patch of one frame (patch_size[0] = 1)")
    if config.skips and model.sequence_group is not None:
        raise ValueError("long skips (skips) do not go with a sequence group: set_sequence_group(None)")
    if model.sequence_group is not None and model.is_cache_enabled:
        raise ValueError(
            "a feature cache goes by what one process sees, and a sequence group would part ways: disable_cache(), "
            "or set_sequence_group(None)"
        )
    if routed is not None:
        check_route(model)
        if routed.ndim != 2 or len(routed) != b or routed.is_floating_point():
            raise ValueError(f"routed has shape {tuple(routed.shape)} of {routed.dtype}; it must be ({b}, k) integers")
    for name, given, key in (
        ("encoder_hidden_states", text, "caption_channels"),
        ("class_labels", labels, "num_classes"),
        ("added_cond_kwargs", added, "use_additional_conditions"),
        ("guidance", guidance, "guidance_embeds"),
    ):
        if (given is None) != (config[key] in (None, False)):
            have = f"takes no {name}" if given is not None else f"needs {name}"
            raise ValueError(f"this model {have} ({key}={config[key]})")
    if isinstance(text, Tensor) and config.caption_length and text.shape[1] > config.caption_length:
        raise ValueError(
            f"encoder_hidden_states has {text.shape[1]} tokens, this model reads {config.caption_length} "
            f"(caption_length): encode prompts with max_sequence_length={config.caption_length}"
        )
    if labels is not None and (labels.shape != (b,) or labels.is_floating_point()):
        raise ValueError(f"class_labels has shape {tuple(labels.shape)} of {labels.dtype}; it must be ({b},) integers")


def _check_own(model: VideoDiT, given: Mapping[str, Tensor], sizes: tuple[int, int, int, int], routed: bool) -> None:
    b, f, h, w = sizes
    known = {one.name: one for one in model.own_conditions}
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"condition {unknown[0]}: this model is told {', '.join(known) or 'no such thing'}")
    for name, value in given.items():
        one = known[name]
        if one.kind == "channels":
            wanted: tuple[int, ...] = (b, one.width, f, h, w)
        elif one.kind == "tokens":
            wanted = (b, value.shape[1] if value.ndim == 3 else 1, one.width)
        else:
            wanted = (b, f, one.width) if one.per == "frame" else (b, one.width)
        if tuple(value.shape) != wanted:
            raise ValueError(f"condition {name} has shape {tuple(value.shape)}; it must be {wanted}")
        if one.branch and (routed or model.past is not None or model.sequence_group is not None):
            raise ValueError(
                f"condition {name} is read by a branch, which goes neither with routing, nor with a sequence group, "
                f"nor with what is held of the past: take one of them out"
            )
        if (one.kind == "tokens" or one.branch) and model.is_cache_enabled:
            raise ValueError(
                f"condition {name} is read between the blocks that a feature cache leaves out: take it out"
            )
        if one.per == "frame" and model.patch_size[0] > 1:
            raise ValueError(f"condition {name}: vectors a frame need a patch of one frame (patch_size[0] = 1)")


def check_told(
    model: Any,
    latent: Tensor,
    timestep: Tensor,
    told: dict[str, Any],
    frame_mask: Tensor | None,
    attention_kwargs: dict[str, Any] | None,
    text_mask: Tensor | None = None,
    fps: float | Tensor | None = None,
) -> None:
    """ValueError where what a call gives does not fit a model of images, or each other; names what.

    Args:
        told: of all that any family takes, by the call's own names.
    """
    b, c, f, h, w = latent.shape
    patch = model.patch_size[1]
    if c != model.in_channels:
        raise ValueError(f"hidden_states has {c} channels, this model takes {model.in_channels}")
    if h % patch or w % patch:
        raise ValueError(f"a latent of {h} x {w} is not divided by the patch {patch}")
    if model.family.square and h != w:
        raise ValueError(f"{type(model.image).__name__} makes square pictures alone, and this latent is {h} x {w}")
    if timestep.shape not in ((b,), (b, f)):
        raise ValueError(f"timestep has shape {tuple(timestep.shape)}; it must be ({b},) or ({b}, {f})")
    if frame_mask is not None and frame_mask.shape != (b, f):
        raise ValueError(f"frame_mask has shape {tuple(frame_mask.shape)}; it must be ({b}, {f})")
    if set(attention_kwargs or {}) - {"scale"} or (attention_kwargs or {}).get("scale", 1.0) != 1.0:
        raise ValueError(f"attention_kwargs={attention_kwargs}: weigh adapters by set_adapters; nothing else is read")
    wanted = {NAMES[condition.kind]: condition.width for condition in model.conditions}
    for name, given in told.items():
        if (given is None) == (name in wanted):
            have = "needs" if name in wanted else "takes no"
            raise ValueError(f"{type(model.image).__name__} {have} {name}")
    for name in ("encoder_hidden_states", "pooled_projections"):
        if name in wanted and told[name].shape[-1] != wanted[name]:
            raise ValueError(f"{name} has states of {told[name].shape[-1]}, this model reads {wanted[name]}")
    rows = {**told, **(told.get("added_cond_kwargs") or {})}
    for name, given in {**rows, "encoder_attention_mask": text_mask}.items():
        if isinstance(given, Tensor) and len(given) != b:
            raise ValueError(f"{name} has {len(given)} rows, and hidden_states has {b} clips")
    text, labels = told["encoder_hidden_states"], told["class_labels"]
    for condition in model.conditions:
        if condition.tokens is not None and text.shape[1] != condition.tokens:
            raise ValueError(
                f"encoder_hidden_states has {text.shape[1]} tokens, this model reads {condition.tokens}, as its "
                f"encode_prompt gives them"
            )
    if text_mask is not None and text is not None and text_mask.shape != text.shape[:2]:
        raise ValueError(
            f"encoder_attention_mask has shape {tuple(text_mask.shape)}; it must be {tuple(text.shape[:2])}"
        )
    if isinstance(fps, Tensor) and fps.ndim and fps.shape not in ((b,), (1,)):
        raise ValueError(f"fps has shape {tuple(fps.shape)}; it must be a number or ({b},)")
    if labels is not None and (labels.shape != (b,) or labels.is_floating_point()):
        raise ValueError(f"class_labels has shape {tuple(labels.shape)} of {labels.dtype}; it must be ({b},) integers")
    if labels is not None and not labels.is_meta and not ((labels >= 0) & (labels <= wanted["class_labels"])).all():
        raise ValueError(
            f"class_labels={labels.tolist()}: this model has 0 to {wanted['class_labels']}, the last is none"
        )


def check_loaded(info: dict[str, Any], name: str, cls: str, computed: tuple[str, ...] = ()) -> None:
    """ValueError where `from_pretrained` left weights unset or dropped some, which diffusers itself only logs.

    Args:
        info: its loading info.
        computed: names that a checkpoint may hold and the class computes.
    """
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if wrong := sorted({str(key) for key in info.get(problem) or []} - set(computed)):
            words = problem.removesuffix("_keys")
            raise ValueError(f"{name}: {len(wrong)} {words} weights, so it is no whole {cls}: {', '.join(wrong[:3])}")


UNFIT_CACHES = {
    "FasterCacheConfig": "it takes the pass without the prompt first and in every step",
    "TextKVCacheConfig": "it is for the blocks of another model",
}


@contextmanager
def checked_cache(model: Any, config: Any) -> Iterator[None]:
    """Around enabling a feature cache of diffusers: ValueError for one that cannot work with this model, or finds
    nothing in it to work on."""
    name = type(config).__name__
    if why := UNFIT_CACHES.get(name):
        raise ValueError(f"{name} does not fit: {why}; videodit.caching.CACHES names those that do")
    before = _hooks(model)
    yield
    if _hooks(model) == before:
        model.disable_cache()
        raise ValueError(f"{name} finds nothing to work on in VideoDiT: name its blocks, or take use_lite_mode")


def _hooks(model: nn.Module) -> int:
    """Of diffusers, on what is within a model."""
    registries: list[Any] = [getattr(part, "_diffusers_hook", None) for part in model.modules() if part is not model]
    return sum(len(registry.hooks) for registry in registries if registry is not None)
