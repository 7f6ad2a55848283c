"""What a form holds becomes what is to be made: the fields of `Request` and `Sampling`, by their names.

Fields are texts, read as the command line reads them; an empty one is the model's own.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, get_type_hints

from pydantic import Field

from videodit.clipset import Request, Sampling
from videodit.config.kinds import argument

MOST_CLIPS = 64  # of one press of the button
SAMPLING = ("steps", "guidance_scale", "guidance_rescale", "image_guidance_scale", "scheduler", "cache")
REQUEST = tuple(field.name for field in fields(Request))
TOLD = "told "  # begins the field of what the model is told besides, before the condition's name
AS_TEXT = ("prompt", "negative_prompt", "scheduler", "cache")
KINDS: dict[str, Any] = {
    **{name: kind for name, kind in get_type_hints(Sampling, include_extras=True).items() if name in SAMPLING},
    **get_type_hints(Request, include_extras=True),
    "count": Annotated[int, Field(ge=1, le=MOST_CLIPS)],
}


def requests_of(values: Mapping[str, Any]) -> list[Request]:
    """A request for each of the `count` clips, of one seed after another.

    Raises:
        ValueError: a value is out of range or of another kind, or two do not go together; names the field.
    """
    known = _said(values)
    first = Request(**{"prompt": ""} | {name: known[name] for name in REQUEST if name in known})
    return [replace(first, seed=first.seed + number) for number in range(known.get("count", 1))]


def sampling_of(values: Mapping[str, Any]) -> Sampling:
    """How it is made. ValueError names the field."""
    known = _said(values)
    told = [f"{field.removeprefix(TOLD)}={value}" for field, value in known.items() if field.startswith(TOLD)]
    return Sampling(**{name: known[name] for name in SAMPLING if name in known}, conditions=told or None)


def again(settings: Mapping[str, Any], seed: int | None = None) -> dict[str, Any]:
    """The form of a clip that was made, for another seed (None: a drawn one)."""
    form = {name: settings[name] for name in (*REQUEST, *SAMPLING, "model") if name in settings}
    drawn = secrets.randbelow(2**31) if seed is None else seed
    told = {name: f"{v:g}" if isinstance(v, float) else str(v) for name, v in form.items() if not isinstance(v, bool)}
    besides = dict(said.split("=", 1) for said in settings.get("conditions") or ())
    told |= {TOLD + name: value for name, value in besides.items()}
    return form | told | {"seed": str(drawn), "count": "1"}


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is filled in, each as its kind."""
    filled = {name: value for name, value in values.items() if value not in (None, False) and str(value).strip()}
    return {name: _read(name, value) for name, value in filled.items()}


def _read(name: str, value: Any) -> Any:
    if name not in KINDS or name in AS_TEXT or not isinstance(value, str):
        return value
    try:
        return argument(KINDS[name])(value.strip())
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{name} {error}") from None
