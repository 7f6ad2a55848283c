"""Kinds of values that configurations, command lines and tables have in common, each with its range.

Each is a type of pydantic: sections are declared with them, `check` holds a dataclass to them, and `argument` makes one
the `type` of an argument. A bool or a text is never a number, and no number is infinite or nan.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

NUMBERS = ConfigDict(strict=True, allow_inf_nan=False)
_short = Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 2, 80, 80
in_short = _short.repr  # of a value, in a line, however large it is


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("holds a NUL, which no text has: take it out")
    if any("\ud800" <= sign <= "\udfff" for sign in value):
        raise ValueError("holds half a surrogate pair, or bytes that are no UTF-8: write it as UTF-8")
    return value


def _prompt(value: str) -> str:
    if not value.strip():
        raise ValueError("the prompt is empty; say what the clip should show")
    return value


def place(value: str) -> str:
    """With ~ as the home folder, which a shell leaves as it is in `key=~/x`; a text, since it may be a URL."""
    if not value.strip() or "\0" in value:
        raise ValueError("is no path; name a file or folder")
    try:
        os.fsencode(value)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"cannot be a path here ({error.reason}); write it as UTF-8, under a locale of UTF-8"
        ) from error
    whole = os.path.expanduser(value)  # noqa: PTH111
    if whole.startswith("~"):
        raise ValueError(
            f"there is no home folder {whole.split('/')[0]!r}; write it out, or ./~ for a folder called so"
        )
    return whole


def usable_backend(name: str) -> str:
    """An attention backend of diffusers that this machine can run.

    Raises:
        ValueError: there is none of this name, or what it needs is not installed; names the package.
    """
    import torch
    from diffusers.models import attention_dispatch as dispatch

    known = [one.value for one in dispatch.AttentionBackendName]
    if name not in known:
        raise ValueError(f"attention backend {name!r} is none of diffusers': {', '.join(known)}")
    try:  # by the name's own check: set on a module it is not made, and calls a function that is None
        dispatch._check_attention_backend_requirements(dispatch.AttentionBackendName(name))
    except RuntimeError as error:
        raise ValueError(f"attention backend {name!r} cannot be used here: {error}") from error
    if name in ("_native_cudnn", "_native_efficient") and not torch.cuda.is_available():
        raise ValueError(f"attention backend {name!r} needs a CUDA device, and none is here: take native")
    return name


Positive = Annotated[int, Field(gt=0, le=10**9)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Steps = Annotated[int, Field(ge=1, le=10**4)]  # of a scheduler
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Amount = Annotated[float, Field(ge=1e-6, le=1e9)]  # of seconds, gigabytes, a norm: more than nothing
Weight = Annotated[float, Field(ge=0, le=1e6)]  # of one term against others
Rate = Annotated[float, Field(ge=1e-3, le=1e3)]  # frames a second
LearningRate = Annotated[float, Field(ge=1e-12, le=10)]
Strength = Annotated[float, Field(gt=0, le=1)]  # of noise that a video gets
SigmaRel = Annotated[float, Field(ge=1e-3, lt=0.28)]  # length of an average, as a part of the training
Number = Annotated[float, Field(ge=-1e9, le=1e9)]
Guidance = Annotated[float, Field(ge=0, le=1e3)]
Text = Annotated[str, AfterValidator(_text)]
Prompt = Annotated[Text, AfterValidator(_prompt)]
Place = Annotated[str, AfterValidator(place)]  # a file or folder, or a URL or name on the hub
File = Annotated[str, AfterValidator(place), AfterValidator(lambda name: Path(name))]  # one here, as a `Path`
Backend = Annotated[str, AfterValidator(usable_backend)]
# "no" is how accelerate says float32, and how YAML says False
Precision = Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)]


def check(instance: Any) -> None:
    """Holds a dataclass to the kinds of its fields.

    Raises:
        ValueError: a value is of another kind or out of range; names the field, the value and what it must be.
    """
    kind: Any = type(instance)
    for name, adapter in _adapters(kind).items():
        value = getattr(instance, name)
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{name}={in_short(value)} {must_be(error.errors()[0])}") from None


def argument(kind: Any) -> Callable[[str], Any]:
    """The `type` of an argument of the command line that is of this kind."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))

    def read(text: str) -> Any:
        try:
            return adapter.validate_strings(text)
        except ValidationError as error:
            told = text if re.fullmatch(r"[\w.+-]{1,40}", text, re.ASCII) else in_short(text)
            raise argparse.ArgumentTypeError(f"{told} {must_be(error.errors()[0])}") from None

    return read


def must_be(error: Any) -> str:
    """What pydantic says is wrong with a value, as the end of a sentence about it."""
    said = str(error["msg"]).removeprefix("Value error, ").replace("Input should", "must", 1)
    return said.partition(", unable to parse")[0]  # which says the same of a parser


@cache
def _adapters(kind: Any) -> dict[str, TypeAdapter[Any]]:
    assert is_dataclass(kind)
    hints = get_type_hints(kind, include_extras=True)
    return {name: TypeAdapter(hints[name], config=NUMBERS) for name in kind.__dataclass_fields__}
