"""A run: all sections of its configuration together, and reading it from a file."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from videodit.config.data import Data
from videodit.config.kinds import Place, Seed, in_short, must_be, usable_backend
from videodit.config.model import Model, Objective, Text
from videodit.config.reading import LARGEST, read_yaml
from videodit.config.section import Section
from videodit.config.train import Train
from videodit.config.vae import Vae

MAPPINGS = ("more", "given_frames", "conditions")  # keys whose values are mappings, and no sections
MOST_ERRORS = 8  # that one message tells


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file, the key and the fix."""


class Run(Section):
    """Everything that a run needs."""

    output: Place = Field(description="the folder that this run writes into")
    seed: Seed = 0
    data: Data = Data()
    vae: Vae = Vae()
    latents: Place | None = Field(None, description="folder of encoded clips, to share; null: <output>/latents")
    codec: Place | None = Field(
        None, description="a saved VAE or pipeline, or a packaged model (shapes); null: <output>/vae"
    )
    text: Text = Text()
    model: Model = Model()
    objective: Objective = Objective()
    train: Train = Train()
    stages: tuple[dict[str, Any], ...] = Field(
        (), strict=False, description="training in legs, each going on from the one before: what differs in each"
    )

    @model_validator(mode="after")
    def _sections_fit(self) -> Run:
        if self.train.keep_best and not self.data.validation:
            raise ValueError("train.keep_best goes by the loss on clips kept out: set data.validation above 0")
        if self.model.conditions and self.data.encode == "each_step":
            raise ValueError("model.conditions are encoded once, with the clips: set data.encode: once")
        branches = [name for name, told in self.model.conditions.items() if told.branch]
        if any(told.of == "past" for told in self.model.conditions.values()) and self.data.start == "first":
            raise ValueError("model.conditions: before a file's first frames there is no past: set data.start: random")
        if branches and (self.train.routing or self.train.sequence_parallel > 1):
            raise ValueError(
                f"model.conditions.{branches[0]}.branch goes neither with train.routing nor with "
                "train.sequence_parallel: leave one of them out"
            )
        if self.train.routing and self.train.sequence_parallel > 1:
            raise ValueError("train.routing does not go with train.sequence_parallel: leave one of them out")
        frozen = self.text.source or self.train.lora or self.train.start_from  # of a family's, which is never trained
        if self.text.precision != "no" and not frozen:
            raise ValueError("text.precision is of an encoder that is not trained: name one in text.source")
        if "blocks" in self.model.offload and (not self.train.lora or self.train.sharding == "fsdp"):
            raise ValueError(
                "model.offload: [blocks] is of frozen weights: set train.lora"
                if not self.train.lora
                else "model.offload: [blocks] is not split by train.sharding: fsdp; leave one of them out"
            )
        if self.model.attention_backend is None and (default := os.environ.get("DIFFUSERS_ATTN_BACKEND")):
            usable_backend(default)
        return self

    @model_validator(mode="after")
    def _reads_nothing_that_it_writes(self) -> Run:
        read = {"codec": self.codec, "text.source": self.text.source, "train.start_from": self.train.start_from}
        if self.train.distill:
            read["train.distill.teacher"] = self.train.distill.teacher
        for key, place in {**read, "vae.start_from": self.vae.start_from}.items():
            written = Path(self.output) / ("vae" if key == "vae.start_from" else "pipeline")
            if place is not None and os.path.realpath(place) == os.path.realpath(written):
                raise ValueError(f"{key}: {place} is what this run writes; choose another output")
        return self

    def legs(self) -> list[Run]:
        """What `videodit train` runs one after the other: this run, or one for each of its `stages`.

        A leg before the last writes into `<output>/stage_1` and so on; VAE and latents are shared by all.

        Raises:
            ConfigError: a stage is wrong; names it and the key.
        """
        legs: list[Run] = []
        said = self.model_dump() | {"vae": self.vae.model_dump(exclude_unset=True)}  # of which some keys exclude others
        for number, changes in enumerate(self.stages):
            last = number == len(self.stages) - 1
            shared: dict[str, Any] = {"stages": (), "latents": self.latents or f"{self.output}/latents"}
            if not last:
                shared |= {"output": f"{self.output}/stage_{number + 1}", "codec": self.codec or f"{self.output}/vae"}
            if legs:
                before = legs[-1].train.steps_before + legs[-1].train.steps
                shared["train"] = {"start_from": f"{legs[-1].output}/pipeline", "steps_before": before}
            for key in ("output", "stages", "vae"):
                if key in changes:
                    raise ConfigError(f"stages.{number}.{key}: is the whole run's; take it out of the stage")
            try:
                legs.append(Run.model_validate(_merged(_merged(said, shared), changes)))
            except ValidationError as error:
                raise ConfigError(_explained(error, f"stages.{number}.")) from error
        if len({leg.train.precision for leg in legs}) > 1:
            raise ConfigError("stages: train.precision is one for all legs; set it outside of them")
        return legs or [self]


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with `changes` on top, section by section; a mapping that is a value takes the whole one's place."""
    shared = [
        k for k in changes if k not in MAPPINGS and isinstance(changes[k], dict) and isinstance(values.get(k), dict)
    ]
    return values | changes | {k: _merged(values[k], changes[k]) for k in shared}


