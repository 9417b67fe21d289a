"""From a text source to batches. Knows nothing of Flax or Orbax."""
