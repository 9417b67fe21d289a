"""Many fine-tunings with different settings, and which of two runs is better."""
