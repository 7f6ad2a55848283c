"""Measures over clips: metrics, the judge of the shapes world, and the run over its held-out prompts."""
