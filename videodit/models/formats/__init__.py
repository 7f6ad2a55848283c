"""Weights of other projects as a `VideoDiT` with equal numerics, and back: one table a format, read both ways."""

from videodit.models.formats import dit, latte, pixart, stdit3, wan
from videodit.models.formats.table import Format

FORMATS: dict[str, Format] = {
    "dit": dit.FORMAT,
    "pixart": pixart.FORMAT,
    "latte": latte.FORMAT,
    "wan": wan.FORMAT,
    "anyflow": wan.FLOW_MAP,
}
ORIGINALS: dict[str, tuple[Format, ...]] = {  # the projects' own files
    "dit": (dit.ORIGINAL,),
    "pixart": (pixart.ORIGINAL,),
    "latte": (latte.ORIGINAL_TEXT, latte.ORIGINAL),
    "stdit3": (stdit3.ORIGINAL,),
    "wan": (wan.ORIGINAL,),
}
