"""The judge of the shapes world: bodies are found, their outlines and motions are named, a verdict is given."""

from .motions import OTHER
from .verdict import Seen, Verdict, compare, judge

__all__ = ["OTHER", "Seen", "Verdict", "compare", "judge"]
