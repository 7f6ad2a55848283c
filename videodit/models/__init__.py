"""The video diffusion transformer: attention, embeddings, block, model."""
