"""Measurements against what users would take instead, a file each."""
