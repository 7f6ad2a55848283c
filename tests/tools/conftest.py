"""What tests of the tools share."""

from __future__ import annotations

import pytest

from videodit import VideoDiTPipeline


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_pipe: VideoDiTPipeline) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipe.save_pretrained(folder)
    return str(folder)
