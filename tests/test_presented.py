"""How decoded pixels come out of a pipeline: numbers in [0, 1], pictures of 256 levels."""

from __future__ import annotations

import numpy as np
import torch

from videodit.pipeline.ends import present


def test_each_form_shows_the_same_pixels_clamped_and_rounded() -> None:
    levels = [-1.5, -1.0, -0.5, 0.0, 0.2, 1.0, 1.5]  # of the decoder, which may leave [-1, 1]
    shown = [0.0, 0.0, 0.25, 0.5, 0.6, 1.0, 1.0]
    pixels = torch.tensor(levels).reshape(1, 1, 1, 1, -1).expand(1, 3, 2, 1, -1)  # b c f h w
    array = present(pixels, "np")
    assert array.shape == (1, 2, 1, len(levels), 3)
    np.testing.assert_allclose(array[0, 1, 0, :, 2], shown, atol=1e-6)
    tensor = present(pixels, "pt")
    assert tensor.shape == (1, 2, 3, 1, len(levels))
    torch.testing.assert_close(tensor[0, 0, 1, 0], torch.tensor(shown))
    pictures = present(pixels, "pil")
    assert [len(clip) for clip in pictures] == [2]
    assert [pictures[0][1].getpixel((x, 0))[0] for x in range(len(levels))] == [0, 0, 64, 128, 153, 255, 255]
