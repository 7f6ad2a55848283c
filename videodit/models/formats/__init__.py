"""Weights of other projects as a `VideoDiT` with equal numerics, and back: one table a format, read both ways."""
