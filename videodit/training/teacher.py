"""The teacher of a flow map: a frozen model, whose guided velocity the map learns to say the mean of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from videodit.config import Run
from videodit.diffusion import paths
from videodit.diffusion.flow_map import map_target
from videodit.models.loading import load_model
from videodit.models.transformer import VideoDiT
from videodit.packaged import named_folder
from videodit.text import load_text, told_in
from videodit.training import inputs
from videodit.training.batches import Batch
from videodit.training.model import Model, place_of

PROBE = "a red circle moves to the left, a blue square to the right"  # read by both text encoders


class Teacher:
    """Gives a student, a `Model` beside which it stands, what it should say.

    Raises:
        ValueError: what `train.distill.teacher` names is no model that a flow map can learn from.
    """

    def __init__(self, config: Run, student: Model, path: paths.Path, device: torch.device):
        assert config.train.distill is not None
        folder, self.path = config.train.distill.teacher, path
        with inputs.named(folder, "transformer"):
            transformer = load_model(**place_of(folder))
        if not isinstance(transformer, VideoDiT) or transformer.config.flow_map_gate is not None:
            kind = "a flow map itself" if isinstance(transformer, VideoDiT) else f"a {type(transformer).__name__}"
            raise ValueError(f"train.distill.teacher: {folder} is {kind}; name a VideoDiT that says a velocity")
        said: Any = _index(folder)
        if said.get("prediction_type", "flow") not in ("flow", None) or (said.get("transformer_2") or [None])[0]:
            kind = "of two experts" if (said.get("transformer_2") or [None])[0] else f"of {said['prediction_type']}"
            raise ValueError(f"train.distill.teacher: {folder} is a model {kind}; name one that says a flow's velocity")
        told, taught = (
            [replace(one, encoder="", null=True) for one in m.own_conditions]
            for m in (transformer, student.transformer)
        )
        if told != taught:
            raise ValueError(
                f"train.distill.teacher: {folder} is told {[one.name for one in told] or 'nothing besides'}, and its "
                f"student {[one.name for one in taught] or 'nothing besides'} by model.conditions: they must be alike"
            )
        if transformer.in_channels != student.transformer.in_channels:
            raise ValueError(
                f"train.distill.teacher: {folder} has {transformer.in_channels} latent channels, and its student "
                f"{student.transformer.in_channels}"
            )
        _check_text(config, student)
        transformer.requires_grad_(False).eval().to(device)
        self.model = Model(transformer, student.text, student.encoded, student.pixels)

    @torch.no_grad()
    def velocity(self, noisy: Tensor, batch: Batch, fps: float) -> Tensor:
        """Guided as much as each sample is told, b c f h w; zero on frames that are given."""
        time, given = self.path.model_time(batch.times), batch.given
        twice = None if given is None else torch.cat([given, given])
        both = [torch.cat([one, one]) for one in (noisy, time)]
        own = {name: torch.cat([value, value]) for name, value in batch.own.items()}
        told, untold = self.model(*both, [*batch.captions, *[""] * len(noisy)], fps, twice, own=own).float().chunk(2)
        assert batch.guidance is not None
        guided = untold + batch.guidance[:, None, None, None, None] * (told - untold)
        return guided if given is None else torch.where(given[:, None, :, None, None], 0.0, guided)

    def target(self, student: Any, noisy: Tensor, batch: Batch, fps: float) -> Tensor:
        """The student's target at these times, b c f h w, without gradients."""
        assert batch.until is not None
        until = self.path.model_time(batch.until)

        def u(x: Tensor, t: Tensor) -> Tensor:
            told = (batch.captions, fps, batch.given)
            return student(
                x, self.path.model_time(t), *told, until=until, guidance=batch.guidance, own=batch.own
            ).float()

        return map_target(u, noisy, batch.times, batch.until, self.velocity(noisy, batch, fps))


def _index(folder: str) -> dict[str, Any]:
    """What a pipeline says of itself; nothing of a transformer alone."""
    try:
        return dict(DiffusionPipeline.load_config(named_folder(folder)))
    except OSError:
        return {}


def _check_text(config: Run, student: Model) -> None:
    """ValueError where a teacher reads other text states than its student."""
    folder, mine = config.train.distill.teacher, config.text.source or config.train.start_from  # type: ignore[union-attr]
    if mine == folder or not (Path(named_folder(folder)) / "text_encoder").is_dir():
        return
    with inputs.named(folder, "text encoder"):
        theirs = load_text(named_folder(folder), dtype=inputs.PRECISIONS[config.text.precision] or torch.float32)
    ours, wanted = (told_in(text([PROBE]))["prompt_embeds"].float() for text in (student.text, theirs))
    if ours.shape != wanted.shape or not torch.allclose(ours, wanted, rtol=0.02, atol=0.02):
        raise ValueError(
            f"train.distill.teacher: {folder} reads another text encoder than {mine}: start from a model that has the "
            "teacher's, or name it in text.source"
        )
