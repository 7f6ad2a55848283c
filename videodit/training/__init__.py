"""Training: the loop of the transformer and of the VAE, checkpoints, EMA."""
