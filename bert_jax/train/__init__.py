"""Sharding, losses, optimizer, step, checkpoints and the loops."""
