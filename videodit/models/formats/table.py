"""A format of weights is one table, read both ways: whose tensor stands where, and which key of a configuration.

Formats differ from ours in names and in a few layouts, never in arithmetic. Loading walks a table one way (`fill`),
giving back the other (`drain`), so that a round trip returns every bit. What a checkpoint holds besides is named in the
report, or is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

State = dict[str, Tensor]
Config = dict[str, Any]


class ConversionError(ValueError):
    """Weights that cannot be converted; the message names the tensor or key, and why."""


@dataclass
class Report:
    """What became of every tensor, one line each; no tensor is missing from it.

    copied: taken as it is; grown: made from another by a rule; fresh: initialized; dropped: of the source, and why.
    """

    copied: dict[str, str] = field(default_factory=dict)
    grown: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    def and_of(self, other: Report, part: str) -> Report:
        """This one, with what became of another model's tensors, which is `part` of the same."""
        both = zip(vars(self).values(), vars(other).values(), strict=True)
        return Report(*(mine | {f"{part}: {name}": why for name, why in its.items()} for mine, its in both))

    def __str__(self) -> str:
        lines = [", ".join(f"{len(tensors)} {kind}" for kind, tensors in vars(self).items())]
        for kind, tensors in vars(self).items():
            lines += [f"{kind:8}{name}" + (f"   {why}" if why else "") for name, why in tensors.items()]
        return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------ layouts


@dataclass(frozen=True)
class Layout:
    """Another order of the same numbers: theirs to ours and back, given the model's configuration.

    rows: it is of the outputs of a layer, so that it holds for its bias and for the second half of a LoRA too.
    """

    take: Callable[[Tensor, Any], Tensor]
    give: Callable[[Tensor, Any], Tensor]
    rows: bool = False


