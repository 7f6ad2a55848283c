"""What a model is told of a sound: how loud it is, or how loud in bands of pitch, in rows of so many a second."""

from __future__ import annotations

import numpy as np
import torch

from videodit.geometry import SOUND_RATE

SOUNDS = ("loudness", "mel")  # what a condition may be made of
ROWS = 25  # a second
QUIET = 60.0  # decibels below full scale, where loudness begins
WINDOW = 1024  # samples of a spectrum


def sound_rows(samples: np.ndarray, of: str, width: int = 1) -> np.ndarray:
    """Samples n, `SOUND_RATE` a second -> rows r `width`, float32; row k is of the sound around k / `ROWS` seconds.

    of: "loudness": of two rows' time, from 0 (60 dB below full scale, or less) to 1; "mel": of `width` bands (Slaney's
    scale, as transformers' `mel_filter_bank` has it), (x + 4) / 4 of the power's decimal logarithm x, at least -10.
    """
    step, audio = SOUND_RATE // ROWS, torch.from_numpy(samples)
    if of == "loudness":
        around = torch.nn.functional.pad(audio.double().square(), (step, step + -len(audio) % step))
        parts = around.unfold(0, 2 * step, step).mean(dim=1)
        decibels = 10 * parts.clamp(min=1e-12).log10()
        return (1 + decibels / QUIET).clamp(0, 1).float()[:, None].numpy()
    from transformers.audio_utils import mel_filter_bank  # which takes a second to import

    spectrum = torch.stft(
        audio, WINDOW, step, window=torch.hann_window(WINDOW), center=True, pad_mode="constant", return_complex=True
    )
    bank = mel_filter_bank(WINDOW // 2 + 1, width, 0.0, SOUND_RATE / 2, SOUND_RATE, norm="slaney", mel_scale="slaney")
    power = torch.from_numpy(bank).float().T @ spectrum.abs().square()
    return ((power.clamp(min=1e-10).log10() + 4) / 4).T.contiguous().numpy()


def rows_at(rows: np.ndarray, times: np.ndarray, of: str) -> np.ndarray:
    """At these times in seconds, on the straight lines between rows; behind the last there is silence: t `width`."""
    rows = np.concatenate([rows, np.full((1, rows.shape[1]), 0.0 if of == "loudness" else -1.5, np.float32)])
    known = np.arange(len(rows)) / ROWS
    return np.stack([np.interp(times, known, column) for column in rows.T], axis=1).astype(np.float32)
