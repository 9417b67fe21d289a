"""From a prepared dataset to the batch of a step."""
