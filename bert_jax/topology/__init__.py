"""Compiles the train step for machines that are not here, and says what it needs there."""
