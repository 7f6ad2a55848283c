"""What a model is made of and where its cost lies: a table, and a picture of the stack."""

from videodit.describing.describe import Description, Part, describe, described
from videodit.describing.picture import picture

__all__ = ["Description", "Part", "describe", "described", "picture"]