SAME = Layout(lambda x, c: x, lambda x, c: x, rows=True)
LAYOUTS = {
    # rotary pairs of each head: theirs beside each other, ours the first of all and then the second of all
    "halves": Layout(
        lambda x, c: rearrange(x, "(h p two) ... -> (h two p) ...", p=c.attention_head_dim // 2, two=2),
        lambda x, c: rearrange(x, "(h two p) ... -> (h p two) ...", p=c.attention_head_dim // 2, two=2),
        rows=True,
    ),
    # velocity: theirs data - noise, ours noise - data
    "negated": Layout(lambda x, c: -x, lambda x, c: -x, rows=True),
    # a convolution over patches as a matrix: of pictures d c h w, of video d c t h w
    "patch": Layout(lambda x, c: x.flatten(1), lambda x, c: x.unflatten(1, (-1, *c.patch_size[1:]))),
    "patch-3d": Layout(lambda x, c: x.flatten(1), lambda x, c: x.unflatten(1, (-1, *c.patch_size))),
    # theirs has an axis of one in front
    "in-front": Layout(lambda x, c: x[0], lambda x, c: x[None]),
}


@dataclass(frozen=True)
class Place:
    """A module or tensor of theirs, of which ours is part `part` of `parts` along the outputs, in another layout."""

    name: str
    part: int = 0
    parts: int = 1
    layout: Layout = SAME

    def take(self, tensor: Tensor, config: Any) -> Tensor:
        """Ours of theirs."""
        return self.layout.take(tensor.chunk(self.parts)[self.part] if self.parts > 1 else tensor, config)


def rows(table: str) -> dict[str, Place]:
    """Of lines: a module or parameter of ours, its name there, and, where it is so, which part ("0/3") and layout."""
    places = {}
    for line in filter(None, map(str.strip, table.splitlines())):
        ours, name, *how = line.split()
        part, parts = next((map(int, word.split("/")) for word in how if "/" in word), (0, 1))
        places[ours] = Place(name, part, parts, next((LAYOUTS[word] for word in how if "/" not in word), SAME))
    return places


# ------------------------------------------------------------------------------------------------------ configurations


@dataclass(frozen=True)
class Key:
    """A key of our configuration and one of theirs that say the same; `read` makes it of theirs, `write` of ours.

    A side without a name has no such key: it derives it by `read` or `write`, or the other always has `value`.
    """

    ours: str | None
    theirs: str | None = ""  # "": of the same name
    value: Any = None
    read: Callable[[Any], Any] | None = None
    write: Callable[[Any], Any] | None = None

    @property
    def its(self) -> str | None:
        return self.ours if self.theirs == "" else self.theirs

    @property
    def fixed(self) -> bool:
        return self.value is not None or (None in (self.ours, self.its) and self.read is self.write is None)


def our_config(where: Format, theirs: Any) -> Config:
    """Ours for theirs. ConversionError: it has what no `VideoDiT` has; names the key."""
    ours: Config = {}
    for key in where.keys:
        if key.its and key.fixed and (have := theirs.get(key.its) or key.value) != key.value:
            raise ConversionError(
                f"{where.name}: {key.its}={plain(have)}: a VideoDiT of it has {plain(key.value)} only"
            )
        if key.ours:
            read = key.read or itemgetter(key.its)
            ours[key.ours] = key.value if key.fixed else read(theirs)
    return ours


def their_config(where: Format, ours: Any) -> Config:
    """Theirs for ours. ConversionError: it has what their class has not; names the key."""
    theirs, name = Config(), where.name
    for key in where.keys:
        if key.ours and key.fixed:
            have = ours[key.ours]
            if (tuple(have) if isinstance(have, list) else have) != key.value:
                raise ConversionError(f"{name} needs {key.ours}={plain(key.value)}, but this model has {plain(have)}")
        if key.write or (key.its and key.ours):
            write = key.write or itemgetter(key.ours)
            try:
                value = key.value if key.fixed else write(ours)
            except ConversionError as error:
                raise ConversionError(f"{name}: {error}") from error
            if key.its:
                theirs[key.its] = value
    return theirs


def width(config: Any) -> int:
    """Of a model, or of diffusers' class, whose configuration this is."""
    return config.num_attention_heads * config.attention_head_dim


def reads_text(ours: Any) -> int:
    """The width of the states that it reads. ConversionError: it reads none."""
    if ours.caption_channels is None:
        raise ConversionError("it reads a text, but this model has caption_channels=None")
    return ours.caption_channels


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else repr(value) if isinstance(value, str) else value


# -------------------------------------------------------------------------------------------------------------- a table


@dataclass(frozen=True)
class Format:
    """How a family keeps a `VideoDiT`, in diffusers' class `cls` or in files of its own.

    name: for messages. keys: of its configuration. modules: ours to theirs; what is not named has the same name there.
    blocks: for each axis of a layer, in turn, where its blocks are and what is where in one. more: of a tensor of ours
    that stands in several places. unused: its tensors that are left out, and why. computed: what it keeps (as long as
    in a state that is given) and a `VideoDiT` computes. marks: what tells such files from others. head_dim: of all that
    is published (None: of `SIZES`). unsaid: what the weights do not say, of what they say, the weights, what is asked.
    """

    name: str
    keys: Sequence[Key]
    modules: Mapping[str, Place]
    blocks: tuple[tuple[str, Mapping[str, Place]], ...]
    more: Callable[[str, Any], list[Place] | None] = lambda name, config: None
    unused: Mapping[str, str] = field(default_factory=dict)
    computed: Callable[[Any, State], State] = lambda config, state: {}
    marks: tuple[str, ...] = ()
    head_dim: int | None = None
    cls: Any = None
    unsaid: Callable[[Config, State, Mapping[str, Any]], Config] = lambda said, state, asked: {}

    def fits(self, config: Any) -> bool:
        """Whether it can hold a model of this configuration."""
        try:
            their_config(self, config)
        except ConversionError:
            return False
        return True

    def places(self, name: str, config: Any) -> list[Place]:
        """Where our tensor `name` is; several places hold the same where we share it."""
        if (several := self.more(name, config)) is not None:
            return several
        stem, names, rest = "", self.modules, name
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            layer, turn = divmod(int(number), len(self.blocks))
            stem, names = self.blocks[turn]
            stem = f"{stem}.{layer}."
        module, dot, leaf = rest.rpartition(".")
        if rest in names:  # a parameter by its own name
            its = names[rest]
        else:
            its = names.get(module, Place(module))
            its = replace(its, name=f"{its.name}{dot}{leaf}")
        if leaf == "bias" and not its.layout.rows:
            its = replace(its, layout=SAME)
        return [replace(its, name=stem + its.name)]


def fill(build: Callable[[], Any], state: State, where: Format, partial: bool = False) -> tuple[Any, Report]:
    """The model that `build` makes, with a checkpoint's weights, each of them used or dropped for a reason.

    Tensors that are taken as they are stay the checkpoint's own.

    Args:
        partial: leave what is missing as a fresh model has it, and drop what has no place.

    Raises:
        ConversionError: a tensor is missing or has no place in the model (unless `partial`), or does not fit.
    """
    with nullcontext() if partial else torch.device("meta"):
        model = build()
    report = Report(dropped={name: why for name, why in where.unused.items() if name in state})
    for name, expected in where.computed(model.config, state).items():
        if name in state:
            report.dropped[name] = _computed(name, state[name], expected)
    ours, used = model.state_dict(), set(report.dropped)
    for name, tensor in ours.items():
        places = where.places(name, model.config)
        if partial and places[0].name not in state:
            report.fresh[name] = f"{places[0].name} is not there"
            continue
        for place in places:
            if place.name not in state:
                raise ConversionError(f"the weights lack {place.name}, for {name}: another architecture")
            try:
                taken = place.take(state[place.name], model.config)
            except (RuntimeError, IndexError):  # it is of no shape that can be laid out so
                taken = state[place.name]
            if taken.shape != tensor.shape:
                raise ConversionError(
                    f"{place.name} gives {tuple(taken.shape)}, but {name} is {tuple(tensor.shape)}: another model"
                )
            ours[name] = taken.contiguous()
            used.add(place.name)
        report.copied[name] = places[0].name + (f" and {len(places) - 1} equal" if len(places) > 1 else "")
    left = sorted(set(state) - used)
    if left and not partial:
        raise ConversionError(f"{len(left)} tensors have no place in a VideoDiT: {', '.join(left[:5])}")
    report.dropped |= dict.fromkeys(left, "no place in a VideoDiT")
    model.load_state_dict(ours, assign=True)
    return model.eval(), report


def drain(model: Any, where: Format) -> State:
    """The model's weights as a format keeps them; the model's own where they are the same."""
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        for place in where.places(name, model.config):
            parts.setdefault(place.name, {})[place.part] = place.layout.give(tensor, model.config)
    state = {
        name: held[0] if len(held) == 1 else torch.cat([held[part] for part in sorted(held)])
        for name, held in parts.items()
    }
    return state | where.computed(model.config, {})


def _computed(name: str, stored: Tensor, expected: Tensor) -> str:
    """Why a table of positions is left out: the model computes the same. ConversionError where it does not."""
    rounding = 1e-3 if stored.dtype.itemsize > 2 else 1e-2
    fits = stored.numel() == expected.numel()
    if not stored.is_meta and not (
        fits and torch.allclose(stored.reshape(expected.shape).double(), expected.double(), atol=rounding)
    ):
        raise ConversionError(f"{name}: not the positions that this model computes; look at interpolation_scale")
    return "computed, not stored"
