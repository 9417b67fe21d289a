"""The encoder and its heads as pure functions over a dict of arrays."""
