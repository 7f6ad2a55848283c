"""Shared fixtures. One thread: tiny shapes are slower on several."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_pipeline

from videodit.pipeline import VideoDiTPipeline

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers each time."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_pipe() -> VideoDiTPipeline:
    return tiny_pipeline()
