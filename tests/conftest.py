"""Shared fixtures. One thread, of children too: tiny shapes are slower on several, and tests run side by side."""

from __future__ import annotations

import os

import pytest
import torch
from tiny import tiny_pipeline

from videodit.pipeline import VideoDiTPipeline

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers each time."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_pipe() -> VideoDiTPipeline:
    return tiny_pipeline()
