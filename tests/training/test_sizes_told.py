"""A pipeline folder says at which sizes its model was trained, so that none of them is warned of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import run

from videodit.training.trainer import Trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("buckets", "told"),
    [
        ([{"num_frames": 5}, {"num_frames": 5}, {"num_frames": 9, "width": 48}], [[5, 32, 32, 8.0], [9, 32, 48, 8.0]]),
        ([], None),
    ],
)
def test_the_folder_names_the_buckets(tmp_path: Path, buckets: list[dict], told: list | None) -> None:
    config = run(tmp_path, data={"buckets": buckets, "validation": 0}, train={"steps": 1})
    folder = Trainer(config).train()
    assert json.loads((folder / "model_index.json").read_text())["trained_sizes"] == told
