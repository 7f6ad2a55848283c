"""Clips on their way to training: manifests, sources, transforms, batches, caches."""