def load_config(file: str | Path, overrides: Sequence[str] = ()) -> Run:
    """Reads and checks a YAML file, with `key=value` overrides applied.

    Raises:
        ConfigError: the file is missing or no YAML mapping, an override is no `key=value`, or a key or value is wrong.
    """
    path = Path(file)
    values = _parsed(_text_of(path), str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys to values")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{in_short(override)} is no override; write key=value, for example train.steps=100")
        _set(values, key.split("."), _parsed(text, in_short(override)), in_short(override))
    try:
        run = Run.model_validate(values)
        run.legs()
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explained(error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    for override in overrides:
        key = override.partition("=")[0]
        if setters := [i for i, stage in enumerate(run.stages) if _has(stage, key.split("."))]:
            raise ConfigError(f"{override!r}: {path} sets it in stages; write stages.{setters[0]}.{override}")
    return run


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error
    if len(content) > LARGEST:
        raise ConfigError(f"{path}: larger than {LARGEST} bytes, and so no configuration")
    try:
        return content.decode("utf-8-sig")  # whatever the locale says
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8 ({error.reason}): save it as UTF-8") from error


def _parsed(text: str, where: str) -> Any:
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


def _set(values: Any, keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        if isinstance(values, list):  # stages.0.train.steps
            if not key.isdecimal() or len(key) > 9 or int(key) >= len(values):
                raise ConfigError(f"{override}: {in_short(key)} must be a number below {len(values)}")
            values = values[int(key)]
        else:
            values = values.setdefault(key, {})
        if not isinstance(values, dict | list):
            raise ConfigError(f"{override}: {in_short(key)} is a value, not a section")
    if isinstance(values, list):
        raise ConfigError(f"{override}: name a key after the number")
    values[keys[-1]] = value


def _has(values: Any, keys: list[str]) -> bool:
    """Whether a mapping has something at this path."""
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _explained(error: ValidationError, within: str = "") -> str:
    """All that is wrong with a configuration, the first few in words."""
    lines = [within + _explain(one) for one in error.errors()[:MOST_ERRORS]]
    more = error.error_count() - len(lines)
    return "; ".join([*lines, f"and {more} more errors"] if more else lines)


def _explain(error: Any) -> str:
    key = ".".join(str(part)[:80] for part in error["loc"])
    if error["type"] != "extra_forbidden":
        got = "" if isinstance(error["input"], dict) else f" (got {in_short(error['input'])})"
        return f"{key}: {must_be(error)}{got}{_hint(error)}"
    section: Any = Run
    for part in error["loc"][:-1]:
        if isinstance(part, str) and part in getattr(section, "model_fields", {}):
            held = section.model_fields[part].annotation
            section = next((kind for kind in (held, *get_args(held)) if hasattr(kind, "model_fields")), None)
    near = difflib.get_close_matches(str(error["loc"][-1]), getattr(section, "model_fields", {}), n=1)
    return f"{key}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")


def _hint(error: Any) -> str:
    """What to write, where a text looks like the number that is wanted."""
    text, kind = error["input"], error["type"]
    if not kind.startswith(("int_", "float_")) or not isinstance(text, str):
        return ""
    if re.fullmatch(r"[-+]?0[0-9_]+|[-+]?[0-9]+(:[0-9.]+)+", text):
        return ": octal or of base 60 to some readers of YAML; write it without leading zeros and colons"
    return ": a text; write it without quotes" if re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", text) else ""
